"""Whether a detector of the YOLOX kind still finds the same boxes, without labels.

Its output is a raw grid of offsets, logarithms and scores, where most places hold nothing; cosine over all of them says
little about the few that become boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ortforge.api import Metric

__all__ = ["ortforge_metrics"]

STRIDES = (8, 16, 32)
SCORE, SAME, OVERLAP = 0.3, 0.5, 0.45
"""Least score of a box; least overlap with the reference's box to be the same; largest overlap of two boxes kept."""


def compute(
    reference: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]], labels: Sequence[Any] | None
) -> float | None:
    """Return the F1 of the candidate's boxes against the reference's, over all samples.

    The grid is the reference's first float output [1, places, 5 + classes] of a square picture with strides 8, 16 and
    32 (3,549 places for 416 x 416). ``None`` where there is none, or the candidate's has another shape.
    """
    import numpy as np

    matched = wanted = found = 0
    for left, right in zip(reference, candidate, strict=True):
        name = next((name for name, value in left.items() if _side(np.asarray(value))), None)
        if name is None or name not in right or np.shape(right[name]) != np.shape(left[name]):
            return None
        ours, theirs = _boxes(np.asarray(right[name])), _boxes(np.asarray(left[name]))
        matched += _matched(ours, theirs)
        found, wanted = found + len(ours), wanted + len(theirs)
    if found + wanted == 0:
        return 1.0 if reference else None
    return 2 * matched / (found + wanted)


def _side(grid: Any) -> int:
    """Return the side of the picture that a grid belongs to, or 0: 21 places for each 32 x 32 pixels."""
    if grid.dtype.kind != "f" or grid.ndim != 3 or grid.shape[0] != 1 or grid.shape[2] < 6:
        return 0
    tiles = round((grid.shape[1] / 21) ** 0.5)
    return 32 * tiles if 21 * tiles * tiles == grid.shape[1] else 0


def _boxes(grid: Any) -> Any:
    """Decode a grid (Ge et al. 2021, YOLOX) and keep the best of overlapping boxes: [boxes, left top right bottom]."""
    import numpy as np

    side, rows = _side(grid), np.nan_to_num(grid[0].astype(np.float64))
    places, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[0 : side // stride, 0 : side // stride]
        places.append(np.stack([x.ravel(), y.ravel()], axis=1))
        strides.append(np.full((x.size, 1), stride))
    stride_of = np.concatenate(strides)
    score = rows[:, 4] * rows[:, 5:].max(axis=1)
    middle = (rows[:, :2] + np.concatenate(places)) * stride_of
    half = np.exp(np.clip(rows[:, 2:4], -20, 20)) * stride_of / 2
    corners = np.concatenate([middle - half, middle + half], axis=1)
    kept: list[Any] = []
    for place in np.argsort(-score, kind="stable"):
        if score[place] < SCORE:
            break
        if not kept or _overlaps(corners[place], np.array(kept)).max() <= OVERLAP:
            kept.append(corners[place])
    return np.array(kept).reshape(-1, 4)


def _overlaps(box: Any, boxes: Any) -> Any:
    """Return the intersection over union of a box with each of several."""
    import numpy as np

    shared = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return shared / np.maximum(areas - shared, 1e-9)


def _matched(ours: Any, theirs: Any) -> int:
    """Count pairs of boxes that overlap by half, each box in one pair."""
    import numpy as np

    free, count = np.ones(len(theirs), bool), 0
    for box in ours:
        if free.any():
            overlaps = np.where(free, _overlaps(box, theirs), 0.0)
            best = int(overlaps.argmax())
            if overlaps[best] >= SAME:
                free[best], count = False, count + 1
    return count


def ortforge_metrics() -> list[Metric]:
    """Give yolox-boxes."""
    return [Metric("yolox-boxes", "F1 of a YOLOX detector's boxes against the reference's", compute)]
