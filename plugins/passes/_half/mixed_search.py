"""Finds the nodes of a model that cannot be in half precision, by trying models out where they will run.

The search is the one of onnxconverter-common's ``auto_mixed_precision``: a segment of the graph is converted while all
that is not known to be good stays; if the answers hold it is good, otherwise it is cut in two. What differs: that
function runs every try on the CPU EP, which computes float16 in float32 and so finds little wrong, judges by one
sample, and ends with the first model that does not load. Here the cell's own EP answers, in a process of its own, the
model's tolerance judges, and what does not load is one more bad segment.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Attempt", "Findings", "search"]


@dataclass(frozen=True)
class Attempt:
    """A model that was tried. :param converted: nodes in half precision. :param holds: its answers are close enough.

    :param measured: what was measured, or ``{"problem": ...}``.
    """

    converted: int
    holds: bool
    measured: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """What a search found. :param kept: nodes that stay float32; all of them where nothing holds.

    :param complete: every node was decided; otherwise those left over stay float32, too.
    """

    kept: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    complete: bool


def search(
    names: Sequence[str],
    first_guesses: Sequence[Sequence[str]],
    attempt: Callable[[Sequence[str]], Attempt],
    *,
    most: int,
    over: Callable[[], bool],
) -> Findings:
    """Find which of the nodes must stay.

    :param names: the nodes in the order of the graph. :param first_guesses: sets of nodes to keep that are tried first.
    :param attempt: tries a model with these nodes kept. :param most: attempts at most. :param over: time is up.
    """
    attempts: list[Attempt] = []
    failures: list[set[str]] = []
    for guess in first_guesses:
        attempts.append(attempt(guess))
        if attempts[-1].holds:
            return Findings(tuple(guess), tuple(attempts), True)
        failures.append(set(names).difference(guess))
    good: set[str] = set()
    # Segments still to be decided, the largest first; a single node that was tried and failed is dropped from here.
    waiting = [list(names[: len(names) // 2]), list(names[len(names) // 2 :])]
    waiting = [part for part in waiting if part]
    while waiting and len(attempts) < most and not over():
        waiting.sort(key=len)
        segment = waiting.pop()
        tried = good.union(segment)
        # More of the graph in half precision than what failed before does not hold either.
        if not any(bad <= tried for bad in failures):
            attempts.append(attempt([name for name in names if name not in tried]))
            if attempts[-1].holds:
                good = tried
                continue
            failures.append(tried)
        if len(segment) > 1:
            middle = len(segment) // 2
            waiting += [segment[:middle], segment[middle:]]
    return Findings(tuple(name for name in names if name not in good), tuple(attempts), not waiting)
