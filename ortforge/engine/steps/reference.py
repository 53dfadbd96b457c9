"""reference: what the model should answer: ORT's CPU EP in fp32 with all graph optimizations off."""

from __future__ import annotations

from ortforge.api import Task, TaskOutcome
from ortforge.engine.steps.check import run_model
from ortforge.engine.work import Work


def run(task: Task, work: Work) -> TaskOutcome:
    """Run the untouched model on the reference runtime."""
    (_, model, artefact), (_, _, runtime), (_, data, _) = task.inputs
    return run_model(task, work, model, artefact, runtime, data, placement=False)
