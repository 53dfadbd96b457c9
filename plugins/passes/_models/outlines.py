"""Models without their weights: all that a check of the graph needs, read at a small part of the cost.

Weights are nearly all of a file, and a protocol buffer copies them each time it is read, written, copied or sent
through shape inference. Here the file's fields are walked, and what large initializers hold is left where it is, to be
looked at by name.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from . import model_file, onnx_graph, wire
from .normalization import is_normal, normalize

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from onnx import ModelProto, TensorProto

__all__ = ["Outline", "outline_of", "plain_source", "read", "save", "save_apart", "taken_apart"]

LARGE: Final = 1024
"""Bytes from which a weight is left out: what is smaller may be a shape, which inference reads."""

GRAPH: Final = 7
INITIALIZER: Final = 5
DATA_TYPE: Final = 2
NAME: Final = 8
RAW_DATA: Final = 9
"""Numbers of fields: of ModelProto, of GraphProto and, the last three, of TensorProto (onnx.proto)."""

WHOLE: Final = frozenset({6, 7, 8})
"""Types (int32, int64, string) that stay whatever their size: they are shapes, places and tables, and seldom large."""


@dataclass(frozen=True)
class Outline:
    """A model without the data of its large weights.

    :param model: everything else; :param weights: what was left out of its main graph's initializers, by name, as the
        bytes of ``raw_data``.
    :param normal: whether the file itself has the plain spellings that the model has here (``normalization.py``).
    """

    model: ModelProto
    weights: Mapping[str, bytes | memoryview]
    normal: bool = False


def outline_of(path: Path) -> ModelProto:
    """Read a model without the data of its large weights; files beside it are not looked at.

    :raises ValueError: the file is no ONNX model.
    """
    return _walked(path).model


def read(path: Path) -> Outline:
    """Read a model's outline and find its weights, wherever they are.

    :raises ValueError: the file is no ONNX model, or its data is missing.
    """
    found = _walked(path)
    if model_file.external_files(found.model):
        return replace(taken_apart(model_file.load(path)), normal=found.normal)
    return found


def plain_source(path: Path, workdir: Path) -> Path:
    """Return a file with the model for tools that know neither functions nor the spellings of ``normalization.py``.

    That is ``path`` itself where it has none of them, otherwise a file in ``workdir`` with the functions put where they
    are called.

    :raises ValueError: the file is no ONNX model, or its data is missing.
    """
    found = _walked(path)
    if found.normal and not found.model.functions:
        return path
    model = model_file.load(path)
    if model.functions:
        model = onnx_graph.without_functions(model)
    plain = workdir / "plain.onnx"
    model_file.save(model, plain, ir_version=model.ir_version)
    return plain


def taken_apart(model: ModelProto) -> Outline:
    """Return the outline of a model in memory, which stays as it is."""
    kept = {tensor.name: tensor.raw_data for tensor in _large(model)}
    try:
        for tensor in _large(model):
            tensor.ClearField("raw_data")
        outline = type(model)()
        outline.CopyFrom(model)
    finally:
        _give_back(model, kept)
    return Outline(outline, {name: memoryview(data) for name, data in kept.items()})


def save(outline: Outline, path: Path, *, ir_version: int) -> None:
    """Write a model whole, as :func:`model_file.save` does; of weights that an initializer names, the data is added.

    The outline's own model stays without them.
    """
    model_file.settle(outline.model, ir_version)
    if model_file.needs_external_data(outline.model):
        whole = type(outline.model)()
        whole.CopyFrom(outline.model)
        _give_back(whole, outline.weights)
        model_file.save(whole, path, ir_version=ir_version)
        return
    data = memoryview(outline.model.SerializeToString())
    with path.open("wb") as file:
        for entry in wire.fields(data, 0, len(data)):
            if entry.number == GRAPH:
                parts = list(_graph_with(data, entry, outline.weights))
                file.write(wire.head(GRAPH, sum(map(len, parts))))
                file.writelines(parts)
            else:
                file.write(data[entry.start : entry.end])


def save_apart(outline: Outline, path: Path, *, ir_version: int) -> None:
    """Write a model as :func:`model_file.save` does, with its large weights in ``<name>.data`` beside it.

    For files that a tool reads again at once: onnx's shape inference takes such a model in no time. In memory it stays
    as it is.
    """
    import onnx

    model = outline.model
    model_file.settle(model, ir_version)
    here = {tensor.name: tensor.raw_data for tensor in _large(model)}
    weights = {**outline.weights, **here}
    beside = [tensor for tensor in model.graph.initializer if tensor.name in weights]
    try:
        with path.with_name(f"{path.name}.data").open("wb") as file:
            for tensor in beside:
                data = weights[tensor.name]
                told = {"location": f"{path.name}.data", "offset": str(file.tell()), "length": str(len(data))}
                file.write(data)
                tensor.ClearField("raw_data")
                for key, value in told.items():
                    tensor.external_data.add(key=key, value=value)
                tensor.data_location = onnx.TensorProto.EXTERNAL
        path.write_bytes(model.SerializeToString())
    finally:
        for tensor in beside:
            del tensor.external_data[:]
            tensor.ClearField("data_location")
        _give_back(model, here)


def _give_back(model: ModelProto, kept: Mapping[str, bytes | memoryview]) -> None:
    for tensor in model.graph.initializer:
        if not tensor.HasField("raw_data") and tensor.name in kept:
            tensor.raw_data = bytes(kept[tensor.name])


def _large(model: ModelProto) -> list[TensorProto]:
    """Return the main graph's initializers that hold much, each name once."""
    found: dict[str, Any] = {}
    for tensor in model.graph.initializer:
        # Counted from the shape: asking for raw_data copies it.
        if tensor.HasField("raw_data") and tensor.data_type not in WHOLE and model_file.bytes_of(tensor) >= LARGE:
            found.setdefault(tensor.name, tensor)
    return list(found.values())


def _walked(path: Path) -> Outline:
    import onnx

    model_file.refuse_ort(path)
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        weights: dict[str, memoryview] = {}
        parts: list[bytes | memoryview] = []
        for entry in wire.fields(data, 0, len(data)):
            if entry.number == GRAPH and entry.is_bytes:
                graph = b"".join(_graph_without(data, entry, weights))
                parts += [wire.head(GRAPH, len(graph)), graph]
            else:
                parts.append(data[entry.start : entry.end])
        model = onnx.ModelProto.FromString(b"".join(parts))
        return Outline(model, weights, normal=True) if is_normal(model) else Outline(normalize(model), weights)
    except Exception:
        # What is wrong is said in the words of who reads the whole.
        return taken_apart(model_file.load(path))


def _graph_without(data: memoryview, graph: wire.Field, weights: dict[str, memoryview]) -> list[bytes | memoryview]:
    parts: list[bytes | memoryview] = []
    copied = graph.body
    for entry in wire.fields(data, graph.body, graph.end):
        if entry.number != INITIALIZER or not entry.is_bytes or entry.end - entry.body < LARGE:
            continue
        inside = list(wire.fields(data, entry.body, entry.end))
        raw = [one for one in inside if one.number == RAW_DATA and one.end - one.body >= LARGE]
        name = next((bytes(data[one.body : one.end]).decode("utf-8") for one in inside if one.number == NAME), "")
        kind = next((data[one.body] for one in inside if one.number == DATA_TYPE), 0)
        if len(raw) != 1 or name in weights or kind in WHOLE:
            continue
        weights[name] = data[raw[0].body : raw[0].end]
        kept = b"".join(data[one.start : one.end] for one in inside if one.number != RAW_DATA)
        parts += [data[copied : entry.start], wire.head(INITIALIZER, len(kept)), kept]
        copied = entry.end
    parts.append(data[copied : graph.end])
    return parts


def _graph_with(
    data: memoryview, graph: wire.Field, weights: Mapping[str, bytes | memoryview]
) -> Iterator[bytes | memoryview]:
    copied = graph.body
    for entry in wire.fields(data, graph.body, graph.end):
        if entry.number != INITIALIZER:
            continue
        inside = list(wire.fields(data, entry.body, entry.end))
        name = next((bytes(data[one.body : one.end]).decode("utf-8") for one in inside if one.number == NAME), "")
        if name not in weights or any(one.number == RAW_DATA for one in inside):
            continue
        raw = weights[name]
        before = wire.head(RAW_DATA, len(raw))
        yield data[copied : entry.start]
        yield wire.head(INITIALIZER, entry.end - entry.body + len(before) + len(raw))
        yield from (data[entry.body : entry.end], before, raw)
        copied = entry.end
    yield data[copied : graph.end]
