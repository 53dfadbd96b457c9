"""How far one tensor is from another, in one pass over bounded memory.

Sums are taken in float64 over chunks, so a large output costs no more than itself. Places where the reference is
not finite are left out of every sum and counted instead.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Difference",
    "cosine",
    "difference",
    "dtype_of",
    "finite",
    "is_bitwise_same",
    "kind_of",
    "matching",
    "sqnr_db",
]

CHUNK: Final = 1 << 20
"""Elements converted to float64 at a time: 8 MiB for each of reference and candidate."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """What two numeric tensors of one shape have to do with each other.

    Energies are sums of squares over the places where both are finite, divided by ``scale`` squared (``scale`` is 1
    unless the squares would leave the range of float64). ``low`` and ``high`` are the reference's finite extremes,
    ``None`` when it has no finite element. ``new_nan`` and ``new_inf`` count what the candidate has and the reference
    has not; ``lost_nan`` and ``lost_inf`` what the reference has and the candidate has a number for.
    """

    elements: int
    dot: float
    reference_energy: float
    candidate_energy: float
    error_energy: float
    scale: float
    max_abs: float
    low: float | None
    high: float | None
    new_nan: int
    new_inf: int
    lost_nan: int
    lost_inf: int
    reference_nonfinite: int

    @property
    def peak(self) -> float:
        """Largest magnitude in the reference."""
        if self.low is None or self.high is None:
            return 0.0
        return max(abs(self.low), abs(self.high))


def kind_of(array: Array) -> str:
    """Return ``float``, ``integer``, ``bool`` or ``string`` (which is also what objects count as)."""
    return {"f": "float", "c": "float", "i": "integer", "u": "integer", "b": "bool"}.get(array.dtype.kind, "string")


def dtype_of(array: Array) -> str:
    """Return numpy's name of the type; strings of any length are one type."""
    return "string" if kind_of(array) == "string" else str(array.dtype)


def finite(value: float) -> float | None:
    """Return the value as JSON can hold it: ``None`` for NaN and the infinities."""
    return float(value) if math.isfinite(value) else None


def is_bitwise_same(reference: Array, candidate: Array) -> bool:
    """Say whether type, shape and every bit agree (so ``-0.0`` differs from ``0.0``, and NaN equals the same NaN)."""
    if reference.shape != candidate.shape:
        return False
    if kind_of(reference) == "string":
        return kind_of(candidate) == "string" and bool(np.all(reference.astype(str) == candidate.astype(str)))
    if reference.dtype != candidate.dtype:
        return False
    left, right = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (reference, candidate))
    return bool(np.array_equal(left, right))


def matching(reference: Array, candidate: Array) -> int:
    """Count equal elements of two tensors of one shape (integers, booleans, strings); NaN equals NaN here."""
    if (kind_of(reference) == "string") != (kind_of(candidate) == "string"):
        return 0
    if kind_of(reference) == "string":
        return int(np.count_nonzero(reference.astype(str) == candidate.astype(str)))
    equal = reference == candidate
    if reference.dtype.kind in "fc" and candidate.dtype.kind in "fc":  # an output whose dtype changes between samples
        equal = equal | (np.isnan(reference) & np.isnan(candidate))
    return int(np.count_nonzero(equal))


def _flat(array: Array) -> Array:
    """Return one axis; a complex tensor becomes its real and imaginary parts."""
    flat: Array = np.ascontiguousarray(array).reshape(-1)
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


def difference(reference: Array, candidate: Array) -> Difference:
    """Compare two numeric tensors of one shape."""
    left, right = _flat(reference), _flat(candidate)
    first = _sums(left, right, 1.0)
    energies = (first.reference_energy, first.candidate_energy, first.error_energy)
    if all(math.isfinite(energy) for energy in energies) and (first.peak == 0.0 or first.reference_energy > 0.0):
        return first
    with np.errstate(invalid="ignore"):
        both = np.isfinite(left) & np.isfinite(right)
        largest = max(float(np.max(np.abs(side[both].astype(np.float64)), initial=0.0)) for side in (left, right))
    return _sums(left, right, largest) if largest > 0.0 else first


def _sums(reference: Array, candidate: Array, scale: float) -> Difference:
    totals = np.zeros(4)
    max_abs, low, high = 0.0, math.inf, -math.inf
    new_nan = new_inf = lost_nan = lost_inf = nonfinite = 0
    for start in range(0, reference.size, CHUNK):
        left = reference[start : start + CHUNK].astype(np.float64)
        right = candidate[start : start + CHUNK].astype(np.float64)
        left_finite, right_finite = np.isfinite(left), np.isfinite(right)
        if left_finite.any():
            low = min(low, float(np.min(left, where=left_finite, initial=math.inf)))
            high = max(high, float(np.max(left, where=left_finite, initial=-math.inf)))
        both = left_finite & right_finite
        if not both.all():
            nonfinite += int(np.count_nonzero(~left_finite))
            new_nan += int(np.count_nonzero(np.isnan(right) & ~np.isnan(left)))
            new_inf += int(np.count_nonzero(np.isinf(right) & (right != left)))
            lost_nan += int(np.count_nonzero(np.isnan(left) & ~np.isnan(right)))
            lost_inf += int(np.count_nonzero(np.isinf(left) & right_finite))
            left, right = left[both], right[both]
        with np.errstate(over="ignore", under="ignore"):
            error = left - right
            if error.size:
                max_abs = max(max_abs, min(float(np.max(np.abs(error))), sys.float_info.max))
            if scale != 1.0:
                left, right = left / scale, right / scale
                error = left - right
            totals += (np.dot(left, right), np.dot(left, left), np.dot(right, right), np.dot(error, error))
    empty = low > high
    return Difference(
        elements=reference.size,
        dot=float(totals[0]),
        reference_energy=float(totals[1]),
        candidate_energy=float(totals[2]),
        error_energy=float(totals[3]),
        scale=scale,
        max_abs=max_abs,
        low=None if empty else low,
        high=None if empty else high,
        new_nan=new_nan,
        new_inf=new_inf,
        lost_nan=lost_nan,
        lost_inf=lost_inf,
        reference_nonfinite=nonfinite,
    )


def cosine(dot: float, reference_energy: float, candidate_energy: float) -> float:
    """Return ``r·c / (|r| |c|)``, clipped to [-1, 1]. Two zero vectors give 1, one zero vector gives 0."""
    if reference_energy == 0.0 and candidate_energy == 0.0:
        return 1.0
    if reference_energy == 0.0 or candidate_energy == 0.0:
        return 0.0
    return max(-1.0, min(1.0, dot / (math.sqrt(reference_energy) * math.sqrt(candidate_energy))))


def sqnr_db(reference_energy: float, error_energy: float) -> float:
    """Return the signal-to-quantization-noise ratio ``10 log10(sum r² / sum (r - c)²)`` in dB.

    ``inf`` where there is no error, ``-inf`` where there is error and no signal. This is the measure that ONNX
    Runtime's ``qdq_loss_debug`` uses (there as ``20 log10(|r| / |r - c|)``, the same number).
    """
    if error_energy == 0.0:
        return math.inf
    if reference_energy == 0.0:
        return -math.inf
    return 10.0 * (math.log10(reference_energy) - math.log10(error_energy))
