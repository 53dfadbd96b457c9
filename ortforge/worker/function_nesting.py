"""How large a model becomes when its functions are expanded, counted without expanding them.

A function of two calls of a function of two calls … doubles with each level, so a file of some kilobytes may hold a
billion nodes. ONNX Runtime expands functions when it loads a model, and so does onnx's inliner.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .subgraphs import with_inner_nodes

__all__ = ["MAX_EXPANDED_NODES", "facts", "sentence", "too_large"]

MAX_EXPANDED_NODES = 2_000_000
"""More than this is refused before a pass: at some hundred bytes a node it fills gigabytes, and takes hours."""

_FUNCTIONS = 25
"""Field number of ``functions`` in ``ModelProto`` (onnx.proto)."""


def facts(functions: Iterable[Any]) -> dict[str, Any] | None:
    """Return what the largest function of a model comes to, or ``None`` for a model without functions.

    ``expanded_nodes`` and ``depth`` are those of the function that ``name`` names. A function that calls itself has
    ``expanded_nodes`` of ``None``.
    """
    bodies = {(one.domain, one.name): one for one in functions}
    if not bodies:
        return None
    sizes = _sizes(bodies)
    recursive = [key for key in bodies if key not in sizes]
    if recursive:
        return {"name": recursive[0][1], "expanded_nodes": None, "depth": None}
    key = max(sizes, key=lambda name: sizes[name])
    return {"name": key[1], "expanded_nodes": sizes[key][0], "depth": sizes[key][1]}


def _sizes(bodies: Mapping[tuple[str, str], Any]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the nodes and the depth of each function, callees first; those in or behind a cycle are left out."""
    calls = {key: [(node.domain, node.op_type) for node in with_inner_nodes(body.node)] for key, body in bodies.items()}
    sizes: dict[tuple[str, str], tuple[int, int]] = {}
    waiting = dict(calls)
    while ready := [key for key, names in waiting.items() if all(n in sizes or n not in bodies for n in names)]:
        for key in ready:
            names = waiting.pop(key)
            nodes = sum(sizes[name][0] if name in sizes else 1 for name in names)
            sizes[key] = nodes, 1 + max((sizes[name][1] for name in names if name in sizes), default=0)
    return sizes


def sentence(found: Mapping[str, Any] | None) -> str:
    """Return what is to be said of a model whose functions are too large to expand, or ``""``."""
    if not found:
        return ""
    if found["expanded_nodes"] is None:
        return f"The model's function {found['name']!r} calls itself, which ONNX does not allow"
    if found["expanded_nodes"] <= MAX_EXPANDED_NODES:
        return ""
    return (
        f"The model's functions are nested {found['depth']} levels deep: expanded, {found['name']!r} alone has "
        f"{found['expanded_nodes']:,} nodes, more than a session or a pass can hold"
    )


def too_large(model: Path) -> str:
    """Return why a model's functions cannot be expanded, or ``""``; only the functions of the file are read."""
    if model.suffix == ".ort":
        return ""
    try:
        import onnx  # a runtime without it has no pass that would expand functions

        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            functions = [onnx.FunctionProto.FromString(data[start:end]) for start, end in _fields(data, _FUNCTIONS)]
    except Exception:  # whoever reads the whole file says what is wrong with it
        return ""
    return sentence(facts(functions))


def _fields(data: Any, number: int) -> Iterator[tuple[int, int]]:
    """Yield where the bytes of one field of a protobuf message lie.

    :raises ValueError: it is not a protobuf message.
    """
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            _, position = _varint(data, position)
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        elif kind == 2:
            size, position = _varint(data, position)
            if position + size > end:
                raise ValueError("a field is longer than the message")
            if key >> 3 == number:
                yield position, position + size
            position += size
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: Any, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
