"""Compares an output along its axes, so that a ruined row shows however large the other rows are.

A detector's ``[1, 4 + classes, anchors]`` holds pixels (0 to 640) and scores (0 to 1). When every score becomes 0, the
cosine of the whole is 0.99997. Here each slice (all elements with one index on one axis, over all samples) is measured
against *its own* variation in the reference:

- ``error_share`` = sum (c - r)² / (n max(sigma², floor²)): the error's energy as a share of the slice's variance.
  A slice that became constant or zero has at least 1, two exchanged slices have about 2.
- *constant*: the candidate's standard deviation is below :data:`COLLAPSED` times the reference's.

The floor keeps slices that carry almost no signal from raising alarms. With ``sigma_s`` the standard deviations of
the slices of one axis, it is the largest of

- :data:`EXCHANGEABLE` times the upper quartile of ``sigma_s`` where the axis has at least :data:`MANY` slices, and on
  axes of positions (height, width, the batch): there the slices are of one kind, and a tolerance of cosine 0.99 allows
  noise of 0.14 of the signal's RMS in each of them (sqrt(0.5) x 0.2 = 0.14);
- :data:`ROUNDING_SHARE` times the largest ``sigma_s``, which half precision does not resolve;
- :data:`OWN_ROUNDING` times the slice's own largest magnitude: one step of 8 bits is 0.4 % of it;
- :data:`PROBABILITY_FLOOR` for slices whose values all lie in [0, 1]: a score that never exceeds 1 or 2 % says "no".

A slice whose error *stands out* from its siblings' (:data:`STANDS_OUT` times the lower quartile of their RMS errors) is
measured without the first of these floors, and with a tenth of the last: noise that all slices share does not ruin one
of them alone.

An axis whose size differs between samples is compared up to the sizes that occur.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["SliceSums", "summarize_slices"]

Array = NDArray[Any]

COLLAPSED: Final = 0.05
"""A slice that keeps less than this share of its standard deviation became constant."""
MANY: Final = 16
"""From so many slices on, an axis holds things of one kind (channels, classes, features)."""
EXCHANGEABLE: Final = 0.2
ROUNDING_SHARE: Final = 1e-4
OWN_ROUNDING: Final = 5e-3
PROBABILITY_FLOOR: Final = 0.02
STANDS_OUT: Final = 5.0
"""An RMS error so many times the lower quartile of the axis is no noise that the slices share."""
DOUBLE_ROUNDING: Final = 1e-7
"""In place of :data:`OWN_ROUNDING` for outputs of 64 bits: who asks for these needs them."""
MIN_ELEMENTS: Final = 4
"""Slices of fewer elements have no variation to speak of."""
MAX_SLICES: Final = 8192
"""Slices of a longer axis are not told apart: each would be a few numbers."""
MAX_ELEMENTS: Final = 1 << 23
"""Elements of one output that are compared along its axes; samples beyond that are compared as a whole only."""
PIECE: Final = 1 << 19
"""Elements converted to float64 at a time."""
MAX_LISTED: Final = 8
"""Worst slices that are kept for each axis."""


@dataclass(slots=True)
class _Axis:
    """Sums for each index of one axis."""

    count: Array = field(default_factory=lambda: np.zeros(0))
    reference: Array = field(default_factory=lambda: np.zeros(0))
    candidate: Array = field(default_factory=lambda: np.zeros(0))
    reference_squares: Array = field(default_factory=lambda: np.zeros(0))
    candidate_squares: Array = field(default_factory=lambda: np.zeros(0))
    error_squares: Array = field(default_factory=lambda: np.zeros(0))
    low: Array = field(default_factory=lambda: np.zeros(0))
    high: Array = field(default_factory=lambda: np.zeros(0))

    def grow(self, size: int) -> None:
        more = size - self.count.size
        if more > 0:
            for name in ("count", "reference", "candidate"):
                setattr(self, name, np.concatenate([getattr(self, name), np.zeros(more)]))
            for name in ("reference_squares", "candidate_squares", "error_squares"):
                setattr(self, name, np.concatenate([getattr(self, name), np.zeros(more)]))
            self.low = np.concatenate([self.low, np.full(more, math.inf)])
            self.high = np.concatenate([self.high, np.full(more, -math.inf)])


@dataclass(slots=True)
class SliceSums:
    """Gathers sums along every axis of one output, sample by sample."""

    rank: int = -1
    elements: int = 0
    truncated: bool = False
    is_double: bool = False
    axes: dict[int, _Axis] = field(default_factory=dict)
    whole: _Axis = field(default_factory=_Axis)

    def add(self, reference: Array, candidate: Array, usable: Array | None) -> None:
        """Take one sample: two tensors of one shape. ``usable`` is false at places that count for nothing."""
        if not reference.size or not reference.ndim:
            return
        if self.rank not in (-1, reference.ndim):
            self.truncated = True
            return
        self.rank = reference.ndim
        self.is_double = reference.dtype == np.float64
        if self.elements and self.elements + reference.size > MAX_ELEMENTS:
            self.truncated = True
            return
        self.elements += reference.size
        shape = reference.shape
        wanted = [axis for axis, size in enumerate(shape) if 1 < size <= MAX_SLICES]
        # Slabs along the first axis of more than one element, so that memory stays bounded.
        lead = next((axis for axis, size in enumerate(shape) if size > 1), 0)
        rows = max(1, PIECE // max(1, reference.size // shape[lead]))
        for start in range(0, shape[lead], rows):
            part = (slice(None),) * lead + (slice(start, start + rows),)
            self._add_slab(
                reference[part].astype(np.float64),
                candidate[part].astype(np.float64),
                None if usable is None else usable[part],
                wanted,
                lead,
                start,
            )

    def _add_slab(
        self, reference: Array, candidate: Array, usable: Array | None, wanted: list[int], lead: int, start: int
    ) -> None:
        if usable is not None:
            reference, candidate = np.where(usable, reference, 0.0), np.where(usable, candidate, 0.0)
        error = candidate - reference
        flat = [array.reshape(1, 1, -1) for array in (reference, candidate, error)]
        _add_blocks(self.whole, 0, flat[0], flat[1], flat[2], usable)
        for axis in wanted:
            size = reference.shape[axis]
            before = math.prod(reference.shape[:axis])
            blocks = [array.reshape(before, size, -1) for array in (reference, candidate, error)]
            first = start if axis == lead else 0
            _add_blocks(self.axes.setdefault(axis, _Axis()), first, blocks[0], blocks[1], blocks[2], usable)


def _add_blocks(
    sums: _Axis, first: int, reference: Array, candidate: Array, error: Array, usable: Array | None
) -> None:
    """Add blocks of shape (before, slices, after) to the sums of the slices from ``first`` on."""
    size = reference.shape[1]
    sums.grow(first + size)
    part = slice(first, first + size)
    sums.reference[part] += np.einsum("abc->b", reference)
    sums.candidate[part] += np.einsum("abc->b", candidate)
    with np.errstate(over="ignore", invalid="ignore"):
        sums.reference_squares[part] += np.einsum("abc,abc->b", reference, reference)
        sums.candidate_squares[part] += np.einsum("abc,abc->b", candidate, candidate)
        sums.error_squares[part] += np.einsum("abc,abc->b", error, error)
    if usable is None:
        sums.count[part] += reference.shape[0] * reference.shape[2]
        low, high = reference.min(axis=(0, 2)), reference.max(axis=(0, 2))
    else:
        block = usable.reshape(reference.shape)
        sums.count[part] += block.sum(axis=(0, 2))
        low = np.min(reference, axis=(0, 2), where=block, initial=math.inf)
        high = np.max(reference, axis=(0, 2), where=block, initial=-math.inf)
    sums.low[part] = np.minimum(sums.low[part], low)
    sums.high[part] = np.maximum(sums.high[part], high)


def _is_position(axis: int, rank: int) -> bool:
    """Return whether the slices of an axis are places of one quantity: the batch, height and width."""
    return (axis == 0 and rank > 1) or (rank >= 4 and axis >= rank - 2)


def summarize_slices(sums: SliceSums) -> dict[str, Any]:
    """Return what the axes show, as JSON::

        {"axes": [{"axis": number, ``None`` for the whole output as one slice, "size",
                   "judged": slices with signal, "position": bool,
                   "worst": [{"index", "error_share": share of the slice's variance, "allowance": factor by which
                              chance may raise it in so few elements, "reference_std", "candidate_std", "elements",
                              "constant": bool}, … worst first]}],
         "judged": slices with signal on all axes, "truncated": some samples were compared as a whole only}

    A slice's error counts when ``error_share`` exceeds the tolerance's limit times ``allowance``, or when it is
    ``constant``.
    """
    rounding = DOUBLE_ROUNDING if sums.is_double else OWN_ROUNDING
    whole = _summary(None, sums.whole, sums.rank, rounding)
    axes = [_summary(axis, axis_sums, sums.rank, rounding) for axis, axis_sums in sorted(sums.axes.items())]
    return {
        "axes": [whole, *axes],
        "judged": sum(entry["judged"] for entry in axes),
        "truncated": sums.truncated,
    }


def _deviation(squares: Array, total: Array, count: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mean = total / count
        variance = squares / count - mean * mean
        # What is left of two equal numbers is rounding: a constant slice has no deviation.
        variance = np.where(variance > 1e-12 * squares / count, variance, 0.0)
        deviation: Array = np.sqrt(np.nan_to_num(variance, nan=0.0, posinf=0.0))
    return deviation


def _floors(sums: _Axis, deviation: Array, known: Array, error: Array, is_position: bool, rounding: float) -> Array:
    seen = deviation[known]
    largest = float(seen.max())
    peak = np.maximum(np.abs(sums.low), np.abs(sums.high))
    own = np.maximum(ROUNDING_SHARE * largest, rounding * np.where(np.isfinite(peak), peak, 0.0))
    is_probability = (sums.low >= -1e-6) & (sums.high <= 1.0 + 1e-6)
    quiet = np.where(is_probability, np.maximum(own, PROBABILITY_FLOOR), own)
    if is_position:
        shared = EXCHANGEABLE * float(np.quantile(seen, 0.95))
    elif seen.size >= MANY:
        shared = EXCHANGEABLE * float(np.quantile(seen, 0.75))
    else:
        return quiet
    alive = known & (deviation >= quiet) & (deviation > 0.0)
    typical = float(np.quantile(error[alive], 0.25)) if alive.any() else 0.0
    stands_out = error > STANDS_OUT * typical
    alone = np.where(is_probability, np.maximum(own, PROBABILITY_FLOOR / 10), own)
    return np.where(stands_out, alone, np.maximum(quiet, shared))


def _summary(axis: int | None, sums: _Axis, rank: int, rounding: float) -> dict[str, Any]:
    is_position = axis is not None and _is_position(axis, rank)
    entry: dict[str, Any] = {"axis": axis, "size": int(sums.count.size), "position": is_position}
    known = sums.count >= MIN_ELEMENTS
    if not known.any():
        return entry | {"judged": 0, "worst": []}
    count = np.maximum(sums.count, 1)
    deviation = _deviation(sums.reference_squares, sums.reference, count)
    remaining = _deviation(sums.candidate_squares, sums.candidate, count)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.nan_to_num(np.sqrt(sums.error_squares / count), nan=np.inf, posinf=np.inf)
    floors = _floors(sums, deviation, known, error, is_position, rounding)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        error_share = sums.error_squares / count / np.maximum(deviation, floors) ** 2
    error_share = np.where(sums.error_squares > 0.0, np.nan_to_num(error_share, nan=np.inf), 0.0)
    allowance = 1.0 + 4.0 / np.sqrt(count)
    has_signal = known & (deviation >= floors) & (deviation > 0.0)
    constant = has_signal & (remaining < COLLAPSED * deviation)
    badness = np.where(known, error_share / allowance + np.where(constant, 1e6, 0.0), -1.0)
    order = np.argsort(-badness, kind="stable")[:MAX_LISTED]
    worst = [
        {
            "index": int(index),
            "error_share": float(min(error_share[index], 1e300)),
            "allowance": float(allowance[index]),
            "reference_std": float(deviation[index]),
            "candidate_std": float(remaining[index]),
            "elements": int(sums.count[index]),
            "constant": bool(constant[index]),
        }
        for index in order
        if badness[index] > 0.0
    ]
    return entry | {"judged": int(np.count_nonzero(has_signal)), "worst": worst}
