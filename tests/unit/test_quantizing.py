"""Types, formats and choices of the quantizing passes, on a trained CNN, a recurrent network and a transformer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pass_jobs import (
    accuracy,
    cosine,
    helper_module,
    job_for,
    module,
    outputs,
    picture_model,
    pictures,
    run_pass,
    samples_folder,
)
from test_planted_disasters import attention_with_mask

from ortforge.api import PassUse

CALIBRATION = pictures(24, seed=1)[0]
VALIDATION, LABELS = pictures(60, seed=2)


def quantized(folder: Path, **parameters: Any) -> tuple[dict[str, Any], Path]:
    return run_pass(folder, "quantize-static", picture_model(), CALIBRATION, **parameters)


# Types


@pytest.mark.parametrize(
    ("activation", "weight", "least"),
    [
        ("QUInt8", "QInt8", 0.99),
        ("QUInt8", "QUInt8", 0.99),
        ("QInt8", "QInt8", 0.99),
        ("QUInt16", "QInt8", 0.99),
        ("QUInt16", "QInt16", 0.999),
        ("QInt16", "QInt16", 0.999),
        ("QUInt8", "QInt4", 0.6),
        ("QUInt16", "QUInt4", 0.6),
        ("QFLOAT8E4M3FN", "QFLOAT8E4M3FN", 0.95),
    ],
)
def test_each_type_that_the_runtime_has_gives_a_model_that_answers(
    tmp_path: Path, activation: str, weight: str, least: float
) -> None:
    result, path = quantized(tmp_path, activation_type=activation, weight_type=weight, per_channel=True)
    assert result["quantized"]["QuantizeLinear"] >= 3
    assert cosine(outputs(picture_model(), VALIDATION), outputs(path, VALIDATION)) > least
    if "4" not in weight:
        assert accuracy(path, VALIDATION, LABELS) == 1.0


def test_eight_bit_floats_keep_their_signs_though_sessions_drop_relu(tmp_path: Path) -> None:
    # What ONNX Runtime's quantizer writes is a model whose Relu a session takes out: half of all values change.
    _, path = quantized(tmp_path, activation_type="QFLOAT8E4M3FN", weight_type="QFLOAT8E4M3FN")
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert operators.count("Max") == 2
    assert "Relu" not in operators
    assert accuracy(path, VALIDATION, LABELS) == 1.0


def test_a_constant_factor_keeps_its_value_in_eight_bit_floats(tmp_path: Path) -> None:
    # ONNX Runtime takes scales from the deviation, which a single number does not have.
    model = onnx.ModelProto()
    model.CopyFrom(picture_model())
    for name, number in (("three", 3.0), ("zero", 0.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), name))
    (last,) = [node for node in model.graph.node if node.name == "classes"]
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Mul", ["before", "three"], ["tripled"], name="times"))
    model.graph.node.append(helper.make_node("Add", ["tripled", "zero"], ["y"], name="plus"))
    types: dict[str, Any] = {"activation_type": "QFLOAT8E4M3FN", "weight_type": "QFLOAT8E4M3FN"}
    _, path = run_pass(tmp_path, "quantize-static", model, CALIBRATION, **types)
    assert accuracy(path, VALIDATION, LABELS) == 1.0
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    assert float(weights["three_quantized"]) * float(weights["three_scale"]) == pytest.approx(3.0, rel=0.07)


def test_eight_bit_floats_leave_softmax_alone(tmp_path: Path) -> None:
    model, feeds = attention_with_mask()
    result, path = run_pass(
        tmp_path,
        "quantize-static",
        model,
        feeds[:16],
        activation_type="QFLOAT8E4M3FN",
        weight_type="QFLOAT8E4M3FN",
        fix=True,
    )
    assert result["opset"] == "17 -> 19"
    assert cosine(outputs(model, feeds[16:]), outputs(path, feeds[16:])) > 0.98


def test_types_that_load_only_without_optimizations_are_refused_up_front(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match=r"writes QUInt8 weights with QUInt4 activations .* does not run"):
        quantized(tmp_path, activation_type="QUInt4", weight_type="QUInt8")


def test_biases_that_32_bits_do_not_hold_get_scales_of_their_own(tmp_path: Path) -> None:
    # The product of two 16-bit scales is so small that ONNX Runtime's quantizer cuts the last layer's bias off.
    result, path = quantized(tmp_path, activation_type="QUInt16", weight_type="QUInt16")
    assert result["warnings"] == []
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    bias = next(numpy_helper.to_array(one) for one in picture_model().graph.initializer if one.name == "c")
    kept = weights["c_quantized"] * weights["c_quantized_scale"].astype(np.float64)
    np.testing.assert_allclose(kept, bias, rtol=1e-6)
    assert cosine(outputs(picture_model(), VALIDATION), outputs(path, VALIDATION)) > 0.999


def test_a_bias_of_two_axes_per_channel_is_a_matter_of_the_format(tmp_path: Path) -> None:
    # magika has one. ONNX Runtime takes its first axis for the channels where it widens scales for biases.
    model = onnx.ModelProto.FromString(picture_model().SerializeToString())
    bias = next(one for one in model.graph.initializer if one.name == "c")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias)[None], "c"))
    with pytest.raises(NotImplementedError, match=r"per channel in the QOperator format .* Use format = 'QDQ'"):
        run_pass(tmp_path, "quantize-static", model, CALIBRATION, format="QOperator", per_channel=True)
    result, path = run_pass(tmp_path, "quantize-static", model, CALIBRATION, per_channel=True)
    assert "Weight scales were not widened for 32-bit biases" in result["warnings"][-1]
    assert cosine(outputs(model, VALIDATION), outputs(path, VALIDATION)) > 0.99


@pytest.mark.parametrize(
    ("name", "parameters", "use", "says"),
    [
        ("quantize_static", {"activation_type": "QFLOAT8E4M3FN"}, {}, "set both types to 'QFLOAT8E4M3FN'"),
        ("quantize_static", {"format": "QOperator", "weight_type": "QInt4"}, {}, "QInt4 exists in the QDQ format only"),
        ("quantize_static", {"weight_type": "QInt4", "reduce_range": True}, {}, "reduce_range makes 7 bits of 8"),
        ("quantize_static", {"percentile": 0.99}, {}, "a share in per cent"),
        ("quantize_static", {"bins": 10}, {}, "give 256 to 65536"),
        ("quantize_static", {"percentile": 99.9}, {}, "goes with calibrate_method = 'Percentile', and it is 'MinMax'"),
        ("quantize_static", {"bins": 512}, {}, "bins are those of Entropy and Percentile"),
        ("quantize_static", {"format": "QOperator", "float_outputs": ("MatMul",)}, {}, "for the QDQ format"),
        ("quantize_static", {"extra_options": {"SmoothQuant": True}}, {}, "put the pass smooth-quant before"),
        ("quantize_static", {"extra_options": {"CalibPercentile": 99.9}}, {}, "is the parameter percentile here"),
        ("quantize_dynamic", {"weight_type": "QInt4"}, {}, "use the pass quantize-weights"),
        ("quantize", {"method": "static", "subgraphs": True}, {}, "subgraphs is for dynamic quantization"),
        (
            "quantize",
            {"extra_options": {"SmoothQuantAlpha": 0.5}},
            {},
            "use the passes smooth-quant and quantize-static",
        ),
        ("quantize", {"method": "static"}, {"has_calibration": False}, "give the model a calibration dataset"),
        ("smooth_quant", {}, {"has_calibration": False}, "give the model a calibration dataset"),
        ("smooth_quant", {"alpha": 1.5}, {}, "a share, from 0 to 1"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(
    name: str, parameters: dict[str, Any], use: dict[str, Any], says: str
) -> None:
    (offered,) = module(name).ortforge_passes()
    facts = {"before": (), "ort_version": "1.32.0", "ep": "cpu", "has_calibration": True, **use}
    assert says in offered.objection(PassUse(parameters=offered.parameters(**parameters), **facts))
    assert offered.objection(PassUse(offered.parameters(), (), "1.32.0", "cpu", True)) == ""


@pytest.mark.parametrize("name", ["quantize-static", "quantize-dynamic"])
def test_an_option_that_the_quantizer_would_pass_over_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        NotImplementedError, match=r"has 'WeightSymetric', .* in silence: did you mean WeightSymmetric?"
    ):
        run_pass(tmp_path, name, picture_model(), CALIBRATION, extra_options={"WeightSymetric": True})


def test_all_options_that_the_quantizer_documents_are_known() -> None:
    import inspect
    import re

    import onnxruntime.quantization as quantization

    options = helper_module("_quantization.extra_options").known_options()
    for call in (quantization.quantize_static, quantization.quantize_dynamic):
        listed = inspect.getdoc(call).split("extra_options:", 1)[1]
        named = set(re.findall(r"^\s+([A-Z]\w+) = ", listed, re.MULTILINE))
        assert len(named) > 3
        assert named <= options
    assert "percentile" not in options


def test_what_is_slow_or_imprecise_on_x86_is_said() -> None:
    remarks = helper_module("_quantization.type_support").x86_remarks
    (said,) = remarks("QInt8", "QInt8", reduce_range=False, machine="x86_64", flags=["avx2"])
    assert said.startswith("S8S8 ON X86")
    assert "activation_type = 'QUInt8'" in said
    (said,) = remarks("QUInt8", "QInt8", reduce_range=False, machine="x86_64", flags=["avx2"])
    assert "has no VNNI" in said
    assert remarks("QUInt8", "QInt8", reduce_range=True, machine="x86_64", flags=["avx2"]) == []
    assert remarks("QUInt8", "QInt8", reduce_range=False, machine="x86_64", flags=["avx512_vnni"]) == []
    assert remarks("QInt8", "QInt8", reduce_range=False, machine="aarch64") == []


def test_a_runtime_that_multiplies_wrongly_on_this_cpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    support = helper_module("_quantization.type_support")
    # That of the tests is right, whatever the CPU; 1.21.1, 1.23.2 and 1.24.1 are not where there is AMX.
    assert support.multiplies_rightly()
    model = picture_model()
    assert support.wrong_products(model, "1.32.0") == []
    monkeypatch.setattr(support, "multiplies_rightly", lambda: False)
    (said,) = support.wrong_products(model, "1.21.1", ["amx_int8", "avx512_vnni"])
    assert said.startswith("WRONG PRODUCTS: the CPU EP of ONNX Runtime 1.21.1 multiplies 8-bit integers wrongly here")
    assert "(its kernels for AMX)" in said
    assert "AMX" not in support.wrong_products(model, "1.21.1", ["avx2"])[0]
    # Where all columns lie in whole tiles, there is nothing to say.
    attention, _ = attention_with_mask()
    assert len(support.wrong_products(attention, "1.21.1")) == 1
    for tensor in attention.graph.initializer:
        if tensor.name.startswith("w"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((16, 64), np.float32), tensor.name))
    assert support.wrong_products(attention, "1.21.1") == []


def test_signed_activations_are_remarked_on_by_the_pass(tmp_path: Path) -> None:
    result, _ = quantized(tmp_path, activation_type="QInt8")
    expected = helper_module("_quantization.type_support").x86_remarks("QInt8", "QInt8", reduce_range=False)
    assert [text for text in result["warnings"] if "S8S8" in text] == expected


def test_what_is_slow_on_the_cpu_ep_is_not_said_of_another(tmp_path: Path) -> None:
    samples = samples_folder(tmp_path / "samples", CALIBRATION)
    job = job_for(tmp_path / "job", picture_model(), samples, {"activation_type": "QInt8"})
    said = module("quantize_static").apply(replace(job, ep="openvino", ep_name="OpenVINOExecutionProvider"))
    assert not [text for text in said["warnings"] if "X86" in text]


def test_outputs_of_chosen_operators_stay_float(tmp_path: Path) -> None:
    model, feeds = attention_with_mask()
    counts = []
    cases: list[dict[str, Any]] = [{}, {"float_outputs": ["MatMul"]}]
    for parameters in cases:
        _, path = run_pass(tmp_path, "quantize-static", model, feeds[:16], op_types=["MatMul"], **parameters)
        counts.append(sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node))
        assert cosine(outputs(model, feeds[16:]), outputs(path, feeds[16:])) > 0.99
    assert counts[1] < counts[0]
    with pytest.raises(
        ValueError, match=r"float_outputs has 'Matmul\*', which matches no operator.*Did you mean 'MatMul'"
    ):
        run_pass(tmp_path, "quantize-static", model, feeds[:8], float_outputs=["Matmul*"])


@pytest.mark.parametrize("method", ["MinMax", "Entropy", "Percentile"])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_every_method_in_both_formats(tmp_path: Path, method: str, form: str) -> None:
    result, path = quantized(tmp_path, calibrate_method=method, format=form)
    assert result["warnings"] == []
    assert accuracy(path, VALIDATION, LABELS) == 1.0


# Dynamic


def test_conv_gets_unsigned_weights_where_the_runtime_lacks_signed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    support = helper_module("_quantization.type_support")
    model = picture_model()
    signed, path = run_pass(tmp_path, "quantize-dynamic", model)
    assert support.has_int8_conv()
    types = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert types["a_quantized"] == TensorProto.INT8
    # As on ONNX Runtime 1.21, which answers no.
    monkeypatch.setattr(support, "has_int8_conv", lambda: False)
    result, path = run_pass(tmp_path, "quantize-dynamic", model)
    types = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert (types["a_quantized"], types["w_quantized"]) == (TensorProto.UINT8, TensorProto.INT8)
    assert result["quantized"] == signed["quantized"]
    assert "Conv got QUInt8 weights" in result["warnings"][0]
    assert "usually slower than Conv in float" in result["warnings"][1]
    assert cosine(outputs(model, VALIDATION), outputs(path, VALIDATION)) > 0.98


# The chooser


def recurrent() -> onnx.ModelProto:
    """An LSTM over 16 features behind one small Conv, its weights joined from two constants, as exporters do."""
    draw = np.random.default_rng(8)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array((draw.normal(size=shape) / 6).astype(np.float32), name)

    node = helper.make_node
    nodes = [
        node("Conv", ["x", "k"], ["c"], name="conv", pads=[1, 1]),
        node("Transpose", ["c"], ["t"], name="turn", perm=[2, 0, 1]),
        node("Concat", ["w1", "w2"], ["w"], name="join", axis=1),
        node("LSTM", ["t", "w", "r"], ["", "y"], name="lstm", hidden_size=32),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [value("x", TensorProto.FLOAT, [1, 4, 20])],
        [value("y", TensorProto.FLOAT, [1, 1, 32])],
        [weight("k", 16, 4, 3), weight("w1", 1, 64, 16), weight("w2", 1, 64, 16), weight("r", 1, 128, 32)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_cnn_is_quantized_statically_and_told_why(tmp_path: Path) -> None:
    result, path = run_pass(tmp_path, "quantize", picture_model(), CALIBRATION)
    assert (result["method"], result["model_kind"]) == ("static", "convolutional")
    assert result["why"].startswith("It is a convolutional network (2 Conv, 1 matrix products)")
    assert result["quantized"]["QuantizeLinear"] >= 3
    assert accuracy(path, VALIDATION, LABELS) == 1.0


def test_a_transformer_is_quantized_dynamically_and_needs_no_samples(tmp_path: Path) -> None:
    model, feeds = attention_with_mask()
    result, path = run_pass(tmp_path, "quantize", model)
    assert (result["method"], result["model_kind"]) == ("dynamic", "transformer")
    assert "1 attentions, 5 matrix products, 0 Conv" in result["why"]
    assert result["quantized"]["MatMulInteger"] == 3
    assert cosine(outputs(model, feeds), outputs(path, feeds)) > 0.98


def test_a_recurrent_network_is_told_by_where_its_weights_are(tmp_path: Path) -> None:
    result, path = run_pass(tmp_path, "quantize", recurrent())
    assert (result["method"], result["model_kind"]) == ("dynamic", "recurrent")
    assert "1 LSTM hold 97% of the weights" in result["why"]
    assert "ConvInteger" not in result["quantized"]
    assert path.is_file()


def test_a_byte_classifier_with_a_convolution_is_no_cnn() -> None:
    # As magika is built: numbers become vectors, one convolution runs along them, products decide.
    weights = [
        numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in {"table": (257, 8), "k": (16, 8, 3), "w1": (16, 32), "w2": (32, 4)}.items()
    ]
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "bytes"], ["rows"], name="embed"),
        node("Transpose", ["rows"], ["t"], name="turn", perm=[0, 2, 1]),
        node("Conv", ["t", "k"], ["c"], name="conv"),
        node("ReduceMax", ["c"], ["m"], name="most", axes=[2], keepdims=0),
        node("MatMul", ["m", "w1"], ["h"], name="hidden"),
        node("MatMul", ["h", "w2"], ["y"], name="kinds"),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("bytes", TensorProto.INT32, [1, 64])]
    graph = helper.make_graph(nodes, "bytes", inputs, [value("y", TensorProto.FLOAT, [1, 4])], weights)
    found = helper_module("_models.model_kind").architecture(helper.make_model(graph))
    assert (found.kind, found.evidence) == ("other", "2 matrix products, 1 Conv, 0 attentions, 0 cells")


def test_a_perceptron_is_quantized_dynamically(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.eye(16, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result, _ = run_pass(tmp_path, "quantize", model)
    assert (result["method"], result["model_kind"]) == ("dynamic", "other")


def test_a_cnn_without_real_samples_is_refused_with_the_reason_and_obeys_an_order(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Static quantization suits this model.*2 Conv.*method = 'dynamic'"):
        run_pass(tmp_path, "quantize", picture_model())
    with pytest.raises(ValueError, match="no real calibration samples"):
        run_pass(tmp_path, "quantize", picture_model(), CALIBRATION, random=True)
    result, _ = run_pass(tmp_path, "quantize", picture_model(), method="dynamic")
    assert result["why"].startswith("method = 'dynamic' asked for it. It is a convolutional network")
    assert result["quantized"]["ConvInteger"] == 2


def test_the_plan_gives_samples_only_where_they_may_be_needed() -> None:
    (offered,) = module("quantize").ortforge_passes()
    asked = [
        offered.calibrates(offered.parameters(method=method), given)
        for method in ("auto", "dynamic", "static")
        for given in (True, False)
    ]
    assert asked == [True, False, False, False, True, True]
    for name, always in (("quantize_static", True), ("quantize_dynamic", False), ("smooth_quant", True)):
        (offered,) = module(name).ortforge_passes()
        assert offered.calibrates(offered.parameters(), True) is always


# Preprocessing


def test_symbols_are_merged_after_all_where_they_stop_shape_inference(tmp_path: Path) -> None:
    pytest.importorskip("sympy")
    model, feeds = attention_with_mask()
    result, path = run_pass(tmp_path, "preprocess", model, auto_merge=False)
    assert result["skipped"] == {}
    assert cosine(outputs(model, feeds[:2]), outputs(path, feeds[:2])) == pytest.approx(1.0)
    # Two inputs whose free lengths have different names, and are added.
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["left", "right"], ["y"], name="sum")],
        "apart",
        [value("left", TensorProto.FLOAT, [1, "some"]), value("right", TensorProto.FLOAT, [1, "other"])],
        [value("y", TensorProto.FLOAT, None)],
    )
    apart = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result, _ = run_pass(tmp_path, "preprocess", apart, auto_merge=False)
    assert set(result["skipped"]) <= {"leaving symbols apart (auto_merge = false)"}
    assert result["shapes_known"] >= 0
