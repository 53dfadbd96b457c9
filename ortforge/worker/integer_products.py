"""Finds the 8-bit integer products of a graph, as ORT runs it, and which of them can saturate.

The graph is the one that ORT saved after its own optimizations: what was QDQ is there as ``QLinearMatMul``,
``QLinearConv`` or ``QGemm``, and ``session.x64quantprecision`` or ORT's own change from signed to unsigned activations
have been applied. What was not fused is a float product, and saturates nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .saturation import conv_weight_matrix, paired, wraps_possible
from .subgraphs import nested_graphs

__all__ = ["OPS", "Operands", "Product", "Tensors", "products"]

U8, S8 = 2, 3
"""ONNX's numbers for uint8 and int8 (``TensorProto.DataType``)."""


@dataclass(frozen=True)
class Operands:
    """Where a product's operands are among its node's inputs; -1: it has none.

    :param kind: ``matmul``, ``conv``, or ``conv-integer`` (whose weights are the left side).
    :param a_is_float: the node quantizes its activations itself, to u8.
    """

    kind: str
    a: int
    b: int
    a_zero: int
    b_zero: int
    a_is_float: bool = False


OPS: Final[Mapping[str, Operands]] = {
    "MatMulInteger": Operands("matmul", 0, 1, 2, 3),
    "MatMulIntegerToFloat": Operands("matmul", 0, 1, 4, 5),
    "DynamicQuantizeMatMul": Operands("matmul", 0, 1, -1, 3, a_is_float=True),
    "QLinearMatMul": Operands("matmul", 0, 3, 2, 5),
    "QGemm": Operands("matmul", 0, 3, 2, 5),
    "QAttention": Operands("matmul", 0, 1, 6, 7),
    "QLinearConv": Operands("conv", 0, 3, 2, 5),
    "ConvInteger": Operands("conv-integer", 0, 1, 2, 3),
}
"""Operators whose 8-bit products are modelled."""

OPAQUE: Final[Mapping[str, tuple[int, ...]]] = {
    "DynamicQuantizeLSTM": (1, 2),
    "QOrderedMatMul": (2,),
    "QOrderedAttention": (),
    "QOrderedLongformerAttention": (),
    "QMoE": (),
}
"""Operators with 8-bit products that are not modelled, and which inputs are weights of shape (…, K, N)."""

SAME_TYPE: Final = frozenset(
    {
        "Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Relu", "Reshape", "Resize", "Slice",
        "Split", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators whose output has the type of their first input."""


@dataclass(frozen=True)
class Product:
    """One node with 8-bit integer products.

    :param safe: no pair of its products can saturate, whatever the activations. :param why: what proves that; for an
        operator that is not modelled and not proven, what is missing.
    :param wraps: NEON without dot product could wrap with its weights (:func:`.saturation.wraps_possible`).
    """

    node: Any
    operands: Operands | None
    weights: Any
    safe: bool
    why: str
    wraps: bool = False

    @property
    def label(self) -> str:
        """The node's name, or what stands for it."""
        return str(self.node.name or (self.node.output[0] if self.node.output else self.node.op_type))


class Tensors:
    """What is known of a graph's tensors before it runs: constants and element types."""

    def __init__(self, graph: Any, to_array: Callable[[Any], Any]) -> None:
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._to_array = to_array
        self._types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for value in [*graph.input, *graph.value_info]:
            if value.type.HasField("tensor_type"):
                self._types.setdefault(value.name, value.type.tensor_type.elem_type)
        for node in graph.node:
            self._learn(node)

    def constant(self, name: str) -> Any:
        """Return an initializer's value, or ``None``."""
        tensor = self.initializers.get(name)
        return None if tensor is None else self._to_array(tensor)

    def type(self, name: str) -> int:
        """Return a tensor's ONNX element type, 0 where it is not known."""
        return int(self._types.get(name, 0))

    def _learn(self, node: Any) -> None:
        def like(index: int) -> int:
            return self.type(node.input[index]) if len(node.input) > index else 0

        first = 0
        if node.op_type == "DynamicQuantizeLinear":
            first = U8
        elif node.op_type == "QuantizeLinear":
            first = like(2) or next((a.i for a in node.attribute if a.name == "output_dtype"), 0) or U8
        elif node.op_type in ("QLinearMatMul", "QLinearConv"):
            first = like(7)
        elif node.op_type == "QGemm":
            first = like(8)
        elif node.op_type in SAME_TYPE or node.op_type.startswith("QLinear"):
            first = like(0)
        if first and node.output:
            self._types.setdefault(node.output[0], first)


def products(graph: Any, to_array: Callable[[Any], Any]) -> list[Product]:
    """Return all nodes with 8-bit integer products, those in branches and loops included, in the graph's order."""
    tensors = Tensors(graph, to_array)
    found: list[Product] = []
    for node in graph.node:
        product = _product(node, tensors)
        if product is not None:
            found.append(product)
        for inner in nested_graphs(node):
            found += [_nested(one) for one in products(inner, to_array)]
    return found


def _nested(product: Product) -> Product:
    if product.safe or product.operands is None:
        return product
    return Product(product.node, None, None, False, "it is inside a branch or a loop", product.wraps)


def _product(node: Any, tensors: Tensors) -> Product | None:
    if node.op_type in OPAQUE:
        return _opaque(node, tensors)
    if node.op_type == "MatMulNBits":
        facts = {attribute.name: attribute.i for attribute in node.attribute}
        if facts.get("bits", 4) == 8 and facts.get("accuracy_level", 0) == 4:
            return Product(node, None, None, False, "8-bit MatMulNBits with accuracy_level 4 is not modelled")
        return None  # 4-bit weights times s8: a pair is at most 2 * 15 * 127
    operands = OPS.get(node.op_type)
    if operands is None:
        return None
    name = node.input[operands.b]
    a_type = U8 if operands.a_is_float else _type(node, operands.a, operands.a_zero, tensors)
    b_type = _type(node, operands.b, operands.b_zero, tensors)
    weights = tensors.constant(name)
    signed = (b_type, a_type) if operands.kind == "conv-integer" else (a_type, b_type)
    if (signed[0] and signed[0] != U8) or (signed[1] and signed[1] != S8):
        wraps = S8 in signed and weights is not None and weights.dtype == np.int8 and _wraps(node, operands, weights)
        return Product(node, operands, weights, True, "it is not u8 x s8", wraps)
    if operands.kind == "conv" and weights is not None and _is_depthwise(node, weights):
        return Product(node, operands, weights, True, "a depthwise convolution has no pairs", False)
    if operands.kind == "conv-integer" or weights is None:
        return Product(node, operands, weights, False, "")
    matrices = _matrices(node, operands, weights)
    safe = all(paired(matrix).first.size == 0 for matrix in matrices)
    why = "no pair of its weights is large enough" if safe else ""
    return Product(node, operands, weights, safe, why, any(wraps_possible(matrix) for matrix in matrices))


def _type(node: Any, index: int, zero: int, tensors: Tensors) -> int:
    known = tensors.type(node.input[index])
    if not known and 0 <= zero < len(node.input) and node.input[zero]:
        known = tensors.type(node.input[zero])
    return known


def _wraps(node: Any, operands: Operands, weights: Any) -> bool:
    return any(wraps_possible(matrix) for matrix in _matrices(node, operands, weights))


def _matrices(node: Any, operands: Operands, weights: Any) -> list[Any]:
    """Return a node's constant weights as matrices of shape (K, N), K in the order of the kernel."""
    if operands.kind == "matmul":
        if node.op_type == "QGemm" and _attribute(node, "transB", 0):
            weights = weights.T
        if weights.ndim == 1:
            weights = weights[:, None]
        return list(weights.reshape(-1, *weights.shape[-2:]))
    return conv_weight_matrix(weights, _attribute(node, "group", 1))


def _is_depthwise(node: Any, weights: Any) -> bool:
    return bool(weights.shape[1] == 1 and weights.shape[0] == _attribute(node, "group", 1) > 1)


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _opaque(node: Any, tensors: Tensors) -> Product | None:
    places = OPAQUE[node.op_type]
    weights = [tensors.constant(node.input[place]) for place in places if place < len(node.input)]
    if weights and all(value is not None and value.dtype == np.uint8 for value in weights):
        return Product(node, None, None, True, "its weights are u8")
    if weights and all(value is not None and value.ndim >= 2 for value in weights):
        matrices = [matrix for value in weights for matrix in value.reshape(-1, *value.shape[-2:])]
        if all(paired(matrix).first.size == 0 for matrix in matrices if matrix.dtype == np.int8):
            return Product(node, None, None, True, "no pair of its weights is large enough")
    return Product(node, None, None, False, f"the operator {node.op_type} is not modelled")
