"""From a histogram of a tensor's values to the range that is kept: the percentile and the entropy methods.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["entropy_threshold", "percentile_range"]

ENTROPY_LEVELS: Final = 128
"""Steps that the entropy method fits a distribution into (Migacz, GTC 2017, and ONNX Runtime's own)."""

STRIDE: Final = 8
"""Every which cut is tried at first."""

SMOOTHING: Final = 1e-4
"""What an empty bin is given, so that the divergence stays finite (as ONNX Runtime does it)."""


def percentile_range(
    histogram: NDArray[Any], edges: NDArray[Any], percentile: float, *, symmetric: bool
) -> tuple[float, float]:
    """Return the range that holds ``percentile`` per cent of the values.

    :param histogram: counts per bin, of the absolute values if ``symmetric``. :param edges: one more than bins.
    """
    import numpy as np

    share = np.cumsum(histogram / histogram.sum())
    last = len(histogram) - 1
    if symmetric:
        # The upper edge of the bin in which the share is reached: the lower one would leave values out.
        high = float(edges[min(int(np.searchsorted(share, percentile / 100)), last) + 1])
        return -high, high
    cut = (100 - percentile) / 200
    right = min(int(np.searchsorted(share, 1 - cut)), last) + 1
    return float(edges[int(np.searchsorted(share, cut))]), float(edges[right])


def entropy_threshold(histogram: NDArray[Any], edges: NDArray[Any], levels: int = ENTROPY_LEVELS) -> float:
    """Return the magnitude at which to cut, so that the values lose least when they get ``levels`` steps.

    For each symmetric cut of the histogram: the distribution with what lies outside moved to its ends, against the same
    in ``levels`` steps; the cut with the least Kullback-Leibler divergence wins (Migacz, "8-bit inference with
    TensorRT", GTC 2017).

    :param histogram: counts of bins that lie evenly around zero. :param edges: one more than bins.
    """
    import numpy as np

    middle = len(histogram) // 2
    sums = np.concatenate([[0], np.cumsum(histogram)])
    tried: dict[int, float] = {}

    def best_of(halves: Iterable[int]) -> int:
        for half in halves:
            if half not in tried:
                tried[half] = _loss(histogram, sums, half, levels)
        return min(tried, key=lambda half: tried[half])

    # Coarsely first: neighbouring cuts differ little, and there are hundreds of tensors.
    first = best_of([*range(levels // 2, middle, STRIDE), middle])
    near = range(max(first - STRIDE, levels // 2), min(first + STRIDE, middle) + 1)
    return float(edges[min(middle + best_of(near) + 1, len(histogram))])


def _loss(histogram: NDArray[Any], sums: NDArray[Any], half: int, levels: int) -> float:
    """Return the divergence when ``half`` bins on each side of the middle are kept and get ``levels`` steps."""
    import numpy as np

    bins, middle = len(histogram), len(histogram) // 2
    start, end = middle - half, min(middle + half + 1, bins)
    inside = histogram[start:end].astype(np.float64)
    reference = inside.copy()
    reference[0] += sums[start]
    reference[-1] += sums[-1] - sums[end]
    # The last step takes what does not divide evenly.
    starts = np.arange(levels) * (len(inside) // levels)
    lengths = np.diff(np.append(starts, len(inside)))
    filled = reference != 0
    number = np.repeat(np.add.reduceat(filled.astype(np.float64), starts), lengths)
    coarse = np.where(filled, np.repeat(np.add.reduceat(inside, starts), lengths) / np.maximum(number, 1), 0)
    return _divergence(reference, coarse)


def _divergence(p: Floats, q: Floats) -> float:
    import numpy as np

    p, q = _smoothed(p), _smoothed(q)
    return float(np.sum(p * np.log(p / q)))


def _smoothed(counts: Floats) -> Floats:
    """Return counts as a distribution without zeros: empty bins get a little, taken evenly from the others."""
    import numpy as np

    empty = counts == 0
    taken = SMOOTHING * empty.sum() / max(int((~empty).sum()), 1)
    filled = np.where(empty, SMOOTHING, counts - taken)
    shares: Floats = filled / filled.sum()
    return shares
