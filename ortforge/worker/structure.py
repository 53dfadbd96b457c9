"""The structure of values that are not plain tensors: sequences, maps and optionals.

Samples hold tensors only. A sequence becomes one tensor for each element, a map becomes the tensor of its values in the
order of its sorted keys, and an absent optional becomes nothing. What this loses (lengths, keys, absence) is the
*structure*, which the index of the samples keeps, so that a value can be rebuilt and two answers can be compared
exactly. The form is in docs/formats.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["Shape", "base_name", "flatten", "flatten_all", "is_plain", "rebuild", "shape_of", "type_name"]

Shape = Any
"""JSON: ``None`` (absent), ``"tensor"``, ``{"keys": […]}`` (a map), ``{"length": n}`` (a sequence of tensors) or
``{"length": n, "keys": [[…], …]}`` (a sequence of maps)."""

_NAMES = {"float": "float32", "double": "float64"}


def type_name(kind: str) -> str:
    """Return an ONNX Runtime type with numpy's names of element types; a plain tensor is its element type.

    >>> type_name("tensor(float)"), type_name("seq(map(int64,tensor(float)))")
    ('float32', 'seq(map(int64,tensor(float32)))')
    """
    named = re.sub(r"tensor\((\w+)\)", lambda found: f"tensor({_NAMES.get(found[1], found[1])})", kind)
    return named[len("tensor(") : -1] if re.fullmatch(r"tensor\(\w+\)", named) else named


def is_plain(kind: str) -> bool:
    """Return whether a type (as :func:`type_name` gives it) is a tensor that is always present."""
    return "(" not in kind


def base_name(name: str, names: Iterable[str]) -> str:
    """Return what the flattened names of an output begin with: its name, changed only if that would be ambiguous.

    :param names: all declared names. A model can have a sequence ``y`` and a tensor that is called ``y[0]``.

    >>> base_name("y", ["y", "z"]), base_name("y", ["y", "y[0]"])
    ('y', "y'")
    """
    base, others = name, [other for other in names if other != name]
    while any(other == base or other.startswith(f"{base}[") for other in others):
        base += "'"
    return base


def flatten(name: str, value: Any) -> dict[str, Any]:
    """Return the tensors inside one value, by name.

    A tensor is ``name``; the elements of a sequence are ``name[0]``, ``name[1]`` …; the values of a map are
    ``name[values]``, and ``name[0][values]`` inside a sequence. An absent optional gives nothing.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {f"{name}[values]": np.asarray([value[key] for key in sorted(value)])}
    if isinstance(value, (list, tuple)):
        tensors: dict[str, Any] = {}
        for number, item in enumerate(value):
            tensors.update(flatten(f"{name}[{number}]", item))
        return tensors
    return {name: value}


def flatten_all(values: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Any]:
    """Return the tensors inside all values, by name; only values whose type is not a plain tensor are taken apart.

    :param types: the declared type of each name, as :func:`type_name` gives it.
    """
    tensors: dict[str, Any] = {}
    for name, value in values.items():
        if is_plain(types.get(name, "")):
            tensors[name] = value
        else:
            tensors.update(flatten(base_name(name, types), value))
    return tensors


def shape_of(value: Any) -> Shape:
    """Return the structure of one value."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {"keys": _keys(value)}
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(item, Mapping) for item in value):
            return {"length": len(value), "keys": [_keys(item) for item in value]}
        return {"length": len(value)}
    return "tensor"


def _keys(value: Mapping[Any, Any]) -> list[Any]:
    return [key.item() if hasattr(key, "item") else key for key in sorted(value)]


def rebuild(name: str, shape: Shape, tensors: Mapping[str, Any]) -> Any:
    """Return the value that :func:`flatten` and :func:`shape_of` took apart.

    :raises KeyError: a tensor is missing.
    """
    if shape is None:
        return None
    if shape == "tensor":
        return tensors[name]
    keys: Sequence[Any] | None = shape.get("keys")
    if "length" not in shape:
        return _map(keys or (), tensors[f"{name}[values]"])
    if keys is None:
        return [tensors[f"{name}[{number}]"] for number in range(shape["length"])]
    return [_map(one, tensors[f"{name}[{number}][values]"]) for number, one in enumerate(keys)]


def _map(keys: Sequence[Any], values: Any) -> dict[Any, Any]:
    return dict(zip(keys, np.asarray(values).tolist(), strict=True))
