"""The final table, on a terminal or in a pipe: every cell's verdict with its numbers, why not pass, what ships.

Columns are dropped, least needed first, until the table fits the terminal; names are never cut. In a pipe nothing is
dropped and lines are as long as they must be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ortforge.api.wording import (
    build_lines,
    cosine,
    device_text,
    duration,
    exit_code_text,
    latency,
    marks,
    noise_text,
    percent,
    placement_text,
    short_speed,
    size,
    speed,
    summary_text,
    task_drop,
    telling_reasons,
)
from ortforge.report.answers import show_expectations, show_ships
from ortforge.report.cell import show_cell
from ortforge.report.plugins import show_plugins
from ortforge.report.screen import Screen

__all__ = ["show", "show_cell", "show_plugins"]

Cell = Mapping[str, Any]

MOST_REASONS: Final = 100
"""Kinds of reasons that are listed below the table; the report files have the rest."""

MOST_HINTS: Final = 3
"""Lines of a reason below its first that are shown; one with more is a log, of which the first line says it."""


GUARD: Final = re.compile(r"[A-Z][A-Z0-9]+(-?[A-Z0-9]+| )*: ")
"""How a note of a guard begins: with the guard's name, in capitals."""

LONGEST_NOTE: Final = 240
"""Characters of such a note that are shown below a reason."""


@dataclass(frozen=True, slots=True)
class _Column:
    """One column; ``short`` is a briefer way to say the same, for narrow terminals."""

    key: str
    title: str
    of: Callable[[Cell], str]
    right: bool = False
    short: Callable[[Cell], str] | None = None


def _worst(cell: Cell, key: str) -> float | None:
    value: float | None = ((cell.get("parity") or {}).get("worst") or {}).get(key)
    return value


def _cosine(cell: Cell) -> str:
    return "identical" if (cell.get("parity") or {}).get("identical") else cosine(_worst(cell, "cosine"))


def _max_error(cell: Cell) -> str:
    return "0" if (cell.get("parity") or {}).get("identical") else percent(_worst(cell, "max_rel_range"))


COLUMNS: Final = (
    _Column("model", "Model", lambda cell: cell["model"]),
    _Column("target", "Runtime", lambda cell: cell["target"]),
    _Column("ep", "EP", lambda cell: cell["ep"]),
    _Column("device", "Device", lambda cell: cell["device"]),
    _Column("recipe", "Recipe", lambda cell: cell["recipe"]),
    _Column("variant", "Variant", lambda cell: f"{cell['recipe']}@{cell['target']}:{cell['ep']}"),
    _Column("status", "Status", lambda cell: cell["status"]),
    _Column("marks", "Mark", lambda cell: ", ".join(marks(cell))),
    _Column("cosine", "Cosine", _cosine, right=True),
    _Column("error", "Max error", _max_error, right=True),
    _Column("task", "Task", lambda cell: task_drop(cell.get("parity"))),
    _Column(
        "speed", "Speed", lambda cell: speed(cell.get("timing")), short=lambda cell: short_speed(cell.get("timing"))
    ),
    _Column("p50", "p50", lambda cell: latency((cell.get("timing") or {}).get("p50_s")), right=True),
    _Column("load", "Load", lambda cell: latency(cell.get("load_s")), right=True),
    _Column("size", "Size", lambda cell: size(cell.get("bytes")), right=True),
    _Column("rss", "Peak RSS", lambda cell: size(cell.get("peak_rss")), right=True),
    _Column("placement", "Placement", lambda cell: placement_text(cell.get("placement"))),
)

Shrink = tuple[Literal["drop", "shorten", "sections", "merge"], str]
SHRINKING: Final[tuple[Shrink, ...]] = (
    ("drop", "rss"),
    ("drop", "load"),
    ("drop", "placement"),
    ("drop", "size"),
    ("drop", "p50"),
    ("sections", "model"),
    ("shorten", "speed"),
    ("drop", "task"),
    ("merge", "variant"),
    ("drop", "error"),
    ("drop", "cosine"),
)
"""What is given up, in this order, until the table fits: numbers that others imply before numbers that judge."""

GAP: Final = 2
"""Spaces between columns."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which columns are shown, whether the model stands above its rows, and what was given up."""

    columns: tuple[_Column, ...]
    sections: bool = False
    left_out: tuple[str, ...] = ()


class _Widths:
    """How wide columns are for some cells; each is looked at once, however many layouts are tried."""

    def __init__(self, screen: Screen, cells: Sequence[Cell]) -> None:
        self.screen = screen
        self.cells = cells
        self.known: dict[_Column, int] = {}

    def list(self, layout: _Layout) -> list[int]:
        """Return the width of each of a layout's columns."""
        for column in layout.columns:
            if column not in self.known:
                said = (self.screen.text(column.of(cell)).cell_len for cell in self.cells)
                self.known[column] = max(cell_len(column.title), max(said, default=0))
        return [self.known[column] for column in layout.columns]

    def of(self, layout: _Layout) -> int:
        """Return a layout's width in characters."""
        return sum(wide + GAP for wide in self.list(layout)) - GAP


def _shrink(layout: _Layout, step: Shrink) -> _Layout:
    what, key = step
    by_key = {column.key: column for column in layout.columns}
    if what == "merge":
        variant = next(column for column in COLUMNS if column.key == key)
        rest = tuple(column for column in layout.columns if column.key not in ("target", "ep", "recipe"))
        return replace(layout, columns=(variant, *rest))
    if key not in by_key:
        return layout
    column = by_key[key]
    if what == "shorten" and column.short is not None:
        short = replace(column, of=column.short)
        return replace(layout, columns=tuple(short if known is column else known for known in layout.columns))
    fewer = tuple(known for known in layout.columns if known is not column)
    if what == "sections":
        return replace(layout, columns=fewer, sections=True)
    return replace(layout, columns=fewer, left_out=(*layout.left_out, column.title))


def _layout(cells: Sequence[Cell], width: int | None, widths: _Widths) -> _Layout:
    """Return the widest layout that fits; ``None`` means any width will do."""
    always = {"model", "target", "ep", "recipe", "status"}
    several_devices = len({cell["device"] for cell in cells}) > 1
    columns = tuple(
        column
        for column in COLUMNS
        if column.key in always
        or (column.key == "device" and several_devices)
        or (column.key not in ("variant", "device") and any(column.of(cell) for cell in cells))
    )
    layout = _Layout(columns)
    for step in SHRINKING:
        if width is None or widths.of(layout) <= width:
            break
        layout = _shrink(layout, step)
    return layout


def _table(screen: Screen, cells: Sequence[Cell], layout: _Layout, widths: _Widths) -> Text:
    """Lay the table out by hand: all widths are known, and measuring them again costs rich milliseconds a row."""
    columns = layout.columns
    sizes = widths.list(layout)
    head = [screen.text(column.title, "bold") for column in columns]
    lines = [_line(head, sizes, columns), screen.text("─" * widths.of(layout), "bright_black")]
    model = None
    for cell in cells:
        if cell["model"] != model:
            lines += [Text()] if model is not None else []
            model = cell["model"]
            lines += [screen.text(model, "bold")] if layout.sections else []
        lines.append(_line([_value(screen, column, cell) for column in columns], sizes, columns))
    return Text("\n").join(lines)


def _line(values: Sequence[Text], sizes: Sequence[int], columns: Sequence[_Column]) -> Text:
    line = Text()
    for number, (value, wide, column) in enumerate(zip(values, sizes, columns, strict=True)):
        space = " " * (wide - value.cell_len)
        last = number == len(columns) - 1
        line.append(space if column.right else "")
        line.append_text(value)
        line.append("" if last else (GAP * " " if column.right else space + GAP * " "))
    return line


def _value(screen: Screen, column: _Column, cell: Cell) -> Text:
    said = column.of(cell)
    if column.key == "status":
        return screen.status(said)
    if column.key == "marks":
        return screen.text(said, "yellow")
    if column.key == "speed":
        outcome = (cell.get("timing") or {}).get("outcome")
        return screen.text(said, {"faster": "green", "slower": "yellow"}.get(outcome or "", "bright_black"))
    return screen.text(said)


def show(report: Mapping[str, Any], written: Sequence[Path] = (), console: Console | None = None) -> None:
    """Print a run's verdicts: the table, reasons of what does not pass, what ships, the summary, and the files.

    :param written: report files, named at the end. :param console: standard output when not given.
    """
    screen = Screen(console)
    cells: Sequence[Cell] = report["cells"]
    if cells:
        widths = _Widths(screen, cells)
        layout = _layout(cells, screen.console.width if screen.console.is_terminal else None, widths)
        # A line too long for the narrowest layout is wrapped by the terminal: names are never cut.
        screen.console.print(_table(screen, cells, layout, widths), soft_wrap=True, highlight=False)
        if layout.left_out:
            missing = ", ".join(layout.left_out)
            screen.line(f"Left out at this width: {missing}. The report files have them.", style="bright_black")
        _show_reasons(screen, cells)
        show_ships(screen, report)
        show_expectations(screen, report)
    if built := build_lines(report):
        screen.line()
        screen.line("Built", style="bold")
        for line in built:
            screen.line(line, indent=2)
    _show_summary(screen, report, written)


def _caught(cell: Cell) -> str:
    """Return what a guard caught, by its name (``CONSTANT CALIBRATION DATA: …``); of a long one begin and remedy."""
    said = next((note for note in cell.get("notes", ()) if GUARD.match(note)), "")
    if len(said) <= LONGEST_NOTE:
        return said
    half = LONGEST_NOTE // 2
    return f"{said[:half].rstrip()} … {said[-half:].partition('. ')[2] or said[-half:].lstrip()}"


def _show_reasons(screen: Screen, cells: Iterable[Cell]) -> None:
    alike: dict[tuple[str, tuple[str, ...], str], list[str]] = {}
    for cell in cells:
        if cell["status"] != "pass":
            what = (cell["status"], telling_reasons(cell), _caught(cell))
            alike.setdefault(what, []).append(cell["id"])
    if not alike:
        return
    screen.line()
    screen.line("Why not pass", style="bold")
    for (status, reasons, caught), ids in list(alike.items())[:MOST_REASONS]:
        screen.line(screen.status(status), "  ", ", ".join(ids), indent=2)
        for reason in reasons[:1]:
            # What happened, what was meant and what to do; of a runtime's twenty lines the first says it.
            first, *rest = reason.strip().splitlines() or [""]
            more = " …" if len(rest) > MOST_HINTS else ""
            others = f" (+{len(reasons) - 1} more)" if len(reasons) > 1 else ""
            screen.line(first, more, others, indent=4)
            for hint in () if more else rest:
                screen.line(hint, indent=4)
        if caught:
            screen.line(screen.text(caught, "yellow"), indent=4)
    if len(alike) > MOST_REASONS:
        screen.line(f"  … and {len(alike) - MOST_REASONS} more kinds; the report files have them all.")


def _show_summary(screen: Screen, report: Mapping[str, Any], written: Sequence[Path]) -> None:
    run = report.get("run") or {}
    steps = run.get("steps") or {}
    parts = [f"{steps[name]} {name}" for name in ("run", "cached", "failed") if steps.get(name)]
    done = f" in {duration(run.get('seconds'))}" if run.get("seconds") is not None else ""
    screen.line()
    screen.line(screen.text(summary_text(report), "bold"), done, f" (steps: {', '.join(parts)})" if parts else "", ".")
    device, noise = device_text(report.get("device")), noise_text(report)
    floor = f"; noise of the comparisons {noise}" if noise else ""
    if device:
        screen.line(f"Measured on {device}{floor}.")
    if run.get("id"):
        of = f" of {run['matrix']}" if run.get("matrix") else ""
        screen.line(f"Run {run['id']}{of}, {exit_code_text(report)}.")
    for path in written:
        screen.line("Report: ", str(path))
