"""SmoothQuant moves outliers of activations into weights, and changes nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pass_jobs import cosine, outputs, picture_model, pictures, run_pass

STATIC = {"op_types": ["MatMul"], "per_channel": True, "float_outputs": ["MatMul"]}


def with_outliers(*, residual: bool = False) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    """LayerNormalization, two products that read it, and one more behind a Mul; two channels are 40 times the others.

    :param residual: somebody else reads the normalized values, too.
    """
    draw = np.random.default_rng(4)
    gamma = np.ones(24, np.float32)
    gamma[[3, 17]] = 40

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array((draw.normal(size=shape) / 5).astype(np.float32), name)

    node = helper.make_node
    nodes = [
        node("LayerNormalization", ["x", "gamma", "beta"], ["n"], name="norm", axis=-1),
        node("MatMul", ["n", "w1"], ["a"], name="first"),
        node("MatMul", ["n", "w2"], ["b"], name="second"),
        node("Sigmoid", ["b"], ["s"], name="gate"),
        node("Mul", ["a", "s"], ["g"], name="gated"),
        node("Mul", ["g", "half"], ["h"], name="halved"),
        node("Gemm", ["h", "w3", "c"], ["y"], name="last", transB=1),
    ]
    outputs_ = ["y"]
    if residual:
        nodes.append(node("Relu", ["n"], ["z"], name="residual"))
        outputs_.append("z")
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    weights = [weight("w1", 24, 16), weight("w2", 24, 16), weight("w3", 8, 16), weight("c", 8), weight("beta", 24)]
    shapes = {"y": [4, 8], "z": [4, 24]}
    graph = helper.make_graph(
        nodes,
        "outliers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 24])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs_],
        [*weights, half, numpy_helper.from_array(gamma, "gamma")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    waves = draw.uniform(0.2, 0.9, (40, 4, 1)) * np.arange(24) + draw.uniform(0, 6, (40, 4, 1))
    return model, [{"x": np.sin(one).astype(np.float32)} for one in waves]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_the_smoothed_model_computes_the_same(tmp_path: Path, alpha: float) -> None:
    model, feeds = with_outliers()
    result, path = run_pass(tmp_path, "smooth-quant", model, feeds[:16], alpha=alpha)
    assert result["products"] == 3
    for one, other in zip(outputs(model, feeds), outputs(path, feeds), strict=True):
        np.testing.assert_allclose(other["y"], one["y"], rtol=2e-5, atol=2e-5 * float(np.abs(one["y"]).max()))


def test_scales_are_folded_where_nobody_else_reads(tmp_path: Path) -> None:
    model, feeds = with_outliers()
    result, path = run_pass(tmp_path, "smooth-quant", model, feeds[:16])
    assert result["folded"] == {"LayerNormalization": 1, "Mul": 1}
    assert result["multiplications_added"] == 0
    assert len(onnx.load(path).graph.node) == len(model.graph.node)
    assert result["outliers_after"] < result["outliers_before"] / 2
    result, path = run_pass(tmp_path, "smooth-quant", model, feeds[:16], folding=False)
    assert (result["folded"], result["multiplications_added"]) == ({}, 2)


def test_a_residual_keeps_its_values(tmp_path: Path) -> None:
    model, feeds = with_outliers(residual=True)
    result, path = run_pass(tmp_path, "smooth-quant", model, feeds[:16])
    assert result["multiplications_added"] == 1
    for one, other in zip(outputs(model, feeds), outputs(path, feeds), strict=True):
        np.testing.assert_array_equal(one["z"], other["z"])
        np.testing.assert_allclose(other["y"], one["y"], rtol=2e-5, atol=2e-5 * float(np.abs(one["y"]).max()))


def test_static_quantization_loses_less_after_it(tmp_path: Path) -> None:
    model, feeds = with_outliers()
    calibration, validation = feeds[:24], feeds[24:]
    _, plain = run_pass(tmp_path, "quantize-static", model, calibration, **STATIC)
    _, smoothed = run_pass(tmp_path, "smooth-quant", model, calibration, alpha=0.7)
    _, better = run_pass(tmp_path, "quantize-static", smoothed, calibration, **STATIC)
    reference = outputs(model, validation)
    lost = [1 - cosine(reference, outputs(path, validation)) for path in (plain, better)]
    assert lost[1] < lost[0] / 2


def test_a_trained_cnn_is_left_as_it_was_but_for_its_last_layer(tmp_path: Path) -> None:
    feeds, _ = pictures(30, seed=6)
    result, path = run_pass(tmp_path, "smooth-quant", picture_model(), feeds[:16])
    assert result["products"] == 1
    assert cosine(outputs(picture_model(), feeds), outputs(path, feeds)) == pytest.approx(1.0, abs=1e-6)


def test_what_it_is_not_for_is_said(tmp_path: Path) -> None:
    model, feeds = with_outliers()
    with pytest.raises(ValueError, match="Give the model a calibration dataset"):
        run_pass(tmp_path, "smooth-quant", model)
    with pytest.raises(ValueError, match="Did you mean 'first'"):
        run_pass(tmp_path, "smooth-quant", model, feeds[:8], nodes_to_exclude=["frist"])
    with pytest.raises(ValueError, match="lacks the model's input x"):
        run_pass(tmp_path, "smooth-quant", model, [{"z": feeds[0]["x"]}])
    with pytest.raises(RuntimeError, match="shapes and types of the model's inputs"):
        run_pass(tmp_path, "smooth-quant", model, [{"x": feeds[0]["x"][:, :5]}])
    _, path = run_pass(tmp_path, "quantize-dynamic", model)
    with pytest.raises(ValueError, match="quantized already"):
        run_pass(tmp_path, "smooth-quant", path, feeds[:8])
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "nothing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 24])],
    )
    nothing = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result, _ = run_pass(tmp_path, "smooth-quant", nothing, feeds[:8])
    assert result["warnings"][0].startswith("NO-OP: nothing to smooth")
