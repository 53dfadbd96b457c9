"""Two sessions of one model in turns, and what their times allow to say.

The pass that tunes sessions looks for differences of some percent, and what a process differs from another one of the
same kind by is of that size. So each round has fresh processes, the default session is timed against itself first, and
a difference counts only where its whole interval lies beyond what was seen there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from .._measuring.pair_timing import FLOOR, MOST_ITERATIONS, TURN_NS

if TYPE_CHECKING:
    from ortforge.api import Trial

__all__ = ["Ratio", "Rounds", "noise_floor", "outcome", "ratio_of", "take_round"]

Rounds = Sequence[Sequence[tuple[float, float]]]
"""Rounds of pairs: nanoseconds of the default's turn and of the candidate's, each the median of its iterations."""

FEWEST_PAIRS: Final = 5
"""Pairs that a round has whatever they cost …"""
MOST_PAIRS: Final = 200
"""… and those at which more would tell nothing that fresh processes do not tell better."""

REPLICATES: Final = 1000
SEED: Final = 20_261_123
LEVEL: Final = 0.95


@dataclass(frozen=True)
class Ratio:
    """The default's time over the candidate's: above 1 the candidate is faster. ``low`` and ``high``: 95 %."""

    ratio: float
    low: float
    high: float
    pairs: int
    rounds: int

    def as_json(self) -> dict[str, Any]:
        """Return the numbers, rounded to what they can tell."""
        figures = {name: round(getattr(self, name), 4) for name in ("ratio", "low", "high")}
        return {**figures, "pairs": self.pairs, "rounds": self.rounds}


def ratio_of(rounds: Rounds) -> Ratio:
    """Return the median ratio of all pairs with its 95 % interval, by a bootstrap on two levels.

    Pairs are resampled within their rounds. Rounds are too few for that: their common shift is drawn from Student's
    distribution with K - 1 degrees of freedom, scaled by the standard deviation of the K rounds' medians over sqrt(K).
    One round alone knows nothing of its processes' luck, so its interval is :data:`FLOOR` wider on both sides. The
    cell's own timing states its interval in the same way.

    :raises ValueError: there are no pairs.
    """
    import numpy as np

    logs = [np.log([first / second for first, second in pairs]) for pairs in rounds if pairs]
    if not logs:
        raise ValueError("there are no pairs to make a ratio of")
    draw = np.random.default_rng(SEED)
    medians = np.array([np.median(values) for values in logs])
    resampled = np.concatenate(
        [
            (values - middle)[draw.integers(len(values), size=(REPLICATES, len(values)))]
            for values, middle in zip(logs, medians, strict=True)
        ],
        axis=1,
    )
    shift = np.median(resampled, axis=1)
    if len(logs) > 1:
        shift = shift + medians.std(ddof=1) / math.sqrt(len(logs)) * draw.standard_t(len(logs) - 1, REPLICATES)
    low, high = np.quantile(shift - np.median(shift), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    margin = math.log1p(FLOOR) if len(logs) == 1 else 0.0
    middle = float(np.median(np.concatenate(logs)))
    return Ratio(
        math.exp(middle),
        math.exp(middle + min(0.0, float(low)) - margin),
        math.exp(middle + max(0.0, float(high)) + margin),
        sum(len(values) for values in logs),
        len(logs),
    )


def noise_floor(rounds: Rounds) -> float:
    """Return how far from 1 a session's ratio to itself was, at worst, in any round; at least :data:`FLOOR`."""
    found = [abs(math.log(median(first / second for first, second in pairs))) for pairs in rounds if pairs]
    return max([FLOOR, *(math.expm1(deviation) for deviation in found)])


def outcome(ratio: Ratio, floor: float) -> str:
    """Return ``faster`` or ``slower`` where the whole interval lies beyond the noise floor, else ``undecided``."""
    if ratio.low > 1.0 + floor:
        return "faster"
    return "slower" if ratio.high < 1.0 / (1.0 + floor) else "undecided"


def take_round(
    first: Trial, second: Trial, budget_s: float, *, clock: Callable[[], float] = time.monotonic
) -> list[tuple[float, float]]:
    """Let two sessions take turns until the time is over; return each pair's nanoseconds.

    Both run the same samples in the same order; who begins changes from pair to pair.

    :raises RuntimeError: one of them crashed or hung.
    """
    shortest = min(min(trial.turn(2, discard=1)) for trial in (first, second))
    length = max(1, min(MOST_ITERATIONS, round(TURN_NS / max(1, shortest))))
    discard = 1 if length > 1 else 0
    for trial in (first, second):
        trial.turn(length)  # caches and clock speeds settle
    pairs: list[tuple[float, float]] = []
    until = clock() + budget_s
    while len(pairs) < FEWEST_PAIRS or (clock() < until and len(pairs) < MOST_PAIRS):
        start = len(pairs) * length
        order = (first, second) if len(pairs) % 2 == 0 else (second, first)
        taken = {id(trial): float(median(trial.turn(length, start=start, discard=discard))) for trial in order}
        pairs.append((taken[id(first)], taken[id(second)]))
    return pairs
