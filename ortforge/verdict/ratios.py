"""What can be said of measured ratios without touching a sample (and so without numpy, which takes time to import).

A ratio is a mapping with ``ratio``, ``low`` and ``high``: baseline time over candidate time, so above 1 is faster, and
the ends of its 95 % interval; ``None`` where there was nothing to measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["MINIMUM_FLOOR", "compose", "outcome"]

MINIMUM_FLOOR: Final = 0.03
"""No difference below 3 % is claimed, however small the interval.

A model timed against itself in eight trials of 40 interleaved runs on a loaded two-core machine gave median pair ratios
up to 3.3 % away from 1 (plain medians one after the other: 18 %). A quiet A/A measurement cannot promise that the
machine stays quiet, so it raises this floor and never lowers it.
"""


def outcome(paired: Mapping[str, Any], floor: float) -> str:
    """Return ``faster``, ``slower`` or ``can't tell``.

    A difference is told when the interval excludes 1 and the ratio lies beyond the floor.
    """
    ratio, low, high = paired["ratio"], paired["low"], paired["high"]
    if ratio is None or low is None or high is None:
        return "can't tell"
    if low > 1.0 and ratio > 1.0 + floor:
        return "faster"
    if high < 1.0 and ratio < 1.0 / (1.0 + floor):
        return "slower"
    return "can't tell"


def compose(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, float | None]:
    """Multiply two measured ratios, such as "b over a" and "c over b".

    Error propagation on logarithms: the distances from ratio to either end of the interval add as squares. An
    approximation: it takes the two measurements for independent and each interval for roughly normal on the log scale.

    :returns: ``{"ratio", "low", "high"}``, ``None`` throughout when either part is not known.
    """
    parts = (first, second)
    if any(part[key] is None for part in parts for key in ("ratio", "low", "high")):
        return {"ratio": None, "low": None, "high": None}
    ratio = first["ratio"] * second["ratio"]

    def distance(pairs: Iterable[tuple[float, float]]) -> float:
        return math.exp(math.hypot(*(math.log(upper / lower) for upper, lower in pairs)))

    below = distance((part["ratio"], part["low"]) for part in parts)
    above = distance((part["high"], part["ratio"]) for part in parts)
    return {"ratio": ratio, "low": ratio / below, "high": ratio * above}
