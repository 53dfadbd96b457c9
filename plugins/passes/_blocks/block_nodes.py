"""Nodes that compute with weights in blocks: com.microsoft's MatMulNBits and GatherBlockQuantized, or ONNX's own form.

The layouts are the operators' (ONNX Runtime, docs/ContribOperators.md; ONNX, DequantizeLinear-21):

- MatMulNBits: B is [N, blocks, block * bits / 8] of bytes, the first code lowest; scales [N * blocks]; zero points
  packed row by row [N * ceil(blocks * bits / 8)], or float [N * blocks]; without them they are 2^(bits-1)
- GatherBlockQuantized: 4 bits as a tensor of UINT4 (every version that has the operator), 2 and 8 bits as bytes
- DequantizeLinear: codes [K, N], scales and zero points [blocks, N], in the integer type of so many bits

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .._models import onnx_graph
from .rounding import Blocks, joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

    Array = NDArray[Any]

__all__ = ["QDQ_OPSET", "Target", "drop_unread", "lookup", "product", "qdq_nodes", "targets"]

QDQ_OPSET: Final = {2: 25, 4: 21, 8: 21}
"""ONNX operator set from which DequantizeLinear takes blocks of so many bits."""


@dataclass(frozen=True)
class Target:
    """A node whose weight can be rounded: MatMul with a constant [K, N], Gather of rows of a constant matrix."""

    node: NodeProto
    graph: GraphProto
    weight: TensorProto

    @property
    def matrix(self) -> Array:
        """The weight as [rows, depth]: transposed for MatMul, since blocks run along what a product sums over."""
        from onnx import numpy_helper

        values: Array = numpy_helper.to_array(self.weight)
        return values.T if self.node.op_type == "MatMul" else values

    @property
    def depth(self) -> int:
        """How many weights a row has, along which blocks run."""
        return int(self.weight.dims[0 if self.node.op_type == "MatMul" else 1])

    def fits(self, bits: int) -> bool:
        """Whether it can have so many bits: rows of a table of bytes end with a byte."""
        return self.node.op_type == "MatMul" or bits == 4 or int(self.weight.dims[1]) * bits % 8 == 0


def targets(model: ModelProto, op_types: Iterable[str]) -> Iterator[Target]:
    """Yield the nodes that can be rounded, at any depth, in the order of the graph."""
    from onnx import TensorProto

    wanted = set(op_types)
    weights = {tensor.name: tensor for graph in onnx_graph.graphs(model) for tensor in graph.initializer}
    # A weight that is a graph's input, too, can be replaced by the caller: it is no constant.
    given = {value.name for value in model.graph.input}
    for graph in onnx_graph.graphs(model):
        for node in graph.node:
            if node.op_type not in wanted or node.domain not in onnx_graph.DEFAULT_DOMAINS:
                continue
            name = node.input[1 if node.op_type == "MatMul" else 0]
            weight = weights.get(name)
            if weight is None or weight.data_type != TensorProto.FLOAT or len(weight.dims) != 2 or name in given:
                continue
            if node.op_type == "Gather" and any(part.name == "axis" and part.i for part in node.attribute):
                continue
            yield Target(node, graph, weight)


def product(target: Target, blocks: Blocks, named: str, accuracy_level: int) -> tuple[NodeProto, list[TensorProto]]:
    """Return a MatMulNBits in a MatMul's place, and its constants.

    :param named: what the constants' names begin with.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    columns, count, block = blocks.codes.shape
    inputs = [target.node.input[0], f"{named}_Q{blocks.bits}", f"{named}_scales"]
    made = [
        numpy_helper.from_array(joined(blocks.codes, blocks.bits), inputs[1]),
        numpy_helper.from_array(blocks.scales.reshape(-1), inputs[2]),
    ]
    if not blocks.symmetric:
        inputs.append(f"{named}_zero_points")
        zero = blocks.zero_points
        stored = zero if zero.dtype == np.float32 else joined(zero.reshape(columns, count), blocks.bits)
        made.append(numpy_helper.from_array(np.ascontiguousarray(stored).reshape(-1), inputs[3]))
    # An attribute of 0 is the same as none, and other EPs refuse the attribute.
    level: dict[str, Any] = {"accuracy_level": accuracy_level} if accuracy_level else {}
    node = helper.make_node(
        "MatMulNBits",
        inputs,
        list(target.node.output),
        name=target.node.name,
        domain=onnx_graph.CONTRIB_DOMAIN,
        K=blocks.depth,
        N=columns,
        bits=blocks.bits,
        block_size=block,
        **level,
    )
    return node, made


def lookup(target: Target, blocks: Blocks, named: str) -> tuple[NodeProto, list[TensorProto]]:
    """Return a GatherBlockQuantized in a Gather's place, and its constants."""
    from onnx import TensorProto, helper, numpy_helper

    rows, _, block = blocks.codes.shape
    codes = blocks.codes.reshape(rows, -1)[:, : blocks.depth]
    inputs = [f"{named}_Q{blocks.bits}", target.node.input[1], f"{named}_scales"]
    bits: dict[str, Any] = {}
    if blocks.bits == 4:
        kind = TensorProto.INT4 if blocks.symmetric else TensorProto.UINT4
        made = [_small(inputs[0], kind, codes, 4, signed=blocks.symmetric)]
    else:
        bits = {"bits": blocks.bits}
        made = [numpy_helper.from_array(joined(codes, blocks.bits), inputs[0])]
    made.append(numpy_helper.from_array(blocks.scales, inputs[2]))
    if not blocks.symmetric:
        inputs.append(f"{named}_zero_points")
        if blocks.bits == 4:
            made.append(_small(inputs[3], TensorProto.UINT4, blocks.zero_points, 4))
        else:
            made.append(numpy_helper.from_array(joined(blocks.zero_points, blocks.bits), inputs[3]))
    node = helper.make_node(
        "GatherBlockQuantized",
        inputs,
        list(target.node.output),
        name=target.node.name,
        domain=onnx_graph.CONTRIB_DOMAIN,
        gather_axis=0,
        quantize_axis=1,
        block_size=block,
        **bits,
    )
    return node, made


def qdq_nodes(target: Target, blocks: Blocks, named: str) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return a DequantizeLinear and the MatMul that reads it, and the constants.

    :raises NotImplementedError: onnx has no tensors of so many bits.
    """
    from onnx import TensorProto, helper, numpy_helper

    columns, _, block = blocks.codes.shape
    codes = blocks.codes.reshape(columns, -1)[:, : blocks.depth].T
    signed = blocks.symmetric
    name = f"{'INT' if signed else 'UINT'}{blocks.bits}"
    kind = getattr(TensorProto, name, None)
    if kind is None:
        raise NotImplementedError(
            f"The onnx of this runtime's tools has no tensors of {name}, which the QDQ format keeps {blocks.bits}-bit "
            "weights in. Use format = 'QOperator'."
        )
    inputs = [f"{named}_Q{blocks.bits}", f"{named}_scales"]
    made = [
        _small(inputs[0], kind, codes, blocks.bits, signed=signed),
        numpy_helper.from_array(blocks.scales.T.copy(), inputs[1]),
    ]
    if not signed:
        inputs.append(f"{named}_zero_points")
        made.append(_small(inputs[2], kind, blocks.zero_points.T, blocks.bits))
    node = target.node
    floats = f"{named}_DequantizeLinear_Output"
    dequantize = helper.make_node(
        "DequantizeLinear", inputs, [floats], name=f"{named}_DequantizeLinear", axis=0, block_size=block
    )
    matmul = helper.make_node("MatMul", [node.input[0], floats], list(node.output), name=node.name)
    return [dequantize, matmul], made


def _small(name: str, kind: int, codes: Array, bits: int, *, signed: bool = False) -> TensorProto:
    """Make a tensor of an integer type of 2, 4 or 8 bits; for a signed one the middle code becomes zero."""
    import numpy as np
    from onnx import helper

    stored = codes.astype(np.uint8)
    if signed:
        # Two's complement of code - middle, in so many bits.
        stored = (stored + 2 ** (bits - 1)) & (2**bits - 1)
    data = joined(np.ascontiguousarray(stored).reshape(-1), bits).tobytes()
    tensor: TensorProto = helper.make_tensor(name, kind, list(codes.shape), data, raw=True)
    return tensor


def drop_unread(model: ModelProto) -> None:
    """Take away initializers that nobody reads any more."""
    read = {name for node in onnx_graph.nodes(model) for name in node.input}
    for graph in onnx_graph.graphs(model):
        read |= {value.name for value in graph.output}
    for graph in onnx_graph.graphs(model):
        # One by one: giving a graph the others again would copy them.
        for place in reversed(range(len(graph.initializer))):
            if graph.initializer[place].name not in read:
                del graph.initializer[place]
