"""Finds sentinels: values such as -1e9, finfo.min or -10000 that mark masked places of an output.

A sentinel is no measurement. It must be the same in both outputs, and it must not take part in energies, ranges and
angles: one -1e9 in a map of logits makes every error look like nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sentinels", "find_sentinels"]

Array = NDArray[Any]

MIN_MAGNITUDE: Final = 1e3
"""Smaller numbers are answers: pixels, indices, milliseconds."""
MIN_RATIO: Final = 100.0
"""A sentinel is at least so many times larger than everything else in the output."""
SAME: Final = 1e-3
"""Relative spread within which large values count as one sentinel: an additive mask gives -10000 plus the logit."""
MIN_COUNT: Final = 2
"""A single large value may be an answer."""
MAX_LEVELS: Final = 8
"""Masks that are added to one another give several sentinels: -10000, -20000."""


@dataclass(frozen=True, slots=True)
class Sentinels:
    """The sentinels of one tensor.

    :param places: boolean array of the tensor's shape, true where a sentinel is.
    :param value: the sentinel; of several that differ by rounding, the first.
    :param exact: every place holds exactly this value (in magnitude), so the candidate must hold it exactly as well.
    """

    places: Array
    value: float
    exact: bool

    def mismatches(self, reference: Array, candidate: Array) -> int:
        """Count the sentinel places where the candidate holds another value; both have the shape of ``places``."""
        left, right = reference[self.places], candidate[self.places]
        if self.exact:
            return int(np.count_nonzero(left != right))
        with np.errstate(invalid="ignore", over="ignore"):
            left, right = left.astype(np.float64), right.astype(np.float64)
            return int(np.count_nonzero(~(np.abs(left - right) <= SAME * np.abs(left))))


def find_sentinels(reference: Array) -> Sentinels | None:
    """Return the sentinels of a float tensor, or ``None``. Infinities and NaN are not looked at.

    The largest magnitudes are sentinels when they have few levels (:data:`MAX_LEVELS`), each of at least
    :data:`MIN_COUNT` values that are equal within :data:`SAME`, and when they are at least :data:`MIN_RATIO` times
    larger than the largest other value.
    """
    if reference.dtype.kind != "f" or reference.size < MIN_COUNT:
        return None
    # The largest value is found without a copy of the tensor: most outputs have no sentinel.
    low, high = float(np.min(reference, initial=0.0)), float(np.max(reference, initial=0.0))
    if max(-low, high) < MIN_MAGNITUDE:  # false for NaN, too
        return None
    with np.errstate(invalid="ignore"):
        magnitude = np.abs(reference)
        magnitude = np.where(np.isfinite(magnitude), magnitude, 0)
    largest = magnitude.max()
    if largest < MIN_MAGNITUDE:
        return None
    places = magnitude >= MIN_MAGNITUDE
    rest = float(np.max(magnitude, where=~places, initial=0.0))
    if places.all() or rest * MIN_RATIO > float(np.min(magnitude, where=places, initial=np.inf)):
        # Numbers above the limit may be answers beside a sentinel that is larger still.
        places = magnitude >= largest / 2
        rest = float(np.max(magnitude, where=~places, initial=0.0))
        if places.all() or rest * MIN_RATIO > float(largest):
            return None
    levels = _levels(np.sort(magnitude[places].astype(np.float64)))
    if not levels:
        return None
    return Sentinels(places, float(reference[places][0]), all(level[0] == level[-1] for level in levels))


def _levels(values: Array) -> list[Array]:
    """Return sorted magnitudes in groups that are equal within :data:`SAME`, or none where they are no sentinels."""
    steps = np.flatnonzero(np.diff(values) > SAME * values[1:])
    if len(steps) >= MAX_LEVELS:
        return []
    levels = np.split(values, steps + 1)
    if any(level.size < MIN_COUNT or level[0] < (1.0 - 2 * SAME) * level[-1] for level in levels):
        return []
    return levels
