"""Passes for cells of the CUDA EP: kernels are asked of that EP, on a real GPU.

pytest tests/acceptance/cuda_passes.py

Needs an NVIDIA GPU and, in the environment of the tests, onnxruntime-gpu with CUDA's libraries.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from pass_jobs import job_for, module, picture_model, pictures, samples_folder

EP = "CUDAExecutionProvider"
OPTIONS = {"use_tf32": "0"}


@pytest.fixture(scope="module", autouse=True)
def cuda() -> None:
    """What follows says nothing unless CUDA is in force."""
    getattr(onnxruntime, "preload_dlls", lambda: None)()
    session = onnxruntime.InferenceSession(picture_model().SerializeToString(), providers=[(EP, OPTIONS)])
    assert session.get_providers()[0] == EP


def said_by(folder: Path, name: str, **parameters: Any) -> dict[str, Any]:
    """Apply a pass as a cell of the CUDA EP does; what it makes loads there."""
    job = job_for(folder / "job", picture_model(), samples_folder(folder / "s", pictures(24)[0]), parameters)
    providers = ((EP, OPTIONS),)
    job = replace(
        job,
        ep="cuda",
        ep_name=EP,
        ep_options=OPTIONS,
        providers=providers,
        ort_version=onnxruntime.__version__,
        tolerance={"cosine": 0.99},
    )
    told: dict[str, Any] = module(name.replace("-", "_")).apply(job)
    assert not [text for text in told.get("warnings", []) if "X86" in text]
    onnxruntime.InferenceSession(str(job.output), providers=[*providers, "CPUExecutionProvider"])
    return told


@pytest.mark.parametrize(
    ("name", "parameters", "left"),
    [
        ("quantize-static", {}, {"DequantizeLinear": 1}),
        ("quantize-static", {"activation_type": "QInt8"}, {"DequantizeLinear": 1}),
        ("quantize-static", {"format": "QOperator"}, {"QGemm": 1, "QLinearConv": 2}),
        ("quantize-static", {"activation_type": "QUInt16"}, {"DequantizeLinear": 8, "QuantizeLinear": 7}),
        ("quantize-dynamic", {}, {"ConvInteger": 2, "DynamicQuantizeLinear": 3, "MatMulInteger": 1}),
    ],
)
def test_what_cuda_leaves_to_the_cpu_is_counted_and_said(
    tmp_path: Path, name: str, parameters: dict[str, Any], left: dict[str, int]
) -> None:
    told = said_by(tmp_path, name, **parameters)
    assert told["left_to_cpu"] == left
    listed = ", ".join(f"{count} {op}" for op, count in left.items())
    assert any(f"{EP} has no kernels for {listed}" in text for text in told["warnings"])


@pytest.mark.parametrize("name", ["float16", "mixed-precision", "bfloat16"])
def test_what_only_a_gpu_has_kernels_for_is_made(tmp_path: Path, name: str) -> None:
    stem = "to_float16" if name == "float16" else name
    told = said_by(tmp_path, stem)
    assert not any("NO-OP" in text for text in told.get("warnings", []))
