"""``report.md``: the verdict for the summary page of a CI run, or for a comment on a change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ortforge.api import Report
from ortforge.api.wording import (
    best_text,
    build_lines,
    combination_text,
    device_text,
    duration,
    exit_code_text,
    latency,
    marks,
    parity_text,
    printable,
    size,
    speed,
    summary_text,
)

from ._file import write_whole

MOST_CELLS: Final = 1000
"""Cells that are listed: CI systems cut a summary page off at 1 MiB."""

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]()#+!|~$>@])")


def ortforge_reports() -> Iterable[Report]:
    """Give the writer."""
    return [Report("markdown", "a short report for CI summary pages", ".md", write)]


def write(report: Mapping[str, Any], path: Path) -> None:
    """Write the report as Markdown (tables as GitHub and GitLab know them)."""
    write_whole(path, "\n".join(_lines(report)) + "\n")


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    run, cells = report.get("run") or {}, report["cells"]
    yield f"## ortforge: {_plain(summary_text(report))}"
    yield ""
    facts = (
        device_text(report.get("device")),
        duration(run.get("seconds")),
        f"run {run.get('id')}",
        exit_code_text(report),
    )
    yield " · ".join(_plain(fact) for fact in facts if fact)
    yield ""
    yield from _best(report)
    yield from _not_as_expected(report)
    yield from _ships(report)
    if built := build_lines(report):
        yield "### Built"
        yield ""
        yield from (f"- {_plain(line)}" for line in built)
        yield ""
    # What is not as expected comes first, and then what does not pass, as the list may be cut.
    ordered = sorted(cells, key=lambda cell: (not cell.get("problem"), cell["status"] == "pass"))[:MOST_CELLS]
    yield "### All cells"
    yield ""
    header = ("Model", "Runtime", "EP", "Recipe", "Status", "Parity", "Speed", "p50", "Size")
    yield from _table(header, [_row(cell) for cell in ordered])
    if len(cells) > MOST_CELLS:
        yield f"And {len(cells) - MOST_CELLS} more: the HTML and JSON reports have all."
        yield ""
    problems = [cell for cell in ordered if cell["status"] != "pass"]
    if problems:
        yield f"<details><summary>Why {len(problems)} cells do not pass</summary>"
        yield ""
        for cell in problems:
            yield f"- {_plain(cell['id'])}: **{_plain(cell['status'])}**. {_plain(' '.join(cell.get('reasons', ())))}"
        yield ""
        yield "</details>"


def _best(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the first answer: the best combination of each model and device."""
    cells = {cell["id"]: cell for cell in report["cells"]}
    best = report.get("best") or {}
    devices = len({answer["device"] for answers in best.values() for answer in answers}) > 1
    rows = []
    for model, answers in best.items():
        for answer in answers:
            place = (_plain(model), _plain(answer["device"])) if devices else (_plain(model),)
            numbers = best_text(answer, cells.get(answer["cell"]))
            rows.append((*place, f"**{_plain(combination_text(answer))}**", _plain(numbers), _plain(answer["why"])))
    if rows:
        yield "### What ships"
        yield ""
        yield from _table(("Model", *(("Device",) if devices else ()), "Ships", "Speed and size", "Why"), rows)


def _not_as_expected(report: Mapping[str, Any]) -> Iterator[str]:
    problems = (report.get("expectations") or {}).get("problems") or ()
    if problems:
        yield f"### Not as expected ({len(problems)})"
        yield ""
        yield from (f"- {_plain(problem['cell'])}: {_plain(problem['what'])}" for problem in problems[:MOST_CELLS])
        yield ""


def _ships(report: Mapping[str, Any]) -> Iterator[str]:
    cells = {cell["id"]: cell for cell in report["cells"]}
    rows = []
    for model, entries in (report.get("ships") or {}).items():
        for entry in entries:
            cell = cells.get(entry["cell"])
            what = _plain(cell["recipe"]) if cell else "nothing"
            numbers = (speed(cell.get("timing")), size(cell.get("bytes"))) if cell else ("", "")
            where = (_plain(model), _plain(entry["target"]), _plain(entry["ep"]))
            rows.append((*where, f"**{what}**", *map(_plain, numbers), _plain(entry["why"])))
    if rows:
        yield "### What ships per runtime and EP"
        yield ""
        yield from _table(("Model", "Runtime", "EP", "Ships", "Speed", "Size", "Why"), rows)


def _row(cell: Mapping[str, Any]) -> tuple[str, ...]:
    status = ", ".join((cell["status"], *marks(cell)))
    p50 = latency((cell.get("timing") or {}).get("p50_s"))
    where = (cell["model"], cell["target"], cell["ep"], cell["recipe"], status)
    numbers = (parity_text(cell.get("parity")), speed(cell.get("timing")), p50, size(cell.get("bytes")))
    return tuple(_plain(value) for value in (*where, *numbers))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _plain(text: object) -> str:
    """Return text that Markdown and the HTML in it leave as it is, on one line."""
    line = " ".join(printable(text).split())
    return _SPECIAL.sub(r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;"))
