"""The passes on what current exporters write: each runs, and answers as the float model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from current_models import (
    MODELS,
    TREES,
    exported_functions,
    nested_functions,
    odd_products,
    old_operators,
    sparse_weights,
    swish,
    two_layers,
    weight,
)
from current_models import feeds as feeds_of
from current_models import model as made_of
from onnx import helper, numpy_helper
from pass_jobs import helper_module, module, run_pass
from quantizer_reproducers import REPRODUCERS, answers, largest_error, tensor_read_by_a_branch

normalization = helper_module("_models.normalization")
remedies = helper_module("_quantization.remedies")
scheme_table = helper_module("_auto.scheme_table")
trial_bench = helper_module("_auto.trial_bench")

PASSES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "dynamic": ("quantize-dynamic", {"per_channel": True, "subgraphs": True}, False),
    "qdq": ("quantize-static", {"per_channel": True}, True),
    "qoperator": ("quantize-static", {"format": "QOperator"}, True),
    "quantize": ("quantize", {}, True),
    "4 bits": ("quantize-weights", {"bits": 4}, False),
    "4 bits, qdq": ("quantize-weights", {"bits": 4, "format": "QDQ"}, False),
    "float16": ("to_float16", {}, False),
    "smooth": ("smooth-quant", {}, True),
    "preprocess": ("preprocess", {}, False),
    "transformer": ("transformer-optimizer", {}, False),
}
"""Pass, parameters, and whether it takes samples."""

LARGEST_ERROR = {"4 bits": 0.15, "4 bits, qdq": 0.15}
"""Share of the output's range; 0.05 where nothing else is given."""


def run(folder: Path, name: str, model: onnx.ModelProto, feeds: list[Any]) -> tuple[dict[str, Any], Path]:
    pass_name, parameters, sampled = PASSES[name]
    return run_pass(folder, pass_name, model, feeds if sampled else (), **parameters)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", PASSES)
def test_a_pass_answers_as_the_float_model_does(tmp_path: Path, name: str, kind: str) -> None:
    model, feeds = MODELS[kind]()
    result, path = run(tmp_path, name, model, feeds)
    expected = answers(model, feeds, optimize=False)
    assert largest_error(expected, answers(path, feeds)) < LARGEST_ERROR.get(name, 0.05)
    if name in ("dynamic", "qdq", "qoperator", "quantize"):
        assert result["quantized"], result["warnings"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == [value.name for value in model.graph.input]
    assert [value.name for value in session.get_outputs()] == [value.name for value in model.graph.output]


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("name", PASSES)
def test_trees_are_left_as_they_are_and_the_reason_is_given(tmp_path: Path, name: str, kind: str) -> None:
    model, feeds = TREES[kind]()
    result, path = run(tmp_path, name, model, feeds)
    assert largest_error(answers(model, feeds, optimize=False), answers(path, feeds)) < 1e-3
    if name in ("dynamic", "qdq", "qoperator", "quantize", "4 bits", "4 bits, qdq", "smooth"):
        (reason,) = result["warnings"]
        assert reason.startswith("NO-OP: the model computes with operators of ai.onnx.ml (")
        assert "TreeEnsembleRegressor" in reason
        assert path.read_bytes() == model.SerializeToString()


def test_an_attention_of_onnx_stays_as_it_is(tmp_path: Path) -> None:
    model, _ = exported_functions()
    result, path = run_pass(tmp_path, "quantize-dynamic", model)
    operators = {node.op_type: node.domain for node in onnx.load(path).graph.node}
    assert operators["Attention"] == ""
    assert "QAttention" not in operators
    assert result["left_to_other_domains"] == ["attention"]
    assert result["functions_inlined"] == 2
    assert result["transposes_folded"] == 2


def test_functions_become_nodes_before_float16(tmp_path: Path) -> None:
    for made in (exported_functions, nested_functions):
        model, _ = made()
        result, path = run_pass(tmp_path, "to_float16", model)
        assert not onnx.load(path).functions
        assert result["float16_weights"] >= 3


def test_a_model_that_needs_nothing_is_not_rewritten(tmp_path: Path) -> None:
    outlines = helper_module("_models.outlines")
    for made, rewritten in ((two_layers, False), (sparse_weights, True), (nested_functions, True)):
        model, _ = made()
        source = tmp_path / f"{made.__name__}.onnx"
        onnx.save(model, source)
        assert (outlines.plain_source(source, tmp_path) != source) == rewritten


def test_spellings_are_normalized_everywhere() -> None:
    model, _ = two_layers("ai.onnx")
    model.opset_import.append(helper.make_opsetid("", 13))
    assert not normalization.is_normal(model)
    normalization.normalize(model)
    assert normalization.is_normal(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert {node.domain for node in model.graph.node} == {""}

    model, _ = sparse_weights()
    some = [{"x": np.eye(16, dtype=np.float32)[4 * k : 4 * k + 4]} for k in range(4)]
    dense = answers(model, some)
    normalization.normalize(model)
    assert not model.graph.sparse_initializer
    assert [list(one.dims) for one in model.graph.initializer] == [[16, 32], [32, 8]]
    assert largest_error(dense, answers(model, some)) == 0


def test_sparse_indices_outside_of_the_shape_are_named(tmp_path: Path) -> None:
    model, _ = sparse_weights()
    model.graph.sparse_initializer[0].dims[:] = [2, 2]
    with pytest.raises(ValueError, match=r"The sparse weight 'w' has indices outside of its shape \[2, 2\]"):
        run_pass(tmp_path, "quantize-dynamic", model)


def test_short_constants_become_tensors_and_references_stay() -> None:
    nodes = [
        helper.make_node("Constant", [], ["a"], value_floats=[1.0, 2.0]),
        helper.make_node("Constant", [], ["b"], value_int=3),
    ]
    reference = helper.make_node("Constant", [], ["c"])
    reference.attribute.append(onnx.AttributeProto(name="value_float", ref_attr_name="k", type=1))
    function = helper.make_function("my", "F", [], ["c"], [reference], [helper.make_opsetid("", 17)], ["k"])
    graph = helper.make_graph(nodes, "g", [], [])
    model = helper.make_model(graph, functions=[function])
    normalization.normalize(model)
    values = [numpy_helper.to_array(node.attribute[0].t) for node in model.graph.node]
    assert [value.tolist() for value in values] == [[1.0, 2.0], 3]
    assert model.functions[0].node[0].attribute[0].ref_attr_name == "k"


def test_preprocess_tells_onnx_s_attention_from_com_microsoft_s(tmp_path: Path) -> None:
    model, _ = exported_functions()
    result, _ = run_pass(tmp_path, "preprocess", model)
    assert not any("_infer_Attention" in warning for warning in result["warnings"])


def test_a_fusion_that_fails_is_left_out_and_named(tmp_path: Path) -> None:
    model, _ = swish()
    result, _ = run_pass(tmp_path, "transformer-optimizer", model)
    assert any("disable_gelu = true" in hint for hint in result["onnxruntime_said"])


def test_weights_of_four_bits_raise_an_old_opset_and_keep_the_answers(tmp_path: Path) -> None:
    model, feeds = old_operators()
    result, path = run_pass(tmp_path, "quantize-weights", model, bits=4, format="QDQ")
    assert result["opset"] == "11 -> 21"
    written = onnx.load(path)
    assert written.ir_version >= 10
    assert {one.data_type for one in written.graph.initializer} & {onnx.TensorProto.UINT4, onnx.TensorProto.INT4}
    assert largest_error(answers(model, feeds, optimize=False), answers(path, feeds)) < 0.15


@pytest.mark.parametrize("parameters", [{}, {"format": "QDQ"}])
def test_weights_in_blocks_take_no_name_that_the_model_has(tmp_path: Path, parameters: dict[str, Any]) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["w_scales"], name="first"),
        helper.make_node("MatMul", ["w_scales", "v"], ["w_DequantizeLinear_Output"], name="second"),
        helper.make_node("Relu", ["w_DequantizeLinear_Output"], ["v_zero_points"], name="relu"),
    ]
    model = made_of(nodes, {"x": (4, 32)}, ["v_zero_points"], [weight("w", 32, 32), weight("v", 32, 16)])
    samples = feeds_of(x=(4, 32))
    _, path = run_pass(tmp_path, "quantize-weights", model, bits=4, **parameters)
    assert largest_error(answers(model, samples, optimize=False), answers(path, samples)) < 0.15


@pytest.mark.parametrize("keep_io_types", [True, False])
def test_float16_takes_no_name_that_the_model_has(tmp_path: Path, keep_io_types: bool) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["graph_input_cast_0"], name="graph_input_cast0"),
        helper.make_node("Relu", ["graph_input_cast_0"], ["graph_output_cast_0"], name="graph_output_cast0"),
        helper.make_node("MatMul", ["graph_output_cast_0", "v"], ["y"], name="y_Cast"),
    ]
    model = made_of(nodes, {"x": (4, 32)}, ["y"], [weight("w", 32, 32), weight("v", 32, 16)])
    samples = feeds_of(x=(4, 32))
    _, path = run_pass(tmp_path, "to_float16", model, keep_io_types=keep_io_types)
    given = samples if keep_io_types else [{"x": one["x"].astype(np.float16)} for one in samples]
    assert largest_error(answers(model, samples, optimize=False), answers(path, given)) < 0.01


def test_an_opset_that_onnx_raises_wrongly_is_said_with_the_way_round(tmp_path: Path) -> None:
    # onnx 1.23 raises GroupNormalization from 18 to 21 into nodes that ONNX Runtime does not load.
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("GroupNormalization", ["h", "s", "b"], ["g"], name="norm", num_groups=2),
        helper.make_node("MatMul", ["g", "v"], ["y"], name="second"),
    ]
    weights = [weight("w", 32, 32), weight("s", 2), weight("b", 2), weight("v", 32, 16)]
    model = made_of(nodes, {"x": (1, 4, 4, 32)}, ["y"], weights, opset=18)
    with pytest.raises(RuntimeError, match=r"raised the opset from 18 to 21 .* Use format = 'QOperator'"):
        run_pass(tmp_path, "quantize-weights", model, bits=4, format="QDQ")
    result, _ = run_pass(tmp_path, "quantize-weights", model, bits=4)
    assert result["quantized"] == {"MatMulNBits": 2}


# The search


@pytest.mark.parametrize(
    "name",
    ["two-gemms", "gather-and-gemm", "batched", "vector", "attention", "name-of-activation", "output-before-relu"],
)
def test_every_scheme_of_the_search_is_right(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, feeds = REPRODUCERS[name].build()
    onnx.save(model, tmp_path / "model.onnx")
    bench = trial_bench.ready(tmp_path / "model.onnx", feeds, tmp_path)
    expected = answers(model, feeds, optimize=False)
    schemes = [scheme for scheme in scheme_table.SCHEMES.values() if scheme.name.startswith(("static", "dynamic"))]
    for scheme in schemes:
        if not scheme.unfit(bench):
            made = scheme.make(bench, [])
            made.ir_version = 11
            onnx.save(made, tmp_path / "made.onnx")
            assert largest_error(expected, answers(tmp_path / "made.onnx", feeds)) < 0.05, scheme.name


def test_the_search_leaves_trees_as_they_are(tmp_path: Path) -> None:
    model, feeds = TREES["scaled_tree"]()
    result, path = run_pass(tmp_path, "quantize-auto", model, feeds)
    assert result["warnings"][0].startswith("NO-OP: the model computes with operators of ai.onnx.ml (")
    assert path.read_bytes() == model.SerializeToString()


# Advice


def test_advice_is_tried_and_only_what_works_is_printed() -> None:
    def fails() -> None:
        raise RuntimeError("no")

    assert remedies.advice({"a = 1": fails, "b = 2": lambda: None}) == "With b = 2 it works (tried here)."
    assert remedies.advice({"a = 1": fails, "b = 2": fails}) == (
        "It fails in the same way with a = 1 or b = 2 (tried here). Leave this pass out for this model."
    )
    assert remedies.advice({}) == ""
    assert remedies.advice({"a = 1": fails, "b = 2": lambda: None}, budget_s=0).startswith("It fails")


def test_a_quantizer_that_fails_gets_advice_that_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A fault that only the QOperator format has: the quantizer writes a name that is there already.
    model, feeds = odd_products()
    shield = helper_module("_quantization.quantizer_input")
    monkeypatch.setattr(shield, "rename_reserved", lambda model, weights: {})
    with pytest.raises(RuntimeError) as failure:
        run_pass(tmp_path, "quantize-static", model, feeds, format="QOperator")
    assert "Put preprocess before this pass" not in str(failure.value)
    assert "(tried here)" in str(failure.value)


def test_a_model_that_does_not_load_gets_no_advice(tmp_path: Path) -> None:
    model, _ = two_layers()
    model.graph.node[1].op_type = "NoSuchOperator"
    with pytest.raises(RuntimeError) as failure:
        run_pass(tmp_path, "quantize-dynamic", model)
    assert "tried here" not in str(failure.value)


@pytest.mark.parametrize("parameters", [{}, {"op_types": ["MatMul"]}, {"op_types": ["Conv", "MatMul"]}])
def test_tensors_that_branches_read_are_quantized_in_every_way(tmp_path: Path, parameters: dict[str, Any]) -> None:
    model, feeds = tensor_read_by_a_branch()
    result, path = run_pass(tmp_path, "quantize-static", model, feeds, format="QOperator", **parameters)
    assert result["quantized"]["QLinearMatMul"] == 1
    assert largest_error(answers(model, feeds, optimize=False), answers(path, feeds)) < 0.05


def test_the_choosing_pass_says_what_it_took_a_model_for(tmp_path: Path) -> None:
    assert module("quantize").CHOICES
    model, feeds = exported_functions()
    result, _ = run_pass(tmp_path, "quantize", model, feeds)
    assert result["method"] == "dynamic"
