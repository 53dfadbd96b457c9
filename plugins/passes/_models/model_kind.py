"""What kind of network a graph is, as far as quantization has to know: recurrent, transformer, convolutional or other.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from . import onnx_graph

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["Architecture", "architecture"]

RECURRENT: Final = frozenset({"GRU", "LSTM", "RNN", "DynamicQuantizeLSTM"})
CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose", "FusedConv"})
PRODUCTS: Final = frozenset({"FusedMatMul", "Gemm", "MatMul"})
FUSED_ATTENTION: Final = frozenset(
    {
        "Attention",
        "DecoderMaskedMultiHeadAttention",
        "GroupQueryAttention",
        "MultiHeadAttention",
        "PackedAttention",
        "PackedMultiHeadAttention",
    }
)

CONVS_PER_ATTENTION: Final = 3
"""A transformer has few convolutions beside each attention (a Conformer three); with more it is a CNN that attends."""

ARRANGING: Final = frozenset({"Concat", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators through which a weight may pass on its way from the file to the operator that multiplies by it."""

BETWEEN: Final = frozenset({"Cast", "Identity", "Reshape", "Transpose", "Where", "Add", "Dropout"})


@dataclass(frozen=True)
class Architecture:
    """What a graph is made of.

    :param kind: ``recurrent``, ``transformer``, ``convolutional`` or ``other``.
    :param evidence: the counts that say so, as a clause.
    """

    kind: str
    evidence: str


def architecture(model: ModelProto) -> Architecture:
    """Say what kind of network it is, from its operators at any depth and from where its weights are."""
    weights = _weights_by_operator(model)
    recurrent = sum(weights[op] for op in RECURRENT)
    total = sum(weights[op] for op in RECURRENT | CONVOLUTIONS | PRODUCTS)
    counts = Counter(node.op_type for node in onnx_graph.nodes(model))
    cells = sum(counts[op] for op in RECURRENT)
    convolutions = sum(counts[op] for op in CONVOLUTIONS)
    attentions = _attentions(model) + sum(counts[op] for op in FUSED_ATTENTION)
    products = sum(counts[op] for op in PRODUCTS)
    share = recurrent / total if total else 0.0
    if cells and (share >= 0.5 or not convolutions):
        return Architecture("recurrent", f"{cells} {_most(counts, RECURRENT)} hold {share:.0%} of the weights")
    if attentions and convolutions <= CONVS_PER_ATTENTION * attentions:
        return Architecture("transformer", f"{attentions} attentions, {products} matrix products, {convolutions} Conv")
    # A classifier of pictures may end in more products than it has convolutions; one of bytes or words is no CNN then.
    if convolutions and (convolutions >= products or _sees_pictures(model)):
        beside = f", {attentions} attentions" if attentions else ""
        beside += f", {cells} {_most(counts, RECURRENT)} with {share:.0%} of the weights" if cells else ""
        return Architecture("convolutional", f"{convolutions} Conv, {products} matrix products{beside}")
    return Architecture(
        "other", f"{products} matrix products, {convolutions} Conv, {attentions} attentions, {cells} cells"
    )


def _sees_pictures(model: ModelProto) -> bool:
    """Whether an input has the form of pictures: floats of four axes."""
    kinds = (value.type.tensor_type for value in model.graph.input)
    return any(kind.elem_type == 1 and len(kind.shape.dim) == 4 for kind in kinds)


def _most(counts: Counter[str], among: frozenset[str]) -> str:
    return max(sorted(among), key=lambda op: counts[op])


def _weights_by_operator(model: ModelProto) -> Counter[str]:
    """Count the constant numbers that each operator reads, at any depth."""
    found = Counter[str]()
    sizes: dict[str, int] = {}
    makers: dict[str, NodeProto] = {}
    for graph in onnx_graph.graphs(model):
        sizes |= {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
        for node in graph.node:
            makers |= dict.fromkeys(node.output, node)
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                sizes[node.output[0]] = math.prod(node.attribute[0].t.dims)
    for node in onnx_graph.nodes(model):
        found[node.op_type] += sum(_constants_behind(name, sizes, makers) for name in node.input)
    return found


def _constants_behind(name: str, sizes: dict[str, int], makers: dict[str, NodeProto], depth: int = 6) -> int:
    """Return the size of a weight; exporters cut, turn and join those of an LSTM before it reads them."""
    if name in sizes or not name or depth == 0:
        return sizes.get(name, 0)
    maker = makers.get(name)
    if maker is None or maker.op_type not in ARRANGING:
        return 0
    return sum(_constants_behind(source, sizes, makers, depth - 1) for source in maker.input)


def _attentions(model: ModelProto) -> int:
    """Count the places where a Softmax lies between two matrix products of computed tensors."""
    found = 0
    for graph in onnx_graph.graphs(model):
        makers: dict[str, NodeProto] = {name: node for node in graph.node for name in node.output}
        readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        for node in graph.node:
            if node.op_type == "Softmax" and _comes_from(node, makers) and _goes_to(node, readers):
                found += 1
    return found


def _comes_from(softmax: NodeProto, makers: dict[str, NodeProto]) -> bool:
    """Whether a product of two computed tensors lies a few steps before a Softmax."""
    reached = [softmax.input[0]]
    for _ in range(5):
        makers_here = [makers[name] for name in reached if name in makers]
        if any(node.op_type in PRODUCTS and all(name in makers for name in node.input[:2]) for node in makers_here):
            return True
        reached = [name for node in makers_here if node.op_type in BETWEEN | {"Div", "Mul"} for name in node.input]
    return False


def _goes_to(softmax: NodeProto, readers: dict[str, list[NodeProto]]) -> bool:
    """Whether a product is a few steps behind a Softmax."""
    reached = [softmax.output[0]]
    for _ in range(3):
        here = [node for name in reached for node in readers.get(name, [])]
        if any(node.op_type in PRODUCTS for node in here):
            return True
        reached = [name for node in here if node.op_type in BETWEEN for name in node.output]
    return False
