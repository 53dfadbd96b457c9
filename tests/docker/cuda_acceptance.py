"""ONNX Runtime's real source is configured with CUDA, and some of its CUDA files are compiled, on plain Debian.

    pytest tests/docker/cuda_acceptance.py

Its name keeps it out of all other runs: the image takes 4 GB, of which 2 are downloaded, and the compilers minutes.
No GPU is needed, and none is asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from engine import BASE, LABEL
from package_sample import CAPI, make_wheel

from ortforge.api import BuildContext, BuildContribution
from ortforge.build import layout
from ortforge.build.common import common
from ortforge.build.compile import Compilation, compile_source
from ortforge.build.compose import Contributor, compose
from ortforge.build.dependencies import dependencies
from ortforge.build.effective import differences
from ortforge.build.package.audit import audit
from ortforge.build.package.elf import read_elf
from ortforge.build.package.pack import expectation_of
from ortforge.build.request import BuildRequest
from ortforge.build.toolchain import build_toolchain
from ortforge.container import ContainerSpec, Engine
from ortforge.plugin_manager import Plugins

VERSION = "1.21.0"
OBJECTS = "CMakeFiles/onnxruntime_providers_cuda.dir/work/source/onnxruntime"
OWN = {"CMAKE_CUDA_ARCHITECTURES": "80", "onnxruntime_USE_FLASH_ATTENTION": "OFF"}

Compile = Callable[..., Compilation]


def asked(**flags: bool) -> BuildRequest:
    """A wheel with the CUDA EP for one kind of GPU, without the kernels that take longest."""
    backend = Plugins(third_party=False).backends["cuda"]
    cuda = backend.build(BuildContext(VERSION, dependencies="system", image="cuda", base=BASE)) or BuildContribution()
    parts = [
        Contributor("every build", common(VERSION, "wheel")),
        Contributor("the cuda backend", cuda),
        Contributor("the dependencies", dependencies("system").contribution),
    ]
    request = BuildRequest("cuda", VERSION, flags=flags, defines=OWN, dependencies="system", image="cuda", base=BASE)
    return compose(replace(request, eps=("cuda",), ep_names=(backend.ep,)), parts)


@pytest.fixture(scope="module")
def compiled(
    engine: Engine, base_image: str, real_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Compile]:
    """Compile one goal of a build, one compiler at a time, in a tree that goes when all is done."""
    folder = tmp_path_factory.mktemp("cuda")
    parameters = {"image": "cuda", "base": BASE, "packages": [], "machine": engine.facts.machine}
    image = build_toolchain(engine, parameters, print, base_folder=Path())[0]
    trees: set[str] = set()

    def run(goal: str = "", **flags: bool) -> Compilation:
        until = "compile" if goal else "configure"
        request, log = asked(**flags), folder / "log"
        build = Compilation(engine, request, real_source, "cuda", image, log, jobs=1, until=until, goal=goal, say=print)
        trees.add(build.tree)
        compile_source(build, folder / "out")
        print(goal, build.facts["phases"], build.facts.get("steps"), build.facts.get("ccache"))
        return build

    yield run
    for tree in trees:
        engine.remove_volume(tree)


def test_the_real_source_configures_with_cuda_from_packages_alone(compiled: Compile) -> None:
    build = compiled()
    log = build.log.read_text()
    assert "The CUDA compiler identification is NVIDIA 12.4.131 with host compiler GNU 13" in log
    assert "cuDNN: /usr/lib/" in log
    assert "-- cutlass 3.5.1, as ONNX Runtime asks for" in log
    assert "-- cudnn_frontend 1.7.0, as ONNX Runtime asks for" in log
    assert build.facts["effective"] == []
    assert build.facts["in_force"]["defines"]["USE_CUDA=1"] == build.facts["in_force"]["files"]
    out = build.log.parent / "out"
    entries = json.loads((out / "compile_commands.json").read_text())
    kernels = [entry for entry in entries if entry["file"].endswith(".cu")]
    assert len(kernels) > 100
    assert all("arch=compute_80,code=[compute_80,sm_80]" in entry["command"] for entry in kernels)
    assert all(entry["command"].startswith("/usr/local/cuda/bin/nvcc ") for entry in kernels)


def test_what_is_not_in_force_is_found_out(compiled: Compile) -> None:
    build = compiled()
    out = build.log.parent / "out"
    entries, cache = json.loads((out / "compile_commands.json").read_text()), (out / "CMakeCache.txt").read_text()
    more = replace(
        build.request, flags={**build.request.flags, "use_tensorrt": True, "enable_cuda_minimal_build": True}
    )
    lost = differences(more.flags, OWN, entries, cache)
    assert [one.what for one in lost] == ["--use_tensorrt", "--enable_cuda_minimal_build"]


@pytest.mark.parametrize(
    "source",
    [
        "core/providers/cuda/math/unary_elementwise_ops_impl.cu",
        "core/providers/cuda/tensor/nonzero_impl.cu",  # CUB
        "contrib_ops/cuda/bert/cutlass_fmha/fmha_sm80.cu",  # CUTLASS
        "core/providers/cuda/nn/conv.cc",  # cuDNN's front end, by the C++ compiler
    ],
)
def test_a_file_of_the_ep_is_compiled(source: str, compiled: Compile, engine: Engine) -> None:
    build = compiled(f"{OBJECTS}/{source}.o")
    assert build.facts["steps"][0] > 0
    spec = ContainerSpec(image=build.image, volumes={build.tree: layout.WORK}, labels={LABEL: "1"})
    with engine.open(spec) as container:
        made = f"{layout.BUILD}/{layout.CONFIG}/{OBJECTS}/{source}.o"
        if source.endswith(".cu"):
            assert any("sm_80.cubin" in line for line in container.run(["cuobjdump", "--list-elf", made]).tail)
        said = container.run(["readelf", "--string-dump=.comment", made]).tail
        assert any(("13." if source.endswith(".cu") else "14.") in line for line in said), said


def test_the_eps_library_is_linked_and_needs_what_its_wheel_may_need(
    compiled: Compile, engine: Engine, tmp_path: Path
) -> None:
    """A CUDA minimal build: the EP without its operators, of which the library is linked in minutes."""
    build = compiled("onnxruntime_providers_cuda", enable_cuda_minimal_build=True)
    files: dict[str, Path | bytes] = {}
    with engine.open(ContainerSpec(image=build.image, volumes={build.tree: layout.WORK}, labels={LABEL: "1"})) as one:
        for name in ("libonnxruntime_providers_cuda.so", "libonnxruntime_providers_shared.so"):
            one.get(f"{layout.BUILD}/{layout.CONFIG}/{name}", tmp_path)
            files[f"{CAPI}/{name}"] = tmp_path / name
    library = read_elf("libonnxruntime_providers_cuda.so", (tmp_path / "libonnxruntime_providers_cuda.so").read_bytes())
    assert library is not None
    assert [name for name in library.needed if name.startswith(("libcu", "libnv"))] == ["libcudart.so.12"]
    assert set(library.needed) & set(build.request.external_libraries) == {"libcudart.so.12"}
    errors = [
        one for one in audit(make_wheel(tmp_path, files), expectation_of(build.request)) if one.severity == "error"
    ]
    # It is no wheel yet: repairing one brings Debian's libraries in.
    assert {(one.code, "libabsl_" in one.what) for one in errors} == {("unresolved-needed", True)}
