"""What a graph says of its attention before anything is fused: how many there are, their heads, how it was exported.

Pure functions of a loaded model. Runs inside a runtime beside the pass that imports it; only the standard library is
imported when the file is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .._models import onnx_graph

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

__all__ = [
    "ATTENTION",
    "FUSED",
    "Heads",
    "Patterns",
    "dynamo_exported",
    "fused_since",
    "heads_in",
    "masks_dropped",
    "patterns_in",
    "scaled_dot_product",
]

ATTENTION: Final = (
    "Attention",
    "DecoderMaskedMultiHeadAttention",
    "GroupQueryAttention",
    "MultiHeadAttention",
    "PackedAttention",
    "PackedMultiHeadAttention",
    "PagedAttention",
    "QOrderedAttention",
)
NORMALIZATION: Final = (
    "EmbedLayerNormalization",
    "GroupNorm",
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "SkipGroupNorm",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
)
GELU: Final = ("BiasGelu", "BiasSplitGelu", "FastGelu", "Gelu", "GemmFastGelu", "QuickGelu")
FUSED: Final = frozenset(
    {
        *ATTENTION,
        *NORMALIZATION,
        *GELU,
        "BiasAdd",
        "BiasSoftmax",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "GatedRelativePositionBias",
        "NhwcConv",
        "RelativePositionBias",
        "RemovePadding",
        "RestorePadding",
        "RotaryEmbedding",
    }
)
"""Operators that the fusions make, and ONNX Runtime's own optimizations at level extended."""

BEHIND_SOFTMAX: Final = ("Cast", "Dropout", "Identity", "Where")
"""Operators that may stand between a Softmax and the product with the values."""

MASK_INPUTS: Final = {"Attention": (3, 5), "MultiHeadAttention": (4, 5)}
"""Where ONNX Runtime's operators take a mask, or what is added to the scores."""


@dataclass(frozen=True)
class Heads:
    """The shape of attention: ``hidden_size`` is the width of all heads together."""

    num_heads: int
    hidden_size: int


@dataclass(frozen=True)
class Patterns:
    """How often a graph has what a fusion looks for.

    :param attention: Softmax before a MatMul. :param gelu: Erf, the mark of an exact GELU.
    :param layer_norm: layer normalization as separate operators.
    """

    attention: int
    gelu: int
    layer_norm: int


def patterns_in(model: ModelProto) -> Patterns:
    """Count what a transformer's fusions look for."""
    ops = onnx_graph.op_counts(model)
    return Patterns(
        attention=sum(_softmaxes_before_product(graph) for graph in onnx_graph.graphs(model)),
        gelu=ops.get("Erf", 0),
        layer_norm=sum(_plain_layer_norms(graph) for graph in onnx_graph.graphs(model)),
    )


def _softmaxes_before_product(graph: GraphProto) -> int:
    """Count the Softmax nodes whose result is multiplied with something: the mark of attention, however exported."""
    return len(_multiplied_softmaxes(graph))


def _multiplied_softmaxes(graph: GraphProto) -> set[str]:
    reached = {node.output[0]: node.output[0] for node in graph.node if node.op_type == "Softmax"}
    for node in graph.node:
        if node.op_type in BEHIND_SOFTMAX:
            for name in node.input:
                if name in reached:
                    reached[node.output[0]] = reached[name]
                    break
    multiplied = {name for node in graph.node if node.op_type in ("MatMul", "Einsum") for name in node.input}
    return {first for name, first in reached.items() if name in multiplied}


def masks_dropped(before: ModelProto, after: ModelProto) -> int:
    """Count the attentions that had something added to their scores, a mask in most models, and lost it when fused."""
    softmaxes, plain = 0, 0
    for graph in onnx_graph.graphs(before):
        maker, first = _makers(graph), _multiplied_softmaxes(graph)
        softmaxes += len(first)
        plain += sum(not _is_masked(maker[name], maker) for name in first)
    return max(0, _bare(after) - _bare(before) - plain) if softmaxes else 0


def _bare(model: ModelProto) -> int:
    """Count the fused attentions that nothing is added to the scores of, and that are not causal."""
    return sum(
        not any(place < len(node.input) and node.input[place] for place in MASK_INPUTS[node.op_type])
        for node in onnx_graph.nodes(model)
        if node.domain == onnx_graph.CONTRIB_DOMAIN and node.op_type in MASK_INPUTS and not _is_causal(node)
    )


def _is_masked(softmax: NodeProto, maker: dict[str, NodeProto]) -> bool:
    node = maker.get(softmax.input[0])
    while node is not None and node.op_type in ("Cast", "Identity", "Reshape"):
        node = maker.get(node.input[0])
    return node is not None and node.op_type in ("Add", "Where")


def _is_causal(node: NodeProto) -> bool:
    return any(attribute.name == "unidirectional" and attribute.i for attribute in node.attribute)


def _plain_layer_norms(graph: GraphProto) -> int:
    """Count ``Sqrt(ReduceMean(...) + epsilon)``, which every exporter writes for a layer normalization."""
    maker = _makers(graph)
    found = 0
    for node in graph.node:
        add = maker.get(node.input[0]) if node.op_type == "Sqrt" and node.input else None
        if add is not None and add.op_type == "Add":
            found += any((mean := maker.get(name)) is not None and mean.op_type == "ReduceMean" for name in add.input)
    return found


def fused_since(before: ModelProto, after: ModelProto) -> dict[str, int]:
    """How many fused operators of each kind there are now that were not there before."""
    old, new = onnx_graph.op_counts(before), onnx_graph.op_counts(after)
    return {op: new[op] - old.get(op, 0) for op in sorted(FUSED) if new.get(op, 0) > old.get(op, 0)}


def dynamo_exported(model: ModelProto) -> bool:
    """Whether torch's dynamo exporter wrote the model: its nodes and values carry metadata of that name."""
    for graph in onnx_graph.graphs(model):
        for item in (graph, *graph.node[:20]):
            if any(entry.key.startswith("pkg.torch") for entry in getattr(item, "metadata_props", ())):
                return True
    return False


def scaled_dot_product(model: ModelProto) -> bool:
    """Whether attention comes from torch's scaled_dot_product_attention: both factors are scaled, not the scores."""
    for graph in onnx_graph.graphs(model):
        maker = _makers(graph)
        for node in graph.node:
            scores = node if node.op_type == "Softmax" else None
            for _ in range(4):  # through the mask
                if scores is None or scores.op_type == "MatMul":
                    break
                ways = [maker[name] for name in scores.input if name in maker]
                scores = next((way for way in ways if way.op_type in ("MatMul", "Add", "Where", "Cast")), None)
            if scores is not None and scores.op_type == "MatMul":
                factors = [maker[name].op_type for name in scores.input if name in maker]
                if factors == ["Mul", "Mul"]:
                    return True
    return False


def heads_in(model: ModelProto) -> list[Heads]:
    """Return the shapes of attention in a graph, the most frequent one first.

    They are read where a projection is split into heads: a Reshape to ``[…, heads, size]`` (or ``[…, 3, heads, size]``
    for a packed one) whose result is transposed. Exporters that write -1 for the heads leave the width of the
    projection's weight to divide.
    """
    found: Counter[Heads] = Counter()
    for graph in onnx_graph.graphs(model):
        maker, constants = _makers(graph), _constants(graph)
        split = {
            node.input[0]
            for node in graph.node
            if node.op_type == "Transpose" and _permutation(node) in ([0, 2, 1, 3], [0, 2, 3, 1], [2, 0, 3, 1, 4])
        }
        for node in graph.node:
            if node.op_type != "Reshape" or node.output[0] not in split or len(node.input) < 2:
                continue
            shape = _shape(node.input[1], maker, constants)
            if heads := _heads(shape, node, maker, constants):
                found[heads] += 1
    return [heads for heads, _ in found.most_common()]


def _heads(
    shape: list[int | None], reshape: NodeProto, maker: dict[str, NodeProto], constants: dict[str, TensorProto]
) -> Heads | None:
    if not (len(shape) == 4 or (len(shape) == 5 and shape[2] == 3)):
        return None
    heads, size = shape[-2:]
    if heads is None or size is None or size <= 1:
        return None
    if heads == -1:
        width = _projected_width(reshape.input[0], maker, constants)
        heads = width // size if width % size == 0 else 0
    return Heads(heads, heads * size) if heads > 0 else None


def _makers(graph: GraphProto) -> dict[str, NodeProto]:
    return {name: node for node in graph.node for name in node.output if name}


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the tensors of a graph by name: initializers, the values of Constant nodes, and what stands for either."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                found[node.output[0]] = attribute.t
        if node.op_type == "Identity" and node.input[0] in found:  # equal weights, which torch writes once
            found[node.output[0]] = found[node.input[0]]
    return found


def _permutation(node: NodeProto) -> list[int]:
    return [axis for attribute in node.attribute if attribute.name == "perm" for axis in attribute.ints]


def _shape(name: str, maker: dict[str, NodeProto], constants: dict[str, TensorProto]) -> list[int | None]:
    """Return a Reshape's shape as far as it is constant: ``None`` stands for what is computed."""
    if name in constants:
        return list(_integers(constants[name]))
    node = maker.get(name)
    if node is None or node.op_type != "Concat":
        return []
    shape: list[int | None] = []
    for part in node.input:
        known: list[int | None] = list(_integers(constants[part])) if part in constants else [None]
        shape += known
    return shape


def _integers(tensor: TensorProto) -> Iterator[int]:
    from onnx import TensorProto as Tensor
    from onnx import numpy_helper

    if tensor.data_type == Tensor.INT64 and len(tensor.dims) <= 1 and sum(tensor.dims) <= 8:
        yield from map(int, numpy_helper.to_array(tensor).ravel().tolist())


def _projected_width(name: str, maker: dict[str, NodeProto], constants: dict[str, TensorProto]) -> int:
    """Return the width of the linear layer that a tensor comes from, through its bias and a split; 0 for none."""
    parts = 1
    for _ in range(8):
        node = maker.get(name)
        if node is None:
            return 0
        if node.op_type in ("Gemm", "MatMul"):
            weight = constants.get(node.input[1])
            flipped = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            width = int(weight.dims[0 if flipped else -1]) if weight is not None and weight.dims else 0
            return width // parts if width % parts == 0 else 0
        if node.op_type == "Split":
            parts *= len(node.output)
        elif node.op_type not in ("Add", "Cast", "Identity", "Reshape"):
            return 0
        computed = [part for part in node.input if part in maker and part not in constants]
        if node.op_type == "Add" and len(computed) != 1:
            return 0
        name = node.input[0] if node.op_type != "Add" else computed[0]
    return 0
