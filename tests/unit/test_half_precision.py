"""Half precision: float16 searched for node by node on the cell's EP, and bfloat16 where an EP has kernels for it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ortforge.api import PassUse
from ortforge.worker.apply import PassJob

from .pass_jobs import (
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

Array = NDArray[Any]
TOLERANCE = {"cosine": 0.999, "sqnr_db": None, "agreement": None}


def tensor(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array, np.float32), name)


def graph_model(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], width: int = 16) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def overflowing() -> onnx.ModelProto:
    """Two products around a square that leaves what float16 holds and is brought back."""
    draw = np.random.default_rng(0)
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "a"], ["p"], name="first"),
        node("Mul", ["p", "hundred"], ["q"], name="grow"),
        node("Mul", ["q", "q"], ["s"], name="square"),
        node("Concat", ["s", "s"], ["d"], name="double", axis=1),
        node("Concat", ["d", "d"], ["e"], name="again", axis=1),
        node("Mul", ["e", "small"], ["t"], name="shrink"),
        node("MatMul", ["t", "b"], ["u"], name="second"),
        node("Relu", ["u"], ["y"], name="last"),
    ]
    weights = [
        tensor("a", draw.normal(size=(16, 24)) / 4),
        tensor("hundred", 1000.0),
        tensor("small", 1e-3),
        tensor("b", draw.normal(size=(96, 8)) / 4),
    ]
    return graph_model(nodes, weights)


def feeds_for(count: int = 6) -> list[dict[str, Array]]:
    draw = np.random.default_rng(1)
    return [{"x": draw.normal(size=(2, 16)).astype(np.float32)} for _ in range(count)]


def measuring_job(
    folder: Path, model: onnx.ModelProto, feeds: Sequence[dict[str, Any]], tolerance: dict[str, Any] | None = None
) -> PassJob:
    job = job_for(folder / "job", model, samples_folder(folder / "samples", feeds), {})
    return dataclasses.replace(job, tolerance=tolerance or TOLERANCE)


# Mixed precision: the search runs here on the CPU EP, which rounds to float16 where two nodes in a row copy values


def test_only_the_nodes_that_overflow_stay_float32(tmp_path: Path) -> None:
    feeds = feeds_for()
    job = measuring_job(tmp_path, overflowing(), feeds)
    plugin = module("mixed_precision")
    result = plugin.convert(job, plugin.Parameters())
    assert result["attempts"][0]["holds"] is False  # all of it in float16 does not do
    assert result["nodes_kept_float32"] == ["again", "double"]
    assert result["float16_weights"] >= 2
    assert result["warnings"] == []
    assert cosine(outputs(overflowing(), feeds), outputs(job.output, feeds)) > 0.999


def test_a_model_that_holds_as_a_whole_takes_one_attempt(tmp_path: Path) -> None:
    feeds, labels = pictures(40, seed=4)
    job = measuring_job(tmp_path, picture_model(), feeds[:4])
    plugin = module("mixed_precision")
    result = plugin.convert(job, plugin.Parameters())
    assert [one["holds"] for one in result["attempts"]] == [True]
    assert result["nodes_kept_float32"] == []
    assert result["bytes_after"] < 0.6 * result["bytes_before"]
    assert abs(accuracy(picture_model(), feeds, labels) - accuracy(job.output, feeds, labels)) <= 0.05


def test_when_nothing_holds_the_float_model_ships_and_says_so(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    model = graph_model(
        [helper.make_node("MatMul", ["x", "a"], ["y"], name="only")], [tensor("a", draw.normal(size=(16, 8)))]
    )
    job = measuring_job(tmp_path, model, feeds_for(), {"sqnr_db": 120.0})
    plugin = module("mixed_precision")
    result = plugin.convert(job, plugin.Parameters())
    assert result["warnings"][0].startswith("NO-OP: none of")
    assert onnx.load(job.output) == model


def test_a_search_that_runs_out_of_attempts_says_so(tmp_path: Path) -> None:
    job = measuring_job(tmp_path, overflowing(), feeds_for())
    plugin = module("mixed_precision")
    result = plugin.convert(job, plugin.Parameters(max_attempts=6))
    assert "The search ended after 6 attempts" in result["warnings"][0]
    assert cosine(outputs(overflowing(), feeds_for()), outputs(job.output, feeds_for())) > 0.999


@pytest.mark.parametrize("kept", [["last"], ["second", "last"], ["first"], ["first", "last"]])
def test_outputs_keep_their_type_when_their_node_stays(tmp_path: Path, kept: list[str]) -> None:
    """onnxconverter-common makes such an output float16 whatever keep_io_types says."""
    draw = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], name="first"),
        helper.make_node("MatMul", ["p", "b"], ["u"], name="second"),
        helper.make_node("Relu", ["u"], ["y"], name="last"),
        helper.make_node("Neg", ["y"], ["z"], name="after"),
    ]
    model = graph_model(nodes, [tensor("a", draw.normal(size=(16, 24))), tensor("b", draw.normal(size=(24, 8)))])
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 8]))
    job = job_for(tmp_path, model, None, {"node_block_list": kept})
    module("to_float16").apply(job)
    made = ort.InferenceSession(str(job.output))
    assert [value.type for value in (*made.get_inputs(), *made.get_outputs())] == ["tensor(float)"] * 3
    feed = feeds_for(1)[0]
    for one, other in zip(
        made.run(None, feed), ort.InferenceSession(model.SerializeToString()).run(None, feed), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=0.1)


def test_bad_input_to_mixed_precision(tmp_path: Path) -> None:
    plugin = module("mixed_precision")
    with pytest.raises(NotImplementedError, match="computes float16 in float32"):
        plugin.apply(job_for(tmp_path / "cpu", overflowing(), None, {}))
    with pytest.raises(ValueError, match="no calibration samples"):
        plugin.convert(job_for(tmp_path / "none", overflowing(), None, {}), plugin.Parameters())
    job = measuring_job(tmp_path, overflowing(), feeds_for())
    with pytest.raises(ValueError, match="Did you mean 'square'"):
        plugin.convert(job, plugin.Parameters(node_block_list=("sqare",)))


def test_the_search_halves_segments_and_tries_each_once() -> None:
    """Two bad nodes among 64: found in few attempts, and nothing else is kept."""
    search = helper_module("_half.mixed_search")
    names = [f"n{number}" for number in range(64)]
    asked: list[frozenset[str]] = []

    def attempt(kept: Sequence[str]) -> Any:
        asked.append(frozenset(kept))
        return search.Attempt(64 - len(kept), {"n5", "n40"} <= set(kept))

    found = search.search(names, [[]], attempt, most=100, over=lambda: False)
    assert found.kept == ("n5", "n40")
    assert found.complete
    assert len(asked) == len(set(asked)) < 30
    stopped = search.search(names, [[]], attempt, most=4, over=lambda: False)
    assert not stopped.complete
    assert set(stopped.kept) > {"n5", "n40"}


def test_weights_are_halved_as_both_converters_do_it() -> None:
    from onnxconverter_common import float16 as common
    from onnxruntime.transformers import float16 as theirs

    draw = np.random.default_rng(0)
    ordinary = draw.normal(size=4000) * 10.0 ** draw.integers(-12, 8, 4000)
    edges = [0.0, -0.0, 1e-7, -1e-7, 5.9e-8, 1e-38, 65504.0, -65504.0, 65519.0, 65520.0, 1e38, np.inf, -np.inf, np.nan]
    values = np.array([*ordinary, *edges], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = [one.convert_np_to_float16(values, 1e-7, 65504.0) for one in (common, theirs)]
    ours = helper_module("_half.half_weights").halved(values, 1e-7)
    assert ours.dtype == np.float16
    for one in wanted:
        np.testing.assert_array_equal(ours, one)
        np.testing.assert_array_equal(np.signbit(ours), np.signbit(one))


def test_inputs_and_outputs_that_become_float16_are_said_so_that_samples_fit(tmp_path: Path) -> None:
    kept, _ = run_pass(tmp_path, "to-float16", picture_model())
    assert {"inputs", "outputs"}.isdisjoint(kept)
    changed, path = run_pass(tmp_path, "to-float16", picture_model(), keep_io_types=False)
    assert changed["inputs"] == {"x": "float16"}
    assert changed["outputs"] == {"y": "float32"}
    assert ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()[0].type == "tensor(float16)"


@pytest.mark.parametrize(
    ("name", "use", "said"),
    [
        ("mixed_precision", {"ep": "cpu"}, "no answer shows what a node loses"),
        ("mixed_precision", {"ep": "dnnl"}, "bfloat16"),
        ("mixed_precision", {"has_calibration": False}, "calibration dataset"),
        ("mixed_precision", {}, ""),
        ("bfloat16", {"ep": "cpu"}, "computes nothing in it"),
        ("bfloat16", {}, ""),
    ],
)
def test_what_the_plan_says(name: str, use: dict[str, Any], said: str) -> None:
    plugin = module(name)
    known = next(iter(plugin.ortforge_passes()))
    given = {"before": (), "ort_version": "1.32.0", "ep": "cuda", "has_calibration": True, **use}
    answer = known.objection(PassUse(plugin.Parameters(), **given))
    assert (said in answer) if said else answer == ""


def test_parameters_of_a_search_are_checked() -> None:
    plugin = module("mixed_precision")
    known = next(iter(plugin.ortforge_passes()))
    for parameters, said in (({"margin": 1.0}, "margin 1 is no share"), ({"max_attempts": 0}, "above 0")):
        assert said in known.objection(PassUse(plugin.Parameters(**parameters), (), "1.32.0", "cuda", True))


@pytest.mark.parametrize("least", [-1.0, 1.0])
def test_a_least_weight_that_is_none_is_refused(least: float) -> None:
    plugin = module("to_float16")
    known = next(iter(plugin.ortforge_passes()))
    use = PassUse(plugin.Parameters(min_positive_val=least), (), "1.32.0", "cuda", False)
    assert "give one from 0 to below 1" in known.objection(use)


# bfloat16


def test_the_cpu_ep_has_no_kernels_and_is_asked(tmp_path: Path) -> None:
    plugin = module("bfloat16")
    with pytest.raises(NotImplementedError, match=r"CPUExecutionProvider .* has no bfloat16 kernel for Conv, Gemm"):
        plugin.apply(job_for(tmp_path, picture_model(), None, {}))
    able, refused = helper_module("_half.bfloat16_graph").kernels(
        {"MatMul", "Transpose"}, 17, "CPUExecutionProvider", {}
    )
    assert able == {"Transpose"}
    assert "NOT_IMPLEMENTED" in refused["MatMul"]


def test_rounding_is_that_of_ml_dtypes() -> None:
    values = np.random.default_rng(0).integers(0, 2**32, 20000, np.uint64).astype(np.uint32).view(np.float32)
    values = np.concatenate([values, np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1e-40], np.float32)])
    mine = helper_module("_half.bfloat16_graph").upper_half(values)
    with np.errstate(invalid="ignore", over="ignore"):
        theirs = values.astype(ml_dtypes.bfloat16)
    nan = np.isnan(values)
    assert np.array_equal(mine[~nan], theirs.view(np.uint16)[~nan])
    assert np.isnan(mine.view(ml_dtypes.bfloat16)[nan].astype(np.float32)).all()


def branching() -> onnx.ModelProto:
    """Products with a normalization between them, a shape that is computed, and a tensor that is read twice."""
    draw = np.random.default_rng(0)
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "a"], ["p"], name="first"),
        node("Add", ["p", "bias"], ["q"], name="bias_Add"),
        node("Softmax", ["q"], ["r"], name="softmax"),
        node("Mul", ["q", "r"], ["s"], name="gate"),
        node("Shape", ["x"], ["shape"], name="shape"),
        node("Add", ["shape", "none"], ["same"], name="integer_Add"),
        node("MatMul", ["s", "b"], ["t"], name="second"),
        node("Gather", ["same", "zero"], ["rows"], name="rows"),
        node("Cast", ["rows"], ["count"], name="count", to=TensorProto.FLOAT),
        node("Div", ["t", "count"], ["y"], name="mean"),
    ]
    weights = [tensor("a", draw.normal(size=(16, 24)) / 4), tensor("bias", draw.normal(size=24))]
    weights += [tensor("b", draw.normal(size=(24, 8)) / 4)]
    weights += [numpy_helper.from_array(np.array([0, 0]), "none"), numpy_helper.from_array(np.array(0), "zero")]
    return graph_model(nodes, weights)


def test_a_graph_in_bfloat16_answers_as_before() -> None:
    """Run by onnx's reference, since no EP of this runtime has the kernels."""
    change = helper_module("_half.bfloat16_graph")
    model = branching()
    said = change.convert(model, {"MatMul", "Add", "Mul"}, ())
    onnx.checker.check_model(model, full_check=True)
    assert said == {"nodes_converted": 4, "weights_converted": 3, "casts_added": 4}
    assert [node.name for node in model.graph.node if node.op_type == "Add"] == ["bias_Add", "integer_Add"]
    feed = feeds_for(1)[0]
    before, after = (ReferenceEvaluator(one).run(None, feed)[0] for one in (branching(), model))
    assert after.dtype == np.float32
    np.testing.assert_allclose(after, before, atol=0.03)
    assert not np.array_equal(after, before)  # it was rounded
    assert ort.InferenceSession(branching().SerializeToString()).run(None, feed)[0] == pytest.approx(before, abs=1e-5)


def test_blocked_nodes_stay_and_casts_meet_them() -> None:
    change = helper_module("_half.bfloat16_graph")
    model = branching()
    said = change.convert(model, {"MatMul", "Add", "Mul"}, {"gate", "bias_Add"})
    onnx.checker.check_model(model, full_check=True)
    assert said["nodes_converted"] == 2
    kinds = {one.name: one.data_type for one in model.graph.initializer}
    assert kinds["a_bfloat16"] == TensorProto.BFLOAT16
    assert kinds["bias"] == TensorProto.FLOAT


def test_a_model_without_products_is_copied_and_says_so(tmp_path: Path) -> None:
    model = graph_model([helper.make_node("Relu", ["x"], ["y"], name="relu")], [])
    job = job_for(tmp_path, model, None, {})
    result = module("bfloat16").apply(job)
    assert result["warnings"][0].startswith("NO-OP: the model has no float32 Conv, Gemm, MatMul")
    assert onnx.load(job.output) == model
