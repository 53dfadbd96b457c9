"""Ways to ruin a model on purpose, each of which must be caught by its name: by the pass, or by the verdict."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime.quantization as quantization
import pytest
from onnx import TensorProto, helper, numpy_helper
from pass_jobs import cosine, helper_module, job_for, module, outputs, picture_model, pictures, run_pass

from ortforge.portable.comparison import parity
from ortforge.verdict import data_shift
from ortforge.verdict.judge import Facts, Verdict, judge
from ortforge.verdict.tolerance import Tolerance
from ortforge.worker.data_summary import DataSummary

Feed = dict[str, np.ndarray]


def verdict_on(reference: onnx.ModelProto | Path, candidate: onnx.ModelProto | Path, feeds: list[Feed]) -> Verdict:
    """What ortforge says of a candidate with these outputs; timing is left out."""
    compared = parity.compare(outputs(reference, feeds), outputs(candidate, feeds))
    facts = Facts(parity=compared, is_baseline=True, quantized_static=True, tolerance=Tolerance(cosine=0.98))
    return judge(facts)


# Mask constants


def attention_with_mask() -> tuple[onnx.ModelProto, list[Feed]]:
    """One attention whose mask is a constant of -3.4e38 for the last positions, as exporters write padding."""
    draw = np.random.default_rng(5)
    mask = np.zeros((1, 12), np.float32)
    mask[0, 9:] = np.finfo(np.float32).min

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array((draw.normal(size=shape) / 4).astype(np.float32), name)

    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "wq"], ["q"], name="queries"),
        node("MatMul", ["x", "wk"], ["k"], name="keys"),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1], name="turn"),
        node("MatMul", ["q", "kt"], ["scores"], name="scores"),
        node("Add", ["scores", "mask"], ["masked"], name="mask_add"),
        node("Softmax", ["masked"], ["p"], name="softmax"),
        node("MatMul", ["x", "wv"], ["v"], name="values"),
        node("MatMul", ["p", "v"], ["y"], name="context"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "attention",
        [value("x", TensorProto.FLOAT, [1, 12, 16])],
        [value("y", TensorProto.FLOAT, [1, 12, 16])],
        [weight("wq", 16, 16), weight("wk", 16, 16), weight("wv", 16, 16), numpy_helper.from_array(mask, "mask")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    waves = draw.uniform(0.2, 0.8, (40, 1, 16)) * np.arange(12)[:, None] + draw.uniform(0, 6, (40, 1, 16))
    return model, [{"x": np.sin(one)[None].astype(np.float32)} for one in waves]


def test_mask_constants_are_named_and_what_they_ruin_is_left_out_on_request(tmp_path: Path) -> None:
    model, feeds = attention_with_mask()
    result, ruined = run_pass(tmp_path, "quantize-static", model, feeds[:16])
    (loud,) = [text for text in result["warnings"] if text.startswith("RUINED RANGES")]
    assert "masked (-3.4e+38 to" in loud
    assert "mask constants of about -3.4e38 (mask)" in loud
    assert "Set fix = true" in loud
    said = verdict_on(model, ruined, feeds[16:])
    assert said.status == "inaccurate"

    result, repaired = run_pass(tmp_path, "quantize-static", model, feeds[:16], fix=True)
    assert result["nodes_excluded"] == ["mask_add", "softmax"]
    assert result["warnings"][0].startswith("Left out 2 nodes whose ranges would ruin the model: masked")
    assert verdict_on(model, repaired, feeds[16:]).status == "pass"


def test_a_mask_of_minus_ten_thousand_is_too_coarse_for_softmax(tmp_path: Path) -> None:
    model, feeds = attention_with_mask()
    mask = next(tensor for tensor in model.graph.initializer if tensor.name == "mask")
    values = np.maximum(numpy_helper.to_array(mask), -10_000)
    mask.CopyFrom(numpy_helper.from_array(values.astype(np.float32), "mask"))
    result, _ = run_pass(tmp_path, "quantize-static", model, feeds[:16])
    assert "Softmax needs steps below 1" in result["warnings"][0]
    result, repaired = run_pass(tmp_path, "quantize-static", model, feeds[:16], fix=True)
    assert "mask_add" in result["nodes_excluded"]
    assert verdict_on(model, repaired, feeds[16:]).status == "pass"
    # What 16 bits can tell apart is not complained of.
    result, _ = run_pass(tmp_path, "quantize-static", model, feeds[:16], activation_type="QUInt16")
    assert not any("RUINED" in text for text in result["warnings"])


# Random and constant calibration data


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_random_calibration_is_seen_in_the_numbers_themselves(tmp_path: Path, kind: str) -> None:
    draw = np.random.default_rng(11)
    noise = draw.normal(size=(20, 1, 3, 16, 16)) if kind == "normal" else draw.random((20, 1, 3, 16, 16))
    feeds = [{"x": one.astype(np.float32)} for one in noise]
    result, _ = run_pass(tmp_path, "quantize-static", picture_model(), feeds)
    (loud,) = [text for text in result["warnings"] if text.startswith("RANDOM CALIBRATION DATA")]
    assert "the values of x look like independent random numbers" in loud


def test_random_calibration_is_seen_where_its_source_says_so(tmp_path: Path) -> None:
    feeds, _ = pictures(10)
    result, _ = run_pass(tmp_path, "quantize-static", picture_model(), feeds, random=True)
    (loud,) = [text for text in result["warnings"] if text.startswith("RANDOM CALIBRATION DATA")]
    assert "a source of random numbers" in loud
    said = judge(Facts(parity=parity.compare([], []), quantized_static=True, random_calibration=True))
    assert any("The calibration data are random" in reason for reason in said.reasons)


def test_random_token_numbers_are_told_from_a_language_s() -> None:
    draw = np.random.default_rng(2)
    watch = helper_module("_quantization.data_guards").DataWatch()
    for _ in range(12):
        watch.see({"ids": draw.integers(0, 30_000, (1, 64))})
    assert "spread evenly from" in watch.complaints()[0]
    words = re.findall(
        r"\w+", "The cat sat on the mat and the dog sat on the log while it rained all day and all night"
    )
    numbers = {word: number * 997 + 1000 for number, word in enumerate(sorted(set(words)))}
    watch = helper_module("_quantization.data_guards").DataWatch()
    for _ in range(40):
        watch.see({"ids": np.array([[numbers[words[place]] for place in draw.integers(0, 8, 20)]])})
    assert watch.complaints() == []


def test_constant_calibration_is_named_with_its_value(tmp_path: Path) -> None:
    feeds = [{"x": np.full((1, 3, 16, 16), 0.5, np.float32)}] * 10
    result, ruined = run_pass(tmp_path, "quantize-static", picture_model(), feeds)
    (loud,) = [text for text in result["warnings"] if text.startswith("CONSTANT CALIBRATION DATA")]
    assert "every value of x is 0.5 in all 10 samples" in loud
    assert verdict_on(picture_model(), ruined, pictures(20, seed=4)[0]).status == "inaccurate"


def test_constant_numbers_are_named_and_a_constant_input_beside_others_is_not() -> None:
    guards = helper_module("_quantization.data_guards")
    watch, draw = guards.DataWatch(), np.random.default_rng(3)
    for _ in range(10):
        watch.see({"ids": np.full((1, 6), 7), "types": np.zeros((1, 6), np.int64)})
    (said,) = [text for text in watch.complaints() if text.startswith("CONSTANT")]
    assert "every value of ids is 7 and every value of types is 0" in said
    watch = guards.DataWatch()
    for _ in range(10):
        watch.see({"x": np.cumsum(draw.normal(size=(1, 40))), "gain": np.full((2,), 0.5)})
    assert watch.complaints() == []


@pytest.mark.parametrize("kind", ["none", "level", "pattern"])
def test_noise_around_a_level_or_a_pattern_of_its_own_is_taken_for_data(kind: str) -> None:
    # Sensors give such: each sample has its own level, or each position has.
    draw = np.random.default_rng(5)
    pattern = draw.normal(size=(1, 200))
    watch = helper_module("_quantization.data_guards").DataWatch()
    for _ in range(16):
        noise = draw.normal(size=(1, 200))
        noise += {"none": 0.0, "level": draw.normal(), "pattern": pattern}[kind]
        watch.see({"x": noise.astype(np.float32)})
    assert bool(watch.complaints()) == (kind == "none")


def test_real_pictures_are_not_complained_of(tmp_path: Path) -> None:
    calibration, _ = pictures(24, seed=1)
    validation, _ = pictures(40, seed=2)
    result, path = run_pass(tmp_path, "quantize-static", picture_model(), calibration, per_channel=True)
    assert result["warnings"] == []
    assert result["against_float"]["cosine"] > 0.99
    assert verdict_on(picture_model(), path, validation).status == "pass"


# Swapped channels


def summary(feeds: list[Feed]) -> dict[str, object]:
    kept = DataSummary()
    for feed in feeds:
        kept.add(feed)
    return kept.result()


def test_bgr_for_rgb_is_named() -> None:
    calibration, _ = pictures(24, seed=1)
    validation, _ = pictures(24, seed=2)
    assert data_shift.differences(summary(calibration), summary(validation)) == []
    swapped = [{"x": feed["x"][:, ::-1].copy()} for feed in calibration]
    (said,) = data_shift.differences(summary(swapped), summary(validation))
    assert said.startswith("SWAPPED CHANNELS: the channels of x have means")
    assert "one of them is RGB and the other BGR" in said


def test_channels_last_for_channels_first_is_named_and_fits_no_input(tmp_path: Path) -> None:
    calibration, _ = pictures(8, seed=1)
    swapped = [{"x": feed["x"].transpose(0, 2, 3, 1).copy()} for feed in calibration]
    (said,) = data_shift.differences(summary(swapped), summary(calibration))
    assert "SWAPPED LAYOUT: calibration samples of x are [1, 16, 16, 3] (NHWC)" in said
    with pytest.raises(RuntimeError, match="Check that the data has the shapes and types"):
        run_pass(tmp_path, "quantize-static", picture_model(), swapped)


def test_another_scale_is_named_and_ruins_the_model(tmp_path: Path) -> None:
    calibration, _ = pictures(24, seed=1)
    validation, _ = pictures(24, seed=2)
    dimmed = [{"x": feed["x"] / 255} for feed in calibration]
    (said,) = data_shift.differences(summary(dimmed), summary(validation))
    assert said.startswith("ANOTHER SCALE: values of x lie between")
    _, ruined = run_pass(tmp_path, "quantize-static", picture_model(), dimmed)
    verdict = verdict_on(picture_model(), ruined, validation)
    assert verdict.status == "inaccurate"
    assert 'Output "y"' in verdict.reasons[0]


# A dropped node


def without(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with one node left out: who read its output reads its input."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (gone,) = [node for node in changed.graph.node if node.name == name]
    source, target = gone.input[0], gone.output[0]
    changed.graph.node.remove(gone)
    for node in changed.graph.node:
        for place, read in enumerate(node.input):
            if read == target:
                node.input[place] = source
    return changed


def test_a_dropped_node_is_named_by_the_pass_that_lost_it(tmp_path: Path) -> None:
    model, feeds = attention_with_mask()
    quantizing = helper_module("_quantization.quantizing")
    job = job_for(tmp_path / "job", model, None, {})
    prepared = quantizing.prepare(
        job.model, job.workdir, constants=True, least_opset=11, why="", named={}, op_types=(), takes=()
    )
    _, path = run_pass(tmp_path, "quantize-dynamic", model)
    whole = onnx.load(path)
    assert quantizing.dropped_nodes(prepared.model, whole) == []
    result = quantizing.finish(job, without(whole, "softmax"), prepared, advice="")
    assert result["dropped"] == ["softmax (Softmax)"]
    (said,) = quantizing.said_of_dropped(result, job)
    assert said.startswith("DROPPED NODES: softmax (Softmax) is in the float model")
    # The pass looks at the outputs, too.
    kept = module("quantize_static").self_check.against_float(job.model, job, iter(feeds))
    assert kept[1].startswith("RUINED: output y")


@pytest.mark.parametrize("name", ["quantize-dynamic", "quantize-static"])
def test_a_node_that_the_quantizer_loses_is_named_in_the_passs_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # ONNX Runtime's own quantizer, after which one node is taken out of the file that it wrote.
    call = name.replace("-", "_")
    real = getattr(quantization, call)

    def losing(source: str, written: str, *arguments: Any, **options: Any) -> None:
        real(source, written, *arguments, **options)
        onnx.save(without(onnx.load(written), "softmax"), written)

    monkeypatch.setattr(quantization, call, losing)
    model, feeds = attention_with_mask()
    result, _ = run_pass(tmp_path, name, model, feeds[:16], op_types=["MatMul"])
    assert result["dropped"] == ["softmax (Softmax)"]
    assert [text[:34] for text in result["warnings"] if "DROPPED" in text] == ["DROPPED NODES: softmax (Softmax) i"]


def test_a_dropped_node_is_inaccurate_with_output_and_sample() -> None:
    model, feeds = attention_with_mask()
    for name in ("softmax", "mask_add"):
        said = verdict_on(model, without(model, name), feeds[:8])
        assert said.status == "inaccurate"
        assert 'Output "y"' in said.reasons[0]
        assert "sample" in said.reasons[0]
    assert cosine(outputs(model, feeds[:1]), outputs(model, feeds[:1])) == pytest.approx(1.0)
