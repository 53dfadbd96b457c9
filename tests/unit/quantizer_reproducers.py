"""Reproducers of faults of ONNX Runtime's quantizer: small models on which it writes a wrong or unloadable file.

As a program, this file quantizes each model with the plain quantizer of the onnxruntime beside it and prints a JSON
object: for each fault, ``""`` where the result is right, otherwise what is wrong. It needs onnx, numpy and onnxruntime.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Feed = dict[str, Any]

LARGEST_ERROR = 0.1
"""Largest accepted error as a share of the output's range: 8-bit integers stay below 0.05 on these models."""


@dataclass(frozen=True)
class Reproducer:
    """A model, inputs for it, and the arguments that make the quantizer fail.

    :param static: whether ``quantize_static`` is called instead of ``quantize_dynamic``.
    :param arguments: keyword arguments of the quantizer; they are parameters of our passes, too.
    :param minimum_ort: the oldest version of ONNX Runtime that runs the float model.
    """

    build: Callable[[], tuple[onnx.ModelProto, list[Feed]]]
    static: bool
    arguments: dict[str, Any] = field(default_factory=dict)
    minimum_ort: tuple[int, int] = (1, 21)


def _weights(seed: int, **shapes: tuple[int, ...]) -> list[onnx.TensorProto]:
    draw = np.random.default_rng(seed)
    return [
        numpy_helper.from_array((draw.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32), name)
        for name, shape in shapes.items()
    ]


def _feeds(**shapes: tuple[int, ...]) -> list[Feed]:
    draw = np.random.default_rng(7)
    return [{name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(4)]


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[Any, ...]],
    outputs: Sequence[str],
    weights: Sequence[onnx.TensorProto],
    *,
    opset: int = 17,
    ir_version: int = 8,
    integers: Sequence[str] = (),
) -> onnx.ModelProto:
    def value(name: str, shape: Any) -> onnx.ValueInfoProto:
        kind = TensorProto.INT64 if name in integers else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        list(nodes),
        "reproducer",
        [value(name, shape) for name, shape in inputs.items()],
        [value(name, None) for name in outputs],
        list(weights),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    return onnx.shape_inference.infer_shapes(model)


node = helper.make_node


def gemm_and_matmul_share_a_weight() -> tuple[onnx.ModelProto, list[Feed]]:
    """A transposed Gemm and a MatMul read one square matrix."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("Gemm", ["h", "w"], ["y"], name="second", transB=1),
    ]
    return _model(nodes, {"x": (4, 16)}, ["y"], _weights(1, w=(16, 16))), _feeds(x=(4, 16))


def two_gemms_share_a_weight() -> tuple[onnx.ModelProto, list[Feed]]:
    """Two transposed Gemm read one square matrix."""
    nodes = [
        node("Gemm", ["x", "w"], ["h"], name="first", transB=1),
        node("Gemm", ["h", "w"], ["y"], name="second", transB=1),
    ]
    return _model(nodes, {"x": (4, 16)}, ["y"], _weights(2, w=(16, 16))), _feeds(x=(4, 16))


def gemm_and_branch_share_a_weight() -> tuple[onnx.ModelProto, list[Feed]]:
    """A transposed Gemm and a MatMul inside the branches of an If read one square matrix."""
    branches = {
        f"{which}_branch": helper.make_graph(
            [node("MatMul", ["h", "w"], [f"{which}_out"], name=f"{which}_product")],
            which,
            [],
            [helper.make_tensor_value_info(f"{which}_out", TensorProto.FLOAT, None)],
        )
        for which in ("then", "else")
    }
    nodes = [
        node("Gemm", ["x", "w"], ["h"], name="first", transB=1),
        node("ReduceSum", ["h"], ["sum"], name="sum", keepdims=0),
        node("Greater", ["sum", "zero"], ["c"], name="greater"),
        node("If", ["c"], ["y"], name="if", **branches),
    ]
    weights = [*_weights(3, w=(16, 16)), numpy_helper.from_array(np.float32(0), "zero")]
    return _model(nodes, {"x": (4, 16)}, ["y"], weights), _feeds(x=(4, 16))


def gather_and_gemm_share_a_weight() -> tuple[onnx.ModelProto, list[Feed]]:
    """An embedding table is the weight of the last Gemm, too."""
    nodes = [
        node("Gather", ["table", "ids"], ["e"], name="embedding"),
        node("MatMul", ["e", "w"], ["h"], name="hidden"),
        node("Gemm", ["h", "table"], ["y"], name="head", transB=1),
    ]
    weights = _weights(4, table=(40, 16), w=(16, 16))
    draw = np.random.default_rng(5)
    feeds: list[Feed] = [{"ids": draw.integers(0, 40, (12,))} for _ in range(4)]
    return _model(nodes, {"ids": (12,)}, ["y"], weights, integers=("ids",)), feeds


def gather_and_matmul_share_a_weight() -> tuple[onnx.ModelProto, list[Feed]]:
    """Rows of a matrix are looked up, and the same matrix is multiplied by."""
    nodes = [
        node("Gather", ["w", "ids"], ["e"], name="lookup"),
        node("MatMul", ["e", "w"], ["y"], name="product"),
    ]
    draw = np.random.default_rng(6)
    feeds: list[Feed] = [{"ids": draw.integers(0, 16, (12,))} for _ in range(4)]
    return _model(nodes, {"ids": (12,)}, ["y"], _weights(6, w=(16, 16)), integers=("ids",)), feeds


def add_and_matmul_share_a_weight() -> tuple[onnx.ModelProto, list[Feed]]:
    """A matrix is added to an activation and multiplied by."""
    nodes = [
        node("Add", ["x", "w"], ["s"], name="sum"),
        node("MatMul", ["s", "w"], ["y"], name="product"),
    ]
    return _model(nodes, {"x": (16, 16)}, ["y"], _weights(8, w=(16, 16))), _feeds(x=(16, 16))


def convolutions_share_a_bias() -> tuple[onnx.ModelProto, list[Feed]]:
    """Two Conv of very different scales have one bias."""
    first, second = _weights(9, w1=(4, 4, 3, 3), w2=(4, 4, 3, 3))
    second.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(second) * np.float32(40), "w2"))
    bias = numpy_helper.from_array(np.linspace(-3, 3, 4, dtype=np.float32), "b")
    nodes = [
        node("Conv", ["x", "w1", "b"], ["h"], name="first"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("Conv", ["x", "w2", "b"], ["k"], name="second"),
        node("Mul", ["k", "small"], ["s"], name="scale"),
        node("Add", ["r", "s"], ["y"], name="sum"),
    ]
    small = numpy_helper.from_array(np.float32([0.02]), "small")
    return _model(nodes, {"x": (1, 4, 8, 8)}, ["y"], [first, second, bias, small]), _feeds(x=(1, 4, 8, 8))


def recurrent_layers_share_weights() -> tuple[onnx.ModelProto, list[Feed]]:
    """Two LSTM read the same weights, as in siamese networks."""
    shapes = {"x": (5, 2, 8), "z": (5, 2, 8)}
    nodes = [
        node("LSTM", ["x", "w", "r"], ["a"], name="left", hidden_size=16),
        node("LSTM", ["z", "w", "r"], ["c"], name="right", hidden_size=16),
        node("Sub", ["a", "c"], ["y"], name="difference"),
    ]
    return _model(nodes, dict(shapes), ["y"], _weights(10, w=(1, 64, 8), r=(1, 64, 16))), _feeds(**shapes)


def batched_weight() -> tuple[onnx.ModelProto, list[Feed]]:
    """A MatMul has a constant of three axes, with as many rows as columns."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="batched"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("MatMul", ["r", "v"], ["y"], name="plain"),
    ]
    return _model(nodes, {"x": (3, 5, 16)}, ["y"], _weights(11, w=(3, 16, 32), v=(32, 8))), _feeds(x=(3, 5, 16))


def constant_on_the_left() -> tuple[onnx.ModelProto, list[Feed]]:
    """The first operand of a MatMul is the constant."""
    nodes = [
        node("MatMul", ["w", "x"], ["h"], name="left"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("MatMul", ["r", "v"], ["y"], name="right"),
    ]
    return _model(nodes, {"x": (16, 16)}, ["y"], _weights(12, w=(24, 16), v=(16, 8))), _feeds(x=(16, 16))


def vector_weight() -> tuple[onnx.ModelProto, list[Feed]]:
    """The constant of a MatMul is a vector."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="plain"),
        node("MatMul", ["h", "v"], ["y"], name="vector"),
    ]
    return _model(nodes, {"x": (4, 16)}, ["y"], _weights(13, w=(16, 16), v=(16,))), _feeds(x=(4, 16))


def attention_of_onnx() -> tuple[onnx.ModelProto, list[Feed]]:
    """ONNX's own Attention, of opset 23, bears the name of ONNX Runtime's."""
    nodes = [
        node("MatMul", ["x", "w"], ["q"], name="query"),
        node("Attention", ["q", "q", "q"], ["y"], name="attention", q_num_heads=2, kv_num_heads=2),
    ]
    model = _model(nodes, {"x": (1, 6, 16)}, ["y"], _weights(14, w=(16, 16)), opset=23, ir_version=11)
    return model, _feeds(x=(1, 6, 16))


def constant_attention_of_onnx() -> tuple[onnx.ModelProto, list[Feed]]:
    """The keys of ONNX's Attention are a constant, which is in the place of the weights of ONNX Runtime's."""
    nodes = [
        node("MatMul", ["x", "w"], ["q"], name="query"),
        node("Attention", ["q", "k", "v"], ["y"], name="attention", q_num_heads=2, kv_num_heads=2),
    ]
    weights = _weights(15, w=(16, 16), k=(1, 9, 16), v=(1, 9, 16))
    return _model(nodes, {"x": (1, 6, 16)}, ["y"], weights, opset=23, ir_version=11), _feeds(x=(1, 6, 16))


def taken_name_of_a_node() -> tuple[onnx.ModelProto, list[Feed]]:
    """A node bears the name that the quantizer gives to another one in integers."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="product"),
        node("Relu", ["h"], ["y"], name="product_quant"),
    ]
    return _model(nodes, {"x": (4, 16)}, ["y"], _weights(16, w=(16, 16))), _feeds(x=(4, 16))


def taken_name_of_a_weight() -> tuple[onnx.ModelProto, list[Feed]]:
    """A constant bears the name that the quantizer gives to the bias in integers."""
    weights = [*_weights(17, w=(4, 4, 3, 3), b=(4,)), *_weights(18, b_quantized=(4, 1, 1))]
    nodes = [
        node("Conv", ["x", "w", "b"], ["h"], name="conv"),
        node("Add", ["h", "b_quantized"], ["y"], name="sum"),
    ]
    return _model(nodes, {"x": (1, 4, 8, 8)}, ["y"], weights), _feeds(x=(1, 4, 8, 8))


def taken_name_of_an_activation() -> tuple[onnx.ModelProto, list[Feed]]:
    """A graph output bears the name that the quantizer gives to an activation in integers."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("MatMul", ["h", "v"], ["x_quantized"], name="second"),
        node("Relu", ["x_quantized"], ["y"], name="relu"),
    ]
    return _model(nodes, {"x": (4, 16)}, ["y", "x_quantized"], _weights(19, w=(16, 16), v=(16, 8))), _feeds(x=(4, 16))


def taken_name_of_a_copied_bias() -> tuple[onnx.ModelProto, list[Feed]]:
    """Two Conv share a bias, and a tensor bears the name that the quantizer gives to the copy."""
    model, feeds = convolutions_share_a_bias()
    for one in model.graph.node:
        for names in (one.input, one.output):
            for position, name in enumerate(names):
                names[position] = "b0" if name == "h" else name
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model), feeds


def taken_name_of_a_scale() -> tuple[onnx.ModelProto, list[Feed]]:
    """A weight bears the name that the quantizer gives to another one's scale."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("MatMul", ["h", "w_scale"], ["y"], name="second"),
    ]
    return _model(nodes, {"x": (4, 16)}, ["y"], _weights(20, w=(16, 16), w_scale=(16, 8))), _feeds(x=(4, 16))


def tensor_read_by_a_branch() -> tuple[onnx.ModelProto, list[Feed]]:
    """What a quantized MatMul makes is read by the branches of an If alone."""
    branches = {
        f"{which}_branch": helper.make_graph(
            [node("Mul", ["h", f"{which}_c"], [f"{which}_out"], name=f"{which}_mul")],
            which,
            [],
            [helper.make_tensor_value_info(f"{which}_out", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.float32([number]), f"{which}_c")],
        )
        for which, number in (("then", 2.0), ("else", 3.0))
    }
    nodes = [
        node("ReduceSum", ["x"], ["sum"], name="sum", keepdims=0),
        node("Greater", ["sum", "zero"], ["c"], name="greater"),
        node("MatMul", ["x", "w"], ["h"], name="product"),
        node("If", ["c"], ["y"], name="if", **branches),
    ]
    weights = [*_weights(21, w=(16, 16)), numpy_helper.from_array(np.float32(0), "zero")]
    return _model(nodes, {"x": (4, 16)}, ["y"], weights), _feeds(x=(4, 16))


def looked_up_tensor_read_by_a_branch() -> tuple[onnx.ModelProto, list[Feed]]:
    """What a Gather looks up is read by the branches of an If alone."""
    model, _ = tensor_read_by_a_branch()
    (product,) = [one for one in model.graph.node if one.name == "product"]
    product.CopyFrom(node("Gather", ["w", "ids"], ["h"], name="lookup"))
    model.graph.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, (4,)))
    del model.graph.value_info[:]
    draw = np.random.default_rng(22)
    return onnx.shape_inference.infer_shapes(model), [
        {**feed, "ids": draw.integers(0, 16, (4,))} for feed in _feeds(x=(4, 16))
    ]


def looked_up_recurrent_state() -> tuple[onnx.ModelProto, list[Feed]]:
    """The initial state of an LSTM is looked up in a table."""
    nodes = [
        node("Gather", ["table", "ids"], ["h0"], name="lookup"),
        node("LSTM", ["x", "w", "r", "", "", "h0", "h0"], ["y"], name="lstm", hidden_size=16),
    ]
    draw = np.random.default_rng(23)
    weights = _weights(23, table=(9, 2, 16), w=(1, 64, 8), r=(1, 64, 16))
    feeds = [{**feed, "ids": draw.integers(0, 9, (1,))} for feed in _feeds(x=(5, 2, 8))]
    return _model(nodes, {"x": (5, 2, 8), "ids": (1,)}, ["y"], weights, integers=("ids",)), feeds


def computed_operand_of_where() -> tuple[onnx.ModelProto, list[Feed]]:
    """A Where chooses between what a MatMul makes and a constant."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("Where", ["mask", "h", "low"], ["m"], name="where"),
        node("MatMul", ["m", "v"], ["y"], name="second"),
    ]
    weights = [
        *_weights(30, w=(16, 16), v=(16, 8)),
        numpy_helper.from_array(np.arange(16) % 3 > 0, "mask"),
        numpy_helper.from_array(np.float32(-0.5), "low"),
    ]
    return _model(nodes, {"x": (4, 16)}, ["y"], weights), _feeds(x=(4, 16))


def padded_with_a_large_value() -> tuple[onnx.ModelProto, list[Feed]]:
    """A Pad has a value beyond the range of what it pads."""
    nodes = [
        node("Conv", ["x", "w"], ["h"], name="conv"),
        node("Pad", ["h", "pads", "value"], ["p"], name="pad"),
        node("Conv", ["p", "v"], ["y"], name="second"),
    ]
    weights = [
        *_weights(31, w=(4, 4, 1, 1), v=(4, 4, 1, 1)),
        numpy_helper.from_array(np.int64([0, 0, 1, 1, 0, 0, 1, 1]), "pads"),
        numpy_helper.from_array(np.float32(20), "value"),
    ]
    return _model(nodes, {"x": (1, 4, 8, 8)}, ["y"], weights), _feeds(x=(1, 4, 8, 8))


def output_before_an_activation() -> tuple[onnx.ModelProto, list[Feed]]:
    """An output of the model is the input of a Relu, too."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="product"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("MatMul", ["r", "v"], ["y"], name="second"),
    ]
    return _model(nodes, {"x": (4, 16)}, ["y", "h"], _weights(24, w=(16, 16), v=(16, 8))), _feeds(x=(4, 16))


def branch_input_before_an_activation() -> tuple[onnx.ModelProto, list[Feed]]:
    """What a branch reads is the input of a Relu, too."""
    model, feeds = tensor_read_by_a_branch()
    model.graph.node.extend([node("Relu", ["h"], ["r"], name="relu"), node("MatMul", ["r", "w"], ["z"], name="second")])
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    return onnx.shape_inference.infer_shapes(model), feeds


def tensor_before_and_beside_an_activation() -> tuple[onnx.ModelProto, list[Feed]]:
    """A sum goes past a Relu, as in residual networks whose activations come first."""
    nodes = [
        node("Conv", ["x", "w"], ["h"], name="first"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("Conv", ["r", "v"], ["k"], name="second"),
        node("Add", ["h", "k"], ["y"], name="residual"),
    ]
    return _model(nodes, {"x": (1, 4, 8, 8)}, ["y"], _weights(25, w=(4, 4, 1, 1), v=(4, 4, 1, 1))), _feeds(
        x=(1, 4, 8, 8)
    )


def activation_after_pooling() -> tuple[onnx.ModelProto, list[Feed]]:
    """A Relu follows a MaxPool, whose output has the scale of its input."""
    nodes = [
        node("Conv", ["x", "w"], ["h"], name="first"),
        node("MaxPool", ["h"], ["p"], name="pool", kernel_shape=[1, 2]),
        node("Relu", ["p"], ["r"], name="relu"),
        node("Conv", ["r", "v"], ["y"], name="second"),
    ]
    return _model(nodes, {"x": (1, 4, 8, 8)}, ["y"], _weights(26, w=(4, 4, 1, 1), v=(4, 4, 1, 1))), _feeds(
        x=(1, 4, 8, 8)
    )


def activation_after_reshape() -> tuple[onnx.ModelProto, list[Feed]]:
    """A Relu follows a Transpose, whose output has the scale of its input."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("Transpose", ["h"], ["t"], name="transpose", perm=[1, 0]),
        node("Relu", ["t"], ["r"], name="relu"),
        node("MatMul", ["r", "v"], ["y"], name="second"),
    ]
    return _model(nodes, {"x": (4, 16)}, ["y"], _weights(27, w=(16, 16), v=(4, 8))), _feeds(x=(4, 16))


def clip_after_relu() -> tuple[onnx.ModelProto, list[Feed]]:
    """A Clip follows a Relu and cuts off much of its range."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("Clip", ["r", "", "top"], ["c"], name="clip"),
        node("MatMul", ["c", "v"], ["y"], name="second"),
    ]
    weights = [*_weights(28, w=(16, 16), v=(16, 8)), numpy_helper.from_array(np.float32(0.5), "top")]
    return _model(nodes, {"x": (4, 16)}, ["y"], weights), _feeds(x=(4, 16))


def activation_of_an_input() -> tuple[onnx.ModelProto, list[Feed]]:
    """An input of the model is multiplied by a weight, and goes through a Relu."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("Relu", ["x"], ["r"], name="relu"),
        node("MatMul", ["r", "v"], ["k"], name="second"),
        node("Add", ["h", "k"], ["y"], name="sum"),
    ]
    return _model(nodes, {"x": (4, 16)}, ["y"], _weights(29, w=(16, 16), v=(16, 16))), _feeds(x=(4, 16))


QDQ, QOPERATOR = {"format": "QDQ"}, {"format": "QOperator"}
PER_CHANNEL = {"per_channel": True}

REPRODUCERS: dict[str, Reproducer] = {
    "gemm-and-matmul": Reproducer(gemm_and_matmul_share_a_weight, False),
    "two-gemms": Reproducer(two_gemms_share_a_weight, False),
    "two-gemms-per-channel": Reproducer(two_gemms_share_a_weight, False, PER_CHANNEL),
    "gemm-and-branch": Reproducer(gemm_and_branch_share_a_weight, False),
    "gather-and-gemm-dynamic": Reproducer(gather_and_gemm_share_a_weight, False, PER_CHANNEL),
    "gather-and-gemm": Reproducer(gather_and_gemm_share_a_weight, True, QDQ | PER_CHANNEL),
    "gather-and-gemm-qoperator": Reproducer(gather_and_gemm_share_a_weight, True, QOPERATOR | PER_CHANNEL),
    "gather-and-matmul-dynamic": Reproducer(gather_and_matmul_share_a_weight, False, PER_CHANNEL),
    "gather-and-matmul": Reproducer(gather_and_matmul_share_a_weight, True, QDQ | PER_CHANNEL),
    "gather-and-matmul-qoperator": Reproducer(gather_and_matmul_share_a_weight, True, QOPERATOR | PER_CHANNEL),
    "add-and-matmul": Reproducer(add_and_matmul_share_a_weight, True, QDQ | PER_CHANNEL),
    "add-and-matmul-qoperator": Reproducer(add_and_matmul_share_a_weight, True, QOPERATOR | PER_CHANNEL),
    "shared-bias": Reproducer(convolutions_share_a_bias, True, QDQ),
    "shared-bias-qoperator": Reproducer(convolutions_share_a_bias, True, QOPERATOR),
    "shared-lstm": Reproducer(recurrent_layers_share_weights, False),
    "batched-dynamic": Reproducer(batched_weight, False, PER_CHANNEL),
    "batched": Reproducer(batched_weight, True, QDQ | PER_CHANNEL),
    "batched-qoperator": Reproducer(batched_weight, True, QOPERATOR | PER_CHANNEL),
    "left-dynamic": Reproducer(constant_on_the_left, False, PER_CHANNEL),
    "left": Reproducer(constant_on_the_left, True, QDQ | PER_CHANNEL),
    "left-qoperator": Reproducer(constant_on_the_left, True, QOPERATOR | PER_CHANNEL),
    "vector-dynamic": Reproducer(vector_weight, False, PER_CHANNEL),
    "vector": Reproducer(vector_weight, True, QDQ | PER_CHANNEL),
    "vector-qoperator": Reproducer(vector_weight, True, QOPERATOR | PER_CHANNEL),
    "attention": Reproducer(attention_of_onnx, False, minimum_ort=(1, 23)),
    "constant-attention": Reproducer(constant_attention_of_onnx, False, minimum_ort=(1, 23)),
    "constant-attention-static": Reproducer(constant_attention_of_onnx, True, QDQ, minimum_ort=(1, 23)),
    "name-of-node": Reproducer(taken_name_of_a_node, False),
    "name-of-node-qoperator": Reproducer(taken_name_of_a_node, True, QOPERATOR),
    "name-of-bias": Reproducer(taken_name_of_a_copied_bias, True, QDQ),
    "name-of-bias-qoperator": Reproducer(taken_name_of_a_copied_bias, True, QOPERATOR),
    "name-of-weight": Reproducer(taken_name_of_a_weight, True, QDQ),
    "name-of-weight-qoperator": Reproducer(taken_name_of_a_weight, True, QOPERATOR),
    "name-of-weight-dynamic": Reproducer(taken_name_of_a_weight, False),
    "name-of-activation": Reproducer(taken_name_of_an_activation, False),
    "name-of-activation-qoperator": Reproducer(taken_name_of_an_activation, True, QOPERATOR),
    "name-of-scale": Reproducer(taken_name_of_a_scale, False),
    "name-of-scale-qdq": Reproducer(taken_name_of_a_scale, True, QDQ),
    "read-by-branch-qoperator": Reproducer(tensor_read_by_a_branch, True, QOPERATOR),
    "read-by-branch": Reproducer(tensor_read_by_a_branch, True, QDQ),
    "lookup-read-by-branch": Reproducer(looked_up_tensor_read_by_a_branch, False),
    "looked-up-state": Reproducer(looked_up_recurrent_state, False),
    "where": Reproducer(computed_operand_of_where, True, QDQ),
    "where-qoperator": Reproducer(computed_operand_of_where, True, QOPERATOR),
    "pad": Reproducer(padded_with_a_large_value, True, QDQ),
    "pad-qoperator": Reproducer(padded_with_a_large_value, True, QOPERATOR),
    "output-before-relu": Reproducer(output_before_an_activation, True, QDQ),
    "output-before-relu-qoperator": Reproducer(output_before_an_activation, True, QOPERATOR),
    "residual-relu": Reproducer(tensor_before_and_beside_an_activation, True, QDQ),
    "residual-relu-qoperator": Reproducer(tensor_before_and_beside_an_activation, True, QOPERATOR),
    "relu-after-pool": Reproducer(activation_after_pooling, True, QDQ),
    "relu-after-pool-qoperator": Reproducer(activation_after_pooling, True, QOPERATOR),
    "relu-after-transpose": Reproducer(activation_after_reshape, True, QDQ),
    "relu-after-transpose-qoperator": Reproducer(activation_after_reshape, True, QOPERATOR),
    "clip-after-relu": Reproducer(clip_after_relu, True, QDQ),
    "clip-after-relu-qoperator": Reproducer(clip_after_relu, True, QOPERATOR),
    "relu-of-input": Reproducer(activation_of_an_input, True, QDQ),
    "relu-of-input-qoperator": Reproducer(activation_of_an_input, True, QOPERATOR),
    "branch-before-relu": Reproducer(branch_input_before_an_activation, True, QDQ),
    "branch-before-relu-qoperator": Reproducer(branch_input_before_an_activation, True, QOPERATOR),
}


def answers(model: onnx.ModelProto | Path, feeds: Sequence[Feed], *, optimize: bool = True) -> list[list[Any]]:
    """Run a model on the CPU EP; return its outputs for each feed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [session.run(None, feed) for feed in feeds]


def largest_error(expected: Sequence[Sequence[Any]], actual: Sequence[Sequence[Any]]) -> float:
    """Return the largest difference as a share of the range of the output that it is in."""
    worst = 0.0
    for number in range(len(expected[0])):
        right = np.stack([sample[number] for sample in expected])
        found = np.stack([sample[number] for sample in actual])
        worst = max(worst, float(np.abs(right - found).max() / np.ptp(right)))
    return worst


def wrong_with_plain_quantizer(reproducer: Reproducer, folder: Path) -> str:
    """Quantize with onnxruntime's own functions; return what is wrong with the result, or ``""``."""
    import onnxruntime.quantization as quantization

    model, feeds = reproducer.build()
    source, written = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model, source)
    arguments, remaining = dict(reproducer.arguments), iter(feeds)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def get_next(self) -> Feed | None:
            return next(remaining, None)

    try:
        if reproducer.static:
            form = quantization.QuantFormat[arguments.pop("format")]
            quantization.quantize_static(
                str(source),
                str(written),
                Reader(),
                quant_format=form,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                **arguments,
            )
        else:
            # Versions before 1.22 have no kernel for signed weights of Conv.
            kind = quantization.QuantType.QUInt8 if "Conv" in {n.op_type for n in model.graph.node} else None
            quantization.quantize_dynamic(
                str(source), str(written), weight_type=kind or quantization.QuantType.QInt8, **arguments
            )
        error = largest_error(answers(model, feeds, optimize=False), answers(written, feeds))
    except Exception as problem:
        return f"{type(problem).__name__}: {str(problem).strip().splitlines()[0][:200]}"
    return "" if error <= LARGEST_ERROR else f"error {error:.3f} of the range"


def wrong_with_our_pass(reproducer: Reproducer, folder: Path) -> str:
    """Quantize with quantize-static or quantize-dynamic; return what is wrong with the result, or ``""``."""
    from pass_jobs import run_pass

    model, feeds = reproducer.build()
    try:
        if reproducer.static:
            _, written = run_pass(folder, "quantize-static", model, feeds, **reproducer.arguments)
        else:
            _, written = run_pass(folder, "quantize-dynamic", model, **reproducer.arguments)
        error = largest_error(answers(model, feeds, optimize=False), answers(written, feeds))
    except Exception as problem:
        return f"{type(problem).__name__}: {str(problem).strip().splitlines()[0][:200]}"
    return "" if error <= LARGEST_ERROR else f"error {error:.3f} of the range"


def main() -> None:
    """Print what is wrong with each reproducer on this version; ``--passes``: with our passes."""
    import onnxruntime

    ours = "--passes" in sys.argv
    chosen = [name for name in sys.argv[1:] if name != "--passes"]
    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    results = {}
    logging.disable(logging.WARNING)
    for name, reproducer in REPRODUCERS.items():
        if version >= reproducer.minimum_ort and (not chosen or name in chosen):
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                check = wrong_with_our_pass if ours else wrong_with_plain_quantizer
                results[name] = check(reproducer, Path(folder))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
