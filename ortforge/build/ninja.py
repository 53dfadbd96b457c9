"""How far a compilation is and how long it may still take, read off ninja's lines; and what the compiler cache did."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Meter", "cache_counts"]

_STEP: Final = re.compile(r"^\[(\d+)/(\d+)\] ")
_WINDOW: Final = 60
_COUNTERS: Final = ("direct_cache_hit", "preprocessed_cache_hit", "cache_miss")


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{max(1, minutes)} min"


@dataclass(slots=True)
class Meter:
    """Follows one compilation.

    The time left is what the last steps took, times the steps that remain: ORT's files are of very different sizes,
    so it is a guess, said as one.

    :ivar most: how many steps there were to do, 0 when nothing was; a configuration before them is not counted.
    """

    now: Callable[[], float] = time.monotonic
    done: int = 0
    total: int = 0
    most: int = 0
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
        self.most = max(self.most, total)
        self.marks.append((done, self.now()))
        del self.marks[:-_WINDOW]
        (first, began), (last, ended) = self.marks[0], self.marks[-1]
        shown = f"[{done}/{total}]"
        if last - first < 5 or ended <= began:
            return shown
        return f"{shown} about {_clock((ended - began) / (last - first) * (total - done))} left"


def cache_counts(lines: Iterable[str]) -> dict[str, int]:
    """Count what the compiler cache did, from its log of one build.

    :param lines: of the file that ``CCACHE_STATSLOG`` names (ccache's manual, "stats_log"): a source file's path as a
        comment, then a line for each counter that went up.

    >>> cache_counts(["# a.cc", "direct_cache_miss", "cache_miss", "# b.cc", "direct_cache_hit"])
    {'direct_cache_hit': 1, 'preprocessed_cache_hit': 0, 'cache_miss': 1}
    """
    counts = dict.fromkeys(_COUNTERS, 0)
    for line in lines:
        if line in counts:
            counts[line] += 1
    return counts
