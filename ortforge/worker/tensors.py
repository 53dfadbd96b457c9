"""ONNX Runtime's types and numpy's: what an input wants, what an output holds.

numpy knows neither bfloat16 nor float8, so outputs of those types are read as raw bytes and widened to float32,
which holds each of their values exactly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .protocol import JobError

__all__ = ["NUMPY_NAMES", "WIDENED", "cast_feeds", "check_feeds", "flatten", "ort_dtype", "widen"]

Array = NDArray[Any]

NUMPY_NAMES: Mapping[str, str] = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    "string": "string",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""Element types as ORT names them (``tensor(float)``) and as numpy does."""

WIDENED = frozenset({"bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"})
"""Element types that samples hold as float32."""


def ort_dtype(kind: str) -> str:
    """Return ``float32`` for ``tensor(float)``; what is no tensor keeps ORT's name (``seq(tensor(float))``)."""
    if kind.startswith("tensor(") and kind.endswith(")"):
        element = kind[len("tensor(") : -1]
        return NUMPY_NAMES.get(element, element)
    return kind


def cast_feeds(feeds: Mapping[str, Array], types: Mapping[str, str], sample: int) -> dict[str, Array]:
    """Give a sample the types that a recipe gave the model's inputs.

    :param types: numpy's name of the type, by input; others are left as they are.
    :raises JobError: kind ``input``, when an integer does not fit into the new type.
    """
    cast = dict(feeds)
    for name in types.keys() & feeds.keys():
        given, made = feeds[name], feeds[name].astype(types[name])
        if made.dtype.kind in "iu" and not np.array_equal(given, made):
            raise JobError(
                "input",
                f"input {name!r} of sample {sample} has values that {types[name]} does not hold: the recipe's "
                "new type for it fits other data alone",
            )
        cast[name] = made
    return cast


def check_feeds(inputs: list[Any], overridable: list[Any], feeds: Mapping[str, Array], sample: int) -> None:
    """Check that a sample fits the model, before ORT sees it. Nothing is cast to make it fit.

    :param inputs: the session's inputs (``NodeArg``: name, type, shape).
    :param overridable: initializers that a feed may replace.
    :raises JobError: kind ``input``, naming the input, what the model wants and what the data gives.
    """
    known = {entry.name: entry for entry in [*overridable, *inputs]}
    for name in feeds:
        if name not in known:
            raise JobError(
                "input",
                f"sample {sample} gives input {name!r}, which the model does not have: it has {_listed(inputs)}",
            )
    for entry in inputs:
        if entry.name not in feeds and not entry.type.startswith("optional("):
            gives = ", ".join(sorted(feeds)) or "nothing"
            raise JobError(
                "input", f"the model wants input {entry.name!r} ({_wanted(entry)}), and sample {sample} gives {gives}"
            )
    for name, array in feeds.items():
        if trouble := _misfit(known[name], array):
            given = f"{_dtype(array)} {list(array.shape)}"
            raise JobError(
                "input",
                f"input {name!r} does not fit ({trouble}): the model wants {_wanted(known[name])}, "
                f"and sample {sample} gives {given}",
            )


def _misfit(entry: Any, array: Array) -> str:
    kind = entry.type
    if kind.startswith("optional("):
        kind = kind[len("optional(") : -1]
    wanted = ort_dtype(kind)
    if wanted not in NUMPY_NAMES.values():
        return f"samples cannot hold {wanted}"
    if wanted != _dtype(array):
        return "another dtype"
    shape = entry.shape
    if not shape:  # a scalar, or a tensor of unknown rank: ORT does not say which
        return ""
    if len(shape) != array.ndim:
        return "another number of dimensions"
    for size, given in zip(shape, array.shape, strict=True):
        if isinstance(size, int) and size >= 0 and size != given:
            return "another shape"
    return ""


def _dtype(array: Array) -> str:
    return "string" if array.dtype.kind == "U" else str(array.dtype)


def _wanted(entry: Any) -> str:
    shape = ", ".join("?" if size is None else str(size) for size in entry.shape)
    return f"{ort_dtype(entry.type)} [{shape}]"


def _listed(inputs: list[Any]) -> str:
    return ", ".join(repr(entry.name) for entry in inputs) or "none"


def flatten(name: str, value: Any) -> dict[str, Any]:
    """Return the tensors inside one output, by name: ``name`` itself, or ``name/0``, ``name/1`` … of a sequence or map.

    A map's tensor holds its values in the order of its sorted keys; an empty optional output gives nothing.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {f"{name}/0": np.asarray([value[key] for key in sorted(value)])}
    if isinstance(value, (list, tuple)):
        found: dict[str, Any] = {}
        for number, item in enumerate(value):
            if isinstance(item, Mapping):
                found[f"{name}/{number}"] = np.asarray([item[key] for key in sorted(item)])
            else:
                found.update(flatten(f"{name}/{number}", item))
        return found
    return {name: value}


def widen(value: Any) -> Array:
    """Return an ``OrtValue`` of bfloat16 or float8 in host memory as float32, with the same shape.

    :raises JobError: it lies in a device's memory.
    """
    kind = str(value.data_type())[len("tensor(") : -1]
    shape = tuple(value.shape())
    if value.device_name().lower() != "cpu":
        raise JobError(
            "unsupported", f"an output of type {kind} lies on device {value.device_name()}, not in host memory"
        )
    count = int(np.prod(shape, dtype=np.int64))
    width = 2 if kind == "bfloat16" else 1
    raw = ctypes.string_at(value.data_ptr(), count * width) if count else b""
    if kind == "bfloat16":
        wide = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        wide = _float8_table(kind)[np.frombuffer(raw, np.uint8)]
    return wide.reshape(shape)


def _float8_table(kind: str) -> NDArray[np.float32]:
    """Return the values of all 256 bytes of a float8 type.

    Source: ONNX's documentation of float 8 (Micikevicius et al., "FP8 formats for deep learning", 2022): FN has no
    infinities and NaN at S.1111.111; UZ has neither infinities nor -0, NaN at 0x80, and a bias one higher.
    """
    mantissa_bits = 3 if "e4m3" in kind else 2
    fnuz = kind.endswith("fnuz")
    bias = (7 if mantissa_bits == 3 else 15) + (1 if fnuz else 0)
    byte = np.arange(256)
    sign = np.where(byte & 0x80, -1.0, 1.0)
    exponent = (byte & 0x7F) >> mantissa_bits
    mantissa = byte & ((1 << mantissa_bits) - 1)
    fraction = mantissa / (1 << mantissa_bits)
    normal = np.ldexp(1.0 + fraction, exponent - bias)
    subnormal = np.ldexp(fraction, 1 - bias)
    table = sign * np.where(exponent == 0, subnormal, normal)
    if fnuz:
        table[0x80] = np.nan
    elif kind == "float8e4m3fn":
        table[[0x7F, 0xFF]] = np.nan
    else:
        top = exponent == 31
        table[top & (mantissa == 0)] = sign[top & (mantissa == 0)] * np.inf
        table[top & (mantissa != 0)] = np.nan
    return table.astype(np.float32)
