"""Whether a model loads is asked of the cell's EP, with the CPU EP behind it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from .pass_jobs import helper_module, job_for, module, picture_model, pictures, samples_folder

loading = helper_module("_models.loading")
AZURE = "AzureExecutionProvider"
"""An EP of the published wheel that takes none of these operators: all of them are left to the CPU EP."""


def without_cpu_kernel() -> onnx.ModelProto:
    """A square root in bfloat16: valid ONNX, and the CPU EP has no kernel for it."""
    values = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Sqrt", ["x"], ["y"])], "root", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def job(folder: Path, model: onnx.ModelProto, ep_name: str, **options: str) -> Any:
    return replace(job_for(folder, model, None, {}), ep="other", ep_name=ep_name, ep_options=options)


def test_a_missing_kernel_counts_where_the_cell_runs_on_the_cpu(tmp_path: Path) -> None:
    one = job(tmp_path, without_cpu_kernel(), "CPUExecutionProvider")
    assert "NOT_IMPLEMENTED" in loading.load_error(one.model, one)
    assert loading.load_error(one.model, one, kernels=False) == ""


def test_it_counts_where_the_cells_ep_was_asked_and_has_none_either(tmp_path: Path) -> None:
    one = job(tmp_path, without_cpu_kernel(), AZURE)
    assert [name for name, _ in loading.providers_of(one)] == [AZURE, "CPUExecutionProvider"]
    assert "NOT_IMPLEMENTED" in loading.load_error(one.model, one)


@pytest.mark.parametrize("ep_name", ["CUDAExecutionProvider", "TensorrtExecutionProvider", "OpenVINOExecutionProvider"])
def test_it_does_not_count_for_an_ep_that_could_not_be_asked(tmp_path: Path, ep_name: str) -> None:
    one = job(tmp_path, without_cpu_kernel(), ep_name)
    assert [name for name, _ in loading.providers_of(one)] == ["CPUExecutionProvider"]
    assert loading.load_error(one.model, one) == ""


def test_an_invalid_model_is_refused_whatever_the_ep(tmp_path: Path) -> None:
    model = without_cpu_kernel()
    model.graph.node[0].input[0] = "nowhere"
    for number, ep_name in enumerate(("CPUExecutionProvider", AZURE, "CUDAExecutionProvider")):
        one = job(tmp_path / str(number), model, ep_name)
        assert "nowhere" in loading.load_error(one.model, one)


def test_the_eps_options_are_the_cells_but_for_capturing_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    one = job(tmp_path, picture_model(), "CUDAExecutionProvider", device_id="1", enable_cuda_graph="1")
    assert loading.providers_of(one)[0] == ("CUDAExecutionProvider", {"device_id": "1"})


@pytest.mark.skipif(
    not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"), reason="ONNX Runtime 1.24 and later tell"
)
def test_what_an_ep_leaves_to_the_cpu_is_said(tmp_path: Path) -> None:
    samples = samples_folder(tmp_path / "samples", pictures(4)[0])
    one = replace(
        job_for(tmp_path / "job", picture_model(), samples, {"format": "QOperator"}), ep="azure", ep_name=AZURE
    )
    result = module("quantize_static").apply(one)
    assert result["left_to_cpu"]["QLinearConv"] == 2
    [said] = [text for text in result["warnings"] if text.startswith(AZURE)]
    assert "has no kernels for" in said
    assert "2 QLinearConv" in said


def test_nothing_is_said_of_a_cell_that_runs_on_the_cpu(tmp_path: Path) -> None:
    samples = samples_folder(tmp_path / "samples", pictures(4)[0])
    result = module("quantize_static").apply(job_for(tmp_path / "job", picture_model(), samples, {}))
    assert "left_to_cpu" not in result
