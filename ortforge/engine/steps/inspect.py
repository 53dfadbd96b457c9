"""inspect: what a model is made of, read in the reference's tools environment so that a bad file harms nobody.

A file that cannot be read there does not stop its cells: every runtime is asked by itself, and only when none reads
the file, it is damaged (:mod:`ortforge.verdict.together`). A model that names files outside its folder is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ortforge.api import Task, TaskOutcome
from ortforge.engine.artefacts import model_file
from ortforge.engine.work import Work, failed_job
from ortforge.runtime.supervisor import JobOutcome, Limits, run_job
from ortforge.store.hashing import digest_json

_LIMITS = Limits(import_s=120, load_s=120, run_s=120, memory=8 << 30)

NOTHING_READ: Final[Mapping[str, Any]] = {
    "inputs": [],
    "outputs": [],
    "ir_version": None,
    "opsets": {},
    "ops": {},
    "nodes": None,
    "initializers_bytes": None,
    "external": [],
    "metadata": {},
    "producer": "",
    "functions": None,
}
"""What is known of a model that neither onnx nor the reference runtime reads."""


def run(task: Task, work: Work) -> TaskOutcome:
    """Read inputs, outputs, opsets, operators and metadata of the model.

    ``unread`` says why onnx could not read the file; then ONNX Runtime's session gives inputs and outputs, if it reads
    it. ``unloaded`` says why that did not, either.
    """
    (_, model, _), (_, _, tools) = task.inputs
    folder = work.store.objects.get(model)
    job = {"op": "inspect", "model": str(model_file(folder)), "root": str(folder)}
    interpreter = work.interpreter(tools["environment"])
    with work.store.objects.scratch() as scratch:
        tried: list[JobOutcome] = []
        for number, how in enumerate(({}, {"by": "session"})):
            place = scratch / f"try-{number}"
            place.mkdir()
            outcome = run_job(interpreter, {**job, **how}, limits=_LIMITS, workdir=place, cancel=work.cancel)
            tried.append(outcome)
            if outcome.status == "ok":
                break
            if outcome.kind == "refused" or (outcome.status == "failed" and not outcome.kind) or work.cancel.is_set():
                # Refused, or no fault of the file: the worker did not start, or was interrupted.
                return failed_job(outcome, "the model cannot be read")
    facts = dict(tried[-1].result) if tried[-1].status == "ok" else dict(NOTHING_READ)
    facts |= {name: one.reason for name, one in zip(("unread", "unloaded"), tried, strict=False) if one.status != "ok"}
    return TaskOutcome("ok", digest_json(facts), facts, log="\n".join(one.log for one in tried if one.status != "ok"))
