"""What a user would ship: per model, and per runtime, EP and device, one cell or none, with the reason.

The rules, in order, for the cells of one model on one (target, EP, device):

1. Of the variants that pass, the fastest. Speeds are ratios to the unoptimized model there; where those were not
   measured, ratios to the matrix's baseline. Variants whose speed cannot be told from the fastest one's (their
   intervals overlap) are equals. Of equals the smallest ships, and of those of about one size the quickest to load.
2. The unoptimized model, when it is correct, and no passing variant is faster than it or as fast. It is correct also
   with the status ``slower``: that compares it with another runtime, which is no help to who must use this one.
3. Nothing.

A cell's name may hold text from a matrix file; nothing here is escaped for any output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ortforge.api.wording import speed

__all__ = ["what_ships"]

UNOPTIMIZED: Final = "none"
"""Name of the recipe that changes nothing."""

ABOUT_ONE_SIZE: Final = 1.05
"""A twentieth more bytes is no reason to choose."""
ABOUT_ONE_LOAD_TIME: Final = 1.2
"""Load times are measured a few times only; a fifth is within what they vary by."""

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Runner:
    """A cell that may ship; ``ratio`` is ``None`` where it was not timed."""

    cell: Entry
    ratio: float | None
    low: float
    high: float

    @property
    def bytes(self) -> float:
        value = self.cell.get("bytes")
        return float("inf") if value is None else float(value)

    @property
    def load(self) -> float:
        value = self.cell.get("load_s")
        return float("inf") if value is None else float(value)

    def equals(self, other: _Runner) -> bool:
        """Whether the two speeds cannot be told apart."""
        if self.ratio is None or other.ratio is None:
            return self.ratio is other.ratio
        if self.low <= other.high and other.low <= self.high:
            return True
        # Against the unoptimized model the verdict has already weighed the noise floor.
        pair = (self.cell, other.cell)
        return any(_is_unoptimized(one) and _outcome(two) == "can't tell" for one, two in (pair, pair[::-1]))


def what_ships(report: Entry) -> dict[str, list[dict[str, Any]]]:
    """Return ``{model: [{"target", "ep", "device", "cell", "why", "equals"}, …]}``.

    ``cell`` is a cell's id, or ``None`` when nothing ships; ``equals`` lists the ids of passing variants whose
    speed could not be told from its own. Models and runtimes come in the order of the report's cells. Pure.
    """
    groups: dict[str, dict[tuple[str, str, str], list[Entry]]] = {}
    for cell in report["cells"]:
        place = (cell["target"], cell["ep"], cell["device"])
        groups.setdefault(cell["model"], {}).setdefault(place, []).append(cell)
    return {
        model: [
            {"target": target, "ep": ep, "device": device, **_choose(cells)}
            for (target, ep, device), cells in places.items()
        ]
        for model, places in groups.items()
    }


def _is_unoptimized(cell: Entry) -> bool:
    return bool(cell["recipe"] == UNOPTIMIZED)


def _outcome(cell: Entry) -> str:
    return str((cell.get("timing") or {}).get("outcome", ""))


def _choose(cells: Sequence[Entry]) -> dict[str, Any]:
    plain = next((cell for cell in cells if _is_unoptimized(cell)), None)
    passing = [cell for cell in cells if cell["status"] == "pass"]
    correct_plain = plain is not None and plain["status"] in ("pass", "slower")
    wanted = [*passing, *([plain] if plain is not None and plain["status"] == "slower" else [])]
    if not wanted:
        return {"cell": None, "why": _why_nothing(cells) + _without_plain(cells, plain), "equals": []}
    runners = _on_one_scale(wanted, plain)
    best = max(runners, key=lambda runner: -1.0 if runner.ratio is None else runner.ratio)
    equals = [runner for runner in runners if runner.equals(best)]
    if any(runner.cell["status"] == "pass" for runner in equals):
        equals = [runner for runner in equals if runner.cell["status"] == "pass"]
    chosen, because = _of_equals(equals)
    others = [runner for runner in equals if runner is not chosen]
    if _is_unoptimized(chosen.cell) and not others:
        why = _why_plain(cells, passing)
    else:
        why = _why(chosen, others, because, passing)
    if not correct_plain and plain is not None:
        why += f" The unoptimized model itself is {plain['status']} here."
    why, tiers = why + _tiers_of(chosen.cell), (chosen.cell.get("tiers") or {}).get("correct")
    equals_ids = [runner.cell["id"] for runner in others]
    return {"cell": chosen.cell["id"], "why": why, "equals": equals_ids} | ({"tiers": tiers} if tiers else {})


def _tiers_of(cell: Entry) -> str:
    """Say on which CPU tiers a cell with 8-bit integer products is correct, where that is not all that are required."""
    tiers = cell.get("tiers") or {}
    if set(tiers.get("required", ())) <= set(tiers.get("correct", ())):
        return ""
    wrong = f", wrong on {', '.join(tiers['wrong'])}" if tiers["wrong"] else ""
    unknown = f", not known on {', '.join(tiers['unknown'])}" if tiers["unknown"] else ""
    return f" Correct on {', '.join(tiers['correct']) or 'no known CPU tier'}{wrong}{unknown}."


def _of_equals(equals: Sequence[_Runner]) -> tuple[_Runner, str]:
    """Choose among variants of one speed; return the choice and what told it from the others."""
    least = min(runner.bytes for runner in equals)
    small = [runner for runner in equals if runner.bytes <= least * ABOUT_ONE_SIZE]
    loads = [runner.load for runner in small]
    quick = [runner for runner in small if runner.load <= min(loads) * ABOUT_ONE_LOAD_TIME]
    # What changes nothing needs no trust; else the better number.
    chosen = max(quick, key=lambda runner: (_is_unoptimized(runner.cell), runner.ratio or 0.0))
    if len(small) == 1:
        return chosen, "it is the smallest of them"
    if len(quick) == 1:
        return chosen, "of the smallest it is the quickest to load"
    return chosen, "it is as small and as quick to load as any of them"


def _on_one_scale(cells: Sequence[Entry], plain: Entry | None) -> list[_Runner]:
    """Give every cell a ratio to one baseline: the unoptimized model here, or else the matrix's."""
    local = [_local(cell, plain) for cell in cells]
    overall = [_overall(cell) for cell in cells]
    for scale in (local, overall):
        if all(runner.ratio is not None for runner in scale if runner.cell.get("timing")):
            return scale if _compares(scale) else [_Runner(runner.cell, None, 0.0, 0.0) for runner in scale]
    return local


def _compares(scale: Sequence[_Runner]) -> bool:
    """Whether at least two were timed: the unoptimized model's ratio to itself says nothing of the others."""
    return len(scale) == 1 or sum(runner.ratio is not None for runner in scale) > 1


def _local(cell: Entry, plain: Entry | None) -> _Runner:
    if plain is not None and cell is plain:
        return _Runner(cell, 1.0, 1.0, 1.0)
    timing = cell.get("timing") or {}
    if plain is None or timing.get("baseline") != plain["id"]:
        return _Runner(cell, None, 0.0, 0.0)
    return _runner(cell, timing)


def _overall(cell: Entry) -> _Runner:
    if _outcome(cell) == "baseline":
        return _Runner(cell, 1.0, 1.0, 1.0)
    return _runner(cell, cell.get("overall") or {})


def _runner(cell: Entry, numbers: Mapping[str, Any]) -> _Runner:
    ratio, low, high = (numbers.get(name) for name in ("ratio", "low", "high"))
    if ratio is None or low is None or high is None:
        return _Runner(cell, None, 0.0, 0.0)
    return _Runner(cell, ratio, low, high)


def _why(chosen: _Runner, others: Sequence[_Runner], because: str, passing: Sequence[Entry]) -> str:
    said = speed(chosen.cell.get("timing"))
    numbers = f" ({said})" if said[:1].isdigit() else ""
    if chosen.ratio is None and others:
        return f"It passes; nothing was timed here, and {because}."
    if others:
        names = ", ".join(f'"{runner.cell["recipe"]}"' for runner in others)
        return f"It passes{numbers}; its speed cannot be told from that of {names}, and {because}."
    if len(passing) == 1:
        return f"The only variant that passes{numbers}."
    return f"The fastest of {len(passing)} variants that pass{numbers}."


def _why_plain(cells: Sequence[Entry], passing: Sequence[Entry]) -> str:
    recipes = [cell for cell in cells if not _is_unoptimized(cell)]
    if not recipes:
        return "The unoptimized model is correct, and no recipe was tried here."
    if any(not _is_unoptimized(cell) for cell in passing):
        return "The unoptimized model is correct, and faster than every recipe that passes."
    return f"The unoptimized model is correct, and no recipe passes: {_tally(recipes)}."


def _why_nothing(cells: Sequence[Entry]) -> str:
    statuses = {cell["status"] for cell in cells}
    reasons = {reason for cell in cells for reason in cell.get("reasons", ())[:1]}
    if len(statuses) == 1 and len(reasons) == 1:
        return f"{statuses.pop().capitalize()}. {reasons.pop().partition(chr(10))[0]}"
    return f"No variant {'passes' if 'slower' in statuses else 'is correct'} here: {_tally(cells)}."


def _without_plain(cells: Sequence[Entry], plain: Entry | None) -> str:
    """Say what ships instead of what is slower, where a run was limited to cells without the unoptimized model."""
    if plain is not None or all(cell["status"] != "slower" for cell in cells):
        return ""
    return " The unoptimized model, which ships in place of what is slower, is not among the cells of this run."


def _tally(cells: Sequence[Entry]) -> str:
    return ", ".join(f'"{cell["recipe"]}" {cell["status"]}' for cell in cells)
