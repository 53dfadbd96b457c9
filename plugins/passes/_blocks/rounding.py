"""How weights become numbers of few bits: one scale and one zero point for each block of them, chosen in four ways.

Written in numpy, for all versions of ONNX Runtime: its own quantizer of weights is another file in each version, and
needs packages that it does not declare (onnx_ir), or ones of many hundred megabytes for a page of formulas (torch).

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Chooser = Callable[[Array, int, bool], tuple[Array, Array]]

__all__ = ["METHODS", "Blocks", "codes_for", "joined", "parameters_of", "round_blocks", "tabled"]

CHUNK: Final = 1 << 22
"""Weights that are rounded at a time: a search over scales makes ten arrays of that many floats."""


@dataclass(frozen=True)
class Blocks:
    """A matrix whose rows are cut into blocks.

    :param codes: [rows, blocks, block] uint8, from 0 to 2^bits - 1; the last block of a row may be filled up.
    :param scales: [rows, blocks] float32. :param zero_points: [rows, blocks], uint8, or float32 from HQQ if asked for.
    :param depth: length of a row without what fills it up.
    """

    codes: Array
    scales: Array
    zero_points: Array
    bits: int
    depth: int

    @property
    def symmetric(self) -> bool:
        """Whether all zero points are the middle, which operators assume when none is given."""
        return bool((self.zero_points == 2 ** (self.bits - 1)).all())

    def values(self) -> Array:
        """Return what the codes stand for: [rows, depth] float32."""
        import numpy as np

        table = (self.codes - self.zero_points[:, :, None].astype(np.float32)) * self.scales[:, :, None]
        found: Array = table.reshape(len(table), -1)[:, : self.depth]
        return found


def tabled(matrix: Array, block: int) -> Array:
    """Cut the rows of a matrix [rows, depth] into blocks: [rows, blocks, block] float32, zeros at the end."""
    import numpy as np

    rows, depth = matrix.shape
    padded = np.zeros((rows, -(-depth // block) * block), np.float32)
    padded[:, :depth] = matrix
    return padded.reshape(rows, -1, block)


def round_blocks(
    matrix: Array, *, bits: int, block: int, method: str, symmetric: bool, float_zero_points: bool = False
) -> Blocks:
    """Round a matrix [rows, depth] by one of :data:`METHODS`.

    :param symmetric: the zero point is 2^(bits-1); for ``default`` and ``rtn``.
    :param float_zero_points: leave HQQ's zero points between the codes, where it found them.
    """
    import numpy as np

    rows, depth = matrix.shape
    step = max(1, CHUNK // max(depth, 1))
    chosen = FLOAT_ZERO_POINTS if float_zero_points else METHODS[method]
    parts = [_rounded(tabled(matrix[at : at + step], block), bits, chosen, symmetric) for at in range(0, rows, step)]
    codes, scales, zero_points = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Blocks(codes, scales, zero_points.astype(np.float32 if float_zero_points else np.uint8), bits, depth)


def _rounded(table: Array, bits: int, chosen: Chooser, symmetric: bool) -> tuple[Array, Array, Array]:
    import numpy as np

    scales, zero_points = chosen(table, bits, symmetric)
    # Codes are what the scales as they are stored make of the weights.
    scales = scales.astype(np.float32)
    return codes_for(table, scales, zero_points, bits), scales, zero_points


def codes_for(table: Array, scales: Array, zero_points: Array, bits: int) -> Array:
    """Return the nearest codes of a table [rows, blocks, block], uint8."""
    import numpy as np

    safe = np.where(scales == 0, 1, scales)[:, :, None]
    levels = np.rint(table / safe + zero_points[:, :, None])
    found: Array = np.clip(levels, 0, 2**bits - 1).astype(np.uint8)
    return found


def parameters_of(table: Array, bits: int, symmetric: bool) -> tuple[Array, Array]:
    """``default``: the range of a block with zero in it, as ONNX Runtime's own quantizer takes it.

    Symmetric: the value of the largest magnitude, with its sign, becomes the code at the far end of the side that has
    one code more. Returns scales and zero points, [rows, blocks] float32.
    """
    import numpy as np

    if symmetric:
        lowest, highest = _range_with_zero(table)
        middle = 2 ** (bits - 1)
        extreme = np.where(-lowest > highest, lowest, highest)
        return extreme / -middle, np.full_like(extreme, middle)
    return _spread(table, 2**bits - 1)


def _range_with_zero(table: Array) -> tuple[Array, Array]:
    """Return the least and the largest value of each block, or zero: a whole zero point lies among the codes."""
    import numpy as np

    return np.minimum(table.min(axis=2), 0), np.maximum(table.max(axis=2), 0)


def _nearest(table: Array, bits: int, symmetric: bool) -> tuple[Array, Array]:
    """``rtn``: plain round to nearest. Symmetric: as far below zero as above it, half a step of which is lost."""
    import numpy as np

    top = 2**bits - 1
    if not symmetric:
        return _spread(table, top)
    extreme = np.abs(table).max(axis=2)
    return 2 * extreme / top, np.full_like(extreme, 2 ** (bits - 1))


def _spread(table: Array, top: int) -> tuple[Array, Array]:
    """Return scales and whole zero points of the range of each block with zero in it."""
    import numpy as np

    lowest, highest = _range_with_zero(table)
    scales = (highest - lowest) / top
    zero_points = np.clip(np.rint(-lowest / np.where(scales > 0, scales, 1)), 0, top)
    return scales, zero_points


def _spread_between(table: Array, top: int) -> tuple[Array, Array]:
    """Return scales and zero points of the range of each block as it is: with zero points anywhere, zero may be out."""
    import numpy as np

    lowest, highest = table.min(axis=2), table.max(axis=2)
    scales = (highest - lowest) / top
    # A block of equal values other than zero has no spread: one step to its value does it.
    scales = np.where(scales > 0, scales, np.abs(highest))
    return scales, -lowest / np.where(scales > 0, scales, 1)


SHRINK_NORM: Final = 0.7
SHRINK_BETA: Final = 10.0
SHRINK_GROWTH: Final = 1.01
SHRINK_ROUNDS: Final = 20
"""HQQ's own settings: the p of its norm, the weight of the quadratic term, its growth each round, and the rounds."""


def _half_quadratic(table: Array, bits: int, symmetric: bool) -> tuple[Array, Array]:
    """``hqq`` with whole zero points, which the quick kernels take: the scales are fitted in their place.

    Half-quadratic splitting as in :func:`_half_quadratic_zero`; with the codes q and zero points z held, the best scale
    is the least-squares one, sum (q - z)(w - e) / sum (q - z)^2.
    """
    import numpy as np

    scales, zero = _spread(table, 2**bits - 1)
    scales = scales.astype(np.float32)
    best_scales, best_error = scales, np.full(scales.shape, np.inf, np.float32)
    beta = SHRINK_BETA
    for _ in range(SHRINK_ROUNDS):
        levels = codes_for(table, scales, zero, bits) - zero[:, :, None]
        error = table - levels * scales[:, :, None]
        norm, sparse = _shrunk(error, scales, beta)
        better = norm < best_error
        best_error, best_scales = np.where(better, norm, best_error), np.where(better, scales, best_scales)
        energy = np.square(levels).sum(axis=2)
        fitted = (levels * (table - sparse)).sum(axis=2) / np.where(energy > 0, energy, 1)
        scales = np.where((energy > 0) & (fitted > 0), fitted, scales).astype(np.float32)
        beta *= SHRINK_GROWTH
    return best_scales, zero


def _half_quadratic_zero(table: Array, bits: int, symmetric: bool) -> tuple[Array, Array]:
    """``hqq`` as its paper has it: zero points between the codes that make the p-norm of the error small, p = 0.7.

    Half-quadratic splitting after Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models"
    (2023): with the error's sparse part e found by generalized soft thresholding, the best zero point is the mean of
    q - (w - e) / scale. A block keeps the zero point of its best round.
    """
    import numpy as np

    scales, zero = _spread_between(table, 2**bits - 1)
    scales, zero = scales.astype(np.float32), zero.astype(np.float32)
    safe = np.where(scales > 0, scales, 1)
    best_zero, best_error = zero, np.full(scales.shape, np.inf, np.float32)
    beta = SHRINK_BETA
    for _ in range(SHRINK_ROUNDS):
        codes = codes_for(table, scales, zero, bits)
        norm, sparse = _shrunk(table - (codes - zero[:, :, None]) * scales[:, :, None], scales, beta)
        better = norm < best_error
        best_error, best_zero = np.where(better, norm, best_error), np.where(better, zero, best_zero)
        zero = (codes - (table - sparse) / safe[:, :, None]).mean(axis=2)
        beta *= SHRINK_GROWTH
    return scales, best_zero


def _shrunk(error: Array, scales: Array, beta: float) -> tuple[Array, Array]:
    """Return the p-norm of each block's error, and the part of the error that is outliers.

    ONNX Runtime thresholds in units of the weights; a weight's own step is the unit here, so that a model whose weights
    are all small is treated alike.
    """
    import numpy as np

    unit = np.where(scales > 0, scales, 1)[:, :, None]
    size = np.abs(error) / unit + 1e-8
    power = np.power(size, SHRINK_NORM - 1)
    sparse = np.sign(error) * np.maximum(size - power / beta, 0) * unit
    return (power * size).mean(axis=2), sparse


SCALE_STEPS: Final = 20
SCALE_STEP: Final = 0.1
"""k-quant tries ranges from one code narrower than the block's to one code wider, a tenth of a code apart."""


def _fitted(table: Array, bits: int, symmetric: bool) -> tuple[Array, Array]:
    """``k-quant``: the scale and offset that fit a block best, larger weights counting more.

    The search of llama.cpp's k-quants (Kawrakow, 2023, ``make_qkx2_quants``): for each of a few ranges the weights are
    rounded, then scale and offset are refitted to the codes by weighted least squares; the importance of a weight w is
    |w| + the root mean square of its block. The offset then becomes a whole zero point, and scale is fitted once more.
    """
    import numpy as np

    top = 2**bits - 1
    importance = np.sqrt(np.square(table).mean(axis=2, keepdims=True)) + np.abs(table)
    lowest, highest = _range_with_zero(table)
    spread = highest - lowest
    best_scale, start = _spread(table, top)
    best_zero = start
    best = _weighted_error(table, importance, best_scale, best_zero, bits)
    total, first = importance.sum(axis=2), (importance * table).sum(axis=2)
    for step in range(SCALE_STEPS + 1):
        factor = (top - 1 + SCALE_STEP * step) / np.where(spread > 0, spread, 1)
        codes = np.clip(np.rint((table - lowest[:, :, None]) * factor[:, :, None]), 0, top)
        weighted = importance * codes
        linear, square, cross = weighted.sum(axis=2), (weighted * codes).sum(axis=2), (weighted * table).sum(axis=2)
        determinant = total * square - linear * linear
        safe = np.where(determinant > 0, determinant, 1)
        scale = (total * cross - first * linear) / safe
        offset = (square * first - linear * cross) / safe
        usable = (determinant > 0) & (scale > 0)
        scale = np.where(usable, scale, best_scale)
        zero = np.where(usable, np.clip(np.rint(-offset / np.where(scale > 0, scale, 1)), 0, top), best_zero)
        error = _weighted_error(table, importance, scale, zero, bits)
        better = error < best
        best = np.where(better, error, best)
        best_scale, best_zero = np.where(better, scale, best_scale), np.where(better, zero, best_zero)
    return best_scale, best_zero


def _weighted_error(table: Array, importance: Array, scales: Array, zero_points: Array, bits: int) -> Array:
    """Return what a block loses with whole zero points, which is how it will be stored."""
    codes = codes_for(table, scales, zero_points, bits)
    error = (codes - zero_points[:, :, None]) * scales[:, :, None] - table
    found: Array = (importance * error * error).sum(axis=2)
    return found


METHODS: Final[dict[str, Chooser]] = {
    "default": parameters_of,
    "rtn": _nearest,
    "hqq": _half_quadratic,
    "k-quant": _fitted,
}
"""From a table [rows, blocks, block] to scales and zero points, [rows, blocks]."""

FLOAT_ZERO_POINTS: Final[Chooser] = _half_quadratic_zero


def joined(codes: Array, bits: int) -> Array:
    """Pack codes of 2, 4 or 8 bits into bytes along the last axis, the first one lowest; the last byte is filled up."""
    import numpy as np

    per_byte = 8 // bits
    left = -codes.shape[-1] % per_byte
    if left:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], left), np.uint8)], axis=-1)
    packed = np.zeros((*codes.shape[:-1], codes.shape[-1] // per_byte), np.uint8)
    for place in range(per_byte):
        packed |= codes[..., place::per_byte].astype(np.uint8) << (bits * place)
    return packed
