"""The comparison of two runs on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ortforge.api.wording import cosine, latency, percent, speed
from ortforge.report.screen import Screen

__all__ = ["show"]

STYLES: Final = {
    "regression": "bold red",
    "slower": "red",
    "worse": "red",
    "improvement": "green",
    "faster": "green",
    "better": "green",
}


def show(found: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what :func:`ortforge.report.compare.compare` found; regressions first."""
    screen = Screen(console)
    for name, run in (("before", found["a"]), ("after ", found["b"])):
        of = f"  {run['matrix']}" if run.get("matrix") else ""
        screen.line(screen.text(f"{name} ", "bold"), f"{run.get('id')}  {run.get('started')}  {run.get('device')}", of)
    for note in found["notes"]:
        screen.line(screen.text(note, "yellow"))
    _names(screen, "Cells added", found["added"])
    _names(screen, "Cells that vanished", found["removed"], "red")
    _status(screen, found["status"])
    _table(screen, "Parity", ("Cell", "Measure", "Before", "After", ""), _parity_rows(found["parity"]))
    _table(screen, "Latency", ("Cell", "Before", "After", "Outcome", "Why"), _latency_rows(found["latency"]))
    screen.line()
    total, better = found["regressions"], found["improvements"]
    vanished = f" ({len(found['removed'])} vanished)" if found["removed"] else ""
    said = f"{total} regression{'s' if total != 1 else ''}{vanished}, {better} improvement{'s' if better != 1 else ''}."
    screen.line(screen.text(said, "bold red" if total else "bold"))


def _names(screen: Screen, title: str, names: Sequence[str], style: str = "") -> None:
    if names:
        screen.line()
        screen.line(screen.text(f"{title} ({len(names)})", "bold"))
        for name in names:
            screen.line(name, style=style, indent=2)


def _status(screen: Screen, changes: Sequence[Mapping[str, Any]]) -> None:
    if not changes:
        return
    screen.line()
    screen.line(screen.text(f"Verdicts that changed ({len(changes)})", "bold"))
    for entry in changes:
        said = screen.text(entry["change"], STYLES.get(entry["change"], "bright_black"))
        move = (screen.status(entry["before"]), " → ", screen.status(entry["after"]))
        screen.line(said, "  ", entry["id"], "  ", *move, indent=2)
        if entry["why"] and entry["after"] != "pass":
            screen.line(entry["why"].strip().partition("\n")[0], indent=4)


def _parity_rows(changes: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for entry in changes:
        before, after = (_measure(entry["measure"], entry[side]) for side in ("before", "after"))
        rows.append((entry["id"], entry["measure"], before, after, entry["change"]))
    return rows


def _measure(name: str, value: float) -> str:
    if name == "cosine":
        return cosine(value)
    if name == "sqnr_db":
        return f"{value:.1f} dB"
    return percent(value) if name in ("max_rel_range", "agreement") else f"{value:.4g}"


def _latency_rows(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """One row per timed cell. The ratios are what is compared; milliseconds stand beside them for orientation."""
    rows: list[tuple[str, ...]] = []
    for entry in entries:
        sides = []
        for side in ("before", "after"):
            ratio = entry[f"ratio_{side}"]
            parts = (latency(entry[f"p50_{side}"]), speed({**ratio, "outcome": ""}) if ratio else "")
            sides.append(", ".join(part for part in parts if part))
        other = f" Other {' and '.join(entry['differs'])}." if entry["differs"] else ""
        rows.append((entry["id"], *sides, entry["outcome"], entry["why"] + other))
    return rows


def _table(screen: Screen, title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        return
    screen.line()
    screen.line(screen.text(title, "bold"))
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(screen.text(said, STYLES.get(said, "")) for said in row))
    screen.table(table)
