"""``transformer-optimizer``: ONNX Runtime's fusions, counted, with the reason when an expected one did not happen."""

from __future__ import annotations

import ast
import dataclasses
import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from pydantic import ValidationError
from transformer_sample import HEADS, HIDDEN, apply_pass, cosine, encoder_layer, feed, outputs

from ortforge.api import Pass, PassUse
from ortforge.cli.shared import known
from ortforge.errors import ConfigurationError
from ortforge.matrix import load
from ortforge.matrix.parameters import parameters_of
from ortforge.plugin_manager import Plugins
from ortforge.worker.module import load_module

pytest.importorskip("sympy")

PASSES = Path(__file__).parents[2] / "plugins" / "passes"
Optimize = Callable[..., tuple[dict[str, Any], Path]]


@pytest.fixture(scope="module")
def module() -> Iterator[ModuleType]:
    before = sys.path[:]
    yield load_module(PASSES / "transformer_optimizer.py", "apply")
    sys.path[:] = before


@pytest.fixture
def optimize(module: ModuleType, tmp_path: Path) -> Optimize:
    return lambda model, **parameters: apply_pass(module, tmp_path, model, **parameters)


@pytest.fixture
def offered(module: ModuleType) -> Pass:
    (found,) = module.ortforge_passes()
    assert isinstance(found, Pass)
    return found


def ops(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


# Names and versions, held against the installed ONNX Runtime


def test_parameters_are_the_options_of_onnx_runtimes_own_parser(module: ModuleType) -> None:
    from onnxruntime.transformers.fusion_options import FusionOptions

    parser = ArgumentParser()
    FusionOptions.add_arguments(parser)
    theirs = {action.dest for action in parser._actions} - {"help"}
    # optimizer.py's own options are in a function that reads sys.argv; so they are read from its text.
    source = (Path(ort.__file__).parent / "transformers" / "optimizer.py").read_text()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    added = [node for node in calls if isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"]
    theirs |= {str(ast.literal_eval(node.args[0])).lstrip("-") for node in added}
    ours = {field.name for field in dataclasses.fields(module.Parameters)}
    assert len(theirs) > 35
    assert theirs - ours == {"input", "output"}
    assert ours - theirs == {"keep_io_types"}, "of optimizer.py's convert_float_to_float16"
    levels = next(node for node in added if ast.literal_eval(node.args[0]) == "--opt_level")
    choices = next(ast.literal_eval(keyword.value) for keyword in levels.keywords if keyword.arg == "choices")
    ours_levels = [
        value for part in get_args(get_type_hints(module.Parameters)["opt_level"]) for value in get_args(part)
    ]
    assert set(choices) <= set(ours_levels)


def test_model_types_are_those_of_the_installed_version(module: ModuleType) -> None:
    from onnxruntime.transformers.optimizer import MODEL_TYPES

    known = module.MODEL_TYPES
    assert set(get_args(get_type_hints(module.Parameters)["model_type"])) == set(known)
    here = module.ort_graph.version_of(ort.__version__)
    there = {name: (entry.producer, entry.opt_level) for name, entry in known.items() if entry.since <= here}
    assert there == {name: entry[1:] for name, entry in MODEL_TYPES.items()}


def test_a_wrong_model_type_is_answered_with_those_there_are(offered: Pass) -> None:
    with pytest.raises(ValidationError, match="'bart', 'bert', 'bert_keras'"):
        parameters_of(offered, {"model_type": "roberta"})
    complete, typed = parameters_of(offered, {"model_type": "t5"})
    assert complete["opt_level"] is None
    assert typed.level == 2


def test_a_wrong_number_is_answered_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "matrix.toml").write_text(
        '[recipes.r]\npasses = [{ use = "transformer-optimizer", opt_level = 4 }]\n', encoding="utf-8"
    )
    with pytest.raises(ConfigurationError, match=r"is not among the choices\. Known: 0, 1, 2, 3, 99"):
        load(tmp_path / "matrix.toml", known(Plugins()))


@pytest.mark.parametrize(
    ("parameters", "use", "says"),
    [
        ({"model_type": "qwen3"}, {"ort_version": "1.21.1"}, "it is there since 1.25; this one knows bart, bert, "),
        ({"model_type": "mmdit"}, {"ort_version": "1.20.1"}, "it is there since 1.21"),
        ({"opt_level": 3}, {"ort_version": "1.22.1"}, "since 1.23; opt_level = 99 does the same"),
        ({"num_heads": -1, "hidden_size": -4}, {}, "cannot be negative"),
        ({"hidden_size": 384}, {}, "go together"),
        ({"use_mask_index": True, "no_attention_mask": True}, {}, "use_mask_index and no_attention_mask exclude"),
        ({"disable_group_norm": True}, {}, "has no effect for model_type 'bert': it is for clip, unet, vae"),
        ({"only_onnxruntime": True, "opt_level": 0}, {}, "leaves nothing to do"),
        ({"only_onnxruntime": True, "float16": True}, {}, "only_onnxruntime excludes float16"),
        ({"only_onnxruntime": True, "disable_gelu": True}, {}, "makes no fusions, which disable_gelu would shape"),
        ({"keep_io_types": False}, {}, "keep_io_types has no effect without float16 = true"),
        ({"convert_attribute": True}, {}, "has no effect without use_external_data_format = true"),
        ({"disable_symbolic_shape_infer": True}, {}, "has no effect without convert_to_packing_mode = true"),
        ({"use_gpu": True}, {}, "this cell runs on cpu"),
        ({"provider": "cuda"}, {"ep": "cuda"}, "use_gpu is not set"),
        ({"use_gpu": True, "provider": "migraphx"}, {"ep": "cuda"}, "this cell's, which is cuda"),
        ({"opt_level": 2}, {"ep": "openvino"}, "which fused operators openvino may not have"),
        ({"convert_to_packing_mode": True}, {}, "which CUDA alone has"),
        ({"convert_to_packing_mode": True, "model_type": "gpt2"}, {"ep": "cuda"}, "for model_type 'bert', not 'gpt2'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(
    offered: Pass, parameters: dict[str, Any], use: dict[str, Any], says: str
) -> None:
    facts = {"before": (), "ort_version": "1.32.0", "ep": "cpu", "has_calibration": False, **use}
    said = offered.objection(PassUse(offered.parameters(**parameters), **facts))
    assert says.removeprefix("which ") in said


@pytest.mark.parametrize(
    ("parameters", "ep"),
    [
        ({"opt_level": 99}, "cpu"),
        ({"use_gpu": True, "opt_level": 2}, "cuda"),
        ({"use_gpu": True, "provider": "dml"}, "directml"),
        ({"convert_to_packing_mode": True}, "cuda"),
        ({"model_type": "unet", "disable_group_norm": True, "disable_packed_qkv": True}, "cuda"),
        ({}, "openvino"),
    ],
)
def test_what_goes_together_is_not_refused(offered: Pass, parameters: dict[str, Any], ep: str) -> None:
    assert offered.objection(PassUse(offered.parameters(**parameters), (), "1.32.0", ep, False)) == ""


def test_only_what_depends_on_the_ep_is_made_once_per_ep(offered: Pass) -> None:
    assert callable(offered.per_ep)
    assert not offered.per_ep(offered.parameters())
    assert offered.per_ep(offered.parameters(opt_level=2))
    assert offered.per_ep(offered.parameters(use_gpu=True))


def test_a_model_type_that_the_runtime_lacks_is_unsupported(
    optimize: Optimize, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = module.fusion.known_types()  # ONNX Runtime's own table
    monkeypatch.delitem(known, "sam2")
    with pytest.raises(NotImplementedError, match=r"does not know model_type 'sam2': it is there since 1\.20"):
        optimize(encoder_layer(), model_type="sam2")


def test_a_gpus_ep_that_the_runtime_lacks_is_unsupported(optimize: Optimize) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(NotImplementedError, match="use_gpu needs CUDAExecutionProvider, and this ONNX Runtime has"):
        optimize(encoder_layer(), ep="cuda", ep_name="CUDAExecutionProvider", use_gpu=True)


# What is fused


@pytest.mark.parametrize("split", ["constant", "minus one", "computed"])
@pytest.mark.parametrize("opt_level", [0, 1])
def test_heads_are_read_from_the_graph_and_reported(optimize: Optimize, split: Any, opt_level: int) -> None:
    model = encoder_layer(split=split)
    result, path = optimize(model, opt_level=opt_level)
    assert (result["num_heads"], result["hidden_size"]) == (HEADS, HIDDEN)
    assert result["fused"] == {"Attention": 1, "BiasGelu": 1, "SkipLayerNormalization": 2}
    assert result["warnings"] == []
    assert result["nodes_after"] < result["nodes_before"] / 3
    assert cosine(model, path, feed(batch=2)) > 0.99999
    saved = onnx.load(path)
    assert (saved.ir_version, [entry.domain for entry in saved.opset_import]) == (8, ["", "com.microsoft"])


def test_heads_that_contradict_the_graph_are_refused(optimize: Optimize) -> None:
    with pytest.raises(
        ValueError, match=r"num_heads = 4 and hidden_size = 8 .* into 2 heads, 8 wide .* Leave both out"
    ):
        optimize(encoder_layer(), num_heads=4, hidden_size=8)


@pytest.mark.parametrize(
    ("parameters", "there", "gone"),
    [
        ({"disable_attention": True}, "Softmax", "Attention"),
        ({"use_multi_head_attention": True}, "MultiHeadAttention", "Attention"),
        ({"disable_skip_layer_norm": True}, "LayerNormalization", "SkipLayerNormalization"),
        ({"disable_gelu": True}, "Erf", "BiasGelu"),
        ({"disable_bias_gelu": True}, "Gelu", "BiasGelu"),
        ({"enable_gelu_approximation": True}, "FastGelu", "BiasGelu"),
        ({"use_raw_attention_mask": True}, "Attention", "ReduceSum"),
        ({"use_mask_index": True, "model_type": "vit"}, "ReduceSum", "Softmax"),
    ],
)
def test_each_option_does_what_its_name_says(
    optimize: Optimize, parameters: dict[str, Any], there: str, gone: str
) -> None:
    model = encoder_layer()
    result, path = optimize(model, **parameters)
    assert there in ops(path)
    assert gone not in ops(path)
    assert result["warnings"] == []
    assert cosine(model, path, feed()) > 0.999


def test_a_mask_that_is_dropped_stays_an_input(optimize: Optimize) -> None:
    model = encoder_layer()
    result, path = optimize(model, no_attention_mask=True)
    assert len(result["warnings"]) == 2
    assert "as no_attention_mask asks" in result["warnings"][0]
    assert result["warnings"][1] == "Nothing reads the input mask any more: right for full sequences alone."
    assert [value.name for value in onnx.load(path).graph.input] == ["x", "mask"]
    full = {**feed(), "mask": np.ones_like(feed()["mask"])}
    assert cosine(model, path, full) > 0.99999
    assert cosine(model, path, feed()) < 0.9999, "which is why it is said"


def test_float16_keeps_inputs_and_outputs(optimize: Optimize) -> None:
    model = encoder_layer()
    _, path = optimize(model, float16=True)
    saved = onnx.load(path)
    assert TensorProto.FLOAT16 in {tensor.data_type for tensor in saved.graph.initializer}
    assert saved.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert cosine(model, path, feed()) > 0.9999


def test_integers_may_become_int32_and_floats_may_not(optimize: Optimize) -> None:
    with pytest.raises(ValueError, match=r"x holds no integers: its values would be cut off"):
        optimize(encoder_layer(), input_int32=True)
    model = encoder_layer()
    ids, table = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 5]), np.eye(8, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    model.graph.node.insert(0, helper.make_node("Gather", ["table", "ids"], ["x"], name="embed"))
    model.graph.input[0].CopyFrom(ids)
    result, path = optimize(model, input_int32=True)
    given = {"ids": np.arange(5).reshape(1, 5) % 8, "mask": feed()["mask"]}
    assert {value.type.tensor_type.elem_type for value in onnx.load(path).graph.input} == {TensorProto.INT32}
    small = {name: value.astype(np.int32) for name, value in given.items()}
    np.testing.assert_allclose(outputs(model, given)[0], outputs(path, small)[0], rtol=1e-4, atol=1e-4)
    assert result["fused"]["Attention"] == 1
    assert result["inputs"] == {"ids": "int32", "mask": "int32"}, "so that the engine casts the samples"


def test_float16_inputs_are_said_so_that_samples_are_cast(optimize: Optimize) -> None:
    result, _ = optimize(encoder_layer(), float16=True, keep_io_types=False)
    assert result["inputs"] == {"x": "float16"}


def test_weights_may_go_beside_the_model(optimize: Optimize, module: ModuleType, tmp_path: Path) -> None:
    model = encoder_layer()
    wide = np.random.default_rng(0).normal(size=(HIDDEN, 400)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(wide, "wide"))
    model.graph.node.append(helper.make_node("MatMul", ["y", "wide"], ["z"], name="head"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 5, 400]))
    result, path = optimize(model, use_external_data_format=True)
    assert (path.parent / "model.onnx.data").stat().st_size >= wide.nbytes
    assert result["bytes_after"] > wide.nbytes
    assert cosine(model, path, feed()) > 0.99999
    # And from there: what is read may have its weights outside, at every level.
    again, fused = optimize(path, opt_level=1, disable_bias_gelu=True, use_raw_attention_mask=True)
    assert again["fused"] == {}
    assert cosine(model, fused, feed()) > 0.99999


# ONNX Runtime's own optimizations


@pytest.mark.parametrize("opt_level", [1, 2, 3, 99])
def test_no_level_needs_torch(optimize: Optimize, monkeypatch: pytest.MonkeyPatch, opt_level: int) -> None:
    if opt_level == 3 and not hasattr(ort.GraphOptimizationLevel, "ORT_ENABLE_LAYOUT"):
        pytest.skip("this ONNX Runtime has no level 3")
    monkeypatch.setitem(sys.modules, "torch", None)
    model = encoder_layer()
    for only in (True, False):
        result, path = optimize(model, opt_level=opt_level, only_onnxruntime=only)
        assert result["nodes_after"] <= result["nodes_before"]
        assert cosine(model, path, feed()) > 0.99999
        level = {1: None, 2: "extended", 3: "layout", 99: "all"}[opt_level]
        assert result.get("stamp", {}).get("level") == level
        kept = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert json.loads(kept.get("ortforge.stamp", "{}")).get("level") == level


def test_a_level_that_hides_attention_is_found_by_trying_a_lower_one(optimize: Optimize) -> None:
    result, path = optimize(encoder_layer(), opt_level=2)
    if "Attention" in ops(path):  # older versions leave the patterns as they are
        assert result["warnings"] == []
    else:
        assert "Cause: opt_level = 2 lets ONNX Runtime fuse first" in result["warnings"][0]
        assert "opt_level = 1 gives 1 Attention." in result["warnings"][0]
    result, _ = optimize(encoder_layer(form="sdpa"), opt_level=2)
    assert "Likely cause: the export holds scaled_dot" in result["warnings"][0]


# What was expected and did not happen


def test_a_wrong_model_type_is_found_by_trying_others(optimize: Optimize) -> None:
    result, _ = optimize(encoder_layer(), model_type="gpt2")
    assert result["warnings"] == [
        "0 Attention fused, though the model has 1 Softmax before a MatMul. "
        "Cause: model_type = 'gpt2' is wrong: 'bert' fuses 1 Attention here."
    ]


def test_a_mask_that_a_wrong_model_type_drops_is_said(optimize: Optimize) -> None:
    model = encoder_layer()
    result, path = optimize(model, model_type="vit")
    assert result["fused"]["Attention"] == 1
    assert result["warnings"][0].startswith("MASK DROPPED: 1 attentions were fused without what the model adds")
    padded = {**feed(batch=2), "mask": np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], np.int64)}
    assert cosine(model, path, padded) < 0.999, "which is a loss"
    result, path = optimize(model, model_type="vit", use_raw_attention_mask=True)
    assert not any("MASK DROPPED" in text for text in result["warnings"])
    assert cosine(model, path, padded) > 0.99999
    result, _ = optimize(model, no_attention_mask=True)
    assert "as no_attention_mask asks: right for full sequences alone" in result["warnings"][0]


def test_scaled_dot_product_attention_is_the_likely_cause(optimize: Optimize) -> None:
    result, path = optimize(encoder_layer(form="sdpa"))
    (said,) = result["warnings"]
    assert "0 Attention fused, though the model has 1 Softmax before a MatMul. Likely cause: the export holds " in said
    assert "attn_implementation='eager'" in said
    assert "num_heads" not in said, "they were read from the graph"
    assert result["fused"] == {"BiasGelu": 1, "SkipLayerNormalization": 2}, "and the rest is fused all the same"
    assert cosine(encoder_layer(form="sdpa"), path, feed()) > 0.99999


def test_heads_behind_a_split_or_a_shared_bias_are_read(module: ModuleType) -> None:
    # GPT-2's projection is one Gemm for all three; torch writes equal biases once, and Identity where they are used.
    weight = onnx.numpy_helper.from_array(np.zeros((HIDDEN, 3 * HIDDEN), np.float32), "w")
    bias = onnx.numpy_helper.from_array(np.zeros(HIDDEN, np.float32), "b")
    shape = onnx.numpy_helper.from_array(np.array([1, 5, -1, HIDDEN // HEADS]), "shape")
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["qkv"]),
        helper.make_node("Split", ["qkv"], ["q", "k", "v"], axis=1),
        helper.make_node("Identity", ["b"], ["same"]),
        helper.make_node("Add", ["same", "q"], ["biased"]),
    ]
    for name, source in (("q", "biased"), ("k", "k")):
        nodes.append(helper.make_node("Reshape", [source, "shape"], [f"{name}_s"]))
        nodes.append(helper.make_node("Transpose", [f"{name}_s"], [f"{name}_t"], perm=[0, 2, 1, 3]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "q_t", "k_t")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight, bias, shape])
    found = module.attention_nodes.heads_in(helper.make_model(graph))
    assert [(heads.num_heads, heads.hidden_size) for heads in found] == [(HEADS, HIDDEN)]


def test_attention_of_an_unknown_form_is_not_called_another(optimize: Optimize) -> None:
    model = encoder_layer()
    scaled = next(node for node in model.graph.node if node.output[0] == "qk_d")
    scaled.op_type, scaled.input[1] = "Max", "minus"
    result, _ = optimize(model)
    assert "its attention has another form than those that the patterns for 'bert' know" in result["warnings"][0]
    assert "scaled_dot_product" not in result["warnings"][0]


def test_the_dynamo_exporter_is_known_by_its_metadata(optimize: Optimize) -> None:
    result, _ = optimize(encoder_layer(form="sdpa", dynamo=True))
    assert "torch's dynamo exporter wrote the model" in result["warnings"][0]


def test_another_exporters_graph_is_named(optimize: Optimize) -> None:
    result, _ = optimize(encoder_layer(form="sdpa", producer="tf2onnx"))
    assert "the model was made by tf2onnx, and model_type = 'bert' is for graphs of pytorch" in result["warnings"][0]
    assert "(there are bert_tf, gpt2_tf for it)" in result["warnings"][0]
    assert any("producer not matched" in hint for hint in result["onnxruntime_said"])


def test_a_quantized_model_is_the_cause(optimize: Optimize, tmp_path: Path) -> None:
    before = sys.path[:]
    _, small = apply_pass(load_module(PASSES / "quantize_dynamic.py", "apply"), tmp_path, encoder_layer())
    sys.path[:] = before
    result, _ = optimize(small)
    assert "the model is quantized" in result["warnings"][0]
    assert "Put this pass before quantization." in result["warnings"][0]


def chosen(operators: tuple[str, str], read: str, made: str, inner: onnx.NodeProto | None = None) -> onnx.NodeProto:
    """An If that gives one operator of ``read`` or the other; ``inner`` comes before both."""
    branches: dict[str, Any] = {}
    for branch, operator in zip(("then_branch", "else_branch"), operators, strict=True):
        value = helper.make_tensor_value_info(f"{made}_{branch}", TensorProto.FLOAT, ["batch", 5, HIDDEN])
        nodes = [node for node in (inner,) if node is not None] + [helper.make_node(operator, [read], [value.name])]
        branches[branch] = helper.make_graph(nodes, f"{made}_{branch}", [], [value])
    return helper.make_node("If", ["wanted"], [made], name=f"choose_{made}", **branches)


def test_what_only_an_inner_branch_reads_is_kept(optimize: Optimize) -> None:
    model = encoder_layer()
    # Nothing but the innermost branches reads the shifted tensor and a second input; the scripts remove both.
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(2.0), "shift"))
    inner = chosen(("Neg", "Abs"), "s", "i")
    model.graph.node.extend(
        [
            helper.make_node("Add", ["y", "shift"], ["s"], name="shifted"),
            chosen(("Sin", "Cos"), "i", "z", inner),
        ]
    )
    model.graph.input.append(helper.make_tensor_value_info("wanted", TensorProto.BOOL, []))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 5, HIDDEN]))
    for opt_level in (0, 1):
        result, path = optimize(model, opt_level=opt_level)
        assert result["fused"]["Attention"] == 1
        assert result["warnings"] == []
        assert cosine(model, path, {**feed(), "wanted": np.array(True)}) > 0.99999


def test_a_gelu_of_another_form_is_said(optimize: Optimize) -> None:
    model = encoder_layer()
    divide = next(node for node in model.graph.node if node.output[0] == "g_d")
    divide.op_type = "Mul"  # Erf of something that no GELU has
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.9), "odd"))
    divide.input[1] = "odd"
    result, _ = optimize(model)
    assert result["warnings"] == ["0 GELU fused, though the model has 1 Erf: its GELU has another form."]


def test_what_the_scripts_fail_on_is_a_sentence(optimize: Optimize) -> None:
    model = encoder_layer(gelu=False)
    for tensor in model.graph.initializer:
        if tensor.name == "w_k":  # narrower than the query's: an assertion without a text
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros((HIDDEN, 4), np.float32), "w_k"))
    with pytest.raises(RuntimeError, match=r"failed|Use opt_level = 0"):
        optimize(model, opt_level=0)
    with pytest.raises(RuntimeError, match=r"ONNX Runtime's own optimizations failed: .* Use opt_level = 0"):
        optimize(model, opt_level=1)
