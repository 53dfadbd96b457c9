"""The arithmetic of ``vpmaddubsw``, exactly: how ORT's CPU EP adds u8 x s8 products with AVX2 and no VNNI.

Rows of A (u8) and columns of B (s8) are read in pairs along K: ``(0, 1)``, ``(2, 3)`` …; the last one of an odd K is
paired with 0. Each pair's two products are added in a 16-bit integer that saturates, and the sums of the pairs are
added in 32 bits. Zero points play no part: the kernels multiply the stored bytes and correct for zero points later,
exactly, in 32 bits. So a saturated product differs from the exact one by

    ``excess = sum over pairs of (p - clip(p, -32768, 32767))``,  ``p = a[2i] b[2i] + a[2i+1] b[2i+1]``

and only pairs of weights with ``255 * (max(w0, 0) + max(w1, 0)) > 32767`` (or the same below -32768) can contribute.

K's order: MatMul and Gemm take it as it is. ``QLinearConv`` has ``(kernel position, channel of the group)``, channels
last; with one channel in and out for each group it uses another kernel, which is exact. ``ConvInteger`` multiplies
weights by columns, so its weights are A, with K = ``(channel, kernel position)``.

Sources: MLAS's ``qgemm.h``, ``x86_64/QgemmU8X8KernelAvx2.S``, ``convsym.cpp``; ORT's ``qlinearconv.cc`` and
``conv_integer.cc``. Compared with ORT under QEMU bit for bit: docs/cpu-tiers.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Excess",
    "Pairs",
    "conv_columns",
    "conv_weight_matrix",
    "excess",
    "paired",
    "saturating_matmul",
    "wraps_possible",
]

LOW, HIGH = -32768, 32767
"""What a signed 16-bit integer can be."""

CHUNK = 1 << 20
"""Pair sums that are computed at a time: 4 MB for each array in between."""

Matrix = NDArray[Any]


@dataclass(frozen=True)
class Pairs:
    """The pairs of a B matrix that can saturate, sorted by column.

    :param first: K index of each pair's first row. :param column: the pair's column.
    :param weights: both weights, shape ``(2, pairs)``, float32 (exact for 8-bit values); 0 behind the end of K.
    :param total: number of pairs in B, whether they can saturate or not.
    """

    first: NDArray[np.int64]
    column: NDArray[np.int64]
    weights: NDArray[np.float32]
    depth: int
    columns: int
    total: int


@dataclass(frozen=True)
class Excess:
    """What saturation takes away from a product.

    :param value: int32, shape ``(rows, columns)``: exact product minus saturated product.
    :param saturated: number of pair sums that saturated. :param sums: all pair sums.
    :param evaluated: pair sums that were computed to find out.
    """

    value: NDArray[np.int32]
    saturated: int
    sums: int
    evaluated: int


def paired(b: Matrix, peaks: Matrix | None = None) -> Pairs:
    """Return the pairs of ``b`` that can saturate, given each row's largest activation.

    :param b: s8 weights, shape ``(K, N)``. :param peaks: shape ``(K,)``, the largest value of A's column k; 255 each
        when not given, which is true of any activations.
    """
    depth, columns = b.shape
    weights = b.astype(np.int32)
    most = np.full(depth, 255, np.int32) if peaks is None else peaks.astype(np.int32)
    if depth % 2:
        weights = np.vstack([weights, np.zeros((1, columns), np.int32)])
        most = np.append(most, np.int32(0))
    reach = weights * most[:, None]
    upper, lower = np.maximum(reach, 0), np.minimum(reach, 0)
    able = ((upper[0::2] + upper[1::2]) > HIGH) | ((lower[0::2] + lower[1::2]) < LOW)
    column, pair = np.nonzero(able.T)
    chosen = np.stack([weights[0::2][pair, column], weights[1::2][pair, column]]).astype(np.float32)
    return Pairs(pair * 2, column, chosen, depth, columns, able.size)


def excess(a: Matrix, pairs: Pairs) -> Excess:
    """Return what ``vpmaddubsw`` loses of ``a @ b``, for the ``b`` that ``pairs`` come from.

    :param a: u8 activations, shape ``(K, rows)``: transposed, so that a row of K is contiguous.
    """
    rows = a.shape[1]
    value = np.zeros((pairs.columns, rows), np.int32)
    count = len(pairs.first)
    saturated = 0
    step = max(1, CHUNK // max(rows, 1))
    needed, place = np.unique(np.concatenate([pairs.first, pairs.first + 1]), return_inverse=True)
    inside = needed < pairs.depth
    table = np.zeros((len(needed), rows), np.float32)
    table[inside] = a[needed[inside]]
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        sums = table[place[:count][part]] * pairs.weights[0, part, None]
        sums += table[place[count:][part]] * pairs.weights[1, part, None]
        sums -= np.clip(sums, LOW, HIGH)
        saturated += int(np.count_nonzero(sums))
        column = pairs.column[part]
        begins = np.flatnonzero(np.diff(column, prepend=-1))
        value[column[begins]] += np.add.reduceat(sums.astype(np.int32), begins, axis=0)
    return Excess(np.ascontiguousarray(value.T), saturated, pairs.total * rows, count * rows)


def saturating_matmul(a: Matrix, b: Matrix) -> NDArray[np.int32]:
    """Return the product of stored bytes as ``vpmaddubsw`` gives it: no zero points, no pruning.

    The plain form of the definition, which tests hold :func:`excess` against.

    :param a: u8, shape ``(rows, K)``. :param b: s8, shape ``(K, columns)``.
    """
    left, right = a.astype(np.int32), b.astype(np.int32)
    if left.shape[1] % 2:
        left = np.pad(left, ((0, 0), (0, 1)))
        right = np.pad(right, ((0, 1), (0, 0)))
    total = np.zeros((left.shape[0], right.shape[1]), np.int32)
    for k in range(0, left.shape[1], 2):
        total += np.clip(left[:, k, None] * right[k] + left[:, k + 1, None] * right[k + 1], LOW, HIGH)
    return total


def conv_weight_matrix(weights: Matrix, group: int) -> list[Matrix]:
    """Return for each group the matrix ``(kernel positions x channels, output channels)`` that ``QLinearConv`` uses.

    :param weights: shape ``(output channels, channels of a group, *kernel)``.
    """
    out, channels = weights.shape[:2]
    flat = weights.reshape(group, out // group, channels, -1)
    return [one.transpose(2, 1, 0).reshape(-1, out // group) for one in flat]


def conv_columns(
    x: Matrix, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int], zero: int
) -> Matrix:
    """Return the columns of a convolution: shape ``(kernel positions, channels, samples x output positions)``.

    :param x: shape ``(samples, channels, *space)``. :param pads: begins, then ends. :param zero: the input's zero
        point, which padding is filled with.
    """
    rank = len(kernel)
    width = [(0, 0), (0, 0), *((pads[axis], pads[rank + axis]) for axis in range(rank))]
    padded = np.pad(x, width, constant_values=zero)
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    windows: Matrix = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    every = [slice(None)] * 2
    windows = windows[tuple(every + [slice(None, None, step) for step in [*strides, *dilations]])]
    # (samples, channels, *out, *kernel) to (*kernel, channels, samples, *out)
    order = (*range(2 + rank, 2 + 2 * rank), 1, 0, *range(2, 2 + rank))
    return windows.transpose(order).reshape(int(np.prod(kernel)), x.shape[1], -1)


def wraps_possible(b: Matrix) -> bool:
    """Return whether NEON without dot product could wrap with these s8 weights, shape ``(K, N)``.

    It adds two products in 16 bits, 8 apart along K. Only ``-128 * -128`` twice does not fit, so a column needs two
    weights of -128. The pairs' exact places depend on the kernel, so any two count.
    """
    return bool(((b == -128).sum(axis=0) > 1).any())
