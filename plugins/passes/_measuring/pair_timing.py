"""Two or more models in turns: whether one is faster, as far as it can be told in a second or two.

Runs inside a runtime, for passes that choose by speed. The cell's own timing has the last word; this one only has to
choose as that would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ortforge.api import Trial

__all__ = ["FLOOR", "Ratio", "against_first", "joined", "loads_against_first"]

FLOOR: Final = 0.03
"""No difference below 3 % is claimed: what a model differs from itself by on a machine that is not quiet."""

TURN_NS: Final = 10_000_000
"""Length aimed at for a turn: long against a message to the process, short against the machine's noise."""

FEWEST_TURNS: Final = 5

MIN_PRECISE_TURNS: Final = 10
"""Turns before which an interval is not trusted to be narrow: of fewer, it reaches over all but one of them."""

UNRESTFUL: Final = 0.2
"""Width of an interval, as a share of the ratio, from which on more turns are worth their time …"""
PATIENCE: Final = 2.5
"""… up to so many times the budget."""
MOST_ITERATIONS: Final = 1000

LOADS_S: Final = 0.03
"""Length aimed at for a turn at loading."""
FEWEST_LOADS: Final = 3
MOST_LOADS: Final = 10
MOST_AT_ONCE: Final = 5


@dataclass(frozen=True)
class Ratio:
    """The first model's time over another one's: above 1 is faster. ``low`` and ``high`` are a 95 % interval."""

    ratio: float
    low: float
    high: float
    turns: int

    @property
    def is_faster(self) -> bool:
        """Whether it is faster than the first beyond noise."""
        return self.low > 1.0 and self.ratio > 1.0 + FLOOR

    @property
    def is_slower(self) -> bool:
        """Whether it is slower than the first beyond noise."""
        return self.high < 1.0 and self.ratio < 1.0 / (1.0 + FLOOR)


def against_first(
    trials: Sequence[Trial], budget_s: float, *, precise: float = 0.0, hopeless: float = 0.0
) -> tuple[list[Ratio], float]:
    """Let models take turns until the time is over; return each but the first's ratio, and the first's seconds a run.

    All run the same samples in the same order, and who begins changes from turn to turn.

    :param precise: stop before the time is over when every interval is at most this share of its ratio wide …
    :param hopeless: … or ends below this ratio.

    :raises RuntimeError: one of them crashed or hung.
    """
    first = [min(trial.turn(1, discard=1)) for trial in trials]
    length = max(1, min(MOST_ITERATIONS, round(TURN_NS / max(1, min(first)))))
    discard = 1 if length > 1 else 0
    taken: list[list[float]] = [[] for _ in trials]
    started = time.monotonic()
    number = 0
    while number < FEWEST_TURNS or (
        time.monotonic() < started + budget_s * _patience(taken) and not _suffices(taken, precise, hopeless)
    ):
        order = range(len(trials)) if number % 2 == 0 else range(len(trials) - 1, -1, -1)
        for place in order:
            taken[place].append(median(trials[place].turn(length, start=number * length, discard=discard)))
        number += 1
    return [_ratio(taken[0], other) for other in taken[1:]], _quick(taken[0]) / 1e9


def loads_against_first(trials: Sequence[Trial], budget_s: float) -> list[Ratio]:
    """Let processes load their models in turn, for about so long; return each but the first's ratio of times to load.

    Where one load of all of them takes longer than the budget, their own start has to do. No turns can follow.

    :raises RuntimeError: one of them crashed or hung.
    """
    own = [trial.load_s for trial in trials]
    if sum(own) > budget_s:
        return [_ratio(own[:1], [seconds]) for seconds in own[1:]]
    wanted = min(MOST_AT_ONCE, LOADS_S / max(1e-3, min(own)))
    times = max(1, int(min(wanted, budget_s / FEWEST_LOADS / sum(own) - 1)))
    discard = 1 if times > 1 else 0  # after another's turn a load of 8 ms takes 16 now and then
    taken: list[list[float]] = [[] for _ in trials]
    started = time.monotonic()
    while len(taken[0]) < FEWEST_LOADS or (len(taken[0]) < MOST_LOADS and time.monotonic() < started + budget_s):
        order = range(len(trials)) if len(taken[0]) % 2 == 0 else range(len(trials) - 1, -1, -1)
        for place in order:
            taken[place].append(float(median(trials[place].load(times, discard))))
    return [_ratio(taken[0], other) for other in taken[1:]]


def joined(ratios: Sequence[Ratio]) -> Ratio:
    """Return one ratio for several rounds of the same two models: the median, and the widest interval."""
    return Ratio(
        median(ratio.ratio for ratio in ratios),
        min(ratio.low for ratio in ratios),
        max(ratio.high for ratio in ratios),
        sum(ratio.turns for ratio in ratios),
    )


def _patience(taken: Sequence[Sequence[float]]) -> float:
    """Return how many times the budget may be spent: more while a busy machine leaves the ratios wide apart."""
    if len(taken[0]) < FEWEST_TURNS:
        return 1.0
    ratios = [_ratio(taken[0], other) for other in taken[1:]]
    return PATIENCE if any(ratio.high - ratio.low > UNRESTFUL * ratio.ratio for ratio in ratios) else 1.0


def _suffices(taken: Sequence[Sequence[float]], precise: float, hopeless: float) -> bool:
    """Return whether more turns would not change what a search does next."""
    ratios = [_ratio(taken[0], other) for other in taken[1:]]
    enough = len(taken[0]) >= MIN_PRECISE_TURNS
    return all(
        ratio.high < hopeless or (enough and ratio.high - ratio.low <= precise * ratio.ratio) for ratio in ratios
    )


def _quick(times: Sequence[float]) -> float:
    """Return the lower quartile: what a turn takes when nobody else wants the cores, as far as that was seen."""
    return sorted(times)[(len(times) - 1) // 4]


def _ratio(first: Sequence[float], other: Sequence[float]) -> Ratio:
    """Return the ratio of two models' lower quartiles, with the distribution-free interval of their paired ratios.

    The interval is between order statistics n/2 -+ 0.98 sqrt(n) (the sign test's, by its normal approximation),
    widened where the ratio lies outside of it.
    """
    ordered = sorted(a / b for a, b in zip(first, other, strict=True))
    count = len(ordered)
    reach = 0.98 * math.sqrt(count)
    low, high = max(0, math.floor(count / 2 - reach) - 1), min(count - 1, math.ceil(count / 2 + reach))
    ratio = _quick(first) / _quick(other)
    return Ratio(ratio, min(ratio, ordered[low]), max(ratio, ordered[high]), count)
