"""How far a compilation is, and how long it may still take, read off ninja's lines."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Meter"]

_STEP: Final = re.compile(r"^\[(\d+)/(\d+)\] ")
_WINDOW: Final = 60


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{max(1, minutes)} min"


@dataclass(slots=True)
class Meter:
    """Follows one compilation.

    The time left is what the last steps took, times the steps that remain: ORT's files are of very different sizes,
    so it is a guess, said as one.
    """

    now: Callable[[], float] = time.monotonic
    done: int = 0
    total: int = 0
    marks: list[tuple[int, float]] = field(default_factory=list)

    def read(self, line: str) -> str:
        """Return what to show after a line of output (``[312/604] about 12 min left``), or ``""`` when nothing new."""
        found = _STEP.match(line)
        if found is None:
            return ""
        done, total = int(found[1]), int(found[2])
        if total != self.total or done < self.done:
            self.marks.clear()  # another build, or a configuration that came in between
        self.done, self.total = done, total
        self.marks.append((done, self.now()))
        del self.marks[:-_WINDOW]
        (first, began), (last, ended) = self.marks[0], self.marks[-1]
        shown = f"[{done}/{total}]"
        if last - first < 5 or ended <= began:
            return shown
        return f"{shown} about {_clock((ended - began) / (last - first) * (total - done))} left"
