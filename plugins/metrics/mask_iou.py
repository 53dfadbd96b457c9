"""How much of what a detector marks is still marked: overlap of masks, without labels.

A detector of the DB kind (PP-OCR) gives a map of probabilities, and all that follows uses only where it exceeds 0.3.
Numbers may move on either side of that without any effect, and a small move across it loses a box; neither shows in
cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ortforge.api import Metric

__all__ = ["ortforge_metrics"]

THRESHOLD = 0.3
"""Binarisation threshold of DB post-processing (``thresh`` in PP-OCR's detector settings)."""


def compute(
    reference: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]], labels: Sequence[Any] | None
) -> float | None:
    """Return the mean over samples of intersection over union, both sides binarised at 0.3.

    The map is the reference's first float output with three or more axes and values in [0, 1]; two empty masks overlap
    fully. ``None`` where there is no such output, or the candidate's has another shape.
    """
    import numpy as np

    overlaps = []
    for left, right in zip(reference, candidate, strict=True):
        name = next((name for name, value in left.items() if _is_map(np.asarray(value))), None)
        if name is None or name not in right or np.shape(right[name]) != np.shape(left[name]):
            return None
        marked, found = np.asarray(left[name]) > THRESHOLD, np.asarray(right[name]) > THRESHOLD
        union = np.count_nonzero(marked | found)
        overlaps.append(np.count_nonzero(marked & found) / union if union else 1.0)
    return float(np.mean(overlaps)) if overlaps else None


def _is_map(array: Any) -> bool:
    in_range = array.dtype.kind == "f" and array.ndim >= 3 and array.size > 0
    return bool(in_range and array.min() >= 0.0 and array.max() <= 1.0)


def ortforge_metrics() -> list[Metric]:
    """Give mask-iou."""
    return [Metric("mask-iou", "overlap of the masks above 0.3 with the reference's", compute)]
