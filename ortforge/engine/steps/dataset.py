"""dataset: a reference to data becomes a folder of samples in the store."""

from __future__ import annotations

from ortforge.api import Task, TaskOutcome
from ortforge.engine.work import Work, failed_job, limits_of
from ortforge.runtime.supervisor import run_job


def run(task: Task, work: Work) -> TaskOutcome:
    """Make the samples in the tools environment; the identity is the digest of the samples folder."""
    (_, _, model), (_, _, tools) = task.inputs
    if model.get("unloaded"):
        return _no_samples(work, str(model["unloaded"]))
    source = work.plugins.datasets[task.parameters["scheme"]]
    with work.store.objects.scratch() as scratch:
        output = scratch / "samples"
        job = {
            "op": "materialize",
            "module": source.module,
            "reference": task.context["reference"],
            "base": task.context["base"],
            "options": dict(task.parameters["options"]),
            "inputs": model["inputs"],
            "limit": task.parameters["limit"],
            "output": str(output),
        }
        jobdir = scratch / "job"
        jobdir.mkdir()
        interpreter = work.interpreter(tools["environment"])
        outcome = run_job(interpreter, job, limits=limits_of(task.context), workdir=jobdir, cancel=work.cancel)
        if outcome.status != "ok":
            return failed_job(outcome, "the samples could not be made")
        return TaskOutcome("ok", work.store.objects.put(output), outcome.result)


def _no_samples(work: Work, why: str) -> TaskOutcome:
    """Return an empty samples folder: the model's inputs are not known, and each runtime still is to load the file."""
    from ortforge.worker.samples import SampleWriter

    with work.store.objects.scratch() as scratch:
        SampleWriter(scratch / "samples").close(source=f"none: {why}")
        return TaskOutcome("ok", work.store.objects.put(scratch / "samples"), {"count": 0, "labels": False})
