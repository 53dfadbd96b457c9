"""The list of plugins as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ortforge.report.screen import Screen

__all__ = ["PluginLike", "show_plugins"]


class PluginLike(Protocol):
    """What is shown of a plugin."""

    @property
    def name(self) -> str:
        """Name of the plugin."""

    @property
    def distribution(self) -> str:
        """Distribution that brings it."""

    @property
    def version(self) -> str:
        """Version of that distribution."""

    @property
    def hooks(self) -> Sequence[str]:
        """Hooks that it implements."""

    @property
    def status(self) -> str:
        """``loaded``, or what kept it from that."""

    @property
    def error(self) -> str:
        """Why it is not loaded, or ``""``."""


def show_plugins(rows: Iterable[PluginLike], console: Console | None = None) -> None:
    """Print one row per plugin, and below the table the errors of those that are not loaded."""
    screen, rows = Screen(console), list(rows)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for title in ("Plugin", "Distribution", "Hooks", "Status"):
        table.add_column(title, overflow="fold")
    for row in rows:
        hooks = ", ".join(hook.removeprefix("ortforge_") for hook in row.hooks)
        style = {"loaded": "green", "partial": "yellow", "blocked": "bright_black"}.get(row.status, "red")
        from_where = f"{row.distribution} {row.version}".strip()
        table.add_row(*map(screen.text, (row.name, from_where, hooks)), screen.text(row.status, style))
    screen.table(table)
    for row in rows:
        if row.error:
            screen.line(screen.text(row.name, "bold"), ": ", row.error)
