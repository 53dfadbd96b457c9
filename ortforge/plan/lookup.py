"""What is already known of a plan: its steps' keys and recorded results, and why the others would run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ortforge.plan.graph import Plan, Step, key_of, levels
from ortforge.plan.recorded_files import why_outdated
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
    plan: Plan,
    done_many: Callable[[Iterable[str]], Mapping[str, StepRecord]],
    outdated: dict[str, str] | None = None,
) -> tuple[dict[str, str], dict[str, StepRecord]]:
    """Find keys and recorded results of as many steps as possible, one query per level of the graph.

    A result that was made from a file that has changed since does not count.

    :param done_many: keys to the records of their successful attempts; with results for ``CHECKED_KINDS``.
    :param outdated: receives, by step id, why recorded results do not count.
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
            if record is None:
                continue
            why = why_outdated(step, record.result)
            if not why:
                records[step.id] = record
            elif outdated is not None:
                outdated[step.id] = why
    return keys, records


def prospects(
    plan: Plan,
    done_many: Callable[[Iterable[str]], Mapping[str, StepRecord]],
    last_many: Callable[[Iterable[str]], Mapping[str, StepRecord]],
    last_done_of_steps: Callable[[Iterable[str]], Mapping[str, StepRecord]] = lambda step_ids: {},
) -> list[Prospect]:
    """Say for each step whether a run would do it, and why.

    :param last_many: keys to the records of their latest attempts, whatever became of them.
    :param last_done_of_steps: ids of steps to the records of their latest successful attempts, under whatever key.
    """
    outdated: dict[str, str] = {}
    keys, records = look_up(plan, done_many, outdated)
    failures = last_many([key for name, key in keys.items() if name not in records])
    new = [name for name, key in keys.items() if name not in records and key not in failures]
    earlier = last_done_of_steps(name for name in new if "variables" in plan.steps[name].parameters)
    found: list[Prospect] = []
    for step in plan.steps.values():
        key = keys.get(step.id, "")
        record = records.get(step.id)
        if record is not None:
            found.append(Prospect(step, key, "cached", f"made on {record.started[:16]}", record))
        elif key:
            failure = failures.get(key)
            if step.id in outdated:
                found.append(Prospect(step, key, "run", outdated[step.id]))
            elif failure is not None and failure.status in NOT_RUN:
                found.append(Prospect(step, key, "cached", f"{failure.status}: {failure.reason}", failure))
            elif failure is None:
                why = _changed_variables(step, earlier.get(step.id)) or "nothing with this key was made yet"
                found.append(Prospect(step, key, "run", why))
            else:
                found.append(Prospect(step, key, "retry", f"{failure.status} last time: {failure.reason}", failure))
        else:
            missing = next(name for name in step.inputs if name not in records)
            found.append(Prospect(step, "", "unknown", f"waits for {missing}"))
    return found


def _changed_variables(step: Step, earlier: StepRecord | None) -> str:
    """Return a sentence about environment variables that are not what they were, or ``""``."""
    if earlier is None:
        return ""
    now, before = step.parameters["variables"], earlier.result.get("variables", {})
    changed = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
    plural = "s have" if len(changed) > 1 else " has"
    return f"the environment variable{plural} changed: {', '.join(changed)}" if changed else ""


def tally(found: Iterable[Prospect]) -> Counter[tuple[str, str]]:
    """Count prospects by (kind, state)."""
    return Counter((prospect.step.kind, prospect.state) for prospect in found)
