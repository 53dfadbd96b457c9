"""Where each key of a TOML text stands: tomllib reads values and forgets lines, error messages need them.

The text has been accepted by tomllib, so this reader only has to find its way, not to judge.
"""

from __future__ import annotations

import json
import re
import tomllib
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Path", "locate", "show"]

Path = tuple[str | int, ...]
"""Keys and list indices from the top of the file: ``("recipes", "int8", "passes", 0, "use")``."""

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_SPACE: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SCALAR: Final = re.compile(r"[^,\]}#\n]+")
_STRING: Final = re.compile(
    r'"{3}(?:[^"\\]+|\\[\s\S]|"{1,2}(?!"))*"{3,5}'
    r"|'{3}(?:[^']+|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]+|\\.)*"'
    r"|'[^'\n]*'"
)


def locate(text: str) -> dict[Path, int]:
    r"""Return the line, counted from 1, of every key and list element of a text that tomllib accepts.

    >>> locate("[a]\nb = [1,\n  {c = 2}]")[("a", "b", 1, "c")]
    3
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


def show(path: Path) -> str:
    """Write a path as the file would: keys joined by dots, indices in brackets.

    >>> show(("recipes", "int8", "passes", 0, "use"))
    'recipes.int8.passes[0].use'
    """
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            quoted = part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            shown += f".{quoted}" if shown else quoted
    return shown


@dataclass(slots=True)
class _Scanner:
    """Walks the text once. ``arrays`` counts the tables of each array of tables so far."""

    text: str
    at: int = 0
    lines: dict[Path, int] = field(default_factory=dict)
    arrays: dict[Path, int] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.starts = [0, *(match.end() for match in re.finditer("\n", self.text))]

    def document(self) -> None:
        table: Path = ()
        self.space()
        while self.at < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self.header(2)
            elif self.text[self.at] == "[":
                table = self.header(1)
            else:
                self.pair(table)
            self.space()

    def header(self, brackets: int) -> Path:
        """Read ``[a.b]`` or ``[[a.b]]`` and return the path of the table that it opens."""
        start = self.at
        self.at += brackets
        parts = self.key()
        self.at = self.text.index("]", self.at) + brackets
        path: Path = ()
        for number, part in enumerate(parts):
            path = (*path, part)
            self.note(path, start)
            if brackets == 2 and number == len(parts) - 1:
                self.arrays[path] = self.arrays.get(path, 0) + 1
            if path in self.arrays:
                path = (*path, self.arrays[path] - 1)
                self.note(path, start)
        return path

    def pair(self, table: Path) -> None:
        """Read ``key = value``."""
        start = self.at
        path = table
        for part in self.key():
            path = (*path, part)
            self.note(path, start)
        self.at = self.text.index("=", self.at) + 1
        self.space()
        self.value(path)

    def key(self) -> list[str]:
        """Read a dotted key, up to what follows it."""
        parts = []
        while True:
            self.space()
            if self.text[self.at] in "\"'":
                parts.append(tomllib.loads("key = " + self.take(_STRING))["key"])
            else:
                parts.append(self.take(_BARE))
            self.space()
            if not self.text.startswith(".", self.at):
                return parts
            self.at += 1

    def value(self, path: Path) -> None:
        match self.text[self.at]:
            case "[":
                self.elements(path)
            case "{":
                self.inline(path)
            case '"' | "'":
                self.take(_STRING)
            case _:
                self.take(_SCALAR)

    def elements(self, path: Path) -> None:
        """Read an array, its elements parted by commas, the last of which may be followed by one."""
        self.at += 1
        number = 0
        while self.enter("]"):
            element = (*path, number)
            self.note(element, self.at)
            self.value(element)
            number += 1

    def inline(self, path: Path) -> None:
        """Read an inline table."""
        self.at += 1
        while self.enter("}"):
            self.pair(path)

    def enter(self, end: str) -> bool:
        """Go to the next element; pass the closing bracket and say no when there is none."""
        self.space()
        if self.text[self.at] == ",":
            self.at += 1
            self.space()
        if self.text[self.at] != end:
            return True
        self.at += 1
        return False

    def note(self, path: Path, at: int) -> None:
        self.lines.setdefault(path, bisect_right(self.starts, at))

    def space(self) -> None:
        self.take(_SPACE)

    def take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:  # pragma: no cover - tomllib would have refused the text
            raise ValueError(f"no TOML at offset {self.at}")
        self.at = found.end()
        return found.group()
