"""What a source target's build is planned to be, and what is refused before anything starts."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ortforge.api import Device
from ortforge.cli.shared import known
from ortforge.errors import ConfigurationError
from ortforge.matrix import Matrix, load
from ortforge.plan.building import build_request
from ortforge.plan.planner import FULL, make_build_plan, make_plan
from ortforge.plugin_manager import Plugins

PLUGINS = Plugins(third_party=False)

FILE = """
[models.m]
path = "path:m.onnx"

[targets.published]
from = "package"
requires = ["onnxruntime==1.21.1"]

[targets.built]
from = "source"
source = "debian:trixie"
version = "1.21.0"
eps = ["cpu", "dnnl"]
{more}

[[matrix]]
targets = {targets}
models = ["*"]
recipes = ["*"]
"""


def matrix(tmp_path: Path, more: str = "", targets: str = '["published", "built"]') -> Matrix:
    (tmp_path / "m.onnx").write_bytes(b"")
    path = tmp_path / "matrix.toml"
    path.write_text(FILE.format(more=more, targets=targets))
    return load(path, known(PLUGINS))


def request_of(tmp_path: Path, device: Device, more: str) -> object:
    loaded = matrix(tmp_path, more)
    return build_request("built", loaded.targets["built"], loaded, PLUGINS, device)


@pytest.mark.parametrize("image", ["Dockerfile", "docker/my.Dockerfile", "../x/Dockerfile", "my-2.gpu.Dockerfile"])
def test_an_image_may_be_a_dockerfile_of_ones_own(image: str, tmp_path: Path, linux_cpu: Device) -> None:
    (tmp_path / "m" / image).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "m" / image).write_text("FROM debian:trixie-slim\n")
    plan = make_plan(matrix(tmp_path / "m", f'image = "{image}"'), PLUGINS, linux_cpu, worker="w")
    (step,) = [step for step in plan.steps.values() if step.kind == "image"]
    assert step.parameters["image"] == image


@pytest.mark.parametrize("image", ["my.dockerfile", "/etc/Dockerfile", "a b/Dockerfile", "my.Dockerfile.txt", "Debian"])
def test_other_paths_are_no_images(image: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must be the name of a toolchain"):
        matrix(tmp_path, f'image = "{image}"')


def test_a_build_comes_before_its_runtime(tmp_path: Path, linux_cpu: Device) -> None:
    plan = make_plan(matrix(tmp_path), PLUGINS, linux_cpu, worker="w")
    steps = plan.steps
    runtime = steps["provision:built"]
    assert runtime.inputs == ("package:built",)
    assert runtime.after == ("prove:built",), "a wheel that is not proven runs nothing"
    kinds = [steps[name].kind for name in steps["package:built"].inputs]
    assert kinds == ["compile", "source", "image"]
    assert steps["compile:built"].cores > 1000, "a compilation shares the cores with nothing"
    request = steps["compile:built"].parameters
    assert request["flags"]["use_dnnl"] is True
    assert request["dependencies"] == "system", "Debian's source takes Debian's libraries"


def test_names_and_jobs_compile_nothing_anew(tmp_path: Path, linux_cpu: Device) -> None:
    def compile_step(more: str) -> object:
        steps = make_build_plan(matrix(tmp_path, more), PLUGINS, linux_cpu, ["built"], worker="w").steps
        return steps["compile:built"].parameters

    plain = compile_step("")
    assert compile_step('distribution = "onnxruntime-mine"\nlocal_version = "m.1"') == plain
    assert compile_step("jobs = 7\nmemory = '4 GiB'") == plain
    assert compile_step("flags = { parallel = 3 }") == plain
    assert compile_step("flags = { enable_lto = true }") != plain


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "flags = { use_jemalloc = true }",
            "--use_jemalloc is not in build.py of 1.21.0: it existed in 0.1.4 to 1.6.0",
        ),
        ("flags = { use_dnnll = true }", "use_dnnl"),
        ('flags = { minimal_build = "extended" }', "minimal_build"),
        ("flags = { parallel = true }", "--parallel needs a number"),
        ("flags = { use_dnnl = false }", "the dnnl backend to True"),
        ('dependencies = "vendored"', "ortforge vendor built --out DIR"),
        ('operators = "none.config"', "the operator list none.config cannot be read"),
        ("flags = { msvc_toolset = '14.40' }", "msvc_toolset"),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_starts(
    tmp_path: Path, linux_cpu: Device, more: str, said: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        request_of(tmp_path, linux_cpu, more)
    assert said in str(refused.value)


def test_the_command_says_so_with_exit_code_2_and_at_once(tmp_path: Path) -> None:
    matrix(tmp_path, "flags = { use_jemalloc = true }")
    argv = [sys.executable, "-m", "ortforge.cli.main", "build", "-m", str(tmp_path / "matrix.toml")]
    started = time.monotonic()
    done = subprocess.run([*argv, "--store", str(tmp_path / "s")], capture_output=True, text=True, check=False)
    took = time.monotonic() - started
    assert done.returncode == 2
    assert "use_jemalloc is not in build.py of 1.21.0" in done.stderr
    assert "Traceback" not in done.stderr
    assert took < 10, "it takes half a second on a quiet machine"


def test_a_reduced_build_waits_for_what_its_models_need(tmp_path: Path, linux_cpu: Device) -> None:
    loaded = matrix(tmp_path, 'operators = "from-models"')
    steps = make_plan(loaded, PLUGINS, linux_cpu, worker="w").steps
    assert steps["compile:built"].inputs[-1] == "operators:built"
    tools, *artefacts = steps["operators:built"].inputs
    assert tools == f"tools:{FULL}1.21.0", "the published wheel of the same version has all operators"
    assert artefacts == ["fetch:m"]
    flags = steps["compile:built"].parameters["flags"]
    assert flags["include_ops_by_config"] == "/work/cmake/operators.config"
    assert flags["enable_reduced_operator_type_support"] is True
    (image,) = (step for step in steps.values() if step.kind == "image")
    assert "python3-flatbuffers" in image.parameters["packages"], "without it types are left out in silence"


def test_a_reduced_build_may_keep_all_types(tmp_path: Path, linux_cpu: Device) -> None:
    keep = 'operators = "from-models"\nflags = { enable_reduced_operator_type_support = false }'
    steps = make_plan(matrix(tmp_path, keep), PLUGINS, linux_cpu, worker="w").steps
    assert not steps["compile:built"].parameters["flags"].get("enable_reduced_operator_type_support")
    (image,) = (step for step in steps.values() if step.kind == "image")
    assert image.parameters["packages"] == []


def test_a_reduced_build_without_models_is_refused(tmp_path: Path, linux_cpu: Device) -> None:
    loaded = matrix(tmp_path, 'operators = "from-models"', targets='["published"]')
    with pytest.raises(ConfigurationError, match="no cell of the matrix runs a model on it"):
        make_build_plan(loaded, PLUGINS, linux_cpu, ["built"], worker="w")


def test_a_library_has_no_cells(tmp_path: Path, linux_cpu: Device) -> None:
    plan = make_plan(matrix(tmp_path, 'artifact = "cxx"'), PLUGINS, linux_cpu, worker="w")
    refused = {cell.unsupported for cell in plan.cells if cell.target == "built"}
    assert refused == {"target built is a C++ library: it is built and proven, and no Python runs models on it"}


def test_a_file_of_source_targets_alone_is_for_building(tmp_path: Path, linux_cpu: Device) -> None:
    path = tmp_path / "matrix.toml"
    path.write_text('[targets.mine]\nfrom = "source"\nsource = "debian:trixie"\nversion = "1.21.0"\n')
    plan = make_plan(load(path, known(PLUGINS)), PLUGINS, linux_cpu, worker="w")
    assert not plan.cells
    assert "package:mine" in plan.steps, "'ortforge plan' shows what 'ortforge build' would do"
    argv = [sys.executable, "-m", "ortforge.cli.main", "run", "-m", str(path), "--store", str(tmp_path / "s")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has no models, so there is nothing to run" in done.stderr
    path.write_text(path.read_text() + '[targets.other]\nfrom = "package"\nrequires = ["onnxruntime==1.21.1"]\n')
    with pytest.raises(ConfigurationError, match="there are no models"):
        load(path, known(PLUGINS))
