"""What a user would ship: the best combination per model and device, and one variant or none per runtime and EP.

The rules, in order, for the cells of one model on one (target, EP, device):

1. Of the variants that pass, the fastest. Speeds are ratios to the unoptimized model there; where those were not
   measured, ratios to the matrix's baseline. Variants whose speed cannot be told from the fastest one's (their
   intervals overlap) are equals. Of equals the smallest ships, and of those of about one size the quickest to load.
2. The unoptimized model, when it is correct, and no passing variant is faster than it or as fast. Its speed does not
   matter: that compares it with another runtime, which is no help to who must use this one.
3. Nothing.

A recipe's variant that is correct and was not shown to gain does not replace the unoptimized model; it is named as an
alternative. An unproven variant never ships; the sentence says what is missing. A contended timing never selects.

The best combination of a model on a device is the fastest of what ships there, by the ratio to the matrix's baseline.

A cell's name may hold text from a matrix file; nothing here is escaped for any output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ortforge.api.wording import speed, telling_reasons
from ortforge.portable.statuses import CORRECT
from ortforge.verdict.ratios import MINIMUM_FLOOR, is_measurable, outcome

__all__ = ["best_per_model", "what_ships"]

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
        return any(_is_unoptimized(one) and _outcome(two) in ("same", "undecided") for one, two in (pair, pair[::-1]))


def what_ships(report: Entry) -> dict[str, list[dict[str, Any]]]:
    """Return ``{model: [{"target", "ep", "device", "cell", "why", "equals", "alternatives", "unproven"}, …]}``.

    ``cell`` is a cell's id, or ``None`` when nothing ships; ``equals`` lists the ids of passing variants whose
    speed could not be told from its own, ``alternatives`` those of recipes that are correct and not shown to gain, and
    ``unproven`` those of variants with too little evidence. Models and runtimes come in the order of the report's
    cells. Pure.
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


def _is_contended(cell: Entry) -> bool:
    """Return whether other work disturbed a cell's timing so much that it selects nothing."""
    return bool((cell.get("timing") or {}).get("trust") == "contended")


def _choose(cells: Sequence[Entry]) -> dict[str, Any]:
    plain = next((cell for cell in cells if _is_unoptimized(cell)), None)
    passing = [cell for cell in cells if cell["status"] == "pass"]
    correct_plain = plain is not None and plain["status"] in CORRECT
    candidates = [*passing, *([plain] if plain is not None and correct_plain and plain not in passing else [])]
    # A timing that was disturbed must not choose: such a variant ships only where nothing else is correct.
    candidates = [cell for cell in candidates if cell is plain or not _is_contended(cell)] or candidates
    others = {
        "alternatives": [cell["id"] for cell in cells if cell["status"] == "undecided" and cell is not plain],
        "unproven": [cell["id"] for cell in cells if cell["status"] == "unproven"],
    }
    if not candidates:
        why = _why_nothing(cells) + _without_plain(cells, plain)
        return {"cell": None, "why": why + _also(cells, plain, None), "equals": [], **others, "tiers": None}
    runners = _on_one_scale(candidates, plain)
    best = max(runners, key=lambda runner: -1.0 if runner.ratio is None else runner.ratio)
    equals = [runner for runner in runners if runner.equals(best)]
    if any(runner.cell["status"] == "pass" for runner in equals):
        equals = [runner for runner in equals if runner.cell["status"] == "pass"]
    chosen, because = _of_equals(equals)
    rest = [runner for runner in equals if runner is not chosen]
    if _is_unoptimized(chosen.cell) and not rest:
        why = _why_plain(cells, passing)
    else:
        why = _why(chosen, rest, because, passing)
    if not correct_plain and plain is not None:
        why += f" The unoptimized model itself is {plain['status']} here."
    why += _also(cells, plain, chosen.cell) + _tiers_of(chosen.cell)
    choice = {"cell": chosen.cell["id"], "why": why, "equals": [runner.cell["id"] for runner in rest], **others}
    return {**choice, "tiers": (chosen.cell.get("tiers") or {}).get("correct")}


def _also(cells: Sequence[Entry], plain: Entry | None, chosen: Entry | None) -> str:
    """Name what is correct and does not ship for want of a measured gain, and what is missing to prove the rest.

    Nothing is said next to a recipe that ships; of an unoptimized model that is the only cell all was said before.
    """
    if chosen is not None and not _is_unoptimized(chosen):
        return ""
    recipes = [cell for cell in cells if cell is not plain]
    undecided = ", ".join(f'"{cell["recipe"]}"' for cell in recipes if cell["status"] == "undecided")
    said = f" Correct, not shown to be faster here: {undecided}." if undecided else ""
    if chosen is None and len(cells) == 1:
        return said
    for cell in cells:
        if cell["status"] == "unproven":
            missing = next(iter(cell.get("reasons", ())), "").partition("\n")[0]
            said += f' "{cell["recipe"]}" is unproven' + (f": {missing}" if missing else ".")
    return said


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

    # What changes nothing needs no trust, the baseline least of all; else the better number.
    def preference(runner: _Runner) -> tuple[bool, bool, float]:
        return _is_unoptimized(runner.cell), _outcome(runner.cell) == "baseline", runner.ratio or 0.0

    chosen = max(quick, key=preference)
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
        timed = [runner for runner in scale if runner.cell.get("timing") and not _is_contended(runner.cell)]
        if all(runner.ratio is not None for runner in timed):
            return scale if _compares(scale) else [_Runner(runner.cell, None, 0.0, 0.0) for runner in scale]
    return local


def _compares(scale: Sequence[_Runner]) -> bool:
    """Whether at least two were timed: the unoptimized model's ratio to itself says nothing of the others."""
    return len(scale) == 1 or sum(runner.ratio is not None for runner in scale) > 1


def _local(cell: Entry, plain: Entry | None) -> _Runner:
    if plain is not None and cell is plain:
        return _Runner(cell, 1.0, 1.0, 1.0)
    timing = cell.get("timing") or {}
    if plain is None or timing.get("baseline") != plain["id"] or _is_contended(cell):
        return _Runner(cell, None, 0.0, 0.0)
    return _runner(cell, timing)


def _overall(cell: Entry) -> _Runner:
    if _outcome(cell) == "baseline":
        return _Runner(cell, 1.0, 1.0, 1.0)
    return _Runner(cell, None, 0.0, 0.0) if _is_contended(cell) else _runner(cell, cell.get("overall") or {})


def _runner(cell: Entry, numbers: Mapping[str, Any]) -> _Runner:
    ratio, low, high = (numbers.get(name) for name in ("ratio", "low", "high"))
    if ratio is None or low is None or high is None or _is_contended(cell):
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
    if any(not _is_unoptimized(cell) and not _is_contended(cell) for cell in passing):
        return "The unoptimized model is correct, and faster than every recipe that passes."
    gains = "passes with an undisturbed timing" if any(cell["status"] == "pass" for cell in recipes) else "passes"
    return f"The unoptimized model is correct, and no recipe {gains}: {_tally(recipes)}."


def _why_nothing(cells: Sequence[Entry]) -> str:
    statuses = {cell["status"] for cell in cells}
    reasons = {reason for cell in cells for reason in telling_reasons(cell)[:1]}
    if len(statuses) == 1 and len(reasons) == 1:
        return f"{statuses.pop().capitalize()}. {reasons.pop().partition(chr(10))[0]}"
    return f"No variant {'passes' if statuses & CORRECT else 'is correct'} here: {_tally(cells)}."


def _without_plain(cells: Sequence[Entry], plain: Entry | None) -> str:
    """Say what ships instead of what is slower, where a run was limited to cells without the unoptimized model."""
    if plain is not None or all(cell["status"] not in CORRECT for cell in cells):
        return ""
    return " The unoptimized model, which ships in place of what gains nothing, is not among the cells of this run."


def _tally(cells: Sequence[Entry]) -> str:
    disturbed = {True: ", contended", False: ""}
    return ", ".join(
        f'"{cell["recipe"]}" {cell["status"]}{disturbed[cell["status"] == "pass" and _is_contended(cell)]}'
        for cell in cells
    )


# The best combination of a model


def best_per_model(report: Entry) -> dict[str, list[dict[str, Any]]]:
    """Return the first answer: per model and device the best combination of recipe, runtime and EP.

    :param report: needs ``cells``; ``ships`` is made when it is not there.
    :returns: ``{model: [{"device", "cell", "target", "ep", "recipe", "speed", "why", "equals"}, …]}``. ``cell`` is
        ``None`` when nothing ships on the device, and so are target, EP and recipe. ``speed`` is the ratio to the
        matrix's baseline, ``{"ratio", "low", "high", "outcome", "noise", "measurable"}``, or ``None`` when it is not
        known.
        ``equals`` lists ids of what ships elsewhere and cannot be told from it in speed. Pure.
    """
    by_id = {cell["id"]: cell for cell in report["cells"]}
    found: dict[str, list[dict[str, Any]]] = {}
    for model, entries in (report.get("ships") or what_ships(report)).items():
        devices = dict.fromkeys(entry["device"] for entry in entries)
        found[model] = [
            {"device": device, **_best([entry for entry in entries if entry["device"] == device], by_id)}
            for device in devices
        ]
    return found


def _best(entries: Sequence[Entry], by_id: Mapping[str, Entry]) -> dict[str, Any]:
    shipping = [by_id[entry["cell"]] for entry in entries if entry["cell"]]
    if not shipping:
        return {**dict.fromkeys(("cell", "target", "ep", "recipe", "speed")), "why": _why_none(entries), "equals": []}
    runners = [_against_baseline(cell, by_id) for cell in shipping]
    measured = [runner for runner in runners if runner.ratio is not None]
    best = max(measured or runners, key=lambda runner: runner.ratio or 0.0)
    # Where nothing was measured, the order of the matrix decides: its first target is usually the baseline.
    equals = [runner for runner in measured if _same_speed(runner, best, by_id)] or runners[:1]
    chosen, because = _of_equals(equals)
    others = [runner for runner in equals if runner is not chosen]
    cell = chosen.cell
    return {
        "cell": cell["id"],
        **{part: cell[part] for part in ("target", "ep", "recipe")},
        "speed": _speed_figure(chosen, by_id),
        "why": _why_best(chosen, others, because, len(entries), len(runners), len(measured)),
        "equals": [runner.cell["id"] for runner in others],
    }


def _against_baseline(cell: Entry, by_id: Mapping[str, Entry]) -> _Runner:
    """Return a cell with its ratio to the matrix's baseline, without one where a timing was disturbed."""
    own_baseline = by_id.get((cell.get("timing") or {}).get("baseline") or "")
    if own_baseline is not None and _is_contended(own_baseline) and _outcome(own_baseline) != "baseline":
        return _Runner(cell, None, 0.0, 0.0)  # composed with a ratio that was disturbed
    return _overall(cell)


def _same_speed(first: _Runner, second: _Runner, by_id: Mapping[str, Entry]) -> bool:
    """Whether two ratios to the matrix's baseline cannot be told apart."""
    if first.low <= second.high and second.low <= first.high:
        return True
    figures = [_speed_figure(runner, by_id) or {} for runner in (first, second)]
    outcomes = {figure.get("outcome") for figure in figures}
    return "baseline" in outcomes and outcomes <= {"baseline", "same", "undecided"}


def _speed_figure(runner: _Runner, by_id: Mapping[str, Entry]) -> dict[str, Any] | None:
    if runner.ratio is None:
        return None
    timing = runner.cell.get("timing") or {}
    base = by_id.get(timing.get("baseline") or "") or {}
    floor = max((part.get("noise") or MINIMUM_FLOOR) for part in (timing, base.get("timing") or {}))
    numbers = {"ratio": runner.ratio, "low": runner.low, "high": runner.high}
    told = "baseline" if _outcome(runner.cell) == "baseline" else outcome(numbers, floor)
    return {**numbers, "outcome": told, "noise": floor, "measurable": is_measurable(numbers)}


def _where(cell: Entry) -> str:
    return f"{what_text(cell)} on {cell['target']}:{cell['ep']}"


def what_text(cell: Entry) -> str:
    """Return a cell's recipe in words."""
    return "the unoptimized model" if _is_unoptimized(cell) else f'"{cell["recipe"]}"'


def _why_best(
    chosen: _Runner, others: Sequence[_Runner], because: str, places: int, shipping: int, measured: int
) -> str:
    if places == 1:
        return "There is no other runtime or EP in this run."
    if shipping == 1:
        return f"Nothing ships on the other {places - 1} combinations of runtime and EP."
    unmeasured = shipping - measured
    if not measured:
        return f"The first of {shipping} that ship, in the matrix's order: no speed against the baseline is known."
    if measured == 1 and _outcome(chosen.cell) == "baseline":
        rest = f"{unmeasured} more that ship{'s' * (unmeasured == 1)}"
        return f"It is the baseline itself; the speed of {rest} is not known."
    if measured == 1:
        return f"The only one of {shipping} that ship whose speed against the baseline was measured undisturbed."
    unknown = f" The speed of {unmeasured} more that ship{'s' * (unmeasured == 1)} is not known." if unmeasured else ""
    if others:
        names = ", ".join(_where(runner.cell) for runner in others)
        return f"Its speed cannot be told from that of {names}, and {because}.{unknown}"
    return f"The fastest of {measured} combinations of runtime and EP that have something to ship.{unknown}"


def _why_none(entries: Sequence[Entry]) -> str:
    if len(entries) == 1:
        return str(entries[0]["why"])
    return "Nothing ships on any runtime: " + " ".join(
        f"{entry['target']}:{entry['ep']}: {entry['why']}" for entry in entries
    )
