"""The known causes as a table, for ``ortforge diagnose --list`` and docs/diagnosis.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from ortforge.build.diagnose.known import Known, Phase, url

__all__ = ["as_markdown"]

_KINDS = {"error": "", "hint": " (goes on)", "harmless": " (harmless)"}


def as_markdown(known: Iterable[Known]) -> str:
    """Return one table for each phase: id, what it is, what helps, threads."""
    causes = list(known)
    parts = []
    for phase in get_args(Phase):
        rows = [each for each in causes if each.phase == phase]
        parts.append(f"## {phase.capitalize()}\n\n| id | what | remedy | threads |\n| --- | --- | --- | --- |")
        parts[-1] += "".join("\n" + _row(each) for each in rows)
    return "\n\n".join(parts) + "\n"


def _row(each: Known) -> str:
    threads = ", ".join(f"[{_name(thread)}]({url(thread)})" for thread in each.threads)
    cells = (f"`{each.id}`", _plain(each.title) + _KINDS[each.kind], _plain(each.remedy), threads)
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    """Write the places that a log fills as a word, and keep the cell in one piece."""
    for index in range(3):
        text = text.replace(f"{{{index}}}", "…")
    return text.replace("|", "\\|").replace("<", "&lt;")


def _name(thread: int | str) -> str:
    return f"ORT {thread}" if isinstance(thread, int) else thread.replace("#", " ")
