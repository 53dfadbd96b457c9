"""reference: what the model should answer: ORT's CPU EP in fp32 with all graph optimizations off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ortforge.api import Task, TaskOutcome
from ortforge.engine.artefacts import model_file, session_for
from ortforge.engine.steps.check import run_model
from ortforge.engine.work import Work, limits_of
from ortforge.runtime.supervisor import run_job

REPEATED_SAMPLES: Final = 8
"""Maximum number of samples that a fresh session answers twice more."""


def run(task: Task, work: Work) -> TaskOutcome:
    """Run the untouched model on the reference runtime, the first samples repeatedly.

    The result also says which branches the samples take (``branches``), for a model that has any.
    """
    (_, model, artefact), (_, _, runtime), (_, data, made), (_, _, inspected), (_, _, tools) = task.inputs
    generated = bool(made.get("random"))
    outcome = run_model(
        task, work, model, artefact, runtime, data, placement=False, repeat=REPEATED_SAMPLES, generated=generated
    )
    if outcome.status != "ok" or "If" not in (inspected.get("ops") or {}):
        return outcome
    return replace(outcome, result={**outcome.result, "branches": _branches(task, work, model, artefact, tools, data)})


def _branches(
    task: Task, work: Work, model: str, artefact: Mapping[str, Any], tools: Mapping[str, Any], data: str
) -> dict[str, Any]:
    """Return which branches the samples take. It is a diagnostic: what goes wrong in it is its answer."""
    objects = work.store.objects
    with objects.scratch() as scratch:
        job = {
            "op": "branches",
            "model": str(model_file(objects.get(model))),
            "samples": str(objects.get(data)),
            "session": session_for(task.parameters["session"], artefact),
        }
        interpreter = work.interpreter(tools["environment"])
        outcome = run_job(interpreter, job, limits=limits_of(task.context), workdir=scratch, cancel=work.cancel)
    return dict(outcome.result) if outcome.status == "ok" else {"problem": outcome.reason}
