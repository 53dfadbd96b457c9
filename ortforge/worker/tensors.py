"""ONNX Runtime's types and numpy's: checks a sample against a model's inputs, and converts values of narrow types."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .narrow_types import NARROW, decode, encode, narrow_name, packed, to_nearest
from .protocol import JobError
from .structure import base_name, flatten, is_plain, type_name

__all__ = [
    "NUMPY_NAMES",
    "base_name",
    "cast_feeds",
    "check_feeds",
    "flatten",
    "narrow_value",
    "nearest_feeds",
    "ort_dtype",
    "stored_dtype",
    "widen",
]

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


def ort_dtype(kind: str) -> str:
    """Return ``float32`` for ``tensor(float)``; what is no tensor keeps ORT's name (``seq(tensor(float))``)."""
    if kind.startswith("tensor(") and kind.endswith(")"):
        element = kind[len("tensor(") : -1]
        return NUMPY_NAMES.get(element, element)
    return kind


def stored_dtype(kind: str) -> str:
    """Return the type that samples hold an element type in: its own, or a wider one where numpy lacks it."""
    return NARROW[kind].stored if kind in NARROW else kind


def cast_feeds(feeds: Mapping[str, Any], types: Mapping[str, str], sample: int) -> dict[str, Any]:
    """Give a sample the types that a recipe gave the model's inputs.

    :param types: name of the type, by input; others are left as they are.
    :raises JobError: kind ``input``, when a value does not fit into the new type.
    """
    cast = dict(feeds)
    for name in types.keys() & feeds.keys():
        if types[name] in NARROW:
            cast[name] = _rounded(feeds[name], name, types[name], sample)
            continue
        given, made = feeds[name], feeds[name].astype(types[name])
        if made.dtype.kind in "iu" and not np.array_equal(given, made):
            raise JobError(
                "input",
                f"input {name!r} of sample {sample} has values that {types[name]} does not hold: the recipe's "
                "new type for it fits other data alone",
            )
        cast[name] = made
    return cast


def nearest_feeds(feeds: Mapping[str, Any], types: Mapping[str, str], sample: int) -> dict[str, Any]:
    """Round the values of inputs of narrow types to values of those types; other inputs are left as they are.

    :param types: the declared type of each input.
    :raises JobError: kind ``input``, when a value lies outside the type's range.
    """
    return {
        name: _rounded(value, name, types[name], sample) if types.get(name) in NARROW else value
        for name, value in feeds.items()
    }


def _rounded(value: Any, name: str, kind: str, sample: int) -> Array:
    array = _from_bytes(np.asarray(value), kind)
    if array.dtype.kind not in "fiuV":
        raise JobError("input", f"input {name!r} of sample {sample} is {array.dtype}, and the model wants {kind}")
    try:
        wide = array.astype(np.float64) if array.dtype.kind == "V" else array
        return to_nearest(wide, kind).astype(NARROW[kind].stored, copy=False)
    except ValueError as error:
        raise JobError("input", f"input {name!r} of sample {sample} does not fit: {error}") from error


def _from_bytes(array: Array, kind: str) -> Array:
    """Return the values of an array that .npz keeps as bytes, as it does with those of the package ``ml_dtypes``."""
    bits = NARROW[kind].bits
    if array.dtype.kind != "V" or narrow_name(array.dtype) or array.dtype.itemsize != max(1, bits // 8):
        return array
    if bits >= 8:
        return decode(array.tobytes(), array.shape, kind)
    codes = np.frombuffer(array.tobytes(), np.uint8) & ((1 << bits) - 1)  # one element in each byte
    return decode(packed(codes, bits), array.shape, kind)


def check_feeds(inputs: list[Any], overridable: list[Any], feeds: Mapping[str, Any], sample: int) -> None:
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
    for name, value in feeds.items():
        if trouble := _misfit(known[name], value):
            given = _given(value)
            raise JobError(
                "input",
                f"input {name!r} does not fit ({trouble}): the model wants {_wanted(known[name])}, "
                f"and sample {sample} gives {given}",
            )


def _misfit(entry: Any, value: Any) -> str:
    """Return what keeps a value from being an input, or ``""``."""
    kind = type_name(entry.type)
    if kind.startswith("optional("):
        if value is None:
            return ""
        kind = type_name(kind[len("optional(") : -1])
    if kind.startswith("seq(map("):
        fits = isinstance(value, (list, tuple)) and all(isinstance(item, Mapping) for item in value)
        return "" if fits else "not a list of dicts"
    if kind.startswith("seq("):
        if not isinstance(value, (list, tuple)):
            return "not a list of arrays"
        element = stored_dtype(type_name(kind[len("seq(") : -1]))
        wrong = next((number for number, item in enumerate(value) if _dtype(np.asarray(item)) != element), None)
        return "" if wrong is None else f"another dtype in element {wrong}"
    if kind.startswith("map("):
        return "" if isinstance(value, Mapping) else "not a dict"
    if not is_plain(kind):
        return f"samples cannot hold {kind}"
    if not hasattr(value, "dtype"):
        return "not an array"
    if stored_dtype(kind) != _dtype(value):
        return "another dtype"
    shape = entry.shape
    if not shape:  # a scalar, or a tensor of unknown rank: ORT does not say which
        return ""
    if len(shape) != value.ndim:
        return "another number of dimensions"
    for size, given in zip(shape, value.shape, strict=True):
        if isinstance(size, int) and size >= 0 and size != given:
            return "another shape"
    return ""


def _given(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}: " + ", ".join(_given(item) for item in value[:3])
    if isinstance(value, Mapping):
        return f"a dict of {len(value)}"
    return "nothing" if value is None else f"{_dtype(value)} {list(value.shape)}"


def _dtype(array: Array) -> str:
    return "string" if array.dtype.kind == "U" else str(array.dtype)


def _wanted(entry: Any) -> str:
    kind = type_name(entry.type)
    if not is_plain(kind):
        return kind
    shape = ", ".join("?" if size is None else str(size) for size in entry.shape)
    held = f", which samples hold as {stored_dtype(kind)}" if kind in NARROW else ""
    return f"{kind} [{shape}]{held}"


def _listed(inputs: list[Any]) -> str:
    return ", ".join(repr(entry.name) for entry in inputs) or "none"


def narrow_value(ort: Any, array: Array, kind: str, name: str) -> Any:
    """Return an array as an ``OrtValue`` of a narrow type in host memory.

    :param array: the values as samples hold them.
    :raises JobError: kind ``input``, when a value is not exactly one of the type's; kind ``unsupported``, when the
        Python API of this ONNX Runtime cannot make such a tensor (before 1.20).
    """
    try:
        raw = encode(array, kind)
    except ValueError as error:
        raise JobError("input", f"input {name!r} does not fit: {error}") from error
    try:
        value = ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), NARROW[kind].onnx)
    except Exception as error:
        raise JobError(
            "unsupported",
            f"input {name!r} is {kind}, and the Python API of onnxruntime {ort.__version__} cannot make tensors of "
            "this type. Use a newer version (bfloat16 and float8 need 1.20)",
        ) from error
    if raw:
        ctypes.memmove(value.data_ptr(), raw, len(raw))
    return value


def widen(value: Any) -> Array:
    """Return an ``OrtValue`` of a narrow type in host memory in the type that samples hold, with the same shape.

    :raises JobError: it lies in a device's memory.
    """
    kind = str(value.data_type())[len("tensor(") : -1]
    shape = tuple(value.shape())
    if value.device_name().lower() != "cpu":
        raise JobError(
            "unsupported", f"an output of type {kind} lies on device {value.device_name()}, not in host memory"
        )
    count = int(np.prod(shape, dtype=np.int64))
    raw = ctypes.string_at(value.data_ptr(), -(-count * NARROW[kind].bits // 8)) if count else b""
    return decode(raw, shape, kind)
