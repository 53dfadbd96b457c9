"""Small models as current exporters write them: functions, opsets 23 and 24, sparse weights, trees, odd names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

Feed = dict[str, Any]
Made = tuple[onnx.ModelProto, list[Feed]]

node = helper.make_node


def weight(name: str, *shape: int) -> onnx.TensorProto:
    draw = np.random.default_rng(sum(map(ord, name)) + sum(shape))
    return numpy_helper.from_array((draw.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32), name)


def feeds(**shapes: tuple[int, ...]) -> list[Feed]:
    draw = np.random.default_rng(3)
    return [{name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(8)]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[Any, ...]],
    outputs: Sequence[str],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 17,
    others: Sequence[tuple[str, int]] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    sparse: Sequence[onnx.SparseTensorProto] = (),
) -> onnx.ModelProto:
    def value(name: str, shape: Any) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        list(nodes),
        "current",
        [value(name, shape) for name, shape in inputs.items()],
        [value(name, None) for name in outputs],
        list(weights),
        sparse_initializer=list(sparse),
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(*other) for other in others)],
        ir_version=11 if opset > 22 else 8,
        functions=list(functions),
    )


def exported_functions() -> Made:
    """Linear layers and an activation as functions, as torch exports them, around ONNX's own Attention of opset 23."""
    imports = [helper.make_opsetid("", 23)]
    linear = helper.make_function(
        "pkg.torch",
        "Linear",
        ["a", "w", "b"],
        ["o"],
        [
            node("Transpose", ["w"], ["t"], name="t", perm=[1, 0]),
            node("MatMul", ["a", "t"], ["m"], name="mm"),
            node("Add", ["m", "b"], ["o"], name="add"),
        ],
        imports,
    )
    swish = helper.make_function(
        "pkg.torch",
        "Act",
        ["a"],
        ["o"],
        [
            node("Sigmoid", ["a"], ["s"], name="sigmoid"),
            node("Mul", ["a", "s"], ["m"], name="mul"),
            node("Constant", [], ["c"], value_float=1.5),
            node("Mul", ["m", "c"], ["o"], name="scale"),
        ],
        imports,
    )
    nodes = [
        node("RMSNormalization", ["x", "g"], ["n"], name="norm"),
        node("Linear", ["n", "w1", "b1"], ["h"], domain="pkg.torch", name="up"),
        node("Act", ["h"], ["a"], domain="pkg.torch", name="act"),
        node("Linear", ["a", "w2", "b2"], ["q"], domain="pkg.torch", name="down"),
        node("Attention", ["q", "q", "q"], ["y"], name="attention", q_num_heads=2, kv_num_heads=2),
    ]
    weights = [weight("g", 16), weight("w1", 32, 16), weight("b1", 32), weight("w2", 16, 32), weight("b2", 16)]
    made = model(
        nodes, {"x": (1, 6, 16)}, ["y"], weights, opset=23, others=[("pkg.torch", 1)], functions=[linear, swish]
    )
    return made, feeds(x=(1, 6, 16))


def nested_functions() -> Made:
    """Functions that call functions, refer to attributes, have branches, and bear the name of an operator of ONNX's."""
    imports = [helper.make_opsetid("", 17)]
    product = helper.make_function(
        "my",
        "MatMul",
        ["a", "b"],
        ["o"],
        [node("MatMul", ["a", "b"], ["m"], name="p"), node("Relu", ["m"], ["o"], name="r")],
        imports,
    )
    leak = node("LeakyRelu", ["a"], ["o"], name="leaky")
    leak.attribute.append(AttributeProto(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT))
    leaky = helper.make_function("my", "Leak", ["a"], ["o"], [leak], imports, attributes=["slope"])
    branches = {
        f"{which}_branch": helper.make_graph(
            [node(op, ["m"], [f"{which}_o"], name=which)],
            which,
            [],
            [helper.make_tensor_value_info(f"{which}_o", TensorProto.FLOAT, None)],
        )
        for which, op in (("then", "Relu"), ("else", "Tanh"))
    }
    block = helper.make_function(
        "my",
        "Block",
        ["a", "w", "c"],
        ["o"],
        [
            node("MatMul", ["a", "w"], ["k"], domain="my", name="in"),
            node("Leak", ["k"], ["m"], domain="my", name="leak", slope=0.2),
            node("If", ["c"], ["o"], name="if", **branches),
        ],
        [*imports, helper.make_opsetid("my", 1)],
    )
    nodes = [
        node("ReduceSum", ["x"], ["s"], name="sum", keepdims=0),
        node("Greater", ["s", "zero"], ["c"], name="greater"),
        node("Block", ["x", "w1", "c"], ["h"], domain="my", name="first"),
        node("Block", ["h", "w2", "c"], ["k"], domain="my", name="second"),
        node("MatMul", ["k", "w3"], ["y"], name="last"),
    ]
    weights = [
        numpy_helper.from_array(np.float32(0), "zero"),
        weight("w1", 16, 32),
        weight("w2", 32, 16),
        weight("w3", 16, 8),
    ]
    made = model(nodes, {"x": (4, 16)}, ["y"], weights, others=[("my", 1)], functions=[product, leaky, block])
    return made, feeds(x=(4, 16))


def rotary_attention() -> Made:
    """RotaryEmbedding, causal Attention and RMSNormalization of opset 23, which com.microsoft has by the same names."""
    nodes = [
        node("MatMul", ["x", "w"], ["q"], name="q"),
        node("MatMul", ["x", "k0"], ["k"], name="k"),
        node("RotaryEmbedding", ["q", "cos", "sin", "positions"], ["qr"], num_heads=2, name="rotary_q"),
        node("RotaryEmbedding", ["k", "cos", "sin", "positions"], ["kr"], num_heads=2, name="rotary_k"),
        node("Attention", ["qr", "kr", "k"], ["a"], q_num_heads=2, kv_num_heads=2, is_causal=1, name="attention"),
        node("RMSNormalization", ["a", "g"], ["n"], name="norm"),
        node("MatMul", ["n", "o"], ["y"], name="out"),
    ]
    angles = np.arange(32)[:, None] / np.array([1, 10, 100, 1000.0])
    weights = [
        *(weight(name, 16, 16) for name in ("w", "k0", "o")),
        weight("g", 16),
        numpy_helper.from_array(np.cos(angles).astype(np.float32), "cos"),
        numpy_helper.from_array(np.sin(angles).astype(np.float32), "sin"),
        numpy_helper.from_array(np.arange(6)[None], "positions"),
    ]
    return model(nodes, {"x": (1, 6, 16)}, ["y"], weights, opset=23), feeds(x=(1, 6, 16))


def two_layers(domain: str = "") -> Made:
    """Two products and a Relu. :param domain: of all nodes and of the import."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first", domain=domain),
        node("Relu", ["h"], ["r"], name="relu", domain=domain),
        node("MatMul", ["r", "v"], ["y"], name="second", domain=domain),
    ]
    made = model(nodes, {"x": (4, 16)}, ["y"], [weight("w", 16, 32), weight("v", 32, 8)])
    made.opset_import[0].domain = domain
    return made, feeds(x=(4, 16))


def swish() -> Made:
    """Swish of opset 24."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("Swish", ["h"], ["s"], name="swish"),
        node("MatMul", ["s", "v"], ["y"], name="second"),
    ]
    return model(nodes, {"x": (4, 16)}, ["y"], [weight("w", 16, 32), weight("v", 32, 8)], opset=24), feeds(x=(4, 16))


def sparse_of(name: str, shape: tuple[int, ...], *, linear: bool) -> onnx.SparseTensorProto:
    draw = np.random.default_rng(len(shape))
    array = numpy_helper.to_array(weight(name or "c", *shape)) * (draw.random(shape) < 0.4)
    places = np.nonzero(array)
    indices = np.ravel_multi_index(places, shape) if linear else np.stack(places, 1)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(array[places].astype(np.float32), name),
        numpy_helper.from_array(indices.astype(np.int64), f"{name}_indices"),
        list(shape),
    )


def sparse_weights() -> Made:
    """Both forms of indices among sparse initializers."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("MatMul", ["r", "v"], ["y"], name="second"),
    ]
    sparse = [sparse_of("w", (16, 32), linear=True), sparse_of("v", (32, 8), linear=False)]
    return model(nodes, {"x": (4, 16)}, ["y"], sparse=sparse), feeds(x=(4, 16))


def sparse_constant() -> Made:
    """A Constant node with a sparse value."""
    constant = node("Constant", [], ["w"], name="constant")
    value = AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
    value.sparse_tensor.CopyFrom(sparse_of("", (16, 32), linear=True))
    constant.attribute.append(value)
    nodes = [
        constant,
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("MatMul", ["h", "v"], ["y"], name="second"),
    ]
    return model(nodes, {"x": (4, 16)}, ["y"], [weight("v", 32, 8)]), feeds(x=(4, 16))


def _tree(source: str, target: str) -> onnx.NodeProto:
    return node(
        "TreeEnsembleRegressor",
        [source],
        [target],
        domain="ai.onnx.ml",
        name="tree",
        nodes_treeids=[0] * 5,
        nodes_nodeids=[0, 1, 2, 3, 4],
        nodes_featureids=[0, 1, 0, 0, 0],
        nodes_values=[0.1, 0.2, 0.0, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 3, 0, 0, 0],
        nodes_falsenodeids=[2, 4, 0, 0, 0],
        nodes_hitrates=[1.0] * 5,
        nodes_missing_value_tracks_true=[0] * 5,
        target_treeids=[0] * 3,
        target_nodeids=[2, 3, 4],
        target_ids=[0, 0, 0],
        target_weights=[1.0, 2.5, -3.0],
        n_targets=1,
        post_transform="NONE",
    )


def tree() -> Made:
    """A tree alone, which imports ai.onnx.ml alone."""
    made = model([_tree("x", "y")], {"x": (4, 4)}, ["y"], others=[("ai.onnx.ml", 3)])
    del made.opset_import[0]
    return made, feeds(x=(4, 4))


def scaled_tree() -> Made:
    """A tree between a Scaler and a Mul, at an old opset."""
    nodes = [
        node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", name="scaler", offset=[0.1] * 4, scale=[2.0] * 4),
        _tree("s", "t"),
        node("Mul", ["t", "half"], ["y"], name="mul"),
    ]
    half = numpy_helper.from_array(np.float32([0.5]), "half")
    return model(nodes, {"x": (4, 4)}, ["y"], [half], opset=9, others=[("ai.onnx.ml", 3)]), feeds(x=(4, 4))


def scaled_layers() -> Made:
    """A network behind a Scaler, beyond which onnx knows no types."""
    nodes = [
        node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", name="scaler", offset=[0.1] * 16, scale=[2.0] * 16),
        node("MatMul", ["s", "w"], ["h"], name="first"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("Gemm", ["r", "v", "b"], ["y"], name="second"),
    ]
    weights = [weight("w", 16, 32), weight("v", 32, 8), weight("b", 8)]
    return model(nodes, {"x": (4, 16)}, ["y"], weights, opset=12, others=[("ai.onnx.ml", 3)]), feeds(x=(4, 16))


def odd_convolutions() -> Made:
    """Names with quotes, braces and blanks, empty ones, and such as the quantizers give."""
    nodes = [
        node("Conv", ["x", "w1", "b"], ["b0"], name="conv"),
        node("Relu", ["b0"], ["r {0}"], name=""),
        node("Conv", ["r {0}", "w2", "b"], ["b0_QuantizeLinear_Output"], name="conv2"),
        node("Add", ["b0_QuantizeLinear_Output", "b_quantized"], ["b1"], name=""),
        node("Relu", ["b1"], ['y"[1]/0'], name="a b"),
    ]
    weights = [weight("w1", 4, 4, 2, 2), weight("w2", 4, 4, 2, 2), weight("b", 4), weight("b_quantized", 4, 1, 1)]
    return model(nodes, {"x": (1, 4, 8, 8)}, ['y"[1]/0'], weights), feeds(x=(1, 4, 8, 8))


def odd_products() -> Made:
    """The same for products, with an input that others are named after, and letters beyond ASCII."""
    nodes = [
        node("MatMul", ["x/0", "w'\\n%s"], ["x/0_quantized"], name="product"),
        node("Relu", ["x/0_quantized"], ["x/0_scale"], name="product_quant"),
        node("Gemm", ["x/0_scale", "v", "x/0_zero_point"], ['é∑ "y"'], name=""),
    ]
    weights = [weight("w'\\n%s", 16, 16), weight("v", 16, 8), weight("x/0_zero_point", 8)]
    return model(nodes, {"x/0": (4, 16)}, ['é∑ "y"'], weights), feeds(**{"x/0": (4, 16)})


def old_operators() -> Made:
    """Operators of opset 11 that changed before 21."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("Unsqueeze", ["h"], ["u"], axes=[0], name="unsqueeze"),
        node("Softmax", ["u"], ["s"], axis=2, name="softmax"),
        node("Squeeze", ["s"], ["q"], axes=[0], name="squeeze"),
        node("MatMul", ["q", "v"], ["z"], name="second"),
        node("ReduceMean", ["z"], ["y"], axes=[1], keepdims=1, name="mean"),
    ]
    return model(nodes, {"x": (4, 64)}, ["y"], [weight("w", 64, 64), weight("v", 64, 32)], opset=11), feeds(x=(4, 64))


MODELS: dict[str, Callable[[], Made]] = {
    made.__name__: made
    for made in (
        exported_functions,
        nested_functions,
        rotary_attention,
        swish,
        sparse_weights,
        sparse_constant,
        scaled_layers,
        odd_convolutions,
        odd_products,
        old_operators,
    )
} | {"spelled_domain": lambda: two_layers("ai.onnx")}

TREES: dict[str, Callable[[], Made]] = {"tree": tree, "scaled_tree": scaled_tree}
