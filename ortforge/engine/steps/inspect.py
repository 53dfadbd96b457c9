"""inspect: what a model is made of, read in the reference's tools environment so that a bad file harms nobody."""

from __future__ import annotations

from ortforge.api import Task, TaskOutcome
from ortforge.engine.artefacts import model_file
from ortforge.engine.work import Work, failed_job
from ortforge.runtime.supervisor import Limits, run_job
from ortforge.store.hashing import digest_json

_LIMITS = Limits(import_s=120, load_s=120, run_s=120, memory=8 << 30)


def run(task: Task, work: Work) -> TaskOutcome:
    """Read inputs, outputs, opsets, operators and metadata of the model."""
    (_, model, _), (_, _, tools) = task.inputs
    folder = work.store.objects.get(model)
    job = {"op": "inspect", "model": str(model_file(folder)), "root": str(folder)}
    with work.store.objects.scratch() as scratch:
        interpreter = work.interpreter(tools["environment"])
        outcome = run_job(interpreter, job, limits=_LIMITS, workdir=scratch, cancel=work.cancel)
    if outcome.status != "ok":
        return failed_job(outcome, "the model cannot be read")
    return TaskOutcome("ok", digest_json(outcome.result), outcome.result)
