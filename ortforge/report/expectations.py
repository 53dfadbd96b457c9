"""Whether a run ended as expected: compares each verdict with what the matrix or the accepted verdicts state.

Without expectations a run is as expected when every (model, runtime, EP, device) has something correct to ship and no
cell crashed, hung, ran out of memory or failed. A recipe that was tried and lost is an answer, not a failure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from ortforge.api.wording import telling_reasons
from ortforge.portable.statuses import BROKEN, CORRECT, NOT_RUN, rank
from ortforge.verdict.ratios import MINIMUM_FLOOR

__all__ = ["Expected", "assess", "is_worse", "level", "shown_below"]

Entry = Mapping[str, Any]

_BROKEN_WORDS: Final = {
    "damaged": "No runtime can read its model file",
    "crashed": "It crashed",
    "out-of-memory": "It ran out of memory",
    "timeout": "It did not finish in time",
    "failed": "It failed",
    "blocked": "Something that it needs failed",
}


class Expected(Protocol):
    """What is expected of one cell (:class:`ortforge.matrix.expectations.Expectation`)."""

    @property
    def status(self) -> tuple[str, ...]:
        """Allowed statuses."""

    @property
    def reason(self) -> str:
        """Why, or ``""``."""

    @property
    def source(self) -> str:
        """Name of the file that states it."""

    @property
    def accepted(self) -> bool:
        """Whether it is a verdict that was accepted, rather than a list of statuses that somebody wrote."""


def assess(
    report: Entry, expectations: Mapping[str, Expected], *, strict: bool = False, left_out: Collection[str] = ()
) -> dict[str, Any]:
    """Compare the verdicts of a report with what is expected of them. Pure.

    :param report: needs ``cells`` and ``ships``.
    :param strict: every cell must ``pass``, whatever is expected.
    :param left_out: ids of cells of the matrix that were not run. Where the unoptimized model is one of them, it is not
        known whether something ships.
    :returns: JSON::

        {"strict": bool, "met": bool, "files": [names of files with expectations],
         "problems": [{"cell", "what"}],     # what makes "met" false: a sentence about a cell
         "worse": [cell ids], "better": [cell ids], "changed": [cell ids: another status, neither better nor worse],
         "without": [ids of cells without an expectation],
         "cells": {cell id: {"status": [allowed], "reason", "source",
                             "outcome": "expected" | "better" | "worse" | "changed"}}}
    """
    cells: Sequence[Entry] = report["cells"]
    outcomes = {
        str(cell["id"]): _against(cell, expectations[cell["id"]]) for cell in cells if cell["id"] in expectations
    }
    if strict:
        problems = [
            {"cell": cell["id"], "what": _with_reason(f"--strict requires pass, and it is {cell['status']}", cell)}
            for cell in cells
            if cell["status"] != "pass"
        ]
    else:
        problems = list(_cell_problems(cells, outcomes))
        told = {problem["cell"] for problem in problems}
        shipping = _shipping_problems(report, outcomes, left_out)
        problems += [problem for problem in shipping if problem["cell"] not in told]
    by_outcome = {
        outcome: [name for name, entry in outcomes.items() if entry["outcome"] == outcome]
        for outcome in ("worse", "better", "changed")
    }
    return {
        "strict": strict,
        "met": not problems,
        "files": sorted({entry["source"] for entry in outcomes.values()}),
        "problems": problems,
        **by_outcome,
        "without": [cell["id"] for cell in cells if cell["id"] not in outcomes],
        "cells": outcomes,
    }


def _against(cell: Entry, expected: Expected) -> dict[str, Any]:
    status = cell["status"]
    if status in expected.status or (status == "undecided" and any(allowed in CORRECT for allowed in expected.status)):
        outcome = "expected"
    elif all(is_worse(cell, allowed, listed=not expected.accepted) for allowed in expected.status):
        outcome = "worse"
    elif _is_better(status, expected.status):
        outcome = "better"
    else:
        outcome = "changed"
    return {
        "status": list(expected.status),
        "reason": expected.reason,
        "source": expected.source,
        "outcome": outcome,
    }


def _is_better(status: str, expected: Sequence[str]) -> bool:
    """Whether a status that is not worse than all the expected ones is better than the worst of them."""
    if level(status) == max(map(level, expected)):
        return status in CORRECT and status != "undecided" and rank(status) < min(map(rank, expected))
    return level(status) < max(map(level, expected))


def level(status: str) -> int:
    """Return how good a status is, 0 being the best; statuses between which no one is better share a level.

    All correct statuses share a level, since which of them a cell has may depend on the noise of a timing; so do all
    ways to break, and all reasons for which a cell cannot run.
    """
    for group in (CORRECT, NOT_RUN, BROKEN):
        if status in group:
            return min(map(rank, group))
    return rank(status)


def is_worse(cell: Entry, expected: str, *, listed: bool = False) -> bool:
    """Return whether a cell's verdict is worse than an expected status.

    ``undecided`` is never worse than another correct status: the machine could not tell. Among the other correct
    statuses the speed must be shown to be worse than what the expected status implies, by more than the noise floor.

    :param listed: somebody wrote down which statuses are allowed: a status of the same level that ranks lower is worse.
    """
    status = cell["status"]
    if status == expected:
        return False
    if level(status) != level(expected):
        return level(status) > level(expected)
    if status not in CORRECT:
        return listed
    if status == "undecided" or rank(status) < rank(expected):
        return False
    return listed or shown_below(cell, expected)


def shown_below(cell: Entry, expected: str) -> bool:
    """Return whether a correct cell is shown to be slower than a correct status implies.

    ``pass`` implies a speed above the noise floor, ``no-gain`` one within it; ``undecided`` and ``slower`` imply
    nothing. The upper end of the cell's own interval must lie below that by more than the noise floor: two runs of one
    artifact whose speed lies at the edge of the margin must not differ. A gain that is not a matter of timing (the
    recipe changed nothing, or the file is not smaller) is compared by the status alone.
    """
    timing = cell.get("timing") or {}
    if expected not in ("pass", "no-gain"):
        return False
    if (cell.get("artefact") or {}).get("no_op"):
        return expected == "pass"
    floor = 1.0 + (timing.get("noise") or MINIMUM_FLOOR)
    highs = [numbers["high"] for numbers in (timing, timing.get("load") or {}) if numbers.get("high") is not None]
    if timing.get("trust") == "contended":
        return False
    implied = floor if expected == "pass" else 1.0 / floor
    return all(high * floor < implied for high in highs)


def _cell_problems(cells: Sequence[Entry], outcomes: Mapping[str, Entry]) -> Iterator[dict[str, str]]:
    for cell in cells:
        outcome = outcomes.get(cell["id"])
        if outcome is None:
            if cell["status"] in BROKEN:
                yield {"cell": cell["id"], "what": _with_reason(_BROKEN_WORDS[cell["status"]], cell)}
        elif outcome["outcome"] == "worse":
            allowed = " or ".join(outcome["status"])
            what = f"{outcome['source']} expects {allowed}, and it is {cell['status']}"
            yield {"cell": cell["id"], "what": _with_reason(what, cell)}


def _shipping_problems(
    report: Entry, outcomes: Mapping[str, Entry], left_out: Collection[str]
) -> Iterator[dict[str, str]]:
    """Yield a problem for each model, runtime, EP and device that should have something to ship and has nothing.

    Cells that cannot run here, which was known before anything ran, need not ship anything. Neither does a place whose
    unoptimized model is expected to be what it is (or, when that is not part of the run, all of whose cells are).
    """
    places: dict[tuple[str, ...], list[Entry]] = {}
    for cell in report["cells"]:
        places.setdefault(tuple(cell[part] for part in ("model", "target", "ep", "device")), []).append(cell)
    shipping = {
        (model, entry["target"], entry["ep"], entry["device"])
        for model, entries in report["ships"].items()
        for entry in entries
        if entry["cell"]
    }
    for place, cells in places.items():
        if place in shipping or all(_known_up_front(cell) for cell in cells):
            continue
        deciding = [cell for cell in cells if cell["recipe"] == "none"] or cells
        model, target, ep, device = place
        if all(cell["id"] in outcomes for cell in deciding) or f"{model}/none@{target}:{ep}/{device}" in left_out:
            continue
        if any(cell["status"] in CORRECT for cell in cells):  # a recipe of a matrix without the unoptimized model
            continue
        what = f"Nothing is shown to be correct for {model} on {target}:{ep}, so nothing ships there"
        yield {"cell": deciding[0]["id"], "what": _with_reason(f"{what}; {_named(deciding[0])}", deciding[0])}


def _named(cell: Entry) -> str:
    subject = "the unoptimized model" if cell["recipe"] == "none" else f'"{cell["recipe"]}"'
    return f"{subject} is {cell['status']}"


def _known_up_front(cell: Entry) -> bool:
    """Whether a cell has no steps: that it cannot run was known before anything was installed."""
    return cell["status"] in NOT_RUN and not cell.get("keys")


def _with_reason(what: str, cell: Entry) -> str:
    first = next((reason.strip().partition("\n")[0] for reason in telling_reasons(cell) if reason.strip()), "")
    return f"{what}: {first}" if first else f"{what}."
