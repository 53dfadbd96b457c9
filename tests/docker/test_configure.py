"""ONNX Runtime's real source is configured in the real image, and what its CMake drops is found out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from engine import LABEL

from ortforge.api import BuildContext, BuildContribution
from ortforge.build.common import common
from ortforge.build.compile import Compilation, compile_source
from ortforge.build.compose import Contributor, compose
from ortforge.build.dependencies import dependencies
from ortforge.build.diagnose import diagnose
from ortforge.build.effective import differences
from ortforge.build.request import BuildRequest
from ortforge.container import ContainerSpec, Engine
from ortforge.errors import BuildError
from ortforge.plugin_manager import Plugins

VERSION = "1.21.0"
PLUGINS = Plugins(third_party=False)


def asked() -> BuildRequest:
    """A wheel with oneDNN from Debian's packages, and mimalloc as people ask ORT's CMake for it."""
    context = BuildContext(VERSION, dependencies="system")
    dnnl = PLUGINS.backends["dnnl"].build(context) or BuildContribution()
    parts = [
        Contributor("every build", common(VERSION, "wheel")),
        Contributor("the dnnl backend", dnnl),
        Contributor("the dependencies", dependencies("system").contribution),
    ]
    own = {"onnxruntime_USE_MIMALLOC": "ON"}
    return compose(BuildRequest("configured", VERSION, defines=own, dependencies="system"), parts)


@pytest.fixture(scope="session")
def configured(
    engine: Engine, toolchain_image: str, real_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Compilation, Path, BuildError]]:
    folder = tmp_path_factory.mktemp("configured")
    build = Compilation(
        engine,
        asked(),
        real_source,
        "configured",
        toolchain_image,
        folder / "log",
        jobs=2,
        until="configure",
        say=print,
    )
    with pytest.raises(BuildError) as refused:
        compile_source(build, folder / "out")
    yield build, folder / "out", refused.value
    engine.remove_volume(build.facts["tree"])


def test_the_real_source_configures_from_debians_packages_alone(
    configured: tuple[Compilation, Path, BuildError],
) -> None:
    build, out, _ = configured
    log = build.log.read_text()
    assert "Build files have been written to: /work/build/Release" in log
    assert "ONNX version                      : 1.17.0" in log, "its source is built, Debian's library is not used"
    entries = json.loads((out / "compile_commands.json").read_text())
    files = [entry["file"] for entry in entries]
    assert len(files) > 500
    assert any("/core/providers/dnnl/" in file for file in files)
    assert any("/_deps/onnx-src/" in file for file in files)
    assert "--parallel" not in " ".join(build.facts["argv"]["configure"]).split("--parallel 2")[1]


def test_a_wish_that_cmake_drops_ends_the_build_with_the_reason(
    configured: tuple[Compilation, Path, BuildError],
) -> None:
    build, out, refused = configured
    assert "accepted what it then does not do" in refused.what
    assert "-Donnxruntime_USE_MIMALLOC: asked ON, in force no -DUSE_MIMALLOC in the compile commands" in refused.what
    assert "Windows only" in refused.what
    assert [one["what"] for one in build.facts["effective"]] == ["-Donnxruntime_USE_MIMALLOC"], "and no other"
    cache = (out / "CMakeCache.txt").read_text()
    assert "onnxruntime_USE_MIMALLOC:INTERNAL=ON" in cache, "CMake's cache would have said yes"


def test_all_else_that_was_asked_is_in_force(configured: tuple[Compilation, Path, BuildError]) -> None:
    build, out, _ = configured
    entries = json.loads((out / "compile_commands.json").read_text())
    cache = (out / "CMakeCache.txt").read_text()
    kept = {name: value for name, value in build.request.defines.items() if name != "onnxruntime_USE_MIMALLOC"}
    assert differences(build.request.flags, kept, entries, cache) == []
    more = replace(build.request, flags={**build.request.flags, "use_xnnpack": True, "enable_lto": True})
    lost = differences(more.flags, kept, entries, cache)
    assert [one.what for one in lost] == ["--use_xnnpack", "--enable_lto"]


@pytest.mark.parametrize(
    ("module", "lacks"), [("cutlass", "no CUTLASS in"), ("cudnn_frontend", "no front end of cuDNN")]
)
def test_an_image_without_what_cuda_builds_need_is_told_so(
    module: str, lacks: str, engine: Engine, toolchain_image: str
) -> None:
    name = f"modules/{module}.cmake"
    text = dependencies("system", ["cuda"]).files[name]
    with engine.open(ContainerSpec(image=toolchain_image, labels={LABEL: "1"})) as container:
        container.put_files({name: text.encode()}, "/work/cmake")
        said = container.run(["cmake", "-P", f"/work/cmake/{name}"])
    assert said.code != 0
    (cause,) = diagnose("\n".join(said.tail))
    assert cause.id == "image-lacks-source"
    assert lacks in cause.evidence
    assert "ORTFORGE_CUTLASS" in cause.remedy


@pytest.mark.parametrize(
    ("asked", "said"), [("3.5.1", "-- cutlass 3.5.1, as"), ("3.9.2", "written for cutlass 3.9.2, and")]
)
def test_an_image_with_another_version_than_ort_asks_for_is_warned_of(
    asked: str, said: str, engine: Engine, toolchain_image: str
) -> None:
    files = {name.rpartition("/")[2]: text for name, text in dependencies("system", ["cuda"]).files.items()}
    files["source/include/cutlass/version.h"] = (
        "#define CUTLASS_MAJOR 3\n#define CUTLASS_MINOR 5\n#define CUTLASS_PATCH 1\n"
    )
    files["source/include/cutlass/cutlass.h"] = ""
    files["deps.txt"] = f"cutlass;https://github.com/NVIDIA/cutlass/archive/refs/tags/v{asked}.zip;0\n"
    files["try.cmake"] = 'list(PREPEND CMAKE_MODULE_PATH "${CMAKE_SOURCE_DIR}")\ninclude(cutlass)\n'
    with engine.open(ContainerSpec(image=toolchain_image, labels={LABEL: "1"})) as container:
        container.put_files({name: text.encode() for name, text in files.items()}, "/work/try")
        ran = container.run(["cmake", "-DORTFORGE_CUTLASS=/work/try/source", "-P", "try.cmake"], workdir="/work/try")
    assert ran.code == 0
    assert said in " ".join(" ".join(ran.tail).split())
