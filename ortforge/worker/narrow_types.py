"""Element types that numpy lacks: bfloat16, float8, float4, and integers of 4 and 2 bits.

Samples hold them *widened*: the floats as float32, the integers as int8 or uint8, which represent each value exactly.
ONNX Runtime holds them as packed bytes. The functions here convert between the two.

Sources: the ONNX documentation of its types ("Float stored in 8 bits", "4 bit integer types", "2 bit integer types",
"Float stored in 4 bits"), Micikevicius et al., "FP8 formats for deep learning" (2022), and the Open Compute Project's
"Microscaling formats (MX) specification" 1.0 for E8M0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NARROW", "NarrowType", "decode", "encode", "narrow_name", "packed", "to_nearest"]

Array = NDArray[Any]


@dataclass(frozen=True)
class NarrowType:
    """One element type.

    :param onnx: its number in ``onnx.TensorProto.DataType``. :param bits: bits of one element in memory.
    :param stored: numpy's name of the type that samples hold it in.
    """

    onnx: int
    bits: int
    stored: str


NARROW: Mapping[str, NarrowType] = {
    "bfloat16": NarrowType(16, 16, "float32"),
    "float8e4m3fn": NarrowType(17, 8, "float32"),
    "float8e4m3fnuz": NarrowType(18, 8, "float32"),
    "float8e5m2": NarrowType(19, 8, "float32"),
    "float8e5m2fnuz": NarrowType(20, 8, "float32"),
    "float8e8m0": NarrowType(24, 8, "float32"),
    "float4e2m1": NarrowType(23, 4, "float32"),
    "uint4": NarrowType(21, 4, "uint8"),
    "int4": NarrowType(22, 4, "int8"),
    "uint2": NarrowType(25, 2, "uint8"),
    "int2": NarrowType(26, 2, "int8"),
}
"""The types by ONNX's name in lower case, which is ONNX Runtime's name as well."""


def narrow_name(dtype: Any) -> str:
    """Return ONNX's name for an array type of the package ``ml_dtypes``, or ``""``.

    >>> narrow_name(np.dtype("float32"))
    ''
    """
    name = str(dtype).replace("_", "")
    return {"float4e2m1fn": "float4e2m1", "float8e8m0fnu": "float8e8m0"}.get(name, name if name in NARROW else "")


def decode(raw: bytes, shape: tuple[int, ...], kind: str) -> Array:
    """Return packed elements as an array of ``shape`` in the type that samples hold.

    :param raw: at least ``ceil(elements * bits / 8)`` bytes; the first element lies in the lowest bits.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if kind == "bfloat16":
        return (np.frombuffer(raw, np.uint16, count).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    narrow = NARROW[kind]
    codes = _unpacked(np.frombuffer(raw, np.uint8), narrow.bits)[:count]
    return _values(kind)[codes].reshape(shape)


def encode(array: Array, kind: str) -> bytes:
    """Return an array's elements packed as ONNX Runtime holds them.

    :raises ValueError: a value is not exactly one of the type's values; the text names it.
    """
    rounded, codes = _nearest(array, kind)
    wide = np.asarray(array).ravel()
    different = ~((rounded == wide) | ((rounded != rounded) & (wide != wide)))
    if different.any():
        raise ValueError(f"{wide[different][0]} is not a value of {kind}; the nearest one is {rounded[different][0]}")
    return packed(codes, NARROW[kind].bits)


def to_nearest(array: Array, kind: str) -> Array:
    """Return the nearest values of the type, as samples hold them, with the same shape. Ties go to the even code.

    :raises ValueError: a finite value lies outside the type's range, or an integer type is given a fraction.
    """
    rounded, _ = _nearest(array, kind)
    wide = np.asarray(array).ravel()
    if NARROW[kind].stored != "float32":
        wrong = rounded != wide
    else:
        table = _values(kind) if kind != "bfloat16" else np.array([-3.3895314e38, 3.3895314e38], np.float32)
        finite = table[np.isfinite(table)]
        with np.errstate(invalid="ignore"):
            wrong = np.isfinite(wide) & ((wide < finite.min()) | (wide > finite.max()))
            if kind == "float8e8m0":  # has neither zero nor a sign
                wrong = ~np.isnan(wide) & ~((wide > 0) & np.isfinite(wide))
    if wrong.any():
        raise ValueError(f"{wide[wrong][0]} does not fit into {kind}")
    return rounded.reshape(np.asarray(array).shape)


def _nearest(array: Array, kind: str) -> tuple[Array, Array]:
    """Return the nearest values and their codes, both flat."""
    if kind == "bfloat16":
        wide = np.ascontiguousarray(array, np.float32).ravel()
        bits = wide.view(np.uint32)
        # Round to nearest, ties to even; a NaN keeps its sign and becomes quiet.
        high = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        codes = np.where(np.isnan(wide), (bits >> 16).astype(np.uint16) | 0x40, high).astype(np.uint16)
        return (codes.astype(np.uint32) << 16).view(np.float32), codes
    values = _values(kind)
    if NARROW[kind].stored != "float32":
        flat = np.asarray(array).ravel()
        kept = np.clip(np.rint(flat), values.min(), values.max()).astype(values.dtype)
        return kept, (kept.astype(np.int64) & ((1 << NARROW[kind].bits) - 1)).astype(np.uint8)
    wide = np.asarray(array).ravel().astype(np.float64)
    codes = _nearest_codes(wide, kind)
    return values[codes], codes


def _nearest_codes(wide: Array, kind: str) -> Array:
    """Return for float64 values the codes of the nearest values; NaN and infinities become themselves, if they can."""
    values = _values(kind).astype(np.float64)
    finite = np.flatnonzero(np.isfinite(values))
    order = finite[np.lexsort((np.signbit(values[finite]), values[finite]))]
    order = order[np.concatenate([[True], np.diff(values[order]) > 0])]  # +0 alone, of the zeros
    grid = values[order]
    with np.errstate(invalid="ignore"):
        above = np.clip(np.searchsorted(grid, np.nan_to_num(wide)), 1, len(grid) - 1)
        left, right = wide - grid[above - 1], grid[above] - wide
        even = order[above] & 1 == 0
        place = np.where((right < left) | ((right == left) & even), above, above - 1)
    codes = order[place]
    negative_zero = np.flatnonzero((values == 0) & np.signbit(values))
    if negative_zero.size:
        codes = np.where((values[codes] == 0) & np.signbit(wide), negative_zero[0], codes)
    for special in (np.isnan, np.isposinf, np.isneginf):
        own = np.flatnonzero(special(values))
        if own.size:
            codes = np.where(special(wide), own[0], codes)
    nearest: Array = codes.astype(np.uint8)
    return nearest


def _unpacked(raw: Array, bits: int) -> Array:
    if bits == 8:
        return raw
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((raw[:, None] >> shifts) & ((1 << bits) - 1)).astype(np.uint8).ravel()


def packed(codes: Array, bits: int) -> bytes:
    """Return codes of ``bits`` bits as bytes, the first in the lowest bits."""
    if bits >= 8:
        return codes.tobytes()
    per_byte = 8 // bits
    padded = np.concatenate([codes, np.zeros(-len(codes) % per_byte, np.uint8)]).reshape(-1, per_byte)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    joined: bytes = np.bitwise_or.reduce(padded << shifts, axis=1).astype(np.uint8).tobytes()
    return joined


@cache
def _values(kind: str) -> Array:
    """Return the value of each code of a type of 8 bits or fewer."""
    narrow = NARROW[kind]
    codes = np.arange(1 << narrow.bits)
    if kind.startswith("uint"):
        return codes.astype(np.uint8)
    if kind.startswith("int"):
        half = 1 << (narrow.bits - 1)
        return ((codes + half) % (2 * half) - half).astype(np.int8)
    if kind == "float8e8m0":
        values = np.ldexp(1.0, codes - 127)
        values[0xFF] = np.nan
        return values.astype(np.float32)
    if kind == "float4e2m1":
        return np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    return _float8_values(kind)


def _float8_values(kind: str) -> NDArray[np.float32]:
    """FN has no infinities and NaN at S.1111.111; UZ has neither infinities nor -0, NaN at 0x80, and its bias is one
    higher.
    """
    mantissa_bits = 3 if "e4m3" in kind else 2
    fnuz = kind.endswith("fnuz")
    bias = (7 if mantissa_bits == 3 else 15) + (1 if fnuz else 0)
    byte = np.arange(256)
    sign = np.where(byte & 0x80, -1.0, 1.0)
    exponent = (byte & 0x7F) >> mantissa_bits
    fraction = (byte & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    table = sign * np.where(exponent == 0, np.ldexp(fraction, 1 - bias), np.ldexp(1.0 + fraction, exponent - bias))
    if fnuz:
        table[0x80] = np.nan
    elif kind == "float8e4m3fn":
        table[[0x7F, 0xFF]] = np.nan
    else:
        top = exponent == 31
        table[top & (fraction == 0)] = sign[top & (fraction == 0)] * np.inf
        table[top & (fraction != 0)] = np.nan
    return table.astype(np.float32)
