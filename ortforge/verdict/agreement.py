"""Whether two outputs lead to the same decision: the same class, or the same nearest neighbour.

Which question fits an output is told from the reference alone:

- *top-1* (does ``argmax`` over the last axis pick the same place?) when the last axis holds at least two values and
  either every row is a distribution (no value below 0, sum 1), or the output's name says logits, scores, probabilities
  or classes, or the output has at most two axes and is no embedding;
- *nearest* (does the same other sample come out as the closest?) for embeddings: at most three axes, 16 to 8,192
  values in the last one, and the name says embedding, feature, pooled, hidden or state, or the rows have length 1, or
  there are three axes and no sign of classes. Axes before the last are averaged, as mean pooling does;
- neither for maps (four axes and more) and single numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Decisions"]

Array = NDArray[Any]

SCORE_NAME: Final = re.compile(r"logit|prob|score|softmax|class", re.IGNORECASE)
EMBEDDING_NAME: Final = re.compile(r"embed|feature|pool|hidden|state", re.IGNORECASE)
EMBEDDING_WIDTH: Final = range(16, 8193)
ROW_TOLERANCE: Final = 1e-2
"""How far a row's sum or length may be from 1: wide enough for float16."""
NEAREST_SAMPLES: Final = 1000
"""Samples kept for the nearest-neighbour question; its cost grows with their square."""
NEAREST_SLACK: Final = 0.05
"""Share of (best - median similarity) by which a neighbour may be worse than the best and still be as good.

Validation samples are often neighbours in time or near duplicates; which of two equally close ones wins is no
decision. Scaling by the spread keeps the question sharp for embeddings whose cosines all lie close together.
"""


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])


def top1(reference: Array, candidate: Array) -> tuple[int, int]:
    """Return (agreeing rows, rows) for ``argmax`` over the last axis.

    Any of the reference's tied maxima will do. A row of the candidate with NaN disagrees; a row of the reference with
    NaN is left out.
    """
    left, right = _rows(reference), _rows(candidate)
    usable = ~np.isnan(left).any(axis=1)
    left, right = left[usable], right[usable]
    if not len(left):
        return 0, 0
    index = np.arange(len(left))
    agree = left[index, right.argmax(axis=1)] == left.max(axis=1)
    return int(np.count_nonzero(agree & ~np.isnan(right).any(axis=1))), len(left)


def nearest(reference: Array, candidate: Array) -> tuple[int, int]:
    """Return (agreeing samples, samples): is the nearest other sample, by cosine, the same one?

    Both are (samples, width). A candidate's neighbour that the reference finds as close as its own, within
    :data:`NEAREST_SLACK`, agrees. Fewer than three samples have no choice of neighbour: (0, 0).
    """
    count = len(reference)
    if count < 3:
        return 0, 0
    similar, other = _similarity(reference), _similarity(candidate)
    index = np.arange(count)
    best = similar.max(axis=1)
    median = np.median(similar[~np.eye(count, dtype=bool)].reshape(count, count - 1), axis=1)
    picked = similar[index, other.argmax(axis=1)]
    usable = np.isfinite(candidate).all(axis=1)
    return int(np.count_nonzero((picked >= best - NEAREST_SLACK * (best - median) - 1e-6) & usable)), count


def _similarity(vectors: Array) -> Array:
    vectors = np.nan_to_num(vectors, nan=0.0, posinf=0.0, neginf=0.0)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(length > 0.0, length, 1.0)
    similar: Array = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    return similar


@dataclass(slots=True)
class Decisions:
    """Gathers the evidence for one float output, sample by sample; keeps one pooled vector per sample at most."""

    name: str
    axes: int = 0
    width: int = 0
    usable: bool = True
    distribution: bool = True
    unit: bool = True
    tops: list[tuple[int, int] | None] = field(default_factory=list)
    vectors: list[tuple[Array, Array]] = field(default_factory=list)

    def add(self, reference: Array, candidate: Array) -> None:
        """Take one sample; both arrays have one shape."""
        width = reference.shape[-1] if reference.ndim and reference.dtype.kind == "f" else 0
        self.usable = self.usable and width > 1 and self.width in (0, width)
        if not self.usable or reference.size == 0:
            self.tops.append(None)
            return
        self.width, self.axes = width, max(self.axes, reference.ndim)
        with np.errstate(all="ignore"):
            self._look(reference)
            wanted = self.distribution or self.axes <= 2 or SCORE_NAME.search(self.name)
            self.tops.append(top1(reference, candidate) if wanted else None)
            if self.width in EMBEDDING_WIDTH and self.axes <= 3 and len(self.vectors) < NEAREST_SAMPLES:
                pooled = (_rows(side).astype(np.float64).mean(axis=0) for side in (reference, candidate))
                self.vectors.append((next(pooled), next(pooled)))

    def _look(self, reference: Array) -> None:
        rows = _rows(reference)
        if self.distribution:
            sums = rows.sum(axis=1, dtype=np.float64)
            self.distribution = bool(rows.min() >= -1e-6 and np.all(np.abs(sums - 1.0) <= ROW_TOLERANCE))
        if self.unit:
            squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
            self.unit = bool(np.all(np.abs(squares - 1.0) <= 2 * ROW_TOLERANCE))

    def kind(self) -> str:
        """Return ``top-1``, ``nearest`` or ``""`` by the rules of this module."""
        if not self.usable or not self.width:
            return ""
        if self.distribution or SCORE_NAME.search(self.name):
            return "top-1"
        named = self.unit or self.axes == 3 or EMBEDDING_NAME.search(self.name)
        if self.width in EMBEDDING_WIDTH and self.axes <= 3 and named:
            return "nearest"
        return "top-1" if self.axes <= 2 else ""

    def agreement(self) -> tuple[str, int, int]:
        """Return (kind, agreeing, of); the kind is empty when the question does not apply."""
        kind = self.kind()
        if kind == "nearest":
            agreeing, of = nearest(*(np.stack(side) for side in zip(*self.vectors, strict=True)))
        else:
            counted = [top for top in self.tops if top is not None and kind]
            agreeing, of = sum(top[0] for top in counted), sum(top[1] for top in counted)
        return (kind, agreeing, of) if of else ("", 0, 0)

    def of_sample(self, position: int) -> float | None:
        """Return one sample's share of agreeing rows, for top-1."""
        top = self.tops[position] if position < len(self.tops) else None
        return top[0] / top[1] if top is not None and top[1] and self.kind() == "top-1" else None
