"""Builds for NVIDIA's GPUs, as far as a machine without one can tell: what is asked, refused, expected and planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from package_sample import CAPI, compile_library, make_wheel

from ortforge.api import Device
from ortforge.build.dependencies import dependencies
from ortforge.build.package.audit import audit
from ortforge.build.package.pack import expectation_of
from ortforge.build.request import BuildRequest
from ortforge.cli.shared import known
from ortforge.errors import ConfigurationError
from ortforge.matrix import load
from ortforge.plan.building import build_request
from ortforge.plan.planner import make_build_plan, make_plan
from ortforge.plugin_manager import Plugins
from ortforge.runtime.container_relay import _spec
from ortforge.runtime.container_setting import Setting

PLUGINS = Plugins(third_party=False)
DOCKERFILES = Path(__file__).parents[2] / "dockerfiles"
ON_DEBIAN = 'base = "debian:trixie-slim"'

FILE = """
[models.m]
path = "path:m.onnx"

[targets.gpu]
from = "source"
source = "debian:trixie"
version = "1.21.0"
eps = ["{ep}"]
image = "{image}"
{more}

[[matrix]]
targets = ["gpu"]
models = ["*"]
recipes = ["*"]
"""


def matrix(folder: Path, ep: str = "cuda", more: str = ON_DEBIAN, image: str = "") -> Any:
    (folder / "m.onnx").write_bytes(b"")
    path = folder / "matrix.toml"
    path.write_text(FILE.format(ep=ep, image=image or ep, more=more))
    return load(path, known(PLUGINS))


def request_of(folder: Path, device: Device, ep: str = "cuda", more: str = ON_DEBIAN, image: str = "") -> BuildRequest:
    loaded = matrix(folder, ep, more, image)
    return build_request("gpu", loaded.targets["gpu"], loaded, PLUGINS, device)


# What is asked, and what is refused


def test_cuda_is_built_from_packages_alone_on_debian(tmp_path: Path, linux_cpu: Device) -> None:
    request = request_of(tmp_path, linux_cpu)
    assert request.dependencies == "system", "what suits Debian's source"
    assert request.flags["cuda_home"] == "/usr/local/cuda"
    assert request.flags["cudnn_home"] == "/usr"
    files = dependencies("system", request.eps).files
    text = (DOCKERFILES / "cuda.Dockerfile").read_text()
    for module in ("cutlass", "cudnn_frontend"):
        brought = files[f"modules/{module}.cmake"]
        assert "the image has to bring it" in brought, "an image of one's own may lack it, and is told"
        assert f"nvidia-{module.replace('_', '-')}==" in text
    assert "--target /opt/nvidia" in text
    assert 'ORTFORGE_CUTLASS "/opt/nvidia/' in files["modules/cutlass.cmake"]
    assert 'ORTFORGE_CUDNN_FRONTEND "/opt/nvidia/' in files["modules/cudnn_frontend.cmake"]


def test_other_builds_know_nothing_of_nvidias_modules() -> None:
    assert set(dependencies("system", ["cpu", "dnnl"]).files) == set(dependencies("system").files)
    assert set(dependencies("system", ["cpu", "tensorrt"]).files) > set(dependencies("system").files)


@pytest.mark.parametrize(
    ("ep", "more", "said", "todo"),
    [
        ("cuda", "", "the image cuda on NVIDIA's own base has neither CUTLASS nor", ON_DEBIAN),
        ("cuda", 'base = "ubuntu:24.04"', "the image cuda on ubuntu:24.04 has neither", ON_DEBIAN),
        ("tensorrt", "", "the image tensorrt on NVIDIA's own base has neither", 'dependencies = "download"'),
        (
            "tensorrt",
            ON_DEBIAN,
            "the base debian:trixie-slim does not have and the image cannot install",
            "libnvinfer-dev",
        ),
    ],
)
def test_what_an_image_lacks_is_said_before_it_is_made(
    ep: str, more: str, said: str, todo: str, tmp_path: Path, linux_cpu: Device
) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        request_of(tmp_path, linux_cpu, ep, more)
    assert todo in refused.value.todo
    if ep == "tensorrt":
        assert ON_DEBIAN not in refused.value.todo, "which has no TensorRT"


def test_missing_tensorrt_is_named_file_by_file(tmp_path: Path, linux_cpu: Device) -> None:
    with pytest.raises(ConfigurationError) as refused:
        request_of(tmp_path, linux_cpu, "tensorrt", f'{ON_DEBIAN}\ndependencies = "download"')
    text = (DOCKERFILES / "tensorrt.Dockerfile").read_text()
    for file in ("NvInfer.h", "NvOnnxParser.h", "libnvinfer.so", "libnvinfer_plugin.so", "libnvonnxparser.so"):
        assert file in refused.value.what
        assert file in text.partition("apt-get")[0], "and the Dockerfile looks for it before it installs anything"


def test_an_image_of_ones_own_may_bring_all_of_it(tmp_path: Path, linux_cpu: Device) -> None:
    (tmp_path / "own.Dockerfile").write_text("FROM debian:trixie-slim\n")
    more = 'dependencies = "system"\nflags = { cuda_home = "/cuda", cudnn_home = "/cudnn", tensorrt_home = "/trt" }'
    request = request_of(tmp_path, linux_cpu, "tensorrt", more, "own.Dockerfile")
    assert (request.flags["cuda_home"], request.flags["tensorrt_home"]) == ("/cuda", "/trt")


# The plan


def test_a_plan_says_what_a_machine_without_a_gpu_does_not_build(tmp_path: Path, linux_cpu: Device) -> None:
    plan = make_plan(matrix(tmp_path), PLUGINS, linux_cpu, worker="w")
    assert [cell.unsupported[:19] for cell in plan.cells] == ["no NVIDIA GPU was f"]
    (note,) = plan.notes
    assert note.startswith("target gpu: no cell of it runs on this device, so it is not built and not proven here.")
    assert "image cuda on debian:trixie-slim; dependencies: system" in note
    assert "'ortforge build gpu'" in note


def test_a_plan_says_what_cannot_be_built_even_where_it_would_not_be(tmp_path: Path, linux_cpu: Device) -> None:
    (note,) = make_plan(matrix(tmp_path, "tensorrt"), PLUGINS, linux_cpu, worker="w").notes
    assert note.startswith(
        "target gpu cannot be built as it stands: TensorrtExecutionProvider is built against TensorRT"
    )
    assert "\n" not in note


def test_a_plan_says_which_ep_a_wheel_is_not_proven_on(tmp_path: Path, linux_cpu: Device) -> None:
    loaded = matrix(tmp_path, 'cpu", "cuda', image="cuda")
    (note,) = make_plan(loaded, PLUGINS, linux_cpu, worker="w").notes
    assert note.startswith("target gpu: its wheel is not proven on CUDAExecutionProvider here: no NVIDIA GPU was found")


def test_a_proof_has_what_the_target_installs_beside_its_wheel(tmp_path: Path, linux_cpu: Device) -> None:
    needs = 'requires = ["nvidia-cudnn-cu12==9.5.1.17", "nvidia-cublas-cu12"]'
    steps = make_build_plan(
        matrix(tmp_path, more=f"{ON_DEBIAN}\n{needs}"), PLUGINS, linux_cpu, ["gpu"], worker="w"
    ).steps
    assert steps["prove:gpu"].parameters["requires"] == ["nvidia-cublas-cu12", "nvidia-cudnn-cu12==9.5.1.17"]
    plain = make_build_plan(matrix(tmp_path), PLUGINS, linux_cpu, ["gpu"], worker="w").steps
    assert "requires" not in plain["prove:gpu"].parameters, "the keys of other builds stay as they are"
    assert "CUDAExecutionProvider" in plain["prove:gpu"].parameters["not_run"]


# The wheel


def library(folder: Path, name: str, type_name: str = "", *needs: Path) -> Path:
    """Compile a library as ORT's look: with the type of its EP, and the libraries that it needs."""
    text = f'const char type[] = "N11onnxruntime{len(type_name)}{type_name}E";' if type_name else "int other;"
    return compile_library(folder / name, text, "-Wl,--no-as-needed", *map(str, needs), "-Wl,-rpath,$ORIGIN")


def nvidias(folder: Path, *sonames: str) -> list[Path]:
    """Make libraries that stand for NVIDIA's: an audit sees their names alone."""
    return [compile_library(folder / name, "int nvidia;", f"-Wl,-soname,{name}") for name in sonames]


def wheel_of(tmp_path: Path, **more: Path | bytes) -> dict[str, Path | bytes]:
    """Return what a right wheel with the CUDA EP holds."""
    needed = nvidias(tmp_path / "nvidia", "libcudart.so.12", "libcublasLt.so.12", "libcudnn.so.9", "libcuda.so.1")
    cuda = library(tmp_path, "libonnxruntime_providers_cuda.so", "CUDAExecutionProvider", *needed)
    shared = library(tmp_path, "libonnxruntime_providers_shared.so")
    files: dict[str, Path | bytes] = {f"{CAPI}/{path.name}": path for path in (cuda, shared)}
    core = compile_library(tmp_path / "core.so", 'const char t[] = "N11onnxruntime20CPUExecutionProviderE";')
    return {**files, f"{CAPI}/onnxruntime_pybind11_state.cpython-313-x86_64-linux-gnu.so": core, **more}


def faults(tmp_path: Path, request: BuildRequest, files: dict[str, Path | bytes]) -> list[tuple[str, str]]:
    found = audit(make_wheel(tmp_path / "wheel", files), expectation_of(request, machine="x86_64"))
    return [(one.code, one.what) for one in found if one.severity == "error"]


def test_a_right_wheel_needs_nvidias_libraries_and_holds_none(tmp_path: Path, linux_cpu: Device) -> None:
    assert faults(tmp_path, request_of(tmp_path, linux_cpu), wheel_of(tmp_path)) == []


@pytest.mark.parametrize("soname", ["libcudart.so.12", "libcudnn.so.9", "libcublasLt.so.12", "libnvinfer.so.10"])
def test_a_wheel_that_holds_one_of_nvidias_is_refused(soname: str, tmp_path: Path, linux_cpu: Device) -> None:
    files = wheel_of(tmp_path)
    files[f"{CAPI}/{soname}"] = nvidias(tmp_path, soname)[0]
    found = faults(tmp_path, request_of(tmp_path, linux_cpu), files)
    assert [code for code, _ in found] == ["unexpected-library"]
    assert soname in found[0][1]


def test_a_wheel_without_the_eps_library_is_refused(tmp_path: Path, linux_cpu: Device) -> None:
    files = wheel_of(tmp_path)
    del files[f"{CAPI}/libonnxruntime_providers_cuda.so"]
    found = faults(tmp_path, request_of(tmp_path, linux_cpu), files)
    assert [code for code, _ in found] == ["missing-ep", "missing-library"]
    assert "CUDAExecutionProvider" in found[0][1]


def test_a_wheel_for_a_cuda_that_this_version_is_not_made_for_is_refused(tmp_path: Path, linux_cpu: Device) -> None:
    files = wheel_of(tmp_path)
    needed = nvidias(tmp_path / "newer", "libcudart.so.13")
    cuda = library(tmp_path / "other", "libonnxruntime_providers_cuda.so", "CUDAExecutionProvider", *needed)
    files[f"{CAPI}/{cuda.name}"] = cuda
    found = faults(tmp_path, request_of(tmp_path, linux_cpu), files)
    assert [code for code, _ in found] == ["unresolved-needed"]
    assert "libcudart.so.13" in found[0][1]


def test_a_wheel_with_tensorrt_holds_both_eps(tmp_path: Path, linux_cpu: Device) -> None:
    (tmp_path / "own.Dockerfile").write_text("FROM debian:trixie-slim\n")
    request = request_of(tmp_path, linux_cpu, "tensorrt", "", "own.Dockerfile")
    files = wheel_of(tmp_path)
    assert [code for code, _ in faults(tmp_path, request, files)] == ["missing-ep", "missing-library"]
    needed = nvidias(tmp_path / "trt", "libnvinfer.so.10", "libnvonnxparser.so.10", "libcudart.so.12")
    name = "libonnxruntime_providers_tensorrt.so"
    files[f"{CAPI}/{name}"] = library(tmp_path, name, "TensorrtExecutionProvider", *needed)
    assert faults(tmp_path, request, files) == []


# GPUs for containers


@pytest.mark.parametrize(
    ("providers", "gpus"),
    [
        ([["CUDAExecutionProvider", {}], ["CPUExecutionProvider", {}]], True),
        ([["TensorrtExecutionProvider", {}], ["CUDAExecutionProvider", {}], ["CPUExecutionProvider", {}]], True),
        ([["OpenVINOExecutionProvider", {"device_type": "CPU"}], ["CPUExecutionProvider", {}]], False),
        ([["CPUExecutionProvider", {}]], False),
        (None, False),
    ],
)
def test_a_worker_in_a_container_gets_gpus_when_its_eps_need_them(providers: Any, gpus: bool, tmp_path: Path) -> None:
    setting = Setting(image="sha256:x", python="/venv/bin/python", folders=(str(tmp_path),))
    job = {"op": "run", "process": {"memory": 1 << 30, "result": str(tmp_path / "result.json")}}
    job |= {"providers": providers} if providers else {}
    assert _spec(setting, json.loads(json.dumps(job)), []).gpus is gpus
