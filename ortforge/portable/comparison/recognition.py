"""Recognizes what an output is, so that the decision that matters is measured and nothing is judged as what it is not.

The role comes from the output's name, type, shape and values in the first sample, and from the outputs beside it. A
model may override it in one line of matrix.toml: ``outputs = { output0 = "detector" }``.

==============  =====================================================================================================
role            what it is, and what is measured besides the numbers
==============  =====================================================================================================
``classifier``  scores over classes on the last axis: the class with the largest one
``tokens``      logits or probabilities of a token for each position: the token with the largest one
``segmentation``  scores over classes on axis 1 of a picture: the class of each pixel
``detector``    boxes and class scores for many anchors in one tensor: anchors above the threshold, their class and box
``detections``  boxes with score and class in rows of 6 or 7, as after suppression: class, box and score of each
``mask``        a map of values in [0, 1], or of booleans: intersection over union at 0.5
``image``       a picture: peak signal-to-noise ratio
``embedding``   a vector for each sample (or token): the nearest other sample
``labels``      integers that name classes: equal elements, and each class that the reference gives
``indices``     positions, such as those of TopK: equal elements, ties apart
``counts``      a few integers: equal elements
``values``      anything else: the numbers alone
``constant``    given by the matrix only: the answer does not depend on the input
``ignored``     given by the matrix only: not compared
==============  =====================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .sentinels import find_sentinels

__all__ = ["Recognized", "detection_columns", "recognize"]

Array = NDArray[Any]

SCORE_NAME: Final = re.compile(r"logit|prob|score|softmax|class|cls", re.IGNORECASE)
EMBEDDING_NAME: Final = re.compile(r"embed|feature|pool|hidden|state|sentence|vector", re.IGNORECASE)
DETECTOR_NAME: Final = re.compile(r"output0|detect|pred|boxes|bbox|yolo|anchors", re.IGNORECASE)
MASK_NAME: Final = re.compile(r"mask|seg|prob|heat|alpha|matte|saliency|sigmoid", re.IGNORECASE)
IMAGE_NAME: Final = re.compile(r"image|img|picture|rgb|out|frame|pixel|sr", re.IGNORECASE)
INDEX_NAME: Final = re.compile(r"index|indices|topk|position|order|idx", re.IGNORECASE)
PICTURE_NAME: Final = re.compile(r"image|img|picture|rgb|frame|pixel", re.IGNORECASE)
LABEL_NAME: Final = re.compile(r"label|class|index|indices|\bids?\b|_id|segment|instance", re.IGNORECASE)
NUMBERS_NAME: Final = re.compile(
    r"box|coord|offset|delta|landmark|keypoint|kpt|pose|angle|regress|loc|depth|disp|wave|audio|signal|noise|pcm",
    re.IGNORECASE,
)
"""Names of outputs whose largest number is no choice."""
COUNT_NAME: Final = re.compile(r"count|num|length|len|size", re.IGNORECASE)

EMBEDDING_WIDTH: Final = range(16, 8193)
TOKEN_WIDTH: Final = 512
"""A last axis of at least so many values per position is a vocabulary, where nothing says that it is an embedding."""
DETECTOR_ROWS: Final = range(5, 1200)
MIN_ANCHORS: Final = 16
SPATIAL: Final = 8
"""Height and width of a picture or map are at least this."""
SMOOTH: Final = 0.8
"""Correlation of neighbors on the last axis from which on they belong together, as in a waveform."""
SMOOTH_WIDTH: Final = 32
MIN_INTEGRAL: Final = 16
FLAT: Final = 0.6
"""Share of equal neighbors from which on integers in two dimensions are a map of labels."""
MAX_LABELS: Final = 1000
"""Whole numbers of more values than this are measured like other numbers."""
MAX_LOGIT: Final = 60.0
"""Class logits are no larger: a sigmoid of 60 is 1 in any precision."""
SUM_TOLERANCE: Final = 1e-2
"""How far the sum or the length of a row may be from 1: wide enough for float16."""


@dataclass(frozen=True, slots=True)
class Recognized:
    """The role of an output.

    :param role: one of :data:`~ortforge.portable.comparison.roles.ROLES`. :param why: what it was recognized by.
    :param partner: another output that its decisions depend on: the values beside indices, the scores beside labels.
    :param axis: the axis of classes (``segmentation``), or of box and class rows (``detector``); -1 is the last.
    """

    role: str
    why: str
    partner: str = ""
    axis: int = -1


def recognize(name: str, sample: Mapping[str, Array], override: str = "") -> Recognized:
    """Return the role of an output.

    :param sample: all outputs of the reference's first sample that has elements.
    :param override: the role that the matrix gives, or ``""``.
    """
    array = sample[name]
    if override:
        axis = _class_axis(override, array)
        return Recognized(override, "given in the matrix", _partner(name, sample, override), axis)
    if array.dtype.kind == "b":
        return Recognized("mask", "booleans") if array.size > 1 else Recognized("labels", "a boolean")
    if array.dtype.kind in "iu":
        return _integers(name, sample)
    if array.dtype.kind == "f" and _is_integral(name, array):
        found = _integers(name, {**sample, name: array.astype(np.int64)})
        if found.role != "image":
            return Recognized(found.role, f"{found.why}, written as floats", found.partner, found.axis)
    if array.dtype.kind != "f" or array.size == 0:
        return Recognized("values", "its type has no decision" if array.dtype.kind != "f" else "it is empty")
    with np.errstate(all="ignore"):
        return _floats(name, sample)


def _class_axis(role: str, array: Array) -> int:
    if role == "segmentation":
        return 1
    if role == "detector" and array.ndim == 3:
        return 1 if array.shape[1] < array.shape[2] else 2
    return -1


def _floats(name: str, sample: Mapping[str, Array]) -> Recognized:
    array = sample[name]
    rank, width = array.ndim, array.shape[-1] if array.ndim else 0
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    in_unit = low >= -1e-6 and high <= 1.0 + 1e-6
    if (found := _detector(name, array)) is not None:
        return found
    if detection_columns(array) is not None:
        return Recognized("detections", "rows of a box, a score and a class")
    if rank >= 4 and min(array.shape[-2:]) >= SPATIAL:
        return _picture(name, array, in_unit)
    if rank == 3 and min(array.shape[-2:]) >= SPATIAL and in_unit and MASK_NAME.search(name) and not _sums(array):
        return Recognized("mask", "its name, and values from 0 to 1 in two dimensions")
    if width < 2:
        return Recognized("values", "single numbers")
    if rank <= 2 and any(other.shape == (*array.shape, 4) for other in sample.values()):
        return Recognized("values", "one number for each box of another output")
    if _sums(array):
        role = "tokens" if rank >= 3 and array.shape[-2] > 1 else "classifier"
        return Recognized(role, "rows that sum to 1")
    if SCORE_NAME.search(name):
        role = "tokens" if rank >= 3 and array.shape[-2] > 1 else "classifier"
        return Recognized(role, "its name")
    if rank <= 3 and width in EMBEDDING_WIDTH:
        if _unit_rows(array):
            return Recognized("embedding", "rows of length 1")
        if EMBEDDING_NAME.search(name):
            return Recognized("embedding", "its name")
    if rank == 3 and width >= TOKEN_WIDTH and array.shape[1] > 1 and "logit" in name.lower():
        return Recognized("tokens", "its name")
    if rank == 2 and not NUMBERS_NAME.search(name) and not _is_smooth(array):
        return Recognized("classifier", "one row of numbers for each sample")
    return Recognized("values", "neither its name nor its values say more")


def _is_smooth(array: Array) -> bool:
    """Return whether neighbors on the last axis belong together, as in a waveform."""
    if array.shape[-1] < SMOOTH_WIDTH or not np.isfinite(array).all():
        return False
    rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
    centered = rows - rows.mean(axis=1, keepdims=True)
    energy = float(np.square(centered).sum())
    return energy > 0.0 and float((centered[:, 1:] * centered[:, :-1]).sum()) / energy > SMOOTH


def _detector(name: str, array: Array) -> Recognized | None:
    """Recognize ``[batch, 4 + classes, anchors]`` and ``[batch, anchors, 4 or 5 + classes]``."""
    if array.ndim != 3:
        return None
    small = 1 if array.shape[1] < array.shape[2] else 2
    rows, anchors = array.shape[small], array.shape[3 - small]
    if rows not in DETECTOR_ROWS or anchors < MIN_ANCHORS or anchors <= rows:
        return None
    table = np.moveaxis(array, small, 1).astype(np.float64)
    boxes, scores = table[:, :4], table[:, 4:]
    if not np.isfinite(table).all():
        return None
    in_unit = bool(scores.min() >= -1e-6 and scores.max() <= 1.0 + 1e-6)
    in_pixels = float(np.abs(boxes).max()) > 4.0
    if in_unit and in_pixels:
        return Recognized("detector", "rows of boxes in pixels and of scores from 0 to 1", axis=small)
    if in_unit and DETECTOR_NAME.search(name):
        return Recognized("detector", "its name, and rows of scores from 0 to 1", axis=small)
    are_logits = float(np.abs(scores).max()) <= MAX_LOGIT and float(scores.min()) < 0.0 < float(boxes.min() + 1.0)
    if are_logits and float(np.abs(boxes).max()) > 4 * float(np.abs(scores).max()):
        return Recognized("detector", "rows of boxes in pixels and of class logits", axis=small)
    return None


def detection_columns(array: Array) -> tuple[list[int], int, int] | None:
    """Return which columns of ``[…, 6 or 7]`` hold box, score and class, or ``None`` where they do not.

    The score lies in [0, 1] and is no whole number; the class is a whole number, and so is a batch number in front of
    or beside it, which is the same in all rows.
    """
    if array.ndim < 2 or array.shape[-1] not in (6, 7) or array.size == 0:
        return None
    rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
    rows = rows[np.any(rows != rows[-1], axis=1)] if len(rows) > 1 else rows  # padding
    if len(rows) < 2 or not np.isfinite(rows).all():
        return None
    whole = [place for place in range(rows.shape[1]) if np.all(rows[:, place] == np.rint(rows[:, place]))]
    scores = [
        place
        for place in range(rows.shape[1])
        if place not in whole and rows[:, place].min() >= 0.0 and rows[:, place].max() <= 1.0
    ]
    if len(scores) != 1 or len(whole) != rows.shape[1] - 5:
        return None
    # Of two columns of whole numbers the batch number comes first, or never changes.
    label = whole[-1] if len(whole) == 1 or np.ptp(rows[:, whole[0]]) == 0.0 else whole[0]
    box = [place for place in range(rows.shape[1]) if place not in (*whole, scores[0])]
    return box, scores[0], label


def _picture(name: str, array: Array, in_unit: bool) -> Recognized:
    channels = array.shape[1] if array.ndim == 4 else 0
    if array.ndim == 4 and channels >= 2 and _sums(np.moveaxis(array, 1, -1)):
        return Recognized("segmentation", "channels that sum to 1", axis=1)
    if array.ndim == 4 and ("att" in name.lower() or find_sentinels(array) is not None):
        return Recognized("values", "weights or scores of attention")
    if array.ndim == 4 and channels >= 2 and SCORE_NAME.search(name):
        return Recognized("segmentation", "its name", axis=1)
    if in_unit and (channels == 1 or MASK_NAME.search(name)):
        return Recognized("mask", "a map of values from 0 to 1")
    is_colored = channels in (3, 4) or (array.ndim == 4 and array.shape[-1] in (1, 3, 4))
    if is_colored and IMAGE_NAME.search(name):
        return Recognized("image", "its name, and channels of colors")
    return Recognized("values", "a map of numbers")


def _sums(array: Array) -> bool:
    """Return whether every row is a distribution: no value below 0, and a sum of 1."""
    if not array.ndim or array.shape[-1] < 2 or not np.isfinite(array).all() or float(array.min()) < -1e-6:
        return False
    return bool(np.all(np.abs(array.sum(axis=-1, dtype=np.float64) - 1.0) <= SUM_TOLERANCE))


def _unit_rows(array: Array) -> bool:
    squares = np.square(array.astype(np.float64)).sum(axis=-1)
    return bool(np.all(np.abs(squares - 1.0) <= 2 * SUM_TOLERANCE))


# Integers


def _integers(name: str, sample: Mapping[str, Array]) -> Recognized:
    array = sample[name]
    if array.size == 0:
        return Recognized("values", "it is empty")
    if partner := _values_of(name, sample):
        return Recognized("indices", f'the values that it points to are in "{partner}"', partner)
    if _is_image(name, array):
        return Recognized("image", "integers from 0 to 255 in two dimensions, of many values")
    if array.dtype.itemsize == 1 and array.shape[-1:] >= (EMBEDDING_WIDTH.start,) and EMBEDDING_NAME.search(name):
        return Recognized("embedding", "its name, and 8-bit integers")
    if partner := _scores_of(name, sample):
        return Recognized("labels", f'the scores that it is the largest of are in "{partner}"', partner)
    if INDEX_NAME.search(name):
        return Recognized("indices", "its name")
    if COUNT_NAME.search(name) and array.size <= SPATIAL:
        return Recognized("counts", "its name")
    return Recognized("labels", "integers")


def _is_integral(name: str, array: Array) -> bool:
    """Return whether floats are labels, places or counts: whole numbers, some of them large, and not many different.

    A few whole numbers may be measurements, unless their name says more.
    """
    if array.size < MIN_INTEGRAL and not LABEL_NAME.search(name):
        return False
    if not array.size or not np.isfinite(array).all() or float(np.abs(array).max()) < 2.0:
        return False
    if np.any(array != np.rint(array)) or float(np.abs(array).max()) > 2.0**53:
        return False
    return bool(1 < np.unique(array.reshape(-1)[: 1 << 16]).size <= MAX_LABELS)


def _is_image(name: str, array: Array) -> bool:
    """Return whether integers are the pixels of a picture: 8 bits, two dimensions, and more values than labels have.

    Neighbors differ in a picture; in a map of labels or instances most are equal.
    """
    if array.ndim < 2 or min(sorted(array.shape)[-2:]) < SPATIAL:
        return False
    if array.dtype not in (np.uint8, np.int8) and not (array.min() >= 0 and 64 <= array.max() <= 255):
        return False
    if np.unique(array.reshape(-1)[: 1 << 16]).size <= 24:
        return False
    axis = -1 if array.shape[-1] >= SPATIAL else -2
    if LABEL_NAME.search(name):
        return False
    flat = float(np.mean(np.diff(array.astype(np.int64), axis=axis) == 0))
    return flat < FLAT or bool(PICTURE_NAME.search(name))


def _partner(name: str, sample: Mapping[str, Array], role: str) -> str:
    if role == "indices":
        return _values_of(name, sample)
    return _scores_of(name, sample) if role == "labels" else ""


def _values_of(name: str, sample: Mapping[str, Array]) -> str:
    """Return the float output that holds sorted values for an output of positions of the same shape, or ``""``."""
    array = sample[name]
    if not array.ndim or array.shape[-1] < 2:
        return ""
    for other, values in sample.items():
        if other != name and values.dtype.kind == "f" and values.shape == array.shape:
            steps = np.diff(values.astype(np.float64), axis=-1)
            if bool((steps <= 0).all() or (steps >= 0).all()):
                return other
    return ""


def _scores_of(name: str, sample: Mapping[str, Array]) -> str:
    """Return the float output whose largest value on the last (or second) axis these labels name, or ``""``."""
    array = sample[name]
    for other, scores in sample.items():
        if other == name or scores.dtype.kind != "f" or scores.ndim < 1 or scores.size <= array.size:
            continue
        for axis in dict.fromkeys((scores.ndim - 1, min(1, scores.ndim - 1))):
            picked = scores.argmax(axis=axis)
            if picked.size == array.size and np.array_equal(picked.reshape(-1), array.reshape(-1)):
                return other
    return ""
