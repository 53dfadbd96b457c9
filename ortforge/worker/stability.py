"""Whether a model answers the same twice: random operators and training-mode dropout make it differ from itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .exchange import Exchange
from .host_values import HostValues
from .samples import Samples
from .session import open_session
from .structure import flatten_all

__all__ = ["self_difference"]

MAX_SECONDS = 30.0
"""Time for one repetition; at least one sample is repeated, however long it takes."""


def self_difference(ort: Any, job: Mapping[str, Any]) -> dict[str, Any]:
    """Answer the first ``job["repeat"]`` samples twice in a fresh session, and compare with the answers that were kept.

    Both are needed: sessions may start from the same seed, and differ only from their second run on.

    :returns: see :meth:`_SelfDifference.result`.
    """
    session = open_session(ort, job["model"], job["providers"], job["session"]).session
    exchange, values = Exchange(Samples(job["samples"]), session, job["session"]), HostValues(ort, session)

    def again(number: int) -> dict[str, Any]:
        kept = exchange.kept(values.answer(values.hold(exchange.feeds(number))))
        return flatten_all(kept, exchange.output_types)

    difference = _SelfDifference(Path(job["output"]), int(job["repeat"]))
    for _ in range(2):
        difference.repeat(again)
    return difference.result()


class _SelfDifference:
    """Compares repeated answers with the first ones, which lie in a samples folder.

    :param folder: the first answers. :param count: maximum number of samples to repeat, from the first on.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._first = Samples(folder)
        self._count = min(count, len(self._first))
        self._largest: dict[str, float | None] = {}
        self._elements: dict[str, int] = {}
        self._ranges: dict[str, tuple[float, float]] = {}
        self._repeated = 0
        self._repetitions = 0

    def repeat(self, answer: Callable[[int], Mapping[str, Any]]) -> None:
        """Answer the samples once again.

        :param answer: returns the flattened outputs for the sample of a number.
        """
        started = time.perf_counter()
        for number in range(self._count):
            self._compare(self._first[number], answer(number))
            self._repeated = max(self._repeated, number + 1)
            if time.perf_counter() - started > MAX_SECONDS:
                break
        self._repetitions += 1

    def _compare(self, first: Mapping[str, Any], again: Mapping[str, Any]) -> None:
        for name in sorted(first.keys() | again.keys()):
            left = np.asarray(first[name]) if name in first else None
            right = np.asarray(again[name]) if name in again else None
            if left is None or right is None or left.shape != right.shape:
                self._largest[name] = None
                self._elements[name] = self._elements.get(name, 0) + max(_size(left), _size(right))
                continue
            numeric = left.dtype.kind in "fiub"
            if numeric and left.size:
                self._widen_range(name, left)
            equal = left == right
            if numeric:
                equal |= (left != left) & (right != right)
            if equal.all():
                continue
            self._elements[name] = self._elements.get(name, 0) + int((~equal).sum())
            largest = _largest(left, right) if numeric else None
            known = self._largest.get(name, 0.0)
            self._largest[name] = None if largest is None or known is None else max(known, largest)

    def _widen_range(self, name: str, array: Any) -> None:
        finite = array[np.isfinite(array)].astype(np.float64)
        if finite.size:
            low, high = self._ranges.get(name, (np.inf, -np.inf))
            self._ranges[name] = (min(low, float(finite.min())), max(high, float(finite.max())))

    def result(self) -> dict[str, Any]:
        """Return ``{"samples", "repetitions", "unstable": {output: {"largest", "elements"}}}``.

        ``largest`` is the largest absolute difference divided by the range of the output over the repeated samples;
        ``None`` where that is not a number: other shapes, other strings, NaN or Inf on one side, or no range.
        """
        unstable = {}
        for name, elements in sorted(self._elements.items()):
            low, high = self._ranges.get(name, (0.0, 0.0))
            largest = self._largest[name]
            relative = largest / (high - low) if largest is not None and high > low else None
            unstable[name] = {"largest": relative, "elements": elements}
        return {"samples": self._repeated, "repetitions": self._repetitions, "unstable": unstable}


def _size(array: Any) -> int:
    return 0 if array is None else max(1, int(array.size))


def _largest(left: Any, right: Any) -> float | None:
    with np.errstate(invalid="ignore"):
        difference = np.abs(left.astype(np.float64) - right.astype(np.float64))
    same = (left == right) | ((left != left) & (right != right))
    largest = float(difference[~same].max())
    return largest if np.isfinite(largest) else None
