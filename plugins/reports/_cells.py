"""The matrix of cells, and everything known of each below its row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ortforge.api.explained import SEARCH, outline
from ortforge.api.wording import (
    STATUSES,
    TIMES,
    TUNING,
    cosine,
    evidence_lines,
    expectation_text,
    latency,
    marks,
    percent,
    placement_text,
    size,
    speed,
    spread,
    task_drop,
    tuning_facts,
)
from ortforge.portable.statuses import MEANINGS

from ._differences import differences, search
from ._markup import Markup, join, tag

__all__ = ["matrix", "status_of", "whisker"]

Cell = Mapping[str, Any]

WHISKER_REACH: Final = 4.0
"""The ratio at the right edge of a whisker; its left edge is the inverse."""


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of the matrix: what it shows, and what it is sorted by."""

    title: str
    shows: Callable[[Cell], object]
    sorts: Callable[[Cell], object]
    number: bool = False
    name: bool = False


def _worst(cell: Cell, measure: str) -> float | None:
    value: float | None = ((cell.get("parity") or {}).get("worst") or {}).get(measure)
    return value


def _timing(cell: Cell, name: str) -> Any:
    return (cell.get("timing") or {}).get(name)


def _parity(cell: Cell) -> object:
    parity = cell.get("parity") or {}
    if parity.get("identical"):
        return "identical"
    measures = [said for said in (cosine(_worst(cell, "cosine")), _error(cell)) if said]
    drop = task_drop(parity)
    return join(*([*measures[:1], *(tag("div", said, class_="soft") for said in (*measures[1:], drop) if said)]))


def _error(cell: Cell) -> str:
    error = percent(_worst(cell, "max_rel_range"))
    return f"max error {error}" if error else ""


def status_of(cell: Cell) -> Markup:
    """Return a cell's status with the marks that its numbers carry."""
    badges = (tag("span", mark, class_="mark") for mark in marks(cell))
    badge = tag("span", cell["status"], class_=f"status s-{cell['status']}", title=MEANINGS.get(cell["status"]))
    return join(badge, tag("div", *badges) if marks(cell) else "")


def whisker(timing: Mapping[str, Any]) -> Markup:
    """Draw a ratio with its interval on a logarithmic scale around 1, the noise floor shaded."""

    def at(ratio: float) -> float:
        share = 0.5 + 0.5 * math.log(max(ratio, 1e-9)) / math.log(WHISKER_REACH)
        return round(90 * min(1.0, max(0.0, share)) + 1, 1)

    if any(timing.get(name) is None for name in ("ratio", "low", "high")) or timing.get("outcome") == "baseline":
        return Markup()
    noise = 1.0 + (timing.get("noise") or 0.0)
    left, right = at(1 / noise), at(noise)
    return tag(
        "svg",
        tag("rect", x=left, y=0, width=max(0.5, round(right - left, 1)), height=10, class_="noise"),
        tag("line", x1=at(1.0), x2=at(1.0), y1=0, y2=10, class_="unit"),
        tag("line", x1=at(timing["low"]), x2=at(timing["high"]), y1=5, y2=5, class_="range"),
        tag("circle", cx=at(timing["ratio"]), cy=5, r=3),
        class_="whisker",
        viewBox="0 0 92 10",
        aria_hidden="true",
    )


def _placed(cell: Cell) -> str:
    return placement_text(cell.get("placement"))


def _speed(cell: Cell) -> Markup:
    timing = cell.get("timing") or {}
    if not timing:
        return Markup()
    outcome = {"faster": "o-faster", "slower": "o-slower"}.get(timing.get("outcome", ""), "o-same")
    return tag("div", speed(timing), whisker(timing), class_=outcome)


COLUMNS: Final = (
    _Column("Model", lambda cell: cell["model"], lambda cell: cell["model"], name=True),
    _Column("Runtime", lambda cell: cell["target"], lambda cell: cell["target"]),
    _Column("EP", lambda cell: cell["ep"], lambda cell: cell["ep"]),
    _Column("Recipe", lambda cell: cell["recipe"], lambda cell: cell["recipe"]),
    _Column("Status", status_of, lambda cell: _rank(cell["status"]), number=True),
    _Column("Parity", _parity, lambda cell: _worst(cell, "cosine"), number=True),
    _Column("Speed", _speed, lambda cell: _timing(cell, "ratio"), number=True),
    _Column("p50", lambda cell: latency(_timing(cell, "p50_s")), lambda cell: _timing(cell, "p50_s"), number=True),
    _Column("Load", lambda cell: latency(cell.get("load_s")), lambda cell: cell.get("load_s"), number=True),
    _Column("Size", lambda cell: size(cell.get("bytes")), lambda cell: cell.get("bytes"), number=True),
    _Column("Peak RSS", lambda cell: size(cell.get("peak_rss")), lambda cell: cell.get("peak_rss"), number=True),
    _Column("Placement", _placed, _placed),
)


def _rank(status: str) -> int:
    return STATUSES.index(status) if status in STATUSES else len(STATUSES)


def matrix(report: Mapping[str, Any], anchors: Mapping[str, str]) -> Markup:
    """Return the tools and the table of all cells. ``anchors`` gives each cell's id in the page."""
    cells: Sequence[Cell] = report["cells"]
    head = [tag("th", column.title, scope="col", class_="number" if column.number else None) for column in COLUMNS]
    bodies = (_body(cell, report, anchors) for cell in cells)
    table = tag("table", tag("thead", tag("tr", *head)), *bodies, id="cells")
    return join(_tools(cells), tag("div", table, class_="wide"))


def _tools(cells: Sequence[Cell]) -> Markup:
    """Return the filters; the script shows them, as they do nothing without it."""
    choices = []
    for name, title in (("model", "Model"), ("target", "Runtime"), ("ep", "EP"), ("recipe", "Recipe")):
        choices.append((name, title, list(dict.fromkeys(cell[name] for cell in cells))))
    choices.append(("status", "Status", sorted({cell["status"] for cell in cells}, key=_rank)))
    selects = (
        tag(
            "label",
            title,
            tag("select", tag("option", "all", value=""), *(tag("option", value) for value in values), name=name),
        )
        for name, title, values in choices
    )
    search = tag("label", "Search", tag("input", type="search", name="text", placeholder="any text"))
    reset = tag("button", "Reset", type="reset")
    return tag("form", search, *selects, reset, tag("output"), class_="tools", hidden=True, autocomplete="off")


def _body(cell: Cell, report: Mapping[str, Any], anchors: Mapping[str, str]) -> Markup:
    values = []
    for column in COLUMNS:
        kind = "name" if column.name else "right" if column.number and column.title not in _LEFT else None
        key = column.sorts(cell)
        shown = column.shows(cell)
        values.append(tag("td", shown, class_=kind, data_label=column.title, data_sort="" if key is None else key))
    details = tag("details", tag("summary", "Details"), _detail(cell, report, anchors))
    return tag(
        "tbody",
        tag("tr", *values, class_="row"),
        tag("tr", tag("td", details, colspan=len(COLUMNS)), class_="more"),
        **{f"data_{name}": cell[name] for name in ("model", "target", "ep", "recipe", "status")},
        id=anchors[cell["id"]],
    )


_LEFT: Final = frozenset({"Status", "Speed", "Parity"})


# Details


def _detail(cell: Cell, report: Mapping[str, Any], anchors: Mapping[str, str]) -> Markup:
    facts = (
        _section("Timing", _facts(_timing_facts(cell, anchors))),
        _section("Start and memory", _facts(_start_facts(cell))),
        _section("Model", _facts(_artefact_facts(cell))),
        _section("Runtime", _facts(_runtime_facts(cell, report))),
    )
    command, log = cell.get("command"), cell.get("log")
    return tag(
        "div",
        _section("Cell", tag("code", cell["id"])),
        _section("Not as expected", cell.get("problem") or ""),
        _section("Reasons", _list(cell.get("reasons", ()))),
        _section("Expected", expectation_text(cell)),
        _section("Notes", _list(cell.get("notes", ()))),
        tag("div", *(tag("div", fact) for fact in facts if fact), class_="columns"),
        _section("Parity with the reference", _parity_table(cell.get("parity") or {})),
        _section("Evidence", _facts(iter(evidence_lines(cell)))),
        _section("Session tuning", _facts(iter(tuning_facts(cell.get("artefact"))))),
        _section("Variants that were tried", search(_changed(cell).get(SEARCH) or {})),
        _section("Tensors, against the model before the recipe", differences(cell.get("differences") or {})),
        _section("Placement", _placement_table(cell.get("placement") or {})),
        _section("Log, its end", tag("pre", log) if log else ""),
        _section("Run it again", tag("div", tag("pre", tag("code", command)), class_="command") if command else ""),
        class_="detail",
    )


def _section(title: str, content: Markup | str) -> Markup:
    return join(tag("h4", title), content) if content else Markup()


def _list(sentences: Sequence[str]) -> Markup:
    return tag("ul", *(tag("li", sentence) for sentence in sentences)) if sentences else Markup()


def _facts(facts: Iterator[tuple[str, object]]) -> Markup:
    known = [(name, value) for name, value in facts if value]
    return tag("dl", *(join(tag("dt", name), tag("dd", value)) for name, value in known)) if known else Markup()


def _timing_facts(cell: Cell, anchors: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    timing = cell.get("timing") or {}
    if not timing:
        return
    yield "speed", speed(timing)
    outcome = timing.get("outcome")
    yield "outcome", "" if outcome == "baseline" else outcome
    yield "95% interval", _interval(timing) if outcome != "baseline" else ""
    yield "against", _link(timing.get("baseline") or "", anchors)
    yield "overall", _overall(cell)
    counted = f"{timing.get('pairs')} pairs in {timing.get('rounds')} rounds"
    yield "measured", f"{counted}, {len(timing.get('samples') or ())} samples"
    for share in (50, 90, 99):
        yield f"p{share}", latency(timing.get(f"p{share}_s")) or "too few samples to say"
    yield "noise floor", spread(timing.get("noise"))
    why = f": {timing['trust_reason']}" if timing.get("trust_reason") else ""
    yield "trust", f"{timing.get('trust')}{why}"


def _interval(numbers: Mapping[str, Any]) -> str:
    low, high = numbers.get("low"), numbers.get("high")
    return "" if low is None or high is None else f"{low:.3f}{TIMES} to {high:.3f}{TIMES}"


def _overall(cell: Cell) -> str:
    overall = cell.get("overall") or {}
    return f"{speed(overall)} against the matrix's baseline" if overall.get("ratio") is not None else ""


def _link(name: str, anchors: Mapping[str, str]) -> Markup | str:
    return tag("a", name, href=f"#{anchors[name]}") if name in anchors else name


def _start_facts(cell: Cell) -> Iterator[tuple[str, object]]:
    timing = cell.get("timing") or {}
    for name, said in (("load_s", "load"), ("first_run_s", "first run")):
        base = latency(timing.get(f"baseline_{name}"))
        yield said, latency(cell.get(name)) + (f" (its baseline: {base})" if base else "")
    if load := timing.get("load"):
        took = f"{latency(load['p50_s'])} (its baseline: {latency(load['baseline_p50_s'])})"
        yield "loading in turns", f"{speed({**load, 'noise': timing.get('noise')})}; {took}"
    yield "peak RSS", size(cell.get("peak_rss"))


def _artefact_facts(cell: Cell) -> Iterator[tuple[str, object]]:
    artefact = cell.get("artefact") or {}
    if not artefact:
        return
    yield "size", size(artefact.get("bytes"))
    yield "changed", "nothing: the recipe was a no-op" if artefact.get("no_op") else _passes(cell)
    yield "stamp", _pairs(artefact.get("stamp"))
    yield "warnings", _list(artefact.get("warnings") or ())
    yield "digest", tag("span", artefact.get("digest") or "", class_="hash")


def _changed(cell: Cell) -> Mapping[str, Any]:
    changed: Mapping[str, Any] = (cell.get("artefact") or {}).get("changed") or {}
    return changed


def _passes(cell: Cell) -> Markup | str:
    """Say what each pass changed, a line for each, but for those that have a section of their own."""
    told = {name: value for name, value in _changed(cell).items() if name not in (TUNING, SEARCH)}
    return _list([f"{name}: {said}" if said else name for name, said in outline(told)])


def _pairs(values: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name}: {value}" for name, value in (values or {}).items())


def _runtime_facts(cell: Cell, report: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    runtimes = list(report.get("runtimes") or {})
    if cell["target"] not in runtimes:
        return
    runtime = report["runtimes"][cell["target"]]
    yield "ONNX Runtime", runtime.get("ort_version")
    yield "Python", runtime.get("python")
    yield "identity", tag("span", cell.get("runtime_hash") or runtime.get("hash") or "", class_="hash")
    packages = runtime.get("packages") or ()
    for package in packages:
        if str(package.get("name", "")).startswith("onnxruntime"):
            digest = tag("div", f"sha256 {package.get('sha256')}", class_="hash")
            yield package["name"], join(package.get("version"), digest)
    yield (
        "packages",
        tag("a", f"all {len(packages)} with their digests", href=f"#runtime-{runtimes.index(cell['target'])}"),
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    head = tag(
        "tr", *(tag("th", title, scope="col", class_="right" if place else None) for place, title in enumerate(header))
    )
    body = (
        tag("tr", *(tag("td", said, class_="right" if place else None) for place, said in enumerate(row)))
        for row in rows
    )
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="wide")


def _parity_table(parity: Mapping[str, Any]) -> Markup:
    outputs: Mapping[str, Any] = parity.get("outputs") or {}
    if not outputs:
        return Markup()
    rows = [(name, *_output(entry)) for name, entry in outputs.items()]
    header = ("Output", "Type", "Taken for", "Cosine", "SQNR", "Max abs", "Of range", "Agreement", "Worst sample")
    tasks = [
        (
            name,
            *(
                f"{entry[side]:.4g}" if entry.get(side) is not None else ""
                for side in ("reference", "candidate", "drop")
            ),
        )
        for name, entry in (parity.get("tasks") or {}).items()
    ]
    said = f"Over {parity.get('samples')} samples; each number is that of the worst sample."
    more = _table(("Task metric", "Reference", "This cell", "Drop"), tasks) if tasks else ""
    return join(tag("p", said, class_="soft"), _table(header, rows), more)


def _output(entry: Mapping[str, Any]) -> tuple[object, ...]:
    sqnr = entry.get("sqnr_db")
    kind = f"{entry.get('dtype', '')}{entry.get('shape', '')}"
    agreement = " ".join(filter(None, (percent(entry.get("agreement")), entry.get("agreement_kind"))))
    worst = next((entry[name] for name in ("max_rel_range_sample", "cosine_sample") if entry.get(name) is not None), "")
    return (
        kind,
        tag("span", entry.get("role") or "", title=entry.get("recognized_by") or None),
        "identical" if entry.get("identical") else cosine(entry.get("cosine")),
        "no error" if entry.get("sqnr_infinite") else "" if sqnr is None else f"{sqnr:.1f} dB",
        "" if entry.get("max_abs") is None else f"{entry['max_abs']:.3g}",
        percent(entry.get("max_rel_range")),
        agreement,
        worst,
    )


def _placement_table(placement: Mapping[str, Any]) -> Markup:
    nodes: Mapping[str, int] = placement.get("nodes") or {}
    if not nodes:
        return Markup()
    shares, ops = placement.get("time_share") or {}, placement.get("ops") or {}
    rows = []
    for ep, count in sorted(nodes.items(), key=lambda item: -item[1]):
        ordered = sorted((ops.get(ep) or {}).items(), key=lambda item: -item[1])
        rows.append((ep, count, percent(shares.get(ep)), ", ".join(f"{op} {number}" for op, number in ordered[:8])))
    agree = "" if placement.get("agree") is not False else ", and they disagree"
    said = f"From {' and '.join(placement.get('sources') or ('no source',))}{agree}. {placement.get('note') or ''}"
    return join(_table(("Execution provider", "Nodes", "Time", "Operators"), rows), tag("p", said, class_="soft"))
