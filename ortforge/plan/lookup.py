"""What is already known of a plan: its steps' keys and recorded results, and why the others would run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ortforge.plan.graph import Plan, Step, key_of, levels
from ortforge.portable.statuses import NOT_RUN
from ortforge.store.ledger import StepRecord

__all__ = ["Prospect", "look_up", "prospects"]


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a run would do with one step, and why.

    :param state: ``cached``, ``run`` (its key is known, no result is recorded), ``retry`` (the last attempt
        failed) or ``unknown`` (its key depends on steps that have not run yet).
    """

    step: Step
    key: str
    state: str
    why: str
    record: StepRecord | None = None


def look_up(
    plan: Plan, done_many: Callable[[Iterable[str]], Mapping[str, StepRecord]]
) -> tuple[dict[str, str], dict[str, StepRecord]]:
    """Find keys and recorded results of as many steps as possible, one query per level of the graph.

    :param done_many: keys to the records of their successful attempts.
    :return: step id to key, for steps all of whose inputs have a result; step id to record.
    """
    keys: dict[str, str] = {}
    records: dict[str, StepRecord] = {}
    for level in levels(plan.steps):
        reachable = [step for step in level if all(name in records for name in step.inputs)]
        for step in reachable:
            keys[step.id] = key_of(step, (records[name].identity for name in step.inputs))
        found = done_many([keys[step.id] for step in reachable])
        for step in reachable:
            record = found.get(keys[step.id])
            if record is not None:
                records[step.id] = record
    return keys, records


def prospects(
    plan: Plan,
    done_many: Callable[[Iterable[str]], Mapping[str, StepRecord]],
    last_many: Callable[[Iterable[str]], Mapping[str, StepRecord]],
) -> list[Prospect]:
    """Say for each step whether a run would do it, and why.

    :param last_many: keys to the records of their latest attempts, whatever became of them.
    """
    keys, records = look_up(plan, done_many)
    failures = last_many([key for name, key in keys.items() if name not in records])
    found: list[Prospect] = []
    for step in plan.steps.values():
        key = keys.get(step.id, "")
        record = records.get(step.id)
        if record is not None:
            found.append(Prospect(step, key, "cached", f"made on {record.started[:16]}", record))
        elif key:
            failure = failures.get(key)
            if failure is not None and failure.status in NOT_RUN:
                found.append(Prospect(step, key, "cached", f"{failure.status}: {failure.reason}", failure))
            elif failure is None:
                found.append(Prospect(step, key, "run", "nothing with this key was made yet"))
            else:
                found.append(Prospect(step, key, "retry", f"{failure.status} last time: {failure.reason}", failure))
        else:
            missing = next(name for name in step.inputs if name not in records)
            found.append(Prospect(step, "", "unknown", f"waits for {missing}"))
    return found


def tally(found: Iterable[Prospect]) -> Counter[tuple[str, str]]:
    """Count prospects by (kind, state)."""
    return Counter((prospect.step.kind, prospect.state) for prospect in found)
