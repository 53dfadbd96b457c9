"""What changed between two runs, without claiming more than they measured.

A run's latencies belong to its moment: another day the machine is faster or slower, and plain milliseconds of two runs
say nothing. What can be compared is each run's *ratio* to a baseline that took turns with the cell, when that baseline
is the same artefact on the same runtime and device in both. A cell is called faster or slower when these two ratios
differ by more than their intervals and the noise floor; everything else is "undecided".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ortforge.api.wording import telling_reasons
from ortforge.portable.statuses import CORRECT, rank
from ortforge.report.comparison import show
from ortforge.report.expectations import level

__all__ = ["compare", "show"]

Facts = Mapping[str, Any]

CANNOT_TELL: Final = "undecided"

MEASURES: Final = (("cosine", True), ("sqnr_db", True), ("max_rel_range", False), ("agreement", True))
"""Parity measures, and whether more is better."""

SAME_PARITY: Final = 1e-6
"""Relative difference of a parity measure that counts as none: threads add up floats in another order."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One report, with its cells by id and the matrix's baseline cell of each model."""

    report: Facts
    cells: Mapping[str, Facts]
    baselines: Mapping[str, str]

    @classmethod
    def of(cls, report: Facts) -> _Side:
        cells = {cell["id"]: cell for cell in report["cells"]}
        timed = ((cell, cell.get("timing") or {}) for cell in reversed(report["cells"]))
        baselines = {cell["model"]: cell["id"] for cell, timing in timed if timing.get("outcome") == "baseline"}
        return cls(report, cells, baselines)


def compare(a: Facts, b: Facts) -> dict[str, Any]:
    """Compare two JSON reports, ``a`` being the earlier one. Pure.

    Cells are matched by id, and what is left by model, recipe, target and EP where that is unique.

    :returns: JSON::

        {"schema": 1, "a": RUN, "b": RUN, "notes": [sentences about the runs as a whole],
         "added": [cell ids], "removed": [cell ids],
         "status": [{"id", "before", "after", "change": "regression" | "improvement" | "undecided" | "other", "why"}],
         "parity": [{"id", "measure", "before", "after", "change": "worse" | "better"}],
         "latency": [{"id", "p50_before", "p50_after", "ratio_before", "ratio_after", "outcome": "faster" | "slower" |
                      "undecided", "why", "differs": [what else differs]}],
         "regressions": cells that vanished, got a worse status or became provably slower,
         "improvements": cells that got a better status or became provably faster}

        RUN = {"id", "started", "matrix", "host", "device"}

    A change between two correct statuses (``pass``, ``no-gain``, ``undecided``, ``slower``) counts only where the
    latencies can be told apart, or where one of the two was not timed and neither is ``undecided``: else it is noise
    that crossed a line, and its change is "undecided". Which way a cell breaks, or cannot run, is "other".
    """
    first, second = _Side.of(a), _Side.of(b)
    pairs, added, removed = _match(first.cells, second.cells)
    latency = [_latency(before, after, first, second) for before, after in pairs if _timed(before) or _timed(after)]
    outcomes = {entry["id"]: entry["outcome"] for entry in latency}
    status = sorted(
        (_status(before, after, outcomes) for before, after in pairs if before["status"] != after["status"]),
        key=lambda entry: ("regression", "other", CANNOT_TELL, "improvement").index(entry["change"]),
    )
    changes = {entry["id"]: entry["change"] for entry in status}
    worse = {name for name, change in changes.items() if change == "regression"}
    better = {name for name, change in changes.items() if change == "improvement"}
    # A cell that crashes now cannot have got faster too: its status comes first.
    slower = {name for name, outcome in outcomes.items() if outcome == "slower"} - better
    faster = {name for name, outcome in outcomes.items() if outcome == "faster"} - worse
    return {
        "schema": 1,
        "a": _run(a),
        "b": _run(b),
        "notes": list(_notes(a, b)),
        "added": added,
        "removed": removed,
        "status": status,
        "parity": [change for before, after in pairs for change in _parity(before, after)],
        "latency": sorted(latency, key=lambda entry: ("slower", "faster", CANNOT_TELL).index(entry["outcome"])),
        "regressions": len(worse | slower) + len(removed),
        "improvements": len(better | faster),
    }


def _match(
    old: Mapping[str, Facts], new: Mapping[str, Facts]
) -> tuple[list[tuple[Facts, Facts]], list[str], list[str]]:
    """Return (pairs, ids that are new, ids that are gone)."""
    pairs = [(old[name], cell) for name, cell in new.items() if name in old]
    rest_old = _by_place(cell for name, cell in old.items() if name not in new)
    rest_new = _by_place(cell for name, cell in new.items() if name not in old)
    for place, cells in rest_new.items():
        others = rest_old.get(place, [])
        if len(cells) == 1 and len(others) == 1:
            pairs.append((others[0], cells[0]))
    matched = {id(cell) for pair in pairs for cell in pair}
    added = [name for name, cell in new.items() if id(cell) not in matched]
    return pairs, added, [name for name, cell in old.items() if id(cell) not in matched]


def _by_place(cells: Iterable[Facts]) -> dict[tuple[str, ...], list[Facts]]:
    """Group by everything in an id but the device, whose name may differ between machines."""
    places: dict[tuple[str, ...], list[Facts]] = {}
    for cell in cells:
        places.setdefault(tuple(cell[part] for part in ("model", "recipe", "target", "ep")), []).append(cell)
    return places


def _run(report: Facts) -> dict[str, Any]:
    run, device = report.get("run") or {}, report.get("device") or {}
    return {
        **{name: run.get(name) for name in ("id", "started", "matrix", "host")},
        "device": device.get("cpu_model") or device.get("name"),
    }


def _notes(a: Facts, b: Facts) -> Iterator[str]:
    """Say what differs between the runs as a whole."""
    if not _same_device(a, b):
        yield "The devices differ: no latency is compared, and parity may differ for that reason alone."
    if (a.get("run") or {}).get("matrix_digest") != (b.get("run") or {}).get("matrix_digest"):
        yield "The matrix files differ."
    if a.get("ortforge") != b.get("ortforge"):
        yield f"The runs are of ortforge {a.get('ortforge')} and {b.get('ortforge')}."
    models_a, models_b = a.get("models") or {}, b.get("models") or {}
    for name in models_a.keys() & models_b.keys():
        if models_a[name].get("digest") != models_b[name].get("digest"):
            yield f'The model "{name}" is another file than before.'
    runtimes_a, runtimes_b = a.get("runtimes") or {}, b.get("runtimes") or {}
    for name in sorted(runtimes_a.keys() & runtimes_b.keys()):
        old, new = runtimes_a[name], runtimes_b[name]
        if old.get("hash") != new.get("hash"):
            changed = _packages_changed(old, new) or "its packages or its interpreter"
            yield f'The runtime "{name}" differs: {changed}.'


def _packages_changed(old: Facts, new: Facts) -> str:
    before = {package["name"]: package for package in old.get("packages") or ()}
    after = {package["name"]: package for package in new.get("packages") or ()}
    said = [
        f"{name} {before[name]['version']} → {after[name]['version']}"
        if before[name]["version"] != after[name]["version"]
        else f"{name} {after[name]['version']} is another build"
        for name in sorted(before.keys() & after.keys())
        if (before[name]["version"], before[name].get("sha256")) != (after[name]["version"], after[name].get("sha256"))
    ]
    said += [f"{name} is new" for name in sorted(after.keys() - before.keys())]
    said += [f"{name} is gone" for name in sorted(before.keys() - after.keys())]
    return ", ".join(said)


def _same_device(a: Facts, b: Facts) -> bool:
    return bool((a.get("device") or {}).get("identity") == (b.get("device") or {}).get("identity"))


# Verdicts


def _status(before: Facts, after: Facts, outcomes: Mapping[str, str]) -> dict[str, Any]:
    old, new = before["status"], after["status"]
    why = next(iter(telling_reasons(after)), "")
    change = "regression" if rank(new) > rank(old) else "improvement"
    if level(old) == level(new):
        if new not in CORRECT:
            change = "other"
        elif _timed(before) and _timed(after):
            wanted = "slower" if change == "regression" else "faster"
            change = change if outcomes.get(after["id"]) == wanted else CANNOT_TELL
        elif "undecided" in (old, new):
            change = CANNOT_TELL
    return {"id": after["id"], "before": old, "after": new, "change": change, "why": why}


# Parity


def _parity(before: Facts, after: Facts) -> Iterator[dict[str, Any]]:
    """Give each measure that changed, worst over outputs, and each task metric."""
    old, new = before.get("parity") or {}, after.get("parity") or {}
    if not old or not new:
        return
    for measure, more_is_better in MEASURES:
        values = [(parity.get("worst") or {}).get(measure) for parity in (old, new)]
        if change := _change(values[0], values[1], more_is_better):
            yield {"id": after["id"], "measure": measure, "before": values[0], "after": values[1], "change": change}
    tasks_old, tasks_new = old.get("tasks") or {}, new.get("tasks") or {}
    for name in [name for name in tasks_new if name in tasks_old]:
        drops = [tasks[name].get("drop") for tasks in (tasks_old, tasks_new)]
        if change := _change(drops[0], drops[1], more_is_better=False):
            yield {
                "id": after["id"],
                "measure": f"drop of {name}",
                "before": drops[0],
                "after": drops[1],
                "change": change,
            }


def _change(before: float | None, after: float | None, more_is_better: bool) -> str:
    if before is None or after is None or abs(after - before) <= SAME_PARITY * max(1e-3, abs(before), abs(after)):
        return ""
    return "better" if (after > before) == more_is_better else "worse"


# Latency


def _timed(cell: Facts) -> bool:
    return bool(cell.get("timing"))


def _latency(before: Facts, after: Facts, a: _Side, b: _Side) -> dict[str, Any]:
    entry = {
        "id": after["id"],
        "p50_before": (before.get("timing") or {}).get("p50_s"),
        "p50_after": (after.get("timing") or {}).get("p50_s"),
        "ratio_before": None,
        "ratio_after": None,
        "outcome": CANNOT_TELL,
        "why": "",
        "differs": list(_differs(before, after, a, b)),
    }
    why = _incomparable(before, after, a, b)
    if why:
        return {**entry, "why": why}
    ratios = _ratios(before, after, a, b)
    if ratios is None:
        return {**entry, "why": "It has no baseline that is the same artefact on the same runtime in both runs."}
    old, new, baseline = ratios
    noise = max((cell["timing"].get("noise") or 0.0) for cell in (before, after))
    entry |= {"ratio_before": old, "ratio_after": new}
    if new["low"] > old["high"] * (1.0 + noise):
        return {**entry, "outcome": "faster", "why": f"Measured against {baseline} in both runs."}
    if new["high"] * (1.0 + noise) < old["low"]:
        return {**entry, "outcome": "slower", "why": f"Measured against {baseline} in both runs."}
    return {**entry, "why": f"The two ratios to {baseline} do not differ beyond their intervals and the noise."}


def _differs(before: Facts, after: Facts, a: _Side, b: _Side) -> Iterator[str]:
    if not _same_device(a.report, b.report):
        yield "device"
    if before.get("runtime_hash") != after.get("runtime_hash"):
        yield "runtime"
    if _artefact(before) != _artefact(after):
        yield "artefact"


def _artefact(cell: Facts) -> str:
    return str((cell.get("artefact") or {}).get("digest", ""))


def _incomparable(before: Facts, after: Facts, a: _Side, b: _Side) -> str:
    """Return why nothing can be said of these two timings, or ``""``."""
    if not _timed(before) or not _timed(after):
        return "It was timed in one of the runs only."
    if not _same_device(a.report, b.report):
        return "The devices differ."
    for cell, which in ((before, "first"), (after, "second")):
        if cell["timing"].get("trust") == "contended":
            return f"The machine was busy with other work in the {which} run."
    if all(cell["timing"].get("outcome") == "baseline" for cell in (before, after)):
        return "It is the baseline: there is nothing in the same run to measure it against."
    return ""


def _ratios(before: Facts, after: Facts, a: _Side, b: _Side) -> tuple[dict[str, float], dict[str, float], str] | None:
    """Return both runs' ratios to one baseline, and its id: the cell's own, or else the matrix's."""
    old, new = before["timing"], after["timing"]
    own = new.get("baseline")
    if own and own == old.get("baseline") and _same_cell(own, a, b):
        found = _interval(old), _interval(new)
        if found[0] and found[1]:
            return found[0], found[1], own
    common = b.baselines.get(after["model"], "")
    if common and common == a.baselines.get(before["model"]) and _same_cell(common, a, b):
        found = _interval(before.get("overall")), _interval(after.get("overall"))
        if found[0] and found[1]:
            return found[0], found[1], common
    return None


def _interval(numbers: Facts | None) -> dict[str, float] | None:
    known = {name: (numbers or {}).get(name) for name in ("ratio", "low", "high")}
    return {name: value for name, value in known.items() if value is not None} if None not in known.values() else None


def _same_cell(name: str, a: _Side, b: _Side) -> bool:
    """Whether a cell is the same artefact on the same runtime in both runs."""
    old, new = a.cells.get(name), b.cells.get(name)
    if old is None or new is None or not _artefact(old):
        return False
    return bool(old.get("runtime_hash") == new.get("runtime_hash") and _artefact(old) == _artefact(new))
