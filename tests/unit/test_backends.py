"""Every backend answers for every device, in words that say what was looked for and what is there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
from packaging.specifiers import SpecifierSet

from ortforge.api import Device, Gpu
from ortforge.plugin_manager import Plugins
from ortforge.runtime.published import published_problem

BACKENDS = Plugins(third_party=False).backends
H200 = Gpu("nvidia", "NVIDIA H200", "580.65", 139 << 30, "9.0")
MI300 = Gpu("amd", "AMD Instinct MI300X", "6.12", 192 << 30)
APPLE = Gpu("apple", "Apple M4", "15.5", 0)


def usable(device: Device) -> set[str]:
    return {name for name, backend in BACKENDS.items() if backend.availability(device).usable}


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_plain_linux_cpu_gets_what_runs_on_cpus_and_the_emulator(linux_cpu: Device) -> None:
    assert usable(linux_cpu) == {"cpu", "xnnpack", "dnnl", "openvino", "qnn"}


@pytest.mark.parametrize(
    ("changes", "more", "less"),
    [
        ({"gpus": (H200,)}, {"cuda", "tensorrt", "webgpu"}, {"migraphx", "directml"}),
        ({"gpus": (MI300,)}, {"migraphx", "webgpu"}, {"cuda", "tensorrt"}),
        ({"system": "windows", "machine": "amd64", "gpus": (H200,)}, {"cuda", "directml", "webgpu"}, {"coreml", "qnn"}),
        ({"system": "darwin", "machine": "arm64", "gpus": (APPLE,)}, {"coreml", "webgpu", "xnnpack"}, {"cuda", "qnn"}),
        ({"system": "android", "machine": "aarch64", "cpu_model": "Snapdragon 8"}, {"nnapi", "qnn"}, {"webgpu"}),
        ({"machine": "aarch64", "cpu_model": "Neoverse-V2"}, {"cpu", "xnnpack"}, {"qnn"}),
        ({"machine": "riscv64", "cpu_model": "SpacemiT X60"}, {"cpu"}, {"xnnpack", "dnnl", "openvino"}),
    ],
)
def test_devices_and_what_they_can_run(
    changes: dict[str, object], more: set[str], less: set[str], linux_cpu: Device
) -> None:
    found = usable(replace(linux_cpu, **changes))  # type: ignore[arg-type]
    assert more <= found
    assert not less & found


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_a_no_comes_with_a_reason_and_a_yes_without(name: str, linux_cpu: Device) -> None:
    for device in (linux_cpu, replace(linux_cpu, system="windows"), replace(linux_cpu, gpus=(H200,), machine="arm64")):
        answer = BACKENDS[name].availability(device)
        assert answer.usable == (answer.reason == "")


def test_reasons_say_what_was_looked_for_and_what_is_there(linux_cpu: Device) -> None:
    reasons = {name: backend.availability(linux_cpu).reason for name, backend in BACKENDS.items()}
    assert reasons["cuda"] == "no NVIDIA GPU was found on this device (Linux, x86_64, AMD EPYC 9655, no GPU)"
    assert reasons["directml"] == "DirectML does not run here: it needs Windows; this device runs Linux"
    assert "SwiftShader" in reasons["webgpu"]


def test_gpus_that_are_hidden_from_cuda_are_not_called_missing(
    linux_cpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    reason = BACKENDS["cuda"].availability(linux_cpu).reason
    assert reason.endswith('no GPU); CUDA_VISIBLE_DEVICES = "" hides those that it does not name')


@pytest.mark.parametrize(
    ("capability", "taken"),
    [("7.5", False), ("8.6", True), ("8.9", True), ("9.0", False), ("10.0", False), ("12.0", True), ("", True)],
)
def test_tensorrt_for_rtx_says_which_gpus_it_takes(linux_cpu: Device, capability: str, taken: bool) -> None:
    """On others its library offers no device and gives no reason: seen on an H200 (9.0)."""
    answer = BACKENDS["tensorrt-rtx"].availability(
        replace(linux_cpu, gpus=(replace(H200, compute_capability=capability),))
    )
    assert answer.usable == taken
    assert taken or f"8.6, 8.9, and 12.0 or newer, and not {H200.name} ({capability})" in answer.reason


def test_tensorrt_for_rtx_takes_no_device_id(linux_cpu: Device) -> None:
    refuse = BACKENDS["tensorrt-rtx"].objection
    assert "CUDA_VISIBLE_DEVICES" in refuse({"device_id": "0"}, {}, linux_cpu)
    assert refuse({"enable_cuda_graph": "1"}, {}, linux_cpu) == ""


def test_webgpu_takes_a_software_driver_that_the_user_set_up(
    linux_cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "vk_swiftshader_icd.json"
    monkeypatch.setenv("VK_DRIVER_FILES", str(driver))
    monkeypatch.setenv("ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER", "1")
    assert "webgpu" not in usable(linux_cpu), "the driver's file is not there yet"
    driver.write_text("{}")
    assert "webgpu" in usable(linux_cpu)


def test_names_are_those_that_onnx_runtime_has() -> None:
    known = set(onnxruntime.get_all_providers())
    apart = {"NvTensorRTRTXExecutionProvider"}  # only its own library has the name: get_ep_name() of its package
    assert {backend.ep for backend in BACKENDS.values()} <= known | apart
    for backend in BACKENDS.values():
        assert backend.ep.lower().endswith("executionprovider")


def test_version_ranges_can_be_read_and_options_are_strings() -> None:
    for backend in BACKENDS.values():
        SpecifierSet(backend.versions)
        assert all(isinstance(value, str) for value in backend.options.values())


@pytest.mark.parametrize(
    ("name", "requires", "reason"),
    [
        ("cpu", ["onnxruntime==1.32.0"], ""),
        ("cpu", ["onnxruntime-openvino==1.24.1"], ""),
        ("openvino", ["onnxruntime_openvino==1.24.1", "numpy<3"], ""),
        ("openvino", ["onnxruntime==1.32.0"], "onnxruntime does not hold OpenVINOExecutionProvider: .*-openvino does"),
        ("xnnpack", ["onnxruntime==1.32.0"], "no published wheel holds XnnpackExecutionProvider: .*from source"),
        ("dnnl", ["onnxruntime-openvino==1.24.1"], "no published wheel holds DnnlExecutionProvider"),
        ("qnn", ["onnxruntime==1.32.0", "onnxruntime-qnn==2.7.0"], ""),
        ("qnn", ["onnxruntime==1.32.0"], "comes as onnxruntime-qnn, which the target does not require"),
        ("cuda", ["our-onnxruntime-build==3"], ""),
        ("cuda", ["onnxruntime-gpu==1.31.1"], ""),
    ],
)
def test_whether_published_wheels_hold_an_ep_is_known_before_installing(
    name: str, requires: list[str], reason: str
) -> None:
    found = published_problem(BACKENDS[name], requires)
    assert re.match(reason, found) if reason == "" else re.search(reason, found)
    assert bool(found) == bool(reason)
