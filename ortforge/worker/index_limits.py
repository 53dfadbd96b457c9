"""How large the values of a model's integer inputs may be, read from the tables that they are indices of."""

from __future__ import annotations

from typing import Any

__all__ = ["index_limits"]

_SAME_VALUES = frozenset({"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose"})
"""Operators whose first output has the values of their first input."""

_SAME_ROWS = frozenset({"Cast", "Identity", "DequantizeLinear"})
"""Operators whose first output has as many rows as their first input."""


def index_limits(graph: Any) -> dict[str, int]:
    """Return for inputs that look rows up in a table of fixed size how many rows there are: the vocabulary of tokens.

    :param graph: an ``onnx.GraphProto``. Of several tables that one input is used for, the smallest counts.
    """
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    inputs = {entry.name for entry in graph.input} - sizes.keys()
    same: dict[str, str] = {}
    limits: dict[str, int] = {}
    for node in graph.node:  # in topological order
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    sizes[node.output[0]] = list(attribute.t.dims)
        elif node.op_type in _SAME_ROWS and node.input[0] in sizes:
            sizes[node.output[0]] = sizes[node.input[0]]
        elif node.op_type in _SAME_VALUES and node.input and node.input[0]:
            same[node.output[0]] = same.get(node.input[0], node.input[0])
        for table, indices, axis in _lookups(node):
            name = same.get(indices, indices)
            dims = sizes.get(table)
            if name in inputs and dims and -len(dims) <= axis < len(dims):
                limits[name] = min(limits.get(name, dims[axis]), dims[axis])
    return limits


def _lookups(node: Any) -> list[tuple[str, str, int]]:
    """Return (table, indices, axis) of each look-up that a node does."""
    if node.op_type in ("Gather", "GatherBlockQuantized") and len(node.input) >= 2:
        name = "axis" if node.op_type == "Gather" else "gather_axis"
        axis = next((int(attribute.i) for attribute in node.attribute if attribute.name == name), 0)
        return [(node.input[0], node.input[1], axis)]
    if node.op_type == "EmbedLayerNormalization" and len(node.input) >= 5:
        return [(node.input[2], node.input[0], 0), (node.input[4], node.input[1], 0)]
    return []
