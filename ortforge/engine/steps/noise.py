"""noise: the model's baseline against itself (A/A).

It is the timing of the baseline's own cell, and the report's noise floor of the model. No verdict uses it: the noise of
a comparison is measured within the comparison, in the same rounds.
"""

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
    floor["floor"] = max(floor["floor"], found.pop("own_noise"))
    facts = {**found, "noise": floor}
    return TaskOutcome("ok", digest_json(facts), facts)
