"""check: a cell's model runs on its runtime and EP; outputs, placement, load time and memory are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ortforge.api import Task, TaskOutcome
from ortforge.engine.artefacts import model_file, providers_for, session_for
from ortforge.engine.work import Work, failed_job, limits_of
from ortforge.plan.stamp import broken, read
from ortforge.runtime.supervisor import run_job

_GENERATED: Final = (
    "The inputs are generated from the model's shapes (random:), and this model does not accept them. Give it real "
    "data, or set sizes, shapes and ranges in the options of random:."
)


def run(task: Task, work: Work) -> TaskOutcome:
    """Run the cell over all validation samples; the identity is the digest of its outputs."""
    (_, model, artefact), (_, _, runtime), (_, data, _), (_, _, inspected) = task.inputs
    how = task.parameters
    # The artefact's, and that of the model as it came, which no pass of ours need have made.
    for stamp in (artefact.get("stamp") or {}, read(inspected.get("metadata") or {})):
        version, flags = runtime["probe"]["ort_version"], frozenset(task.context["cpu_flags"])
        why = broken(stamp, ort_version=version, ep=how["ep"], cpu_flags=flags) if stamp else ""
        if why:
            return TaskOutcome("unsupported", reason=why)
    return run_model(task, work, model, artefact, runtime, data, placement=True)


def run_model(
    task: Task,
    work: Work,
    model: str,
    artefact: Mapping[str, Any],
    runtime: Mapping[str, Any],
    data: str,
    *,
    placement: bool,
    repeat: int = 0,
    generated: bool = False,
) -> TaskOutcome:
    """Run a model over samples in a supervised worker and keep its outputs.

    :param repeat: how many samples to answer twice more, to see whether the model differs from itself.
    :param generated: the samples are generated, and a model that refuses them while it runs may be right to do so.
    """
    objects, how = work.store.objects, task.parameters
    with objects.scratch() as scratch:
        output = scratch / "outputs"
        job = {
            "op": "run",
            "model": str(model_file(objects.get(model))),
            "samples": str(objects.get(data)),
            "ep": how.get("ep", "cpu"),
            "providers": providers_for(how.get("providers", [["CPUExecutionProvider", {}]]), artefact),
            "session": session_for(how["session"], artefact),
            "output": str(output),
            "placement": placement,
            "repeat": repeat,
        }
        jobdir = scratch / "job"
        jobdir.mkdir()
        interpreter = work.interpreter(runtime["environment"], how.get("environment"))
        outcome = run_job(interpreter, job, limits=limits_of(task.context), workdir=jobdir, cancel=work.cancel)
        if outcome.status != "ok":
            if generated and outcome.phase == "run" and outcome.kind == "failed":
                outcome = replace(outcome, reason=f"{outcome.reason.rstrip('.')}. {_GENERATED}")
            return failed_job(outcome)
        facts = {**outcome.result, "note": outcome.note}
        return TaskOutcome("ok", objects.put(output), facts, log=outcome.log)
