"""Models that ONNX Runtime's tools stumble over: each ends in a right result or in a sentence that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from .pass_jobs import cosine, helper_module, outputs, run_pass

Feed = dict[str, Any]
DRAW = np.random.default_rng(13)


def weight(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array((DRAW.normal(size=shape) / 3).astype(np.float32), name)


def model_of(
    nodes: list[onnx.NodeProto], weights: list[TensorProto], *, opset: int = 17, **more: Any
) -> onnx.ModelProto:
    """A model of ``x`` [1, 16] and ``y``."""
    value = helper.make_tensor_value_info
    inputs, results = [value("x", TensorProto.FLOAT, [1, 16])], [value("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "hard", inputs, results, weights)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("blocks", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, **more)


def two_products(**more: Any) -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], name="first"),
        node("Relu", ["a"], ["b"], name="relu"),
        node("MatMul", ["b", "w2"], ["y"], name="second"),
    ]
    return model_of(nodes, [weight("w1", 16, 24), weight("w2", 24, 4)], **more)


def feeds(count: int = 12) -> list[Feed]:
    """Waves: neighbours are alike, as in real data."""
    phases = DRAW.uniform(0, 6, (count, 1, 1)) + DRAW.uniform(0.2, 0.8, (count, 1, 1)) * np.arange(16)
    return [{"x": np.sin(one).astype(np.float32)} for one in phases]


# Functions, as torch's exporters write them


def with_functions() -> onnx.ModelProto:
    """Both layers are calls of one function of the model."""
    parts = [helper.make_node("MatMul", ["in", "w"], ["m"], name="m"), helper.make_node("Relu", ["m"], ["out"])]
    block = helper.make_function("blocks", "Layer", ["in", "w"], ["out"], parts, [helper.make_opsetid("", 12)])
    nodes = [
        helper.make_node("Layer", ["x", "w1"], ["a"], domain="blocks", name="one"),
        helper.make_node("Layer", ["a", "w2"], ["y"], domain="blocks", name="two"),
    ]
    return model_of(nodes, [weight("w1", 16, 24), weight("w2", 24, 6)], functions=[block], opset=12)


@pytest.mark.parametrize(
    ("name", "parameters", "op"),
    [
        ("quantize-dynamic", {}, "MatMulInteger"),
        # Per channel the opset has to be raised, and onnx's converter of opsets loses functions.
        ("quantize-dynamic", {"per_channel": True}, "MatMulInteger"),
        ("quantize-static", {"per_channel": True}, "QuantizeLinear"),
        ("quantize-weights", {"bits": 8}, "MatMulNBits"),
    ],
)
def test_weights_of_a_models_functions_are_quantized(
    tmp_path: Path, name: str, parameters: dict[str, Any], op: str
) -> None:
    model, data = with_functions(), feeds()
    result, path = run_pass(tmp_path, name, model, data, **parameters)
    assert result["quantized"][op] >= 2
    assert result["functions_inlined"] == 1
    assert cosine(outputs(model, data), outputs(path, data)) > 0.99


def test_smoothing_sees_into_functions(tmp_path: Path) -> None:
    model, data = with_functions(), feeds()
    result, path = run_pass(tmp_path, "smooth-quant", model, data)
    assert result["products"] == 2
    assert cosine(outputs(model, data), outputs(path, data)) == pytest.approx(1.0, abs=1e-6)


# Half precision


@pytest.mark.parametrize(
    "name", ["quantize", "quantize-dynamic", "quantize-static", "quantize-weights", "smooth-quant"]
)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_a_model_in_half_precision_is_refused_by_name(tmp_path: Path, name: str, kind: int) -> None:
    narrow = helper.make_tensor("w", kind, [16, 4], [0.5] * 64)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=kind),
        helper.make_node("MatMul", ["h", "w"], ["m"], name="product"),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(ValueError, match=r"half precision: .* Quantize the float32 model"):
        run_pass(tmp_path, name, model_of(nodes, [narrow]), feeds())


# Trees


@pytest.mark.parametrize("name", ["quantize", "quantize-dynamic", "quantize-static"])
def test_a_model_without_onnxs_own_operators_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    value = helper.make_tensor_value_info
    tree = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[3, 0, 0],
        nodes_values=[0.1, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights=[1.0, 2.0],
    )
    info = value("x", TensorProto.FLOAT, [1, 16]), value("y", TensorProto.FLOAT, [1, 1])
    graph = helper.make_graph([tree], "tree", [info[0]], [info[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8)
    assert {float(one["y"].item()) for one in outputs(model, feeds(20))} == {1.0, 2.0}
    result, path = run_pass(tmp_path, name, model, feeds())
    assert result["warnings"][0].startswith("NO-OP: the model computes with operators of ai.onnx.ml")
    assert path.read_bytes() == model.SerializeToString()


# Operator sets


def test_an_opset_too_new_for_quantizing_is_said_with_the_newest_that_is_not(tmp_path: Path) -> None:
    support = helper_module("_quantization.type_support")
    newest = support.newest_opset(1000)
    model = two_products(opset=newest + 1)
    try:
        outputs(model, feeds(1))
    except Exception:
        pytest.skip(f"this ONNX Runtime quantizes in every opset that it loads (up to {newest})")
    for parameters in ({}, {"format": "QOperator"}):
        with pytest.raises(
            NotImplementedError, match=rf"opset {newest + 1}, and this runtime quantizes .* up to {newest}: .* Export"
        ):
            run_pass(tmp_path, "quantize-static", model, feeds(), **parameters)
    result, _ = run_pass(tmp_path, "quantize-dynamic", model, feeds())
    assert result["quantized"]["MatMulInteger"] == 2


# Products with a vector


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("quantize-dynamic", {}),
        ("quantize-static", {}),
        ("quantize-static", {"format": "QOperator"}),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_product_with_a_vector_stays_float_where_its_kernel_would_refuse_to_run(
    tmp_path: Path, name: str, parameters: dict[str, Any], named: bool
) -> None:
    names = ("wide", "pool") if named else ("", "")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name=names[0]),
        helper.make_node("MatMul", ["h", "v"], ["y"], name=names[1]),
    ]
    model, data = model_of(nodes, [weight("w", 16, 24), weight("v", 24)]), feeds()
    result, path = run_pass(tmp_path, name, model, data, per_channel=True, **parameters)
    assert len(result["products_with_vectors"]) == 1
    reference, answers = (np.array([one["y"].item() for one in outputs(m, data)]) for m in (model, path))
    np.testing.assert_allclose(answers, reference, atol=0.05 * np.abs(reference).max())


# Weights in blocks, inside branches


@pytest.mark.parametrize("shared", [True, False])
def test_weights_of_branches_in_the_qdq_form_load_with_optimizations(tmp_path: Path, shared: bool) -> None:
    value = helper.make_tensor_value_info
    weights = {"then": "w", "else": "w" if shared else "w_else"}
    branches = {
        f"{name}_branch": helper.make_graph(
            [
                helper.make_node("MatMul", ["x", stored], [f"{name}_y"], name=f"{name}_product"),
                helper.make_node("MatMul", [f"{name}_y", stored], [f"{name}_z"], name=f"{name}_again"),
            ],
            name,
            [],
            [value(f"{name}_z", TensorProto.FLOAT, None)],
        )
        for name, stored in weights.items()
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], name="if", **branches),
    ]
    zero = numpy_helper.from_array(np.array(0, np.float32), "zero")
    stored = [weight(name, 16, 16) for name in dict.fromkeys(weights.values())]
    model, data = model_of(nodes, [zero, *stored], opset=21), feeds(16)
    assert len({bool(one["x"].sum() > 0) for one in data}) == 2
    result, path = run_pass(tmp_path, "quantize-weights", model, format="QDQ", bits=8, block_size=16)
    assert result["quantized"]["DequantizeLinear"] == 2
    assert cosine(outputs(model, data), outputs(path, data)) > 0.999


# What calibration meets


def test_a_tensor_that_is_nan_on_every_sample_is_named(tmp_path: Path) -> None:
    # The logarithm of a negative number, at the first place already.
    nodes = [
        helper.make_node("Log", ["x"], ["l"], name="log"),
        helper.make_node("MatMul", ["l", "w"], ["y"], name="product"),
    ]
    data = [{"x": -np.abs(one["x"]) - 0.1} for one in feeds()]
    for method in ("MinMax", "Percentile"):
        with pytest.raises(ValueError, match=r"The float model itself gives NaN in (l|y) on"):
            run_pass(tmp_path, "quantize-static", model_of(nodes, [weight("w", 16, 4)]), data, calibrate_method=method)


def test_a_tensor_that_is_empty_on_every_sample_has_no_range_and_ruins_nothing(tmp_path: Path) -> None:
    # Nothing of the input exceeds two, so a second head works on no rows at all.
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], name="first"),
        node("Greater", ["x", "two"], ["large"], name="compare"),
        node("NonZero", ["large"], ["places"], name="where"),
        node("Transpose", ["places"], ["rows"], perm=[1, 0], name="turn"),
        node("Cast", ["rows"], ["found"], to=TensorProto.FLOAT, name="numbers"),
        node("MatMul", ["found", "w2"], ["none"], name="second"),
        node("ReduceSum", ["none"], ["total"], keepdims=0, name="sum"),
        node("Add", ["a", "total"], ["y"], name="both"),
    ]
    two = numpy_helper.from_array(np.array(2, np.float32), "two")
    model, data = model_of(nodes, [weight("w1", 16, 8), weight("w2", 2, 3), two]), feeds()
    result, path = run_pass(tmp_path, "quantize-static", model, data, op_types=["MatMul"])
    assert not any("RUINED" in text for text in result["warnings"])
    assert cosine(outputs(model, data), outputs(path, data)) > 0.99


def test_what_the_quantizer_stumbles_over_is_explained_by_the_ranges(tmp_path: Path) -> None:
    mask = np.zeros((1, 16), np.float32)
    mask[0, 9:] = -np.inf
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"], name="scores"),
        helper.make_node("Add", ["scores", "mask"], ["masked"], name="mask_add"),
        helper.make_node("Softmax", ["masked"], ["p"], name="softmax"),
        helper.make_node("MatMul", ["p", "v"], ["y"], name="values"),
    ]
    weights = [weight("w", 16, 16), weight("v", 16, 4), numpy_helper.from_array(mask, "mask")]
    model, data = model_of(nodes, weights, opset=19), feeds()
    types = {"activation_type": "QFLOAT8E4M3FN", "weight_type": "QFLOAT8E4M3FN"}
    with pytest.raises(RuntimeError, match=r"quantizer failed.*RUINED RANGES: masked .* Set fix = true"):
        run_pass(tmp_path, "quantize-static", model, data, **types)
    _, path = run_pass(tmp_path, "quantize-static", model, data, fix=True, **types)
    assert cosine(outputs(model, data), outputs(path, data)) > 0.98


def test_a_range_that_is_not_finite_is_named_and_left_out_without_any_mask(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reciprocal", ["x"], ["r"], name="reciprocal"),
        helper.make_node("MatMul", ["r", "w"], ["p"], name="product"),
        helper.make_node("MatMul", ["x", "w"], ["q"], name="sound"),
        helper.make_node("Identity", ["q"], ["y"], name="out"),
    ]
    model = model_of(nodes, [weight("w", 16, 4)])
    model.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, [1, 4]))
    data = [{"x": one["x"] * (np.arange(16) != 3).astype(np.float32)} for one in feeds()]
    result, _ = run_pass(tmp_path, "quantize-static", model, data, op_types=["MatMul"])
    assert result["warnings"][0].startswith("RUINED RANGES")
    assert "r (-inf to inf: it is not finite)" in result["warnings"][0]
    result, path = run_pass(tmp_path, "quantize-static", model, data, op_types=["MatMul"], fix=True)
    assert result["nodes_excluded"] == ["product"]
    assert cosine(outputs(model, data), outputs(path, data)) > 0.99


def scores_behind_reshape(mask: float) -> onnx.ModelProto:
    """A mask is added, and the sum is only moved about before a Softmax reads it."""
    values = np.zeros((1, 16), np.float32)
    values[0, 9:] = mask
    shape = numpy_helper.from_array(np.array([4, 4], np.int64), "shape")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"], name="scores"),
        helper.make_node("Add", ["scores", "mask"], ["masked"], name="mask_add"),
        helper.make_node("Reshape", ["masked", "shape"], ["square"], name="square"),
        helper.make_node("Transpose", ["square"], ["turned"], name="turn", perm=[1, 0]),
        helper.make_node("Softmax", ["turned"], ["p"], name="softmax"),
        helper.make_node("MatMul", ["p", "v"], ["y"], name="values"),
    ]
    return model_of(nodes, [weight("w", 16, 16), weight("v", 4, 4), numpy_helper.from_array(values, "mask"), shape])


def test_a_coarse_mask_is_seen_through_operators_that_only_move_values(tmp_path: Path) -> None:
    model, data = scores_behind_reshape(-10_000), feeds()
    result, _ = run_pass(tmp_path, "quantize-static", model, data)
    assert "Softmax needs steps below 1" in result["warnings"][0]
    result, path = run_pass(tmp_path, "quantize-static", model, data, fix=True)
    assert "mask_add" in result["nodes_excluded"]
    assert cosine(outputs(model, data), outputs(path, data)) > 0.99


def test_the_chooser_leaves_out_what_would_ruin_the_model_unless_told_not_to(tmp_path: Path) -> None:
    mask = np.zeros((1, 4, 1), np.float32)
    mask[0, 2:] = np.finfo(np.float32).min
    shape = numpy_helper.from_array(np.array([1, 1, 16], np.int64), "shape")
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["line"], name="line"),
        helper.make_node("Conv", ["line", "k1"], ["c1"], name="conv1", pads=[1, 1]),
        helper.make_node("Conv", ["c1", "k2"], ["c2"], name="conv2", pads=[1, 1]),
        helper.make_node("Add", ["c2", "mask"], ["masked"], name="mask_add"),
        helper.make_node("Softmax", ["masked"], ["y"], name="softmax", axis=1),
    ]
    weights = [weight("k1", 6, 1, 3), weight("k2", 4, 6, 3), numpy_helper.from_array(mask, "mask"), shape]
    model, data = model_of(nodes, weights), feeds()
    result, path = run_pass(tmp_path, "quantize", model, data)
    assert result["method"] == "static"
    assert result["nodes_excluded"] == ["mask_add", "softmax"]
    assert cosine(outputs(model, data), outputs(path, data)) > 0.99
    result, _ = run_pass(tmp_path, "quantize", model, data, fix=False)
    assert result["nodes_excluded"] == []
    assert result["warnings"][0].startswith("RUINED RANGES")


def test_smoothing_leaves_products_of_infinite_values_and_says_so(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reciprocal", ["x"], ["r"], name="reciprocal"),
        helper.make_node("MatMul", ["r", "w"], ["y"], name="product"),
    ]
    data = [{"x": one["x"] * (np.arange(16) != 3).astype(np.float32)} for one in feeds()]
    model = model_of(nodes, [weight("w", 16, 4)])
    result, path = run_pass(tmp_path, "smooth-quant", model, data)
    assert result["warnings"][0].startswith("NO-OP: nothing was smoothed. Left as they are: the products that read r,")
    assert path.read_bytes() == model.SerializeToString()
    both = two_products()
    both.graph.node.insert(0, helper.make_node("Reciprocal", ["x"], ["r"], name="reciprocal"))
    both.graph.node.append(helper.make_node("MatMul", ["r", "w3"], ["z"], name="third"))
    both.graph.initializer.append(weight("w3", 16, 4))
    both.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4]))
    result, _ = run_pass(tmp_path, "smooth-quant", both, data)
    assert result["products"] == 2
    assert result["warnings"][0].startswith("Left as they are: the products that read r,")


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_biases_that_32_bits_do_not_hold_are_named(tmp_path: Path, form: str) -> None:
    # Tiny inputs and tiny weights beside a bias of ordinary size: its scale is the product of both.
    tiny = numpy_helper.from_array((DRAW.normal(size=(16, 4)) * 1e-6).astype(np.float32), "w")
    bias = numpy_helper.from_array(np.array([1, -2, 3, 0], np.float32), "b")
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="last")]
    data = [{"x": one["x"] * np.float32(1e-6)} for one in feeds()]
    # Where ONNX Runtime would widen the weights' scales, which it does for signed weights alone.
    how = {"extra_options": {"QDQDisableWeightAdjustForInt32Bias": True}, "weight_type": "QUInt8"}
    result, _ = run_pass(tmp_path, "quantize-static", model_of(nodes, [tiny, bias]), data, format=form, **how)
    (loud,) = [text for text in result["warnings"] if text.startswith("BIASES CUT OFF")]
    assert "1 (b_quantized) lie outside of 32 bits" in loud


def test_a_star_is_the_same_as_nothing_given_also_where_there_is_nothing_to_choose_from(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"], name="relu")], [])
    for name in ("quantize-weights", "quantize-dynamic", "quantize-static"):
        result, path = run_pass(tmp_path, name, model, feeds(), op_types=["*"])
        assert result["warnings"][0].startswith("NO-OP: nothing was quantized")
        assert path.read_bytes() == model.SerializeToString()


def test_a_range_near_nothing_is_named(tmp_path: Path) -> None:
    data = [{"x": one["x"] * np.float32(1e-30)} for one in feeds()]
    result, _ = run_pass(tmp_path, "quantize-static", two_products(), data)
    assert any("is below 1e-30: always zero in the calibration data" in text for text in result["warnings"])


# Smoothing


def test_a_weight_that_two_activations_share_is_not_smoothed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="one"),
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w"], ["b"], name="two"),
        helper.make_node("Add", ["a", "b"], ["h"], name="sum"),
        helper.make_node("MatMul", ["h", "v"], ["y"], name="last"),
    ]
    model, data = model_of(nodes, [weight("w", 16, 8), weight("v", 8, 4)]), feeds()
    result, path = run_pass(tmp_path, "smooth-quant", model, data, alpha=0.8)
    assert result["products"] == 1
    assert cosine(outputs(model, data), outputs(path, data)) == pytest.approx(1.0, abs=1e-6)


def test_normalizations_that_share_their_constants_each_get_their_own(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], name="first", axis=-1),
        helper.make_node("MatMul", ["n", "w"], ["h"], name="one"),
        helper.make_node("LayerNormalization", ["h", "gamma", "beta"], ["m"], name="second", axis=-1),
        helper.make_node("MatMul", ["m", "v"], ["y"], name="two"),
    ]
    constants = [numpy_helper.from_array(np.full(16, value, np.float32), name) for name, value in CONSTANTS.items()]
    model, data = model_of(nodes, [weight("w", 16, 16), weight("v", 16, 4), *constants]), feeds()
    result, path = run_pass(tmp_path, "smooth-quant", model, data)
    assert result["folded"] == {"LayerNormalization": 2}
    assert cosine(outputs(model, data), outputs(path, data)) == pytest.approx(1.0, abs=1e-6)


CONSTANTS = {"gamma": 2.0, "beta": 0.25}


# What passes are told


def test_the_chooser_goes_into_branches_when_told_to(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("MatMul", ["x", f"w_{name}"], [f"{name}_y"], name=f"{name}_product")],
            name,
            [],
            [value(f"{name}_y", TensorProto.FLOAT, None)],
            [weight(f"w_{name}", 16, 8)],
        )
        for name in ("then", "else")
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], name="if", **branches),
    ]
    model = model_of(nodes, [numpy_helper.from_array(np.array(0, np.float32), "zero")])
    data = feeds(16)
    result, path = run_pass(tmp_path, "quantize", model, data)
    assert "set subgraphs = true" in result["warnings"][0]
    result, path = run_pass(tmp_path, "quantize", model, data, subgraphs=True)
    assert result["quantized"]["MatMulInteger"] == 2
    assert cosine(outputs(model, data), outputs(path, data)) > 0.99


def test_symbols_that_must_be_equal_are_merged_where_leaving_them_apart_fails(tmp_path: Path) -> None:
    pytest.importorskip("sympy")
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Concat", ["x", "z"], ["joined"], name="join", axis=1),
        helper.make_node("MatMul", ["joined", "w"], ["y"], name="product"),
    ]
    inputs = [value("x", TensorProto.FLOAT, ["n", 8]), value("z", TensorProto.FLOAT, ["m", 8])]
    graph = helper.make_graph(nodes, "two", inputs, [value("y", TensorProto.FLOAT, ["n", 4])], [weight("w", 16, 4)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result, path = run_pass(tmp_path, "preprocess", model, auto_merge=False)
    assert list(result["skipped"]) == ["leaving symbols apart (auto_merge = false)"]
    halves = [{"x": one["x"][:, :8], "z": one["x"][:, 8:]} for one in feeds()]
    assert cosine(outputs(model, halves), outputs(path, halves)) == pytest.approx(1.0)
    result, _ = run_pass(tmp_path, "preprocess", model)
    assert result["skipped"] == {}


def test_operators_that_are_to_stay_float32_do(tmp_path: Path) -> None:
    pytest.importorskip("onnxconverter_common")
    result, path = run_pass(tmp_path, "to-float16", two_products(), op_block_list=["MatMul"])
    kept = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert TensorProto.FLOAT16 not in kept.values()
    assert result["float16_weights"] == 0


def test_operators_that_are_to_stay_float32_may_be_globs_and_are_no_misspellings(tmp_path: Path) -> None:
    pytest.importorskip("onnxconverter_common")
    result, _ = run_pass(tmp_path, "to-float16", two_products(), op_block_list=["Mat*"])
    assert result["float16_weights"] == 0
    with pytest.raises(ValueError, match=r"op_block_list has 'MatMull', which matches .* Did you mean 'MatMul'?"):
        run_pass(tmp_path, "to-float16", two_products(), op_block_list=["MatMull"])
    # What this model has not, another one of the recipe may have: ONNX's operators, and ONNX Runtime's own.
    for absent in ("Conv", "FusedConv", "SkipLayerNormalization"):
        result, _ = run_pass(tmp_path, "to-float16", two_products(), op_block_list=[absent])
        assert result["float16_weights"] > 0
    with pytest.raises(ValueError, match="op_types has 'MatMull'"):
        run_pass(tmp_path, "quantize-dynamic", two_products(), op_types=["MatMul", "MatMull"])


def test_convolutions_beside_an_attention_make_a_cnn_when_there_are_many() -> None:
    kinds = []
    for count in (3, 4):
        nodes = [
            helper.make_node("Reshape", ["x", "line"], ["c0"]),
            *(helper.make_node("Conv", [f"c{n}", "k"], [f"c{n + 1}"], pads=[1, 1]) for n in range(count)),
            helper.make_node("Reshape", [f"c{count}", "square"], ["h"]),
            helper.make_node("MatMul", ["h", "wq"], ["q"]),
            helper.make_node("Transpose", ["h"], ["t"], perm=[1, 0]),
            helper.make_node("MatMul", ["q", "t"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["p"]),
            helper.make_node("MatMul", ["p", "h"], ["y"]),
        ]
        shapes = {"line": [1, 1, 16], "square": [4, 4]}
        ints = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in shapes.items()]
        model = model_of(nodes, [weight("k", 1, 1, 3), weight("wq", 4, 4), *ints])
        kinds.append(helper_module("_models.model_kind").architecture(model).kind)
    assert kinds == ["transformer", "convolutional"]


def test_a_kernel_that_answers_wrongly_is_refused_before_the_model_is_rounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is as close as this asks for, so every kernel counts as wrong.
    monkeypatch.setattr(helper_module("_blocks.block_kernels"), "CLOSE", 1000.0)
    with pytest.raises(NotImplementedError, match=r"loads 4-bit weights of MatMul .* and answers wrongly"):
        run_pass(tmp_path, "quantize-weights", two_products())


def test_rounded_weights_are_looked_at_where_there_are_samples(tmp_path: Path) -> None:
    result, _ = run_pass(tmp_path, "quantize-weights", two_products(), feeds(), method="gptq", bits=8, block_size=16)
    assert result["self_check"]["cosine"] > 0.999
    result, _ = run_pass(tmp_path, "quantize-weights", two_products(), bits=8)
    assert "self_check" not in result


# Messages


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from /tmp/a.onnx failed:/src/core/graph/model.cc:181 "
            "onnxruntime::Model::Model(onnx::ModelProto&&, const std::map<std::string, int>&) Unsupported model IR "
            "version: 14, max supported IR version: 11\nmore",
            "[ONNXRuntimeError] : 1 : FAIL : Unsupported model IR version: 14, max supported IR version: 11",
        ),
        (
            "Exception during initialization: /src/cpu/matmul_nbits.cc:114 onnxruntime::M<T1>::M(const X&) [with T1 = "
            "float] nbits_ == 4 was false.",
            "Exception during initialization: nbits_ == 4 was false.",
        ),
        (
            "/src/model_load_utils.h:46 void Validate(int) ONNX Runtime only *guarantees* support for models stamped "
            "with official released onnx opset versions. Opset 25 is under development",
            "Opset 25 is under development",
        ),
        ("qdq_actions.cc:132 Process Missing weight", "Process Missing weight"),
        (
            "cannot import name 'float8' from 'onnx.numpy_helper' (/tmp/env/site-packages/onnx/numpy_helper.py)",
            "cannot import name 'float8' from 'onnx.numpy_helper'",
        ),
    ],
)
def test_a_reason_comes_without_what_stands_before_it(raised: str, said: str) -> None:
    assert helper_module("_models.model_file").first_line(RuntimeError(raised)) == said
    assert helper_module("_models.model_file").first_sentence(RuntimeError(raised)) == f"{said.removesuffix('.')}."


def test_a_slip_in_somebody_elses_python_is_named_with_its_function() -> None:
    def infer(shapes: dict[str, int]) -> int:
        return shapes[""]

    with pytest.raises(KeyError) as caught:
        infer({})
    assert helper_module("_models.model_file").first_line(caught.value) == "KeyError in infer: ''"
