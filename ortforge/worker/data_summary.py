"""What a dataset's samples look like: shapes, and mean and spread of each channel, kept beside the samples.

Calibration and validation data are compared by it (``verdict/data_shift.py``) without being read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["DataSummary"]

MOST_CHANNELS = 4
"""Axes up to this length are channels (grey, RGB, with alpha); longer ones are not looked at one by one."""


@dataclass
class _Input:
    shape: list[int]
    lowest: float = float("inf")
    highest: float = float("-inf")
    means: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    channels: dict[int, list[list[float]]] = field(default_factory=dict)
    shapes: set[tuple[int, ...]] = field(default_factory=set)


class DataSummary:
    """Takes note of samples as they are written (:meth:`add`), and sums up (:meth:`result`)."""

    def __init__(self) -> None:
        self._inputs: dict[str, _Input] = {}

    def add(self, feeds: Mapping[str, Any]) -> None:
        """Look at one sample; only numbers are looked at."""
        for name, value in feeds.items():
            array = np.asarray(value)
            if array.dtype.kind not in "fiu" or not array.size:
                continue
            one = self._inputs.setdefault(str(name), _Input(list(array.shape)))
            one.shapes.add(array.shape)
            wide = array.astype(np.float64)
            one.lowest, one.highest = min(one.lowest, float(wide.min())), max(one.highest, float(wide.max()))
            one.means.append(float(wide.mean()))
            one.squares.append(float(np.square(wide).mean()))
            for axis in {1, array.ndim - 1} if array.ndim >= 3 else ():
                if 2 <= array.shape[axis] <= MOST_CHANNELS:
                    others = tuple(number for number in range(array.ndim) if number != axis)
                    one.channels.setdefault(axis, []).append([float(mean) for mean in wide.mean(axis=others)])

    def result(self) -> dict[str, Any]:
        """Return, by input: ``shape`` of the first sample, ``shapes`` (how many different ones there are), ``lowest``,
        ``highest``, ``mean``, ``spread``, and
        ``channels``: by axis the mean of each channel, and its standard error over samples. JSON only.
        """
        return {name: _summed(one) for name, one in self._inputs.items()}


def _summed(one: _Input) -> dict[str, Any]:
    mean = float(np.mean(one.means))
    channels = {}
    for axis, rows in one.channels.items():
        table = np.array([row for row in rows if len(row) == len(rows[0])])
        error = table.std(axis=0, ddof=1) / len(table) ** 0.5 if len(table) > 1 else np.full(table.shape[1], np.inf)
        channels[str(axis)] = {
            "mean": [round(float(value), 6) for value in table.mean(axis=0)],
            "error": [round(float(value), 6) if np.isfinite(value) else None for value in error],
        }
    spread = max(float(np.mean(one.squares)) - mean * mean, 0.0) ** 0.5
    finite = [one.lowest, one.highest, mean, spread]
    lowest, highest, mean_, spread = (value if np.isfinite(value) else None for value in finite)
    numbers = {"lowest": lowest, "highest": highest, "mean": mean_, "spread": spread}
    return {"shape": one.shape, "shapes": len(one.shapes), **numbers, "channels": channels}
