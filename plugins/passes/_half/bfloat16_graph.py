"""bfloat16: which operators an EP computes in it, and the change of a graph so that those do.

bfloat16 is the upper half of a float32: its range, with 8 bits of precision. So nothing overflows that did not before,
and no value needs to be looked after as in float16; what counts is which kernels there are. No version's list is kept
here: the EP is asked with models of one node, with falling back to the CPU switched off.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from .._blocks import block_nodes
from .._models import model_file, onnx_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

__all__ = ["HEAVY", "OPERATORS", "convert", "kernels", "upper_half"]

HEAVY: Final = ("Conv", "Gemm", "MatMul")
"""What makes it worth while: products with weights."""

OPERATORS: Final[Mapping[str, tuple[tuple[tuple[int, ...], ...], Mapping[str, Any]]]] = {
    "Add": (((2, 4), (2, 4)), {}),
    "Concat": (((2, 4), (2, 4)), {"axis": 0}),
    "Conv": (((1, 2, 4, 4), (2, 2, 3, 3)), {}),
    "Flatten": (((2, 4),), {}),
    "Gelu": (((2, 4),), {}),
    "Gemm": (((2, 4), (4, 2)), {}),
    "Identity": (((2, 4),), {}),
    "MatMul": (((2, 4), (4, 2)), {}),
    "Mul": (((2, 4), (2, 4)), {}),
    "Relu": (((2, 4),), {}),
    "Sigmoid": (((2, 4),), {}),
    "Sub": (((2, 4), (2, 4)), {}),
    "Tanh": (((2, 4),), {}),
    "Transpose": (((2, 4),), {}),
}
"""Operators that may change, with shapes and attributes of a small node of each.

Products, and what stands between them. Sums over many values (Softmax, normalizations, reductions) are not among them:
8 bits of precision are too few there, and they take little of the time.
"""


def kernels(
    op_types: Collection[str], opset: int, ep_name: str, ep_options: Mapping[str, str]
) -> tuple[frozenset[str], dict[str, str]]:
    """Return which of the operators an EP computes in bfloat16, and for the others why it does not."""
    import onnxruntime
    from onnx import TensorProto, helper

    able, refused = set(), {}
    for op in sorted(set(op_types) & OPERATORS.keys()):
        shapes, attributes = OPERATORS[op]
        names = [f"x{place}" for place in range(len(shapes))]
        graph = helper.make_graph(
            [helper.make_node(op, names, ["y"], **attributes)],
            "small",
            [
                helper.make_tensor_value_info(name, TensorProto.BFLOAT16, shape)
                for name, shape in zip(names, shapes, strict=True)
            ],
            [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, None)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if ep_name != "CPUExecutionProvider":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[(ep_name, dict(ep_options))])
        except Exception as problem:
            refused[op] = model_file.first_line(problem)
        else:
            able.add(op)
    return frozenset(able), refused


def upper_half(values: NDArray[Any]) -> NDArray[Any]:
    """Return float32 values as bfloat16 bits, uint16, rounded to the nearest, ties to even; NaN stays NaN."""
    import numpy as np

    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    found: NDArray[Any] = np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
    return found


def convert(model: ModelProto, op_types: Collection[str], blocked: Collection[str]) -> dict[str, int]:
    """Make the nodes of these operators in the main graph compute in bfloat16, in place; return what was done.

    Between two of them nothing is cast. Inputs and outputs of the model stay as they are.

    :param blocked: names of nodes that stay.
    """
    floats = _float_tensors(model)
    chosen = [
        node
        for node in model.graph.node
        if node.op_type in op_types
        and node.domain in onnx_graph.DEFAULT_DOMAINS
        and node.name not in blocked
        and node.output[0] in floats
        and not _takes_constants_alone(node, model)
    ]
    change = _Change(model, floats, chosen)
    nodes = change.nodes()
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(change.weights)
    # What was noted of tensors that now have another maker still holds: casts give the old names their old type.
    block_nodes.drop_unread(model)
    return {"nodes_converted": len(chosen), "weights_converted": len(change.weights), "casts_added": change.casts}


def _takes_constants_alone(node: NodeProto, model: ModelProto) -> bool:
    weights = {tensor.name for tensor in model.graph.initializer}
    return all(name in weights for name in node.input if name)


def _float_tensors(model: ModelProto) -> frozenset[str]:
    """Return the names of float32 tensors of the main graph, as far as onnx can infer them."""
    import onnx
    from onnx import TensorProto

    typed = onnx.shape_inference.infer_shapes(model)
    values = (*typed.graph.input, *typed.graph.output, *typed.graph.value_info)
    found = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    found |= {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return frozenset(found)


class _Change:
    """The new nodes of a graph, made one after another."""

    def __init__(self, model: ModelProto, floats: frozenset[str], chosen: Sequence[NodeProto]) -> None:
        self._model = model
        self._floats = floats
        self._chosen = {node.output[0] for node in chosen}
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._halves: dict[str, str] = {}
        self._read_in_float = self._readers()
        self.weights: list[TensorProto] = []
        self.casts = 0

    def _readers(self) -> set[str]:
        """Name what somebody needs in float32: other nodes, branches, the caller."""
        read = {value.name for value in self._model.graph.output}
        # Branches read tensors of the main graph by name.
        inner = list(onnx_graph.graphs(self._model))[1:]
        for graph in inner:
            read |= {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        for node in self._model.graph.node:
            if node.output[0] not in self._chosen:
                read |= set(node.input)
        return read

    def nodes(self) -> list[NodeProto]:
        """Return all nodes in order, with casts where types meet."""
        from onnx import NodeProto as Node
        from onnx import TensorProto

        made: list[NodeProto] = []
        for node in self._model.graph.node:
            copied = Node()
            copied.CopyFrom(node)
            if node.output[0] not in self._chosen:
                made.append(copied)
                continue
            for place, name in enumerate(node.input):
                if name in self._floats:
                    copied.input[place] = self._half(name, made)
            made.append(copied)
            for place, name in enumerate(node.output):
                if name:
                    copied.output[place] = self._halves[name] = f"{name}_bfloat16"
                    if name in self._read_in_float:
                        self._cast(made, copied.output[place], name, TensorProto.FLOAT)
        return made

    def _half(self, name: str, made: list[NodeProto]) -> str:
        """Return the name of a tensor's bfloat16 form, made here if nobody has made it."""
        from onnx import TensorProto, helper, numpy_helper

        if name in self._halves:
            return self._halves[name]
        half = self._halves[name] = f"{name}_bfloat16"
        weight = self._initializers.get(name)
        if weight is None:
            self._cast(made, name, half, TensorProto.BFLOAT16)
        else:
            data = upper_half(numpy_helper.to_array(weight)).tobytes()
            self.weights.append(helper.make_tensor(half, TensorProto.BFLOAT16, list(weight.dims), data, raw=True))
        return half

    def _cast(self, made: list[NodeProto], source: str, target: str, kind: int) -> None:
        from onnx import helper

        made.append(helper.make_node("Cast", [source], [target], name=f"{target}_Cast", to=kind))
        self.casts += 1
