"""What can be said of measured ratios without touching a sample (and so without numpy, which takes time to import).

A ratio is a mapping with ``ratio``, ``low`` and ``high``: baseline time over candidate time, so above 1 is faster, and
the ends of its 95 % interval; ``None`` where there was nothing to measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["MARGIN", "MINIMUM_FLOOR", "compose", "decide", "is_measurable", "outcome"]

MARGIN: Final = 0.03
"""Differences below 3 % do not count as differences, however small the interval.

A model timed against itself in eight trials of 40 interleaved runs on a loaded two-core machine gave median pair ratios
up to 3.3 % away from 1 (plain medians one after the other: 18 %).
"""

MINIMUM_FLOOR: Final = MARGIN
"""The smallest noise floor. A noisy measurement raises the floor; a quiet one never lowers it."""

MAX_SPAN: Final = 4.0
"""An undecided interval whose ends differ by more than this factor is not a measurement of speed.

Such an interval reaches beyond a factor of 2 to at least one side of its ratio. Seen on machines with other work, with
two rounds: 2.93e-14 to 2.09e+09.
"""


def outcome(paired: Mapping[str, Any], floor: float = MARGIN) -> str:
    """Return ``faster``, ``slower``, ``same`` or ``undecided``.

    The whole interval decides. ``faster`` and ``slower``: it lies beyond the noise floor, and so beyond the margin.
    ``same``: it lies within the margin, whatever the floor, because noise cannot show that there is no difference.

    :param floor: the noise floor of this comparison; below :data:`MARGIN` it counts as :data:`MARGIN`.
    """
    low, high = paired["low"], paired["high"]
    if paired["ratio"] is None or low is None or high is None:
        return "undecided"
    beyond = 1.0 + max(MARGIN, floor)
    if low > beyond:
        return "faster"
    if high < 1.0 / beyond:
        return "slower"
    return "same" if low >= 1.0 / (1.0 + MARGIN) and high <= 1.0 + MARGIN else "undecided"


def is_measurable(paired: Mapping[str, Any]) -> bool:
    """Return whether the interval is narrow enough for its ratio to be printed as a speed (:data:`MAX_SPAN`)."""
    low, high = paired["low"], paired["high"]
    return low is not None and high is not None and low > 0.0 and high <= MAX_SPAN * low


def decide(paired: Mapping[str, Any], floor: float, *, contended: str = "", rounds: int = 0) -> dict[str, Any]:
    """Return the outcome of a comparison and, where it is ``undecided``, why, and what would decide it.

    :param floor: the noise floor of the same period, as a share.
    :param contended: why the timing is contended, or ``""``. A contended timing decides nothing.
    :param rounds: the maximum number of rounds that the comparison was allowed.
    :returns: ``{"outcome", "measurable", "undecided_why", "decide_by"}``; the last two are sentences, or ``""``.
    """
    answer = "undecided" if contended else outcome(paired, floor)
    facts = {"outcome": answer, "measurable": True, "undecided_why": "", "decide_by": ""}
    if answer != "undecided":
        return facts
    quieter = "A quieter machine would decide it: run it again while nothing else uses the CPU."
    more = f"More rounds would narrow the interval: set limits.rounds above {rounds or paired.get('rounds', 0)}"
    more += " and raise limits.timing_s with it."
    if not is_measurable(paired):
        reach = "nothing was measured"
        if paired["low"] is not None:
            reach = f"the 95 % interval of the ratio reaches from {paired['low']:.3g} to {paired['high']:.3g}"
        why = f"The speed is not measurable on this machine: {contended or reach}."
        return {**facts, "measurable": False, "undecided_why": why, "decide_by": quieter}
    if contended:
        return {**facts, "undecided_why": f"The timing is contended: {contended}.", "decide_by": quieter}
    low, high = paired["low"], paired["high"]
    if outcome(paired) != "undecided":
        why = f"The difference is not larger than the noise of {floor:.1%} that this comparison itself showed."
        return {**facts, "undecided_why": why, "decide_by": quieter}
    reach = f"The 95 % interval {low:.3g} to {high:.3g} reaches across the margin of {MARGIN:.0%}."
    if low > 1.0 or high < 1.0:
        reach = f"The 95 % interval {low:.3g} to {high:.3g} excludes 1, but reaches into the margin of {MARGIN:.0%}."
    return {**facts, "undecided_why": reach, "decide_by": more}


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
