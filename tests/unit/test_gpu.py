"""What is known of NVIDIA's GPUs without one: refusals, what a session's options mean, how memory is accounted."""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from ortforge.api import Device, Gpu
from ortforge.cli.shared import known
from ortforge.errors import ConfigurationError
from ortforge.matrix import load
from ortforge.plan.planner import make_plan
from ortforge.plugin_manager import Plugins
from ortforge.worker import device_memory, nvidia
from ortforge.worker.device_memory import DeviceMemory, figure

H200 = Gpu("nvidia", "NVIDIA H200", "580.159.04", 143771 << 20, "9.0")
CUDA = "CUDAExecutionProvider"

MATRIX = """
[models.m]
path = "path:m.onnx"

[targets.gpu]
from = "package"
requires = ["onnxruntime-gpu==1.31.1"]
eps = [
    "cuda",
    { name = "cuda", label = "fp32", options = { use_tf32 = "0" } },
    { name = "cuda", label = "copies", session = { io_binding = false } },
    { name = "cuda", label = "graph", options = { enable_cuda_graph = true } },
    "cpu",
]

[baseline]
target = "gpu"
ep = "cpu"
"""


def plan_of(tmp_path: Path, device: Device, text: str = MATRIX) -> Any:
    (tmp_path / "m.onnx").write_bytes(b"not read by the plan")
    (tmp_path / "matrix.toml").write_text(text, encoding="utf-8")
    plugins = Plugins(third_party=False)
    return make_plan(load(tmp_path / "matrix.toml", known(plugins)), plugins, device, worker="w")


@pytest.fixture
def gpu(linux_cpu: Device) -> Device:
    return replace(linux_cpu, gpus=(H200,))


# Plan


def test_tensors_are_bound_on_the_gpu_unless_the_matrix_says_otherwise(tmp_path: Path, gpu: Device) -> None:
    plan = plan_of(tmp_path, gpu)
    sessions = {
        cell.ep: plan.steps[f"check:{cell.id}"].parameters["session"] for cell in plan.cells if not cell.unsupported
    }
    assert {label: session.get("io_binding") for label, session in sessions.items()} == {
        "cuda": "cuda",
        "fp32": "cuda",
        "copies": None,
        "graph": "cuda",
        "cpu": None,
    }


def test_timing_a_gpu_does_not_limit_address_space(tmp_path: Path, gpu: Device) -> None:
    """CUDA reserves more of it than any machine has memory; its baseline on the CPU is timed beside it."""
    plan = plan_of(tmp_path, gpu)
    assert plan.steps["time:m/none@gpu:cuda/here"].context["address_space"] is False
    assert plan.steps["noise:m@gpu:cpu/here"].context["address_space"] is True


def test_whether_to_bind_is_true_or_false(tmp_path: Path, gpu: Device) -> None:
    with pytest.raises(ConfigurationError, match='io_binding = "cuda": must be true or false'):
        plan_of(tmp_path, gpu, MATRIX.replace("io_binding = false", 'io_binding = "cuda"'))


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (
            '{ name = "cuda", options = { enable_cuda_graph = true }, session = { io_binding = false } }',
            "enable_cuda_graph replays fixed addresses, so inputs and outputs must be bound: remove io_binding = false",
        ),
        (
            '{ name = "cuda", options = { device_id = 1 } }',
            'device_id = "1" asks for GPU number 2, and this device has 1 of NVIDIA\'s',
        ),
        ('{ name = "cuda", options = { device_id = "first" } }', "device_id must be the number of a GPU"),
    ],
)
def test_what_a_gpu_cannot_do_is_said_in_the_plan(tmp_path: Path, gpu: Device, use: str, reason: str) -> None:
    text = MATRIX.partition("eps = [")[0] + f'eps = ["cpu", {use}]\n'
    plan = plan_of(tmp_path, gpu, text)
    (said,) = [cell.unsupported for cell in plan.cells if cell.ep == "cuda"]
    assert reason in said


@pytest.mark.parametrize(("number", "refused"), [("0", False), ("1", False), ("2", True)])
def test_each_gpu_of_two_can_be_asked_for_and_no_third(tmp_path: Path, gpu: Device, number: str, refused: bool) -> None:
    use = f'{{ name = "cuda", label = "one", options = {{ device_id = "{number}" }} }}'
    plan = plan_of(
        tmp_path, replace(gpu, gpus=(H200, H200)), MATRIX.partition("eps = [")[0] + f'eps = ["cpu", {use}]\n'
    )
    (said,) = [cell.unsupported for cell in plan.cells if cell.ep == "one"]
    assert ('device_id = "2" asks for GPU number 3, and this device has 2' in said) == refused
    assert bool(said) == refused


def test_a_gpu_and_its_driver_are_part_of_what_a_timing_is_known_by(tmp_path: Path, gpu: Device) -> None:
    newer = replace(gpu, gpus=(replace(H200, driver="590.10"),))
    name = "time:m/none@gpu:cuda/here"
    digests = {plan_of(tmp_path, device).steps[name].parameters["candidate"]["device"] for device in (gpu, newer)}
    assert len(digests) == 2


# What a session's options mean


def test_tf32_and_copies_are_said() -> None:
    on = list(nvidia.remarks(CUDA, {"use_tf32": "1"}, "cuda:0", captured=False))
    assert on[0].startswith("TF32 is on, ONNX Runtime's default")
    assert "bound in the GPU's memory" in on[1]
    off = list(nvidia.remarks(CUDA, {"use_tf32": "0"}, "", captured=False))
    assert off[0] == "TF32 is off: float32 is computed in float32."
    assert "the times hold the copies" in off[1]
    assert "replayed CUDA graph" in list(nvidia.remarks(CUDA, {"use_tf32": "0"}, "cuda:0", captured=True))[1]
    assert not list(nvidia.remarks("CPUExecutionProvider", {}, "", captured=False))


def test_graphs_are_asked_for_in_the_ways_that_onnxruntime_takes() -> None:
    assert nvidia.captures([[CUDA, {"enable_cuda_graph": "True"}]])
    assert nvidia.captures([["TensorrtExecutionProvider", {"trt_cuda_graph_enable": "1"}]])
    assert not nvidia.captures([[CUDA, {"enable_cuda_graph": "0"}], ["CPUExecutionProvider", {}]])
    assert not nvidia.captures([])


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            "This session cannot use the graph capture feature as requested by the user as the model has control flow "
            "nodes which can't be supported by CUDAExecutionProvider",
            "it has control flow",
        ),
        (
            "This session cannot use the graph capture feature as requested by the user as all compute graph nodes "
            "have not been partitioned to the CUDAExecutionProvider",
            "not all of its nodes are on the GPU",
        ),
        ("Exporting a CUDA graph failed: out of handles", "out of handles"),
        ("Load model from m.onnx failed: Protobuf parsing failed.", ""),
    ],
)
def test_a_refused_capture_is_told_from_other_errors(said: str, why: str) -> None:
    told = nvidia.refused_capture(RuntimeError(said))
    assert why in told
    assert bool(told) == bool(why)


def test_a_library_that_is_not_there_is_named() -> None:
    """The CPU wheel has no CUDA EP: what the linker says of it is what a user needs to know."""
    assert "libonnxruntime_providers" in nvidia.missing_library(ort, CUDA)
    assert nvidia.missing_library(ort, "CPUExecutionProvider") == ""


def test_a_tensorrt_that_is_missing_comes_with_where_to_get_it_and_what_will_not_do() -> None:
    said = "libnvinfer.so.10: cannot open shared object file: No such file or directory"
    told = nvidia.with_remedy(said)
    assert told.startswith(f"{said}; TensorRT 10 comes apart from ONNX Runtime")
    assert "tensorrt-lean will not do" in told
    other = "libcublasLt.so.13: cannot open shared object file: No such file or directory"
    assert nvidia.with_remedy(other) == other


def test_a_gpu_that_cuda_does_not_see_is_said_with_what_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target's environment may hide GPUs that the plan counted. The words are ONNX Runtime's (1.31.1, two GPUs)."""
    said = RuntimeError("Invalid device ID: 1, must be between 0 (inclusive) and 1 (exclusive).")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert nvidia.absent_gpu(said) == (
        'device_id = "1" asks for GPU number 2, and CUDA sees 1 here: CUDA_VISIBLE_DEVICES = "1" numbers those that it '
        "leaves from 0 on"
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert nvidia.absent_gpu(said).endswith("and CUDA sees 1 here")
    none = RuntimeError("CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=vm ; line=355")
    assert nvidia.absent_gpu(none) == "CUDA sees no GPU here"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert nvidia.absent_gpu(none) == 'CUDA sees no GPU here: CUDA_VISIBLE_DEVICES = "" hides them'
    assert nvidia.absent_gpu(RuntimeError("Load model from m.onnx failed: Protobuf parsing failed.")) == ""


def test_a_time_share_that_is_none_is_left_out() -> None:
    """ORT's profile has the host's time: 0.1 ms to launch what the GPU computes for 2 ms."""
    found = {"nodes": {CUDA: 64, "CPUExecutionProvider": 3}, "time_share": {CUDA: 0.3, "CPUExecutionProvider": 0.7}}
    assert nvidia.without_time(found) == {"nodes": found["nodes"], "time_share": {}}


# Memory


def test_memory_is_the_process_s_own_where_the_driver_names_it() -> None:
    assert figure({7: 300 << 20, 8: 1}, 7, 100, 900) == {"bytes": 300 << 20, "source": "process"}


def test_memory_is_the_gpu_s_growth_where_process_numbers_are_another_container_s() -> None:
    assert figure({4711: 300}, 7, 100, 900) == {"bytes": 800, "source": "whole GPU"}
    not_told = (1 << 64) - 1
    assert figure({7: not_told}, 7, 100, 900) == {"bytes": 800, "source": "whole GPU"}


def test_memory_is_not_known_where_nothing_is_told() -> None:
    assert figure({}, 7, None, None) is None
    assert figure({}, 7, 900, 100) is None  # others gave back more than this process took


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="there is a driver")
def test_without_a_driver_nothing_is_claimed() -> None:
    assert DeviceMemory().held() is None
    assert DeviceMemory().where() == ""


def test_the_driver_s_structures_have_the_size_that_nvml_gives_them() -> None:
    assert ctypes.sizeof(device_memory._Process) == 24
    assert ctypes.sizeof(device_memory._Memory) == 24
