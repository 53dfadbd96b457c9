"""time: a cell takes turns with its baseline, across runtimes too."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from ortforge.api import Task, TaskOutcome
from ortforge.engine.pairs import Pairs, Side, alone, measure
from ortforge.engine.work import Work
from ortforge.store.hashing import digest_json
from ortforge.verdict.ratios import MARGIN, decide


def run(task: Task, work: Work) -> TaskOutcome:
    """Time candidate and baseline interleaved; ratios, their intervals and their noise come from the same pairs.

    ``load`` is what became of the pairs of loads, ``None`` where the cell's goal has nothing to do with loading.
    """
    from ortforge.verdict.timing import paired

    (_, model, artefact), (_, _, runtime), (_, base, base_artefact), (_, _, base_runtime), (_, data, _) = task.inputs
    candidate = Side.make(work, task.parameters["candidate"], model, artefact, runtime)
    baseline = Side.make(work, task.parameters["baseline"], base, base_artefact, base_runtime)
    with alone(work):
        found, failure = measure(work, baseline, candidate, data, task.parameters, task.context)
    if failure is not None:
        return failure
    floor = found.pop("own_noise")
    ratio = paired(found.pop("round_pairs"))
    loads = found.pop("load_pairs", None)
    contended = found["trust_reason"] if found["trust"] == "contended" else ""
    rounds = int(task.parameters["rounds"])
    facts = {
        **found,
        **ratio,
        "noise": floor,
        "margin": MARGIN,
        **decide(ratio, floor, contended=contended, rounds=rounds),
        "load": _compared(loads, floor, contended, rounds) if loads else None,
    }
    return TaskOutcome("ok", digest_json(facts), facts)


def _compared(loads: Sequence[Pairs], floor: float, contended: str, rounds: int) -> dict[str, Any]:
    from ortforge.verdict.timing import paired

    ratio = paired(loads)
    base_ns, own_ns = zip(*(pair for pairs in loads for pair in pairs), strict=True)
    figures = {"p50_s": median(own_ns) / 1e9, "baseline_p50_s": median(base_ns) / 1e9}
    return {**ratio, **decide(ratio, floor, contended=contended, rounds=rounds), **figures}
