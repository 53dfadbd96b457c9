"""``report.md``: the verdict for the summary page of a CI run, or for a comment on a change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ortforge.api import Report
from ortforge.api.wording import (
    build_lines,
    device_text,
    duration,
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
    facts = (device_text(report.get("device")), duration(run.get("seconds")), f"run {run.get('id')}")
    yield " · ".join(_plain(fact) for fact in facts if fact)
    yield ""
    yield from _ships(report)
    if built := build_lines(report):
        yield "### Built"
        yield ""
        yield from (f"- {_plain(line)}" for line in built)
        yield ""
    # What does not pass comes first, as the list may be cut.
    ordered = sorted(cells, key=lambda cell: cell["status"] == "pass")[:MOST_CELLS]
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
        yield "### What ships"
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
