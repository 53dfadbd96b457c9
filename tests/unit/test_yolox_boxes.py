"""yolox-boxes, on raw grids whose boxes are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from ortforge.plugins.metrics.yolox_boxes import compute


def grid(*boxes: tuple[int, int, float], side: int = 64) -> list[dict[str, Any]]:
    """One sample's raw output with boxes of 8 x 8 pixels at (column, row) of the finest grid, with a score."""
    rows = np.zeros((1, 21 * (side // 32) ** 2, 6), np.float32)
    for column, row, score in boxes:
        rows[0, row * (side // 8) + column] = (0.5, 0.5, 0.0, 0.0, score, 1.0)
    return [{"output": rows}]


def test_the_same_boxes_score_one_and_a_lost_one_counts() -> None:
    both = grid((1, 1, 0.9), (5, 6, 0.8))
    assert compute(both, both, None) == 1.0
    # One of two is found: precision 1, recall 1/2.
    assert compute(both, grid((1, 1, 0.9)), None) == 2 / 3
    assert compute(grid((1, 1, 0.9)), grid((4, 4, 0.9)), None) == 0.0


def test_boxes_below_the_score_and_empty_pictures() -> None:
    assert compute(grid((1, 1, 0.2)), grid(), None) == 1.0
    assert compute(grid((1, 1, 0.9)), grid((1, 1, 0.2)), None) == 0.0


def test_nan_finds_nothing() -> None:
    broken = grid((1, 1, 0.9))
    broken[0]["output"][:] = np.nan
    assert compute(grid((1, 1, 0.9)), broken, None) == 0.0


def test_other_outputs_give_no_number() -> None:
    assert compute([{"y": np.zeros((1, 10), np.float32)}], [{"y": np.zeros((1, 10), np.float32)}], None) is None
    assert compute(grid(), grid(side=96), None) is None
