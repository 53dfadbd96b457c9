"""reference: what the model should answer: ORT's CPU EP in fp32 with all graph optimizations off."""

from __future__ import annotations

from typing import Final

from ortforge.api import Task, TaskOutcome
from ortforge.engine.steps.check import run_model
from ortforge.engine.work import Work

REPEATED_SAMPLES: Final = 8
"""Maximum number of samples that a fresh session answers twice more."""


def run(task: Task, work: Work) -> TaskOutcome:
    """Run the untouched model on the reference runtime, the first samples repeatedly."""
    (_, model, artefact), (_, _, runtime), (_, data, made) = task.inputs
    generated = bool(made.get("random"))
    return run_model(
        task, work, model, artefact, runtime, data, placement=False, repeat=REPEATED_SAMPLES, generated=generated
    )
