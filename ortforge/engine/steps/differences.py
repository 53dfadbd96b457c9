"""differences: the tensors of a cell's model beside those of the model that it was made from."""

from __future__ import annotations

from ortforge.api import Task, TaskOutcome
from ortforge.engine.artefacts import model_file, providers_for, session_for
from ortforge.engine.work import Work, failed_job, limits_of
from ortforge.runtime.supervisor import run_job
from ortforge.store.hashing import digest_json


def run(task: Task, work: Work) -> TaskOutcome:
    """Compare both models in the runtime's tools environment; the identity is the digest of the numbers."""
    (_, model, artefact), (_, reference, _), (_, _, tools), (_, data, _) = task.inputs
    objects, how = work.store.objects, task.parameters
    with objects.scratch() as scratch:
        job = {
            "op": "differences",
            "model": str(model_file(objects.get(model))),
            "reference": str(model_file(objects.get(reference))),
            "samples": str(objects.get(data)),
            "count": how["count"],
            "threshold_db": how["threshold_db"],
            "providers": providers_for(how["providers"], artefact),
            "session": session_for(how["session"], artefact),
        }
        interpreter = work.interpreter(tools["environment"], how.get("environment"))
        outcome = run_job(interpreter, job, limits=limits_of(task.context), workdir=scratch, cancel=work.cancel)
    if outcome.status != "ok":
        return failed_job(outcome)
    return TaskOutcome("ok", digest_json(outcome.result), outcome.result, log=outcome.log)
