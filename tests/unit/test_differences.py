"""Finding where a quantized model leaves the float one, and that leaving those nodes out helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ortforge.engine.explaining import threshold_db

from .conftest import Supervise
from .pass_jobs import cosine, outputs, picture_model, pictures, run_pass, samples_folder

QDQ = ("quantize-static", {"format": "QDQ"})
QOPERATOR = ("quantize-static", {"format": "QOperator"})
DYNAMIC = ("quantize-dynamic", {"op_types": ["MatMul", "Gemm"]})


def compared(
    folder: Path, supervise: Supervise, before: onnx.ModelProto, after: Path, *, threshold: float = 16.9
) -> dict[str, Any]:
    """Do the worker's job on the tests' pictures."""
    samples = samples_folder(folder / "validation", pictures(6, seed=7)[0])
    onnx.save(before, folder / "before.onnx")
    job = {
        "op": "differences",
        "model": str(after),
        "reference": str(folder / "before.onnx"),
        "samples": str(samples.folder),
        "count": 4,
        "threshold_db": threshold,
        "providers": [["CPUExecutionProvider", {}]],
        "session": {"graph_optimization_level": "all"},
    }
    outcome = supervise(job)
    assert outcome.status == "ok", outcome
    return dict(outcome.result)


@pytest.mark.parametrize(("name", "parameters"), [QDQ, QOPERATOR, DYNAMIC])
def test_tensors_are_found_again_however_it_was_quantized(
    tmp_path: Path, supervise: Supervise, name: str, parameters: dict[str, Any]
) -> None:
    _, quantized = run_pass(tmp_path, name, picture_model(), pictures(16)[0], **parameters)
    found = compared(tmp_path, supervise, picture_model(), quantized)
    seen = {entry["tensor"]: entry for entry in found["tensors"]}
    if parameters.get("format"):
        # The quantizer took each Relu into its Conv, so that the tensors between them are gone, not ruined.
        assert {"c1", "c2"}.isdisjoint(seen) and found["unmatched"] >= 2
    assert found["samples"] == 4 and "y" in seen and len(seen) >= 3
    assert seen["y"]["cosine"] > 0.9 and 5 < seen["y"]["sqnr_db"] < 80
    assert found["weights"] and all(entry["sqnr_db"] > 20 for entry in found["weights"])


def test_the_list_that_can_be_pasted_improves_the_model(tmp_path: Path, supervise: Supervise) -> None:
    feeds, unseen = pictures(16)[0], pictures(16, seed=7)[0]
    _, quantized = run_pass(tmp_path, "quantize-static", picture_model(), feeds, weight_type="QInt8", reduce_range=True)
    found = compared(tmp_path, supervise, picture_model(), quantized, threshold=35.0)
    assert found["first_diverging"]["tensor"] in {entry["tensor"] for entry in found["tensors"]}
    names = found["nodes_to_exclude"]
    assert names and set(names) < {node.name for node in picture_model().graph.node}
    _, better = run_pass(tmp_path, "quantize-static", picture_model(), feeds, reduce_range=True, nodes_to_exclude=names)
    truth = outputs(picture_model(), unseen)
    assert 1 - cosine(truth, outputs(better, unseen)) < 0.8 * (1 - cosine(truth, outputs(quantized, unseen))), names


def test_half_precision_is_compared_likewise(tmp_path: Path, supervise: Supervise) -> None:
    _, half = run_pass(tmp_path, "to-float16", picture_model(), keep_io_types=True)
    found = compared(tmp_path, supervise, picture_model(), half)
    assert min(entry["sqnr_db"] for entry in found["tensors"] if entry["sqnr_db"] is not None) > 40
    assert found["nodes_to_exclude"] == [] and found["first_diverging"] is None


def test_nothing_in_common_is_said(tmp_path: Path, supervise: Supervise) -> None:
    samples = samples_folder(tmp_path / "s", pictures(2)[0])
    onnx.save(picture_model(), tmp_path / "a.onnx")
    other = onnx.helper.make_graph(
        [onnx.helper.make_node("Abs", ["x"], ["other"])],
        "other",
        [picture_model().graph.input[0]],
        [onnx.helper.make_tensor_value_info("other", 1, None)],
    )
    onnx.save(onnx.helper.make_model(other, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "b.onnx")
    job = {"op": "differences", "model": str(tmp_path / "b.onnx"), "reference": str(tmp_path / "a.onnx")}
    job |= {"samples": str(samples.folder), "count": 1, "threshold_db": 17.0, "providers": [], "session": {}}
    outcome = supervise(job)
    assert outcome.status == "unsupported" and "no tensor of the model was found again" in outcome.reason


def test_the_threshold_follows_from_the_models_cosine() -> None:
    assert threshold_db(0.99) == threshold_db(None) == pytest.approx(16.9, abs=0.05)
    assert threshold_db(0.999) == pytest.approx(27.0, abs=0.05)


def test_sequences_and_narrow_types_beside_the_tensors_are_no_obstacle(tmp_path: Path, supervise: Supervise) -> None:
    """Rows that pass a threshold come out as a sequence, and everything in bfloat16 as well."""
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((16, 16)).astype(np.float32)
    models = []
    for number, weight in enumerate((weights, weights + rng.normal(0, 0.01, weights.shape).astype(np.float32))):
        nodes = [
            helper.make_node("MatMul", ["x", "W"], ["h"], name="product"),
            helper.make_node("SplitToSequence", ["h"], ["y"], name="split", axis=0),
            helper.make_node("Cast", ["h"], ["b"], name="cast", to=TensorProto.BFLOAT16),
        ]
        outputs = [
            helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("b", TensorProto.BFLOAT16, ["N", 16]),
        ]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])]
        graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weight, "W")])
        opsets = [helper.make_opsetid("", 17)]
        models.append(tmp_path / f"model-{number}.onnx")
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), models[-1])
    samples = samples_folder(tmp_path / "rows", [{"x": rng.standard_normal((3, 16)).astype(np.float32)}])
    job = {
        "op": "differences",
        "model": str(models[1]),
        "reference": str(models[0]),
        "samples": str(samples.folder),
        "count": 1,
        "threshold_db": 20.0,
        "providers": [["CPUExecutionProvider", {}]],
        "session": {},
    }
    outcome = supervise(job)
    assert outcome.status == "ok", outcome.reason
    assert {entry["tensor"] for entry in outcome.result["tensors"]} == {"h", "b"}
