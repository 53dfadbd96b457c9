"""noise: the model's baseline against itself (A/A): what a difference of nothing looks like here."""

from __future__ import annotations

from ortforge.api import Task, TaskOutcome
from ortforge.engine.pairs import Side, alone, measure
from ortforge.engine.work import Work
from ortforge.store.hashing import digest_json


def run(task: Task, work: Work) -> TaskOutcome:
    """Time the baseline in turns with a second process of the very same kind."""
    from ortforge.verdict.timing import noise_floor

    (_, model, artefact), (_, _, runtime), (_, data, _) = task.inputs
    side = Side.make(work, task.parameters["baseline"], model, artefact, runtime)
    with alone(work):
        found, failure = measure(work, side, side, data, task.parameters, task.context)
    if failure is not None:
        return failure
    floor = noise_floor(found.pop("round_pairs"))
    facts = {**found, "noise": floor}
    return TaskOutcome("ok", digest_json(facts), facts)
