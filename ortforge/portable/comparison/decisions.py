"""Whether two outputs lead to the same decision, for each role of :mod:`ortforge.portable.comparison.recognition`.

Each measure counts (agreeing, of) over the samples. Where the reference itself is undecided, either answer agrees:
ties of ``argmax`` and TopK (within :data:`TIE` of the row's spread), neighbors that are equally close, scores near the
threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .recognition import Recognized, detection_columns

__all__ = ["Decisions", "boxes", "nearest", "overlap", "positions", "top1"]

Array = NDArray[Any]

TIE: Final = 1e-3
"""Two values of a row are tied when they differ by less than this share of the row's spread: half precision rounds to
2^-11 of a value, which is half of it.
"""
NEAREST_SAMPLES: Final = 1000
"""Samples kept for the nearest-neighbor question; its cost grows with their square."""
NEAREST_SLACK: Final = 0.05
"""Share of (best - median similarity) by which a neighbor may be worse than the best and still be as good.

Validation samples are often neighbors in time or near duplicates; which of two equally close ones wins is no
decision. Scaling by the spread keeps the question sharp for embeddings whose cosines all lie close together.
"""
SCORE_THRESHOLD: Final = 0.25
"""Detections count from this score on (Ultralytics' default), or from half of the largest score if that is lower."""
SCORE_SLACK: Final = 0.8
"""A detection of one side agrees when the other side's score is above this share of the threshold."""
SAME_SCORE: Final = 0.15
"""Scores of one detection differ by no more than this, so that both are kept or dropped by most thresholds."""
BACKGROUND: Final = 0.1
"""Objectness below this share of the largest one is background."""
BACKGROUND_CLASS: Final = 0.2
"""Where class scores reach this on average in the background, the row before them is an objectness."""
BOX_OVERLAP: Final = 0.5
"""Intersection over union from which two boxes are the same (PASCAL VOC)."""
MIN_SCORE: Final = 0.01
"""Where no score reaches this, nothing was detected."""
MASK_THRESHOLD: Final = 0.5
MAX_LABELS: Final = 1000
"""Integers of more values in one sample are no labels."""
MIN_OF_LABEL: Final = 4
"""A class that the reference chooses less often can be lost by chance."""
MAX_PLACES: Final = 8192
"""Places of a longer axis are not told apart."""
MAX_LOST: Final = 8
"""Lost labels that are listed."""

KINDS: Final = {
    "classifier": "top-1",
    "tokens": "top-1",
    "segmentation": "top-1",
    "detector": "boxes",
    "detections": "boxes",
    "mask": "overlap",
    "image": "psnr",
    "embedding": "nearest",
    "labels": "exact",
    "indices": "exact",
    "counts": "exact",
}
"""The measure of each role that has one."""


def _rows(array: Array, axis: int = -1) -> Array:
    moved = np.moveaxis(array, axis, -1)
    return moved.reshape(-1, moved.shape[-1])


def top1(reference: Array, candidate: Array, axis: int = -1) -> tuple[int, int]:
    """Return (agreeing rows, rows) for ``argmax`` over an axis; both arrays have one shape.

    Any of the reference's tied maxima will do. A row of the candidate with NaN disagrees; a row of the reference with
    NaN, or whose values are all equal, has no decision and is left out.
    """
    labels, agree = _choices(reference, candidate, axis)
    return int(np.count_nonzero(agree)), len(labels)


def _choices(reference: Array, candidate: Array, axis: int) -> tuple[Array, Array]:
    """Return the reference's choice for each row that has one, and whether the candidate's agrees."""
    left, right = _rows(reference, axis), _rows(candidate, axis)
    usable = ~np.isnan(left).any(axis=1)
    usable &= left.max(axis=1) > left.min(axis=1)
    left, right = left[usable], right[usable]
    if not len(left):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
    top, bottom = left.max(axis=1), left.min(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        # Of rows with -inf or a huge negative sentinel only exact ties count: their spread says nothing.
        spread = np.where(np.isfinite(bottom) & np.isfinite(top), top - bottom, 0.0)
        spread = np.where(spread > 1e3 * np.maximum(1.0, np.abs(top)), 0.0, spread)
        picked = left[np.arange(len(left)), right.argmax(axis=1)]
        agree = (picked == top) | (picked >= top - TIE * spread)
    return left.argmax(axis=1), agree & ~np.isnan(right).any(axis=1)


def nearest(reference: Array, candidate: Array) -> tuple[int, int]:
    """Return (agreeing samples, samples): is the nearest other sample, by cosine, the same one?

    Both are (samples, width). A candidate's neighbor that the reference finds as close as its own, within
    :data:`NEAREST_SLACK`, agrees. Samples for which the reference has NaN or Inf are left out, and fewer than three
    have no choice of neighbor: (0, 0).
    """
    known = np.isfinite(reference).all(axis=1)
    reference, candidate = reference[known], candidate[known]
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


def overlap(reference: Array, candidate: Array) -> tuple[int, int]:
    """Return (intersection, union) of the places above :data:`MASK_THRESHOLD`, or that are true."""
    if reference.dtype.kind == "b":
        left, right = reference, candidate.astype(bool)
    else:
        left, right = reference > MASK_THRESHOLD, candidate > MASK_THRESHOLD
    return int(np.count_nonzero(left & right)), int(np.count_nonzero(left | right))


def positions(reference: Array, candidate: Array, values: Array) -> tuple[int, int]:
    """Return (agreeing, elements) of positions as TopK gives them; ``values`` are the reference's, in the same places.

    A position that the reference has elsewhere in the row agrees where the values there are tied; one that it has not
    at all agrees only where its own value is tied with the row's last one, the edge of what was picked.
    """
    agree = reference == candidate
    if agree.all():
        return int(agree.size), int(agree.size)
    left, right, weights = _rows(reference), _rows(candidate), _rows(values).astype(np.float64)
    same = agree.reshape(left.shape).copy()
    for row in np.flatnonzero(~same.all(axis=1)):
        spread = float(np.ptp(weights[row])) or float(np.abs(weights[row]).max(initial=0.0))
        for place in np.flatnonzero(~same[row]):
            elsewhere = np.flatnonzero(left[row] == right[row, place])
            twin = int(elsewhere[0]) if elsewhere.size else len(weights[row]) - 1
            same[row, place] = abs(weights[row, twin] - weights[row, place]) <= TIE * spread
    return int(np.count_nonzero(same)), int(agree.size)


def boxes(reference: Array, candidate: Array, axis: int) -> tuple[int, int]:
    """Return (agreeing detections of both sides, detections of both sides) of one sample's detector output.

    A detection agrees in class, box and, within :data:`SAME_SCORE`, score.

    :param axis: the axis of rows: four of the box, then perhaps an objectness, then one for each class.
    """
    left, right = _rows(reference, axis).astype(np.float64), _rows(candidate, axis).astype(np.float64)
    scores, others = left[:, 4:], right[:, 4:]
    if float(scores.min(initial=0.0)) < -1e-3:  # logits
        scores, others = _sigmoid(scores), _sigmoid(others)
    if _has_objectness(scores):
        scores, others = scores[:, :1] * scores[:, 1:], others[:, :1] * others[:, 1:]
    top = float(np.max(scores, initial=0.0))
    if top < MIN_SCORE:
        return 0, 0
    threshold = min(SCORE_THRESHOLD, top / 2)
    best, best_other = scores.max(axis=1), np.nan_to_num(others, nan=-1.0).max(axis=1)
    kept, kept_other = best >= threshold, best_other >= threshold
    same_box = _same_box(left[:, :4], right[:, :4])
    place = np.arange(len(left))
    spread = best - scores.min(axis=1)
    same_class = scores[place, np.nan_to_num(others, nan=-1.0).argmax(axis=1)] >= best - np.maximum(TIE * spread, 1e-9)
    if scores.shape[1] > 1:
        # Nearly equal classes are one decision with two answers.
        same_class |= scores[place, others.argmax(axis=1)] >= SCORE_SLACK * best
    with np.errstate(invalid="ignore"):
        agree = same_box & same_class & (np.abs(best - best_other) <= SAME_SCORE)
    agreeing = np.count_nonzero(kept & agree & (best_other >= SCORE_SLACK * threshold))
    agreeing += np.count_nonzero(kept_other & agree & (best >= SCORE_SLACK * threshold))
    return int(agreeing), int(np.count_nonzero(kept) + np.count_nonzero(kept_other))


def listed_boxes(reference: Array, candidate: Array) -> tuple[int, int]:
    """Return (agreeing detections of both sides, detections of both sides) of rows of box, score and class.

    Rows may change places: a detection agrees when the other side has one of the same class, with an overlap of
    :data:`BOX_OVERLAP` and a score within :data:`SAME_SCORE`.
    """
    columns = detection_columns(reference)
    if columns is None:
        return 0, 0
    box, score, label = columns
    left, right = (side.reshape(-1, side.shape[-1]).astype(np.float64) for side in (reference, candidate))
    top = float(left[:, score].max())
    if top < MIN_SCORE:
        return 0, 0
    threshold = min(SCORE_THRESHOLD, top / 2)
    agreeing = of = 0
    for mine, other in ((left, right), (right, left)):
        for row in mine[mine[:, score] >= threshold]:
            same = (other[:, label] == row[label]) & (np.abs(other[:, score] - row[score]) <= SAME_SCORE)
            same &= _same_box(np.broadcast_to(row[box], (len(other), 4)), other[:, box])
            agreeing, of = agreeing + bool(same.any()), of + 1
    return agreeing, of


def _has_objectness(scores: Array) -> bool:
    """Return whether the first of the rows behind the box is an objectness, by which class scores are multiplied."""
    if scores.shape[1] < 2:
        return False
    background = scores[:, 0] < BACKGROUND * float(scores[:, 0].max(initial=0.0))
    return bool(background.any()) and float(scores[background, 1:].max(axis=1).mean()) >= BACKGROUND_CLASS


def _sigmoid(array: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(array, -60.0, 60.0))))


def _same_box(left: Array, right: Array) -> Array:
    """Return which rows are the same box, whether they hold corners or center and size."""
    corners = bool(np.mean((left[:, 2] >= left[:, 0]) & (left[:, 3] >= left[:, 1])) > 0.99)

    def edges(rows: Array) -> tuple[Array, Array, Array, Array]:
        if corners:
            return rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3]
        half_width, half_height = np.abs(rows[:, 2]) / 2, np.abs(rows[:, 3]) / 2
        return rows[:, 0] - half_width, rows[:, 1] - half_height, rows[:, 0] + half_width, rows[:, 1] + half_height

    a, b = edges(left), edges(right)
    width = np.clip(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]), 0.0, None)
    height = np.clip(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]), 0.0, None)
    shared = width * height
    areas = [np.clip(side[2] - side[0], 0.0, None) * np.clip(side[3] - side[1], 0.0, None) for side in (a, b)]
    union = areas[0] + areas[1] - shared
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(union > 0.0, shared / union, 1.0)
    close = np.abs(left - right).max(axis=1) <= 1e-6 * np.maximum(1.0, np.abs(left).max(axis=1))
    same: Array = (ratio >= BOX_OVERLAP) | close
    return same


@dataclass(slots=True)
class Decisions:
    """Gathers the decisions of one output, sample by sample; keeps one pooled vector per sample at most."""

    recognized: Recognized
    counts: list[tuple[int, int]] = field(default_factory=list)
    vectors: list[tuple[Array, Array]] = field(default_factory=list)
    labels: dict[int, list[int]] = field(default_factory=dict)
    places: dict[tuple[int, str], list[Array]] = field(default_factory=dict)
    squared_error: float = 0.0
    elements: int = 0
    peak: float = 0.0

    @property
    def kind(self) -> str:
        """The measure: ``top-1``, ``nearest``, ``boxes``, ``overlap``, ``psnr``, ``exact``, or ``""``."""
        return KINDS.get(self.recognized.role, "")

    def add(self, reference: Array, candidate: Array, partner: Array | None = None) -> None:
        """Take one sample; both arrays have one shape. ``partner`` is the reference's output of that name."""
        kind = self.kind
        if kind == "" or reference.size == 0 or reference.dtype.kind not in "fbiu":
            self.counts.append((0, 0))
            return
        with np.errstate(all="ignore"):
            self.counts.append(self._count(kind, reference, candidate, partner))

    def _count(self, kind: str, reference: Array, candidate: Array, partner: Array | None) -> tuple[int, int]:
        axis = self.recognized.axis
        if kind == "top-1":
            return self._count_choices(reference, candidate, axis) if reference.ndim else (0, 0)
        if self.recognized.role == "detections":
            return listed_boxes(reference, candidate)
        if kind == "boxes":
            return boxes(reference, candidate, axis) if reference.ndim == 3 else (0, 0)
        if kind == "overlap":
            if reference.dtype.kind == "b":
                for value in (True, False):
                    self._count_places(reference == candidate, reference == value, str(value).lower())
                self._count_labels(reference.reshape(-1), (reference == candidate).reshape(-1))
            return overlap(reference, candidate)
        if kind == "psnr":
            return self._count_pixels(reference, candidate)
        if kind == "nearest":
            if len(self.vectors) < NEAREST_SAMPLES:
                self.vectors.append(
                    (_rows(reference).astype(np.float64).mean(axis=0), _rows(candidate).astype(np.float64).mean(axis=0))
                )
            return 0, 0
        return self._count_equal(reference, candidate, partner)

    def _count_choices(self, reference: Array, candidate: Array, axis: int) -> tuple[int, int]:
        choices, agree = _choices(reference, candidate, axis)
        if self.recognized.role != "tokens":
            self._count_labels(choices, agree)
        return int(np.count_nonzero(agree)), len(choices)

    def _count_pixels(self, reference: Array, candidate: Array) -> tuple[int, int]:
        error = candidate.astype(np.float64) - reference.astype(np.float64)
        error = np.nan_to_num(error, nan=0.0, posinf=0.0, neginf=0.0)
        self.squared_error += float(np.square(error).sum())
        self.elements += error.size
        self.peak = max(self.peak, float(np.nanmax(np.abs(reference.astype(np.float64)))))
        return 0, 0

    def _count_equal(self, reference: Array, candidate: Array, partner: Array | None) -> tuple[int, int]:
        if self.recognized.role == "indices" and partner is not None and partner.shape == reference.shape:
            return positions(reference, candidate, partner)
        same = reference == candidate
        if self.recognized.role == "labels" and partner is not None and partner.size > reference.size:
            same = same | _tied_labels(reference, candidate, partner)
        if self.recognized.role == "labels":
            self._count_labels(reference.reshape(-1), same.reshape(-1))
        self._count_places(same, np.ones(same.shape, dtype=bool), "")
        return int(np.count_nonzero(same)), int(same.size)

    def _count_places(self, same: Array, counted: Array, answer: str) -> None:
        """Count for each index of each axis: [elements, elements that agree]; axes of other sizes have no places."""
        for axis, size in enumerate(same.shape):
            if not 1 < size <= MAX_PLACES:
                continue
            known = self.places.setdefault((axis, answer), [np.zeros(size, np.int64), np.zeros(size, np.int64)])
            if known[0].size == size:
                known[0] += np.moveaxis(counted, axis, 0).reshape(size, -1).sum(axis=1).astype(np.int64)
                known[1] += np.moveaxis(same & counted, axis, 0).reshape(size, -1).sum(axis=1).astype(np.int64)

    def lost_places(self) -> list[dict[str, Any]]:
        """Return the places where the candidate gives another answer in more than half of the elements.

        ``{"axis", "size", "index", "answer", "of", "agreeing"}``; ``answer`` is that of the elements that are counted,
        ``true`` or ``false``, or ``""`` for all of them. Places of which there are fewer than :data:`MIN_OF_LABEL`
        elements can be wrong by chance.
        """
        return [
            {
                "axis": axis,
                "size": int(count.size),
                "index": int(index),
                "answer": answer,
                "of": int(count[index]),
                "agreeing": int(agreeing[index]),
            }
            for (axis, answer), (count, agreeing) in self.places.items()
            for index in np.flatnonzero((count >= MIN_OF_LABEL) & (agreeing < count / 2))[:MAX_LOST]
        ]

    def _count_labels(self, labels: Array, same: Array) -> None:
        """Count for each label of the reference: [places of it, places where both have it]."""
        values, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if values.size > MAX_LABELS:
            return
        kept = np.bincount(inverse.reshape(-1), weights=same.reshape(-1), minlength=values.size)
        for value, count, agreeing in zip(values.tolist(), counts.tolist(), kept.tolist(), strict=True):
            entry = self.labels.setdefault(int(value), [0, 0])
            entry[0] += int(count)
            entry[1] += int(agreeing)

    def lost_labels(self) -> list[dict[str, int]]:
        """Return the labels that the reference gives :data:`MIN_OF_LABEL` times or more and the candidate in less than
        half of these places: ``{"label", "of", "agreeing"}``, the most frequent first.
        """
        lost = [
            {"label": label, "of": of, "agreeing": agreeing}
            for label, (of, agreeing) in self.labels.items()
            if of >= MIN_OF_LABEL and agreeing < of / 2
        ]
        return sorted(lost, key=lambda entry: -entry["of"])[:MAX_LOST]

    @property
    def psnr_db(self) -> float | None:
        """Peak signal-to-noise ratio of pictures: 10 log10(peak² / mean squared error), ``None`` without error."""
        if not self.elements or not self.squared_error:
            return None
        peak = 255.0 if 1.5 < self.peak <= 255.0 else max(self.peak, 1e-12)
        return 10.0 * math.log10(peak * peak * self.elements / self.squared_error)

    def agreement(self) -> tuple[str, int, int]:
        """Return (kind, agreeing, of); the kind is empty when there is no decision, or none was to be made."""
        if self.kind == "nearest":
            if len({vector.shape for pair in self.vectors for vector in pair}) != 1:
                return "", 0, 0
            agreeing, of = nearest(*(np.stack(side) for side in zip(*self.vectors, strict=True)))
        else:
            agreeing, of = sum(count[0] for count in self.counts), sum(count[1] for count in self.counts)
        return (self.kind, agreeing, of) if of else ("", 0, 0)

    def of_sample(self, position: int) -> float | None:
        """Return one sample's share of agreeing decisions, where it has any of its own."""
        agreeing, of = self.counts[position] if position < len(self.counts) else (0, 0)
        return agreeing / of if of else None


def _tied_labels(reference: Array, candidate: Array, scores: Array) -> Array:
    """Return where another label than the reference's has a score that is tied with the largest one."""
    none = np.zeros(reference.shape, dtype=bool)
    for axis in dict.fromkeys((scores.ndim - 1, min(1, scores.ndim - 1))):
        rows = _rows(scores, axis).astype(np.float64)
        labels = candidate.reshape(-1)
        if len(rows) != labels.size:
            continue
        inside = (labels >= 0) & (labels < rows.shape[1])
        picked = rows[np.arange(len(rows)), np.where(inside, labels, 0)]
        top, spread = rows.max(axis=1), np.ptp(rows, axis=1)
        tied: Array = (inside & (picked >= top - TIE * spread)).reshape(reference.shape)
        return tied
    return none
