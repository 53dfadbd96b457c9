"""What TensorRT is given: a calibration table that reads back, and QDQ in its form. TensorRT itself is not needed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ortforge.api import PassUse

from .pass_jobs import accuracy, job_for, module, outputs, picture_model, pictures, run_pass, samples_folder


def calibrated(folder: Path, **parameters: Any) -> tuple[dict[str, Any], Path]:
    """Run tensorrt-calibration as a TensorRT cell would."""
    samples = samples_folder(folder / "samples", pictures(24)[0])
    job = replace(
        job_for(folder / "job", picture_model(), samples, parameters),
        ep="tensorrt",
        ep_name="TensorrtExecutionProvider",
    )
    said: dict[str, Any] = module("tensorrt_calibration").apply(job)
    return said, job.output


def use_of(stem: str, *, ep: str = "tensorrt", before: tuple[str, ...] = (), data: bool = True, **given: Any) -> str:
    """Ask a pass for its objection."""
    (one,) = module(stem).ortforge_passes()
    objection: str = one.objection(PassUse(one.parameters(**given), before, "1.32.0", ep, data))
    return objection


@pytest.mark.parametrize("method", ["MinMax", "Entropy", "Percentile"])
def test_the_table_reads_back_and_covers_what_the_tensors_hold(tmp_path: Path, method: str) -> None:
    said, output = calibrated(tmp_path, calibrate_method=method)
    table = module("tensorrt_calibration").read_table(output.parent / "calibration.flatbuffers")
    assert set(table) >= {"x", "c1", "r1", "c2", "y"} and said["tensors"] == len(table)
    inputs = np.stack([feed["x"] for feed in pictures(24)[0]])
    answers = np.stack([answer["y"] for answer in outputs(picture_model(), pictures(24)[0])])
    for name, values in (("x", inputs), ("y", answers)):
        reach = float(np.abs(values).max())
        assert table[name] == pytest.approx(reach, rel=1e-5) if method == "MinMax" else 0 < table[name] <= reach * 1.01
    text = dict(line.rsplit(" ", 1) for line in (output.parent / "calibration.cache").read_text().splitlines())
    assert {name: float(value) for name, value in text.items()} == table
    assert json.loads((output.parent / "calibration.json").read_text())


def test_mostly_negative_values_keep_their_range(tmp_path: Path) -> None:
    # ONNX Runtime writes the greater end of a range: 0.5 for values from -8 to 0.5.
    tensorrt = module("tensorrt_calibration")
    tensorrt.write_table({"t": tensorrt.calibration.Range(-8.0, 0.5)}, "MinMax", tmp_path)
    assert tensorrt.read_table(tmp_path / "calibration.flatbuffers") == {"t": 8.0}


def test_the_model_is_untouched_and_the_options_name_the_table(tmp_path: Path) -> None:
    said, output = calibrated(tmp_path)
    assert output.read_bytes() == picture_model().SerializeToString()
    assert said["ep_options"] == {
        "trt_int8_enable": "1",
        "trt_int8_calibration_table_name": "{model_folder}/calibration.flatbuffers",
        "trt_int8_use_native_calibration_table": "0",
        "trt_fp16_enable": "1",
    }


def test_qdq_is_in_tensorrts_form(tmp_path: Path) -> None:
    feeds, _ = pictures(24)
    said, output = run_pass(tmp_path, "quantize-tensorrt", picture_model(), feeds)
    model = onnx.load(output)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs and said["quantized"]
    for node in pairs:
        zero = arrays[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any(), node.name
    made = {name: node for node in pairs for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert [arrays[made[node.input[1]].input[1]].size for node in convolutions] == [16, 24]
    assert all(arrays[node.input[1]].size == 1 for node in pairs if node.op_type == "QuantizeLinear")
    (gemm,) = (node for node in model.graph.node if node.op_type == "Gemm")
    assert arrays[gemm.input[2]].dtype == np.float32
    assert not any(array.dtype == np.int32 for array in arrays.values())
    assert accuracy(output, *pictures(100, seed=5)) >= accuracy(picture_model(), *pictures(100, seed=5)) - 0.05
    [note] = [text for text in said["warnings"] if "TensorRT's" in text]
    assert "shows whether the model is right, not how fast it is" in note
    assert not any("activation_type" in text for text in said["warnings"])  # this pass has no such parameter


@pytest.mark.parametrize(
    ("stem", "asked", "said"),
    [
        ("tensorrt_calibration", {"ep": "cpu"}, "only TensorRT reads a calibration table, and the EP here is cpu"),
        ("tensorrt_calibration", {"data": False}, "give the model a calibration dataset"),
        ("tensorrt_calibration", {"percentile": 0.9}, "percentile is 0.9"),
        ("tensorrt_calibration", {"bins": 3}, "bins is 3; give 256 to 65536"),
        ("tensorrt_calibration", {"percentile": 99.9}, "percentile goes with calibrate_method = 'Percentile'"),
        ("tensorrt_calibration", {"calibrate_method": "MinMax", "bins": 512}, "bins are those of Entropy and Percenti"),
        ("quantize_tensorrt", {"data": False}, "give the model a calibration dataset"),
        ("quantize_tensorrt", {"percentile": 0.9}, "percentile is 0.9"),
    ],
)
def test_what_cannot_work_is_said_before_the_run(stem: str, asked: dict[str, Any], said: str) -> None:
    assert said in use_of(stem, **asked)


def test_what_can_work_is_not_objected_to() -> None:
    assert use_of("tensorrt_calibration") == use_of("quantize_tensorrt") == ""
    assert use_of("tensorrt_calibration", calibrate_method="Percentile", percentile=99.9, bins=512) == ""


def test_a_quantized_model_gets_no_table(tmp_path: Path) -> None:
    feeds = pictures(8)[0]
    _, quantized = run_pass(tmp_path, "quantize-tensorrt", picture_model(), feeds)
    with pytest.raises(ValueError, match="quantized already"):
        run_pass(tmp_path, "tensorrt-calibration", quantized, feeds)
    with pytest.raises(ValueError, match="no calibration samples"):
        run_pass(tmp_path, "tensorrt-calibration", picture_model())
