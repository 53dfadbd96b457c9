"""Small edits of ONNX graphs that several faults and harmless changes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from planting import Array, Candidate, in_model


def values(model: onnx.ModelProto, name: str) -> Array:
    """Return a copy of an initializer."""
    return np.array(numpy_helper.to_array(_tensor(model, name)))


def _tensor(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def put(model: onnx.ModelProto, name: str, array: Array) -> None:
    """Replace an initializer's values, or add the initializer."""
    made = numpy_helper.from_array(np.ascontiguousarray(array), name)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(made)
            return
    model.graph.initializer.append(made)


def node(model: onnx.ModelProto, name: str) -> NodeProto:
    """Return the node with a name."""
    return next(one for one in model.graph.node if one.name == name)


def nodes(model: onnx.ModelProto, kind: str) -> list[NodeProto]:
    """Return the nodes of one type, in order."""
    return [one for one in model.graph.node if one.op_type == kind]


def set_attribute(target: NodeProto, name: str, value: Any) -> None:
    """Set an attribute of a node."""
    for place, attribute in enumerate(target.attribute):
        if attribute.name == name:
            del target.attribute[place]
            break
    target.attribute.append(helper.make_attribute(name, value))


def become(target: NodeProto, kind: str, *inputs: str) -> None:
    """Turn a node into another type, with other inputs if any are given, and without attributes."""
    target.op_type = kind
    del target.attribute[:]
    if inputs:
        del target.input[:]
        target.input.extend(inputs)


def insert_after(model: onnx.ModelProto, output: str, kind: str, *more: str, **attributes: Any) -> None:
    """Put a node between a tensor and all that read it; an output of the model keeps its name."""
    producer = next(one for one in model.graph.node if output in one.output)
    place = list(model.graph.node).index(producer)
    producer.output[list(producer.output).index(output)] = f"{output}.before"
    for one in model.graph.node:
        if one is not producer:
            for number, name in enumerate(one.input):
                if name == f"{output}.before":
                    one.input[number] = output
    model.graph.node.insert(place + 1, helper.make_node(kind, [f"{output}.before", *more], [output], **attributes))


def in_weight(name: str, change: Callable[[Array], Array | None]) -> Candidate:
    """Change one initializer, in place or by returning the new values."""

    def edit(model: onnx.ModelProto) -> None:
        array = values(model, name)
        changed = change(array)
        put(model, name, array if changed is None else changed)

    return in_model(edit)


def swapped(first: str, second: str) -> Candidate:
    """Swap two initializers of one shape."""

    def edit(model: onnx.ModelProto) -> None:
        left, right = values(model, first), values(model, second)
        put(model, first, right)
        put(model, second, left)

    return in_model(edit)


def float_weights(model: onnx.ModelProto, *, minimum: int = 256) -> list[str]:
    """Return the names of float initializers with at least two axes and ``minimum`` elements."""
    return [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1 and np.prod(tensor.dims) >= minimum
    ]


def rounded(array: Array, bits: int, axis: int | None = None) -> Array:
    """Return weights as symmetric quantization of ``bits`` bits reads them back: one scale, or one along ``axis``."""
    top = 2 ** (bits - 1) - 1
    others = None if axis is None else tuple(place for place in range(array.ndim) if place != axis)
    scale = np.abs(array).max(axis=others, keepdims=True) / top
    scale = np.where(scale > 0, scale, 1)
    return (np.clip(np.round(array / scale), -top, top) * scale).astype(array.dtype)
