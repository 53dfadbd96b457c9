"""``python -m ortforge_worker.worker``: one process, one job. See docs/formats.md for what is said and kept."""

from __future__ import annotations

import importlib
import sys
import traceback

from . import custom_ops, first_process, limits, protocol
from .classify import classify

OPS = {
    "apply": "apply",
    "branches": "branches",
    "differences": "differences",
    "inspect": "inspect_model",
    "materialize": "materialize",
    "operators": "operators",
    "probe": "probe",
    "run": "run",
    "tiers": "tiers",
    "time": "timed",
    "trial": "trial",
}
"""The module that does each kind of job."""


def main() -> int:
    """Do the job that standard input names; every Python-level failure becomes a message."""
    first_process.stand_aside()  # before anything starts a thread
    channel = protocol.Channel.open()
    limits.settle()
    try:
        _do(channel)
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        failure = classify(error, channel.phase_name)
        channel.error(failure.kind, failure.message)
        return 1
    return 0


def _do(channel: protocol.Channel) -> None:
    job = channel.read()
    if job.get("op") == "prepare":  # a process that is started before its job is known imports what all jobs need
        importlib.import_module("onnxruntime")
        job = channel.read()
    process = job.get("process") or {}
    if process.get("result"):
        from pathlib import Path

        channel.result = Path(process["result"])
    if process.get("memory"):
        limits.MEMORY.append(int(process["memory"]))
    if process.get("address_space"):
        limits.limit_address_space(int(process["address_space"]))
    op = job.get("op")
    if op not in OPS:
        raise protocol.JobError("failed", f"there is no job {op!r}: only {', '.join(OPS)}")
    channel.phase("import")
    custom_ops.register_everywhere(custom_ops.libraries_of(job))
    importlib.import_module(f".{OPS[op]}", __package__).run(job, channel)


if __name__ == "__main__":
    sys.exit(main())
