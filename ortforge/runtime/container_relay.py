"""``python -m ortforge.runtime.container_relay`` stands where a worker stands, and speaks for one in a container.

The supervisor starts, limits and kills a process over pipes. This is that process: it starts the worker in a container
with the same limits, forwards the three pipes, and ends as the worker ended, by the same exit code or the same signal.
When it is killed, its connection goes with it, and with the connection the container.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ortforge.container import connect
from ortforge.container.attached import Attached, Bind, ProcessSpec
from ortforge.errors import OrtforgeError
from ortforge.runtime.container_setting import VARIABLE, Setting
from ortforge.worker import limits, nvidia
from ortforge.worker.first_process import MEMORY_VARIABLE

__all__ = ["binds_of", "main"]

_KEEPER: Final = 32 << 20
"""Memory beside the worker's own limit: process 1 of the container is a small Python."""

_READ: Final = ("model", "samples", "module", "base", "root")
"""Fields of a job that name what the worker reads. Files beside a model or a module belong to it."""

_PATIENCE_S: Final = 30.0
"""How long a worker may go on after standard input ended. Whoever ended it kills this process earlier, or is gone."""


def binds_of(job: Mapping[str, Any], folders: Sequence[str], workdir: Path) -> tuple[Bind, ...]:
    """Return the folders that a worker needs for a job: its own and its output's to write, the rest to read.

    A folder inside another one of the same kind is left out.
    """
    library = (job.get("session") or {}).get("library")
    named = [Path(path) for path in (*(job.get(name) for name in _READ), library) if path]
    read = {*map(Path, folders), *(path if path.is_dir() else path.parent for path in named if path.is_absolute())}
    write = {workdir}
    if job.get("output"):
        write.add(Path(job["output"]).parent)
    write = {path for path in write if not any(path != other and path.is_relative_to(other) for other in write)}
    read = {path for path in read if not any(path != other and path.is_relative_to(other) for other in read)} - write
    found = [Bind(str(path)) for path in read] + [Bind(str(path), writable=True) for path in write]
    return tuple(sorted(found, key=lambda bind: bind.path))


def main() -> int:
    """Run a worker in a container for the supervisor at the other end of the pipes; return its exit code."""
    limits.settle()
    faulthandler.disable()  # this process dies by the worker's signals, which says nothing about itself
    setting = Setting.from_json(os.environ.pop(VARIABLE))
    first, rest = _first_line()
    try:
        spec = _spec(setting, json.loads(first), sys.argv[1:])
        for bind in spec.binds:
            if bind.writable:  # a worker makes its output's folder itself, which inside would be another one
                Path(bind.path).mkdir(parents=True, exist_ok=True)
        process = Attached(connect().api, spec)
    except OrtforgeError as error:
        return _refused(str(error))
    with process:
        threading.Thread(target=_forward, args=(process, first + rest), name="commands", daemon=True).start()
        try:
            for stream, data in process.output():
                _write(stream, data)
            code = process.wait()
        except OrtforgeError as error:
            return _refused(str(error))
    if 128 < code < 128 + signal.NSIG:
        _die_by(code - 128)
    return code


def _spec(setting: Setting, job: Mapping[str, Any], arguments: Sequence[str]) -> ProcessSpec:
    own = job["process"]
    memory = int(own.get("memory") or 0)
    workdir = Path(own["result"]).parent  # the current directory too, but by the name that the job knows
    return ProcessSpec(
        image=setting.image,
        argv=(setting.python, *arguments),
        user=f"{os.getuid()}:{os.getgid()}",
        workdir=str(workdir),
        binds=binds_of(job, setting.folders, workdir),
        environment={**setting.environment, MEMORY_VARIABLE: str(memory)},
        memory=memory + _KEEPER if memory else 0,
        cpus=setting.cpus,
        processors=setting.processors,
        gpus=any(name in nvidia.EPS for name, _ in job.get("providers") or ()),
    )


def _first_line() -> tuple[bytes, bytes]:
    """Read the job, and what came with it."""
    data = b""
    while b"\n" not in data:
        block = os.read(0, 1 << 16)
        if not block:
            os._exit(1)  # whoever wanted something is gone
        data += block
    line, _, rest = data.partition(b"\n")
    return line + b"\n", rest


def _forward(process: Attached, data: bytes) -> None:
    """Pass on the commands. When there are no more, the worker is expected to end by itself."""
    with contextlib.suppress(OSError):  # the worker is gone, which its end tells
        while data:
            process.write(data)
            data = os.read(0, 1 << 16)
    threading.Event().wait(_PATIENCE_S)
    os._exit(1)


def _write(stream: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(stream, data) :]
    except OSError:  # nobody listens any more
        os._exit(1)


def _refused(why: str) -> int:
    """Say in the worker's place that it cannot work, or could not go on."""
    sys.stderr.write(why + "\n")
    message = {"type": "error", "kind": "failed", "message": why.replace("\n", " ")}
    _write(1, (json.dumps(message) + "\n").encode())
    return 1


def _die_by(number: int) -> None:
    """End by a signal, as the worker did."""
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    sys.exit(main())
