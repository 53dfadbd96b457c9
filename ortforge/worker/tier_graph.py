"""Rewrites a graph so that chosen integer products are exact on every CPU, less what saturation takes away.

``acc = A x B`` becomes ``acc = A x (B + 128) - excess``: B as u8 with its zero point moved, which every CPU multiplies
exactly (u8 x u8), and ``excess`` an input that numpy computes from A and B (:mod:`.saturation`). What follows the
product in a fused operator (scales, bias, requantizing) follows it here as ONNX operators. With an excess of zero the
graph gives what the original gives on a CPU with VNNI.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .integer_products import Product, Tensors

__all__ = ["Rewritten", "Step", "UnsupportedError", "rewrite"]

FLOAT, U8, S8, INT32 = 1, 2, 3, 6
"""ONNX's numbers for element types."""


class UnsupportedError(Exception):
    """A product is used in a way that is not modelled."""


@dataclass
class Step:
    """One product in the rewritten graph: which tensors its excess is computed from, and where it goes.

    :param a: tensor with A (u8 or s8). :param b: tensor with B, ``""`` where ``product.weights`` has it.
    """

    product: Product
    a: str
    b: str
    zero: str
    excess: str
    users: list[Any] = field(default_factory=list)


@dataclass
class Rewritten:
    """The nodes of the new graph in order, its initializers, and its products."""

    nodes: list[Any]
    initializers: dict[str, Any]
    steps: list[Step]


def rewrite(
    graph: Any, chosen: list[Product], onnx: Any, to_array: Callable[[Any], Any], *, keep_signed: bool = False
) -> Rewritten:
    """Rewrite the chosen products of a graph; everything else stays as it is.

    :param keep_signed: leave B of matrix products as it is, on a CPU that multiplies u8 x s8 exactly, and faster.
    :raises UnsupportedError: a product's scales or zero points are not constants.
    """
    maker = _Maker(graph, onnx, to_array, keep_signed)
    by_output = {product.node.output[0]: product for product in chosen}
    for node in graph.node:
        product = by_output.get(node.output[0]) if node.output else None
        if product is None:
            maker.nodes.append(node)
        else:
            maker.replace(product)
    return Rewritten(maker.nodes, maker.initializers, maker.steps)


class _Maker:
    def __init__(self, graph: Any, onnx: Any, to_array: Callable[[Any], Any], keep_signed: bool) -> None:
        self.keep_signed = keep_signed
        self.helper, self.numpy_helper = onnx.helper, onnx.numpy_helper
        self.tensors = Tensors(graph, to_array)
        self.initializers: dict[str, Any] = dict(self.tensors.initializers)
        self.nodes: list[Any] = []
        self.steps: list[Step] = []
        self._count = 0

    # Building blocks

    def name(self, what: str) -> str:
        self._count += 1
        return f"ortforge.tiers/{self._count}/{what}"

    def const(self, value: Any) -> str:
        name = self.name("constant")
        self.initializers[name] = self.numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def op(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        made = output or self.name(kind)
        self.nodes.append(self.helper.make_node(kind, inputs, [made], **attributes))
        return made

    def known(self, node: Any, index: int, default: Any = None) -> Any:
        """Return a constant input's value; ``default`` where the node has no such input."""
        if index >= len(node.input) or not node.input[index]:
            return default
        value = self.tensors.constant(node.input[index])
        if value is None:
            raise UnsupportedError(f"input {index} of {node.op_type} is not a constant")
        return value

    def unsigned(self, name: str, weights: Any) -> str:
        """Return constant weights, or else the tensor ``name``, as u8: s8 plus 128, u8 as it is."""
        if weights is not None:
            return self.const(
                weights if weights.dtype == np.uint8 else (weights.astype(np.int16) + 128).astype(np.uint8)
            )
        if self.tensors.type(name) == U8:
            return name
        wide = self.op("Cast", [name], to=INT32)
        return self.op("Cast", [self.op("Add", [wide, self.const(np.array(128, np.int32))])], to=U8)

    def moved(self, zero: Any, signed: bool) -> str:
        """Return a zero point for u8 values, given that of s8 values; equal ones of all channels as one."""
        value: Any = np.zeros((), np.uint8) if zero is None else np.asarray(zero)
        if value.size and (value == value.flat[0]).all():
            value = value.flat[0].reshape(())
        if signed:
            value = (value.astype(np.int16) + 128).astype(np.uint8)
        return self.const(value)

    # Products

    def replace(self, product: Product) -> None:
        node = product.node
        {
            "MatMulInteger": self._matmul_integer,
            "MatMulIntegerToFloat": self._to_float,
            "DynamicQuantizeMatMul": self._to_float,
            "QLinearMatMul": self._qlinear_matmul,
            "QGemm": self._qgemm,
            "QAttention": self._qattention,
            "QLinearConv": self._qlinear_conv,
            "ConvInteger": self._conv_integer,
        }[node.op_type](product)

    def _less_excess(self, product: Product, kind: str, a: str, a_zero: str, **more: Any) -> str:
        """Add ``A x B - excess`` in int32; ``more``: attributes, and ``b``/``b_zero`` where they are special."""
        node, operands = product.node, product.operands
        if operands is None:
            raise UnsupportedError(product.why)
        weights, output = more.pop("weights", product.weights), more.pop("output", "")
        name = node.input[operands.b]
        zero = self.known(node, operands.b_zero)
        b_type = self.tensors.type(name)
        signed = weights.dtype == np.int8 if weights is not None else b_type != U8
        if self.keep_signed and kind == "MatMulInteger" and signed:
            b = name if weights is None else self.const(weights)
            b_zero = self.const(np.zeros((), np.int8) if zero is None else zero)
        else:
            b, b_zero = self.unsigned(name, weights), self.moved(zero, signed)
        first = len(self.nodes)
        exact = self.op(kind, [a, b, a_zero, b_zero], **more)
        excess = self.name("excess")
        result = self.op("Sub", [exact, excess], output)
        step = Step(product, a, "" if weights is not None else name, a_zero, excess, self.nodes[first:])
        self.steps.append(step)
        return result

    def _zero_of(self, node: Any, index: int, like: str) -> str:
        if index < len(node.input) and node.input[index]:
            return str(node.input[index])
        return self.const(np.zeros((), np.int8 if self.tensors.type(like) == S8 else np.uint8))

    def _matmul_integer(self, product: Product) -> None:
        node = product.node
        zero = self._zero_of(node, 2, node.input[0])
        self._less_excess(product, "MatMulInteger", node.input[0], zero, output=node.output[0])

    def _to_float(self, product: Product) -> None:
        node = product.node
        if node.op_type == "DynamicQuantizeMatMul":
            a, scale, zero = self.name("a"), self.name("scale"), self.name("zero")
            self.nodes.append(self.helper.make_node("DynamicQuantizeLinear", [node.input[0]], [a, scale, zero]))
            self.tensors._types[a] = U8
            bias, b_scale = 4, node.input[2]
        else:
            a, scale, zero = node.input[0], node.input[2], self._zero_of(node, 4, node.input[0])
            bias, b_scale = 6, node.input[3]
        acc = self._less_excess(product, "MatMulInteger", a, zero)
        has_bias = bias < len(node.input) and bool(node.input[bias])
        real = self.op("Cast", [acc], to=FLOAT)
        output = "" if has_bias else node.output[0]
        real = self.op("Mul", [real, self.op("Mul", [scale, b_scale])], output)
        if has_bias:
            self.op("Add", [real, node.input[bias]], node.output[0])

    def _requantize(self, acc: str, scale: Any, zero: Any, output: str) -> None:
        """Multiply in float32, round half to even, add the zero point and clip, as MLAS does."""
        info = np.iinfo(zero.dtype)
        real = self.op("Mul", [self.op("Cast", [acc], to=FLOAT), self.const(scale.astype(np.float32))])
        moved = self.op("Add", [self.op("Round", [real]), self.const(zero.astype(np.float32))])
        low, high = self.const(np.array(info.min, np.float32)), self.const(np.array(info.max, np.float32))
        self.op("Cast", [self.op("Clip", [moved, low, high])], output, to=S8 if zero.dtype == np.int8 else U8)

    def _qlinear_matmul(self, product: Product) -> None:
        node = product.node
        acc = self._less_excess(product, "MatMulInteger", node.input[0], node.input[2])
        scale = self.known(node, 1) * self.known(node, 4) / self.known(node, 6)
        self._requantize(acc, scale, self.known(node, 7), node.output[0])

    def _qgemm(self, product: Product) -> None:
        node, a = product.node, product.node.input[0]
        facts = {attribute.name: attribute for attribute in node.attribute}
        if "transA" in facts and facts["transA"].i:
            a = self.op("Transpose", [a], perm=[1, 0])
        if product.weights is None:
            raise UnsupportedError("the weights of QGemm are not constant")
        weights = product.weights.T if "transB" in facts and facts["transB"].i else product.weights
        acc = self._less_excess(product, "MatMulInteger", a, node.input[2], weights=weights)
        if len(node.input) > 6 and node.input[6]:
            acc = self.op("Add", [acc, node.input[6]])
        alpha = np.float32(facts["alpha"].f if "alpha" in facts else 1.0)
        scale = self.known(node, 1) * self.known(node, 4) * alpha
        step = self.known(node, 7)
        if step is None:
            self.op("Mul", [self.op("Cast", [acc], to=FLOAT), self.const(scale.astype(np.float32))], node.output[0])
        else:
            self._requantize(acc, scale / step, self.known(node, 8, np.zeros((), np.uint8)), node.output[0])

    def _qattention(self, product: Product) -> None:
        """Project in integers; the attention itself is done by ORT's float operator, which projects by the identity."""
        node = product.node
        if product.weights is None:
            raise UnsupportedError("the weights of QAttention are not constant")
        width = product.weights.shape[-1]
        acc = self._less_excess(product, "MatMulInteger", node.input[0], self._zero_of(node, 6, node.input[0]))
        scale = self.known(node, 3) * self.known(node, 4)
        real = self.op("Mul", [self.op("Cast", [acc], to=FLOAT), self.const(scale.astype(np.float32))])
        projected = self.op("Add", [real, node.input[2]])
        same, none = self.const(np.eye(width, dtype=np.float32)), self.const(np.zeros(width, np.float32))
        more = [node.input[place] if place < len(node.input) else "" for place in (5, 8)]
        inputs = [projected, same, none, *more]
        made = self.helper.make_node("Attention", inputs, list(node.output), domain="com.microsoft")
        made.attribute.extend(node.attribute)
        self.nodes.append(made)

    def _qlinear_conv(self, product: Product) -> None:
        node, x, output = product.node, product.node.input[0], product.node.output[0]
        if product.weights is None:
            raise UnsupportedError("the weights of QLinearConv are not constant")
        rank = product.weights.ndim - 2
        attributes = [attribute for attribute in node.attribute if attribute.name != "channels_last"]
        last = any(attribute.name == "channels_last" and attribute.i for attribute in node.attribute)
        if last:
            x = self.op("Transpose", [x], perm=[0, rank + 1, *range(1, rank + 1)])
        acc = self._less_excess(product, "ConvInteger", x, node.input[2])
        conv = next(made for made in self.steps[-1].users if made.op_type == "ConvInteger")
        conv.attribute.extend(attributes)
        column = (1, -1, *(1,) * rank)
        if len(node.input) > 8 and node.input[8]:
            acc = self.op("Add", [acc, self.const(self.known(node, 8).reshape(column))])
        scale = np.asarray(self.known(node, 1) * self.known(node, 4) / self.known(node, 6))
        scale = scale.reshape(column) if scale.size > 1 else scale.reshape(())
        zero = self.known(node, 7)
        if not last:
            self._requantize(acc, scale, zero.reshape(()), output)
            return
        first = self.name("channels_first")
        self._requantize(acc, scale, zero.reshape(()), first)
        self.op("Transpose", [first], output, perm=[0, *range(2, rank + 2), 1])

    def _conv_integer(self, product: Product) -> None:
        """Its weights are the left side: only u8 weights by s8 activations saturate, so both become u8."""
        node, x = product.node, product.node.input[0]
        zero = self.known(node, 2)
        b_zero = [node.input[3]] if len(node.input) > 3 and node.input[3] else []
        first = len(self.nodes)
        exact = self.op("ConvInteger", [self.unsigned(x, None), node.input[1], self.moved(zero, True), *b_zero])
        self.nodes[-1].attribute.extend(node.attribute)
        excess = self.name("excess")
        self.op("Sub", [exact, excess], node.output[0])
        a_zero = self.const(np.zeros((), np.int8) if zero is None else zero)
        self.steps.append(Step(product, x, "", a_zero, excess, self.nodes[first:]))
