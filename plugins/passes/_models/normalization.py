"""Spellings of a model that ONNX Runtime reads and that onnx's tools and ONNX Runtime's own scripts do not.

- ONNX's operator set under its long name ``ai.onnx`` instead of the empty one (both are valid, ONNX IR specification)
- sparse initializers and sparse Constant nodes, which no quantizer or converter looks at
- Constant nodes with ``value_float``, ``value_ints`` and the like instead of a tensor, at which ONNX Runtime's symbolic
  shape inference stops

A session treats both as the plain form, so the model computes the same.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from . import onnx_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onnx import AttributeProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

__all__ = ["is_normal", "normalize"]

LONG_NAME: Final = "ai.onnx"

SHORT: Final = ("sparse_value", "value_float", "value_floats", "value_int", "value_ints")
"""Attributes of a Constant that stand for a tensor."""


def is_normal(model: ModelProto) -> bool:
    """Return whether :func:`normalize` would leave a model as it is."""
    imports = (model.opset_import, *(function.opset_import for function in model.functions))
    return not (
        any(entry.domain == LONG_NAME for entries in imports for entry in entries)
        or any(graph.sparse_initializer for graph in onnx_graph.graphs(model))
        or any(
            node.domain == LONG_NAME
            or (node.op_type == "Constant" and any(part.name in SHORT for part in node.attribute))
            for node in _nodes(model)
        )
    )


def normalize(model: ModelProto) -> ModelProto:
    """Give a model the empty domain name and dense weights, in place; return it.

    :raises ValueError: a sparse tensor's indices do not fit its shape.
    """
    _rename_domain(model)
    for graph in onnx_graph.graphs(model):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse))
        del graph.sparse_initializer[:]
    for node in _nodes(model):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name in SHORT and not attribute.ref_attr_name:
                value = _value(attribute)
                attribute.Clear()
                attribute.name, attribute.type = "value", 4  # AttributeProto.TENSOR
                attribute.t.CopyFrom(value)
    return model


def _rename_domain(model: ModelProto) -> None:
    """Replace ``ai.onnx`` by the empty name; of two imports the newer version remains."""
    for imports in (model.opset_import, *(function.opset_import for function in model.functions)):
        long = [entry for entry in imports if entry.domain == LONG_NAME]
        if not long:
            continue
        newest = max(entry.version for entry in imports if entry.domain in ("", LONG_NAME))
        kept = [entry for entry in imports if entry.domain not in ("", LONG_NAME)]
        long[0].domain, long[0].version = "", newest
        kept.insert(0, long[0])
        del imports[:]
        imports.extend(kept)
    for node in _nodes(model):
        if node.domain == LONG_NAME:
            node.domain = ""


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yield every node at any depth, those inside the nodes of functions too."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for graph in onnx_graph.inner_graphs(node):
            waiting.extend(graph.node)


def _value(attribute: AttributeProto) -> TensorProto:
    """Return the tensor that a Constant's other attributes stand for (ONNX, Constant-13)."""
    import numpy as np
    from onnx import numpy_helper

    if attribute.name == "sparse_value":
        dense = _dense(attribute.sparse_tensor)
        dense.ClearField("name")
        return dense
    arrays: dict[str, Callable[[], Any]] = {
        "value_float": lambda: np.float32(attribute.f),
        "value_floats": lambda: np.array(attribute.floats, np.float32),
        "value_int": lambda: np.int64(attribute.i),
        "value_ints": lambda: np.array(attribute.ints, np.int64),
    }
    return numpy_helper.from_array(np.asarray(arrays[attribute.name]()))


def _dense(sparse: SparseTensorProto) -> TensorProto:
    """Return a sparse tensor (ONNX IR, SparseTensorProto: linear indices or one row of coordinates each) in full."""
    import numpy as np
    from onnx import numpy_helper

    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    dense = np.zeros(shape, values.dtype)
    try:
        if indices.ndim == 2:
            dense[tuple(indices.T)] = values
        else:
            dense.reshape(-1)[indices] = values
    except (IndexError, ValueError) as problem:
        raise ValueError(
            f"The sparse weight {sparse.values.name!r} has indices outside of its shape {list(shape)}. "
            "Export the model again."
        ) from problem
    return numpy_helper.from_array(dense, sparse.values.name)
