"""Transposes of constants, which torch's exporters write for linear layers, folded into the constants.

Only where nobody else reads the constant: two forms of one weight would make the file larger.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from .._models import onnx_graph

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from onnx import ModelProto, NodeProto, TensorProto

__all__ = ["fold"]


def fold(model: ModelProto, weights: MutableMapping[str, Any]) -> int:
    """Turn each Transpose of a float constant of the main graph into the transposed constant; return how many.

    :param weights: the bytes of weights whose initializers are without data (``outlines.py``), by name.
    """
    from onnx import TensorProto

    graph = model.graph
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in onnx_graph.nodes(model):
        for name in node.input:
            readers[name].append(node)
    outputs = {value.name for inner in onnx_graph.graphs(model) for value in inner.output}
    given = {value.name for value in graph.input}
    constants = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT
        and len(readers[tensor.name]) == 1
        and tensor.name not in given | outputs
    }
    folded = [
        node
        for node in graph.node
        if node.op_type == "Transpose"
        and node.domain in onnx_graph.DEFAULT_DOMAINS
        and node.input[0] in constants
        and node.output[0] not in outputs
    ]
    for node in folded:
        _transpose(constants[node.input[0]], node, weights)
        graph.node.remove(node)
    return len(folded)


def _transpose(tensor: TensorProto, node: NodeProto, weights: MutableMapping[str, Any]) -> None:
    import numpy as np
    from onnx import numpy_helper

    name, made = tensor.name, node.output[0]
    axes = next((list(part.ints) for part in node.attribute if part.name == "perm"), None)
    data = weights.pop(name, None)
    if data is None:
        turned = numpy_helper.to_array(tensor).transpose(axes)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(turned), made))
    else:
        turned = np.frombuffer(data, "<f4").reshape(tuple(tensor.dims)).transpose(axes)
        weights[made] = turned.tobytes()
        tensor.name = made
        tensor.dims[:] = turned.shape
