"""What everything that writes to a terminal shares: colours of statuses, and text that any terminal can take.

Names, reasons and logs come from files and from crashed processes. They are shown as plain text: never read as
markup, without escape sequences, and without characters that the output cannot encode.
"""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ortforge.api.wording import TIMES, printable

__all__ = ["STYLES", "Screen"]

STYLES: Final = {
    "pass": "green",
    "no-gain": "cyan",
    "undecided": "cyan",
    "slower": "yellow",
    "unproven": "yellow",
    "inaccurate": "red",
    "misplaced": "magenta",
    "unsupported": "bright_black",
    "incompatible": "bright_black",
    "damaged": "bold red",
    "crashed": "bold red",
    "out-of-memory": "bold red",
    "timeout": "bold red",
    "failed": "bold red",
    "blocked": "bright_black",
}
"""A colour for each status; the word itself always stands beside it, so no meaning hangs on the colour."""

_ASCII: Final = str.maketrans({TIMES: "x", "±": "+/-", "µ": "u", "·": "-", "…": "...", "→": "->", "—": "-", "─": "-"})

ANY_WIDTH: Final = 100_000


class Screen:
    """A console, and text made fit for it."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)

    def text(self, value: object, style: str = "") -> Text:
        """Return the value as text that is safe to show here, in one style."""
        said = printable(value)
        encoding = self.console.encoding
        if not encoding.startswith("utf"):
            said = said.translate(_ASCII).encode(encoding, "replace").decode(encoding)
        return Text(said, style=style)

    def status(self, status: str) -> Text:
        """Return a status in its colour."""
        return self.text(status, STYLES.get(status, ""))

    def line(self, *parts: object, style: str = "", indent: int = 0) -> None:
        """Print one line; a long one is wrapped on a terminal, below its beginning, and left whole in a pipe."""
        whole = Text()
        for part in parts:
            whole.append_text(part if isinstance(part, Text) else self.text(part, style))
        if self.console.is_terminal:
            self.console.print(Padding(whole, (0, 0, 0, indent), expand=False), highlight=False)
        else:
            self.console.print(Text(" " * indent).append_text(whole), soft_wrap=True, highlight=False)

    def table(self, table: Table) -> None:
        """Print a table at the console's width, or in a pipe at its own, where nobody looks at a screen's edge."""
        before = self.console.width
        if not self.console.is_terminal:
            options = self.console.options.update(max_width=ANY_WIDTH)
            self.console.width = max(1, Measurement.get(self.console, options, table).maximum)
        try:
            self.console.print(table)
        finally:
            self.console.width = before
