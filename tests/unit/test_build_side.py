"""What backends, allocators and dependencies add to a build, version by version."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from ortforge.api import BuildContext, BuildContribution
from ortforge.build.compose import Contributor, compose
from ortforge.build.dependencies import dependencies
from ortforge.build.flags import problems_of
from ortforge.build.request import BuildRequest
from ortforge.errors import ConfigurationError
from ortforge.plugin_manager import Plugins

PLUGINS = Plugins(third_party=False)
BACKENDS, ALLOCATORS = PLUGINS.backends, PLUGINS.allocators
IMAGE_OF = {"cuda": "cuda", "tensorrt": "tensorrt", "openvino": "openvino"}
BUILDABLE = ("cpu", "dnnl", "openvino", "cuda", "tensorrt", "xnnpack")
NEW_ENOUGH = ("1.18.0", "1.20.1", "1.21.0", "1.22.0", "1.24.1")


def contribution(name: str, version: str = "1.21.0", **given: str) -> BuildContribution:
    context = BuildContext(version, **{"image": IMAGE_OF.get(name, "debian"), **given})
    made = (BACKENDS[name] if name in BACKENDS else ALLOCATORS[name]).build(context)
    assert made is not None
    return made


@pytest.mark.parametrize("version", NEW_ENOUGH)
@pytest.mark.parametrize("name", BUILDABLE)
def test_every_flag_exists_in_the_version_it_is_given_for(name: str, version: str) -> None:
    asked = {"build_wheel": True, "build_shared_lib": True, "use_full_protobuf": True}
    assert problems_of({**asked, **contribution(name, version).flags}, version) == []


@pytest.mark.parametrize(
    ("name", "version", "flags"),
    [
        ("cpu", "1.21.0", {}),
        ("dnnl", "1.21.0", {"use_dnnl": True}),
        ("xnnpack", "1.21.0", {"use_xnnpack": True}),
        ("openvino", "1.17.3", {"use_openvino": "CPU_FP32"}),
        ("openvino", "1.18.0", {"use_openvino": "CPU"}),
        ("cuda", "1.21.0", {"use_cuda": True, "cuda_home": "/usr/local/cuda", "cudnn_home": "/usr"}),
        ("jemalloc", "1.6.0", {"use_jemalloc": True}),
        ("jemalloc", "1.7.0", {}),
        ("mimalloc", "1.13.1", {"use_mimalloc": True}),
        ("mimalloc", "1.14.0", {}),
    ],
)
def test_flags_follow_the_version(name: str, version: str, flags: dict[str, object]) -> None:
    assert contribution(name, version).flags == flags


def test_a_version_that_is_too_old_is_not_built() -> None:
    assert BACKENDS["dnnl"].build(BuildContext("1.0.0")) is None
    assert BACKENDS["xnnpack"].build(BuildContext("1.11.1")) is None
    for name in BUILDABLE:
        if spec := BACKENDS[name].versions:
            assert "1.21.0" in SpecifierSet(spec)


def test_tensorrt_brings_cuda_along() -> None:
    cuda, tensorrt = contribution("cuda"), contribution("tensorrt")
    assert cuda.flags.items() <= tensorrt.flags.items()
    assert tensorrt.flags["use_tensorrt"] is True
    assert set(cuda.must_hold) < set(tensorrt.must_hold)
    both = compose(BuildRequest("gpu", "1.21.0"), [Contributor("cuda", cuda), Contributor("tensorrt", tensorrt)])
    assert both.flags["tensorrt_home"] == "/usr"


@pytest.mark.parametrize(
    ("version", "needs", "never"),
    [
        ("1.16.3", {"libcudart.so.11.0", "libcudnn.so.8", "libnvinfer.so.8"}, {"libcudart.so.12", "libcudnn.so.9"}),
        ("1.18.0", {"libcudart.so.12", "libcudnn.so.8", "libnvinfer.so.10"}, {"libcudnn.so.9", "libnvinfer.so.8"}),
        ("1.21.0", {"libcudart.so.12", "libcudnn.so.9", "libnvinfer.so.10"}, {"libcudart.so.13", "libnvinfer.so.8"}),
        ("1.22.0", {"libcudart.so.12", "libcudnn.so.9"}, {"libcudart.so.11.0", "libcudnn.so.8"}),
        ("1.24.1", {"libcudart.so.13", "libcufft.so.12"}, {"libcudart.so.11.0"}),
    ],
)
def test_nvidias_libraries_are_needed_and_stay_outside(version: str, needs: set[str], never: set[str]) -> None:
    made = contribution("tensorrt", version)
    assert needs <= set(made.external_libraries)
    assert not never & set(made.external_libraries)
    for soname in set(made.external_libraries) - {"libcuda.so.1"}:
        assert any(fnmatchcase(soname, pattern) for pattern in made.must_not_hold), soname
    for own in made.must_hold:
        assert not any(fnmatchcase(own.rpartition("/")[2], pattern) for pattern in made.must_not_hold)


@pytest.mark.parametrize(
    ("name", "image", "todo"),
    [
        ("openvino", "debian", 'image = "openvino"'),
        ("cuda", "debian", 'image = "cuda" or image = "tensorrt"'),
        ("tensorrt", "cuda", 'image = "tensorrt"'),
    ],
)
def test_an_image_without_the_eps_libraries_is_refused_at_once(name: str, image: str, todo: str) -> None:
    with pytest.raises(ConfigurationError, match=f"which the image {image} does not have") as refused:
        contribution(name, image=image)
    assert todo in refused.value.todo
    own = contribution(name, image="docker/ours.Dockerfile")
    assert not [flag for flag in own.flags if flag.endswith("_home")], "where things lie in it is the target's to say"


@pytest.mark.parametrize("name", ["coreml", "directml", "migraphx", "nnapi"])
def test_eps_of_elsewhere_say_why_they_are_not_built(name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"{BACKENDS[name].ep} cannot be built into ONNX Runtime here"
    ) as refused:
        BACKENDS[name].build(BuildContext("1.21.0"))
    assert refused.value.todo


def test_plugin_eps_are_not_built_they_come_as_packages() -> None:
    for name in ("qnn", "webgpu"):
        assert BACKENDS[name].plugin is not None
        assert BACKENDS[name].build(BuildContext("1.24.2")) is None


def test_onednn_gets_into_the_wheel_either_way() -> None:
    system, own = contribution("dnnl", dependencies="system"), contribution("dnnl", dependencies="download")
    assert system.bundle == (), "repairing the wheel brings the distribution's"
    assert own.bundle == ("libdnnl.so.[0-9]",), "setup.py forgets ORT's own"
    for made, name in ((system, "libdnnl-2ab1f9c0.so.3.6"), (own, "libdnnl.so.3")):
        assert any(fnmatchcase(name, pattern) for pattern in made.must_hold)
    assert "onnxruntime/capi/libonnxruntime_providers_dnnl.so" in system.must_hold
    assert "libonnxruntime_providers_dnnl.so" in contribution("dnnl", artifact="cxx").must_hold


def test_openvino_brings_what_it_loads_and_finds_it_beside_itself() -> None:
    made = contribution("openvino")
    assert made.cmake_defines["CMAKE_INSTALL_RPATH"] == "$ORIGIN"
    held = [pattern.rpartition("/")[2] for pattern in made.must_hold]
    assert set(made.bundle) <= set(held)
    for name in ("libopenvino.so.2500", "libopenvino_intel_cpu_plugin.so", "libtbb.so.12"):
        assert any(fnmatchcase(name, pattern) for pattern in made.bundle)
    assert "libopenvino_arm_cpu_plugin.so" in contribution("openvino", machine="aarch64").bundle


@pytest.mark.parametrize(("name", "soname"), [("jemalloc", "libjemalloc.so.2"), ("mimalloc", "libmimalloc.so.3")])
@pytest.mark.parametrize("artifact", ["wheel", "cxx"])
def test_allocators_come_along_and_are_loaded_first(name: str, soname: str, artifact: str) -> None:
    made = contribution(name, artifact=artifact)
    assert ALLOCATORS[name].preload == soname
    assert made.bundle == (soname,)
    assert len(made.packages) == 1
    assert made.flags == {}
    assert not made.cmake_defines, "linking ORT to it has no effect on malloc, or keeps Python from loading it"


def test_an_image_without_the_allocator_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"manylinux has no package that brings libmimalloc\.so\.3"):
        contribution("mimalloc", image="manylinux")
    assert contribution("jemalloc", image="manylinux").packages == ("jemalloc",)


def test_an_unknown_kind_of_dependencies_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="no kind of dependencies called 'sytem'") as refused:
        dependencies("sytem")
    assert "system" in refused.value.meant


def test_system_packages_come_by_a_dependency_provider_and_no_patch() -> None:
    system = dependencies("system")
    defines = system.contribution.cmake_defines
    provider = defines["CMAKE_PROJECT_TOP_LEVEL_INCLUDES"].rpartition("/")[2]
    text = system.files[provider]
    assert "SET_DEPENDENCY_PROVIDER" in text
    assert defines["FETCHCONTENT_FULLY_DISCONNECTED"] == "ON"
    assert not system.contribution.patches
    for name in ("eigen_nan.inc", "modules"):
        assert f"/{name}" in text
        assert any(Path(path).parts[0] == name for path in system.files), "what the provider names is put beside it"
    assert not dependencies("download").files


def test_a_whole_target_comes_together() -> None:
    parts = [Contributor(name, contribution(name, dependencies="system")) for name in ("cpu", "dnnl", "jemalloc")]
    parts.append(Contributor("the dependencies", dependencies("system").contribution))
    request = compose(replace(BuildRequest("fast", "1.21.0"), flags={"build_wheel": True}), parts)
    assert problems_of(request.flags, "1.21.0") == []
    assert request.packages == ("libjemalloc2",)
    assert request.bundle == ("libjemalloc.so.2",)


def test_openvinos_package_and_what_is_linked_to_it_have_one_abi() -> None:
    built = contribution("openvino", dependencies="system").cmake_defines
    assert built["ORTFORGE_DEFINITIONS"] == "_GLIBCXX_USE_CXX11_ABI=0"
    image = Path("dockerfiles/openvino.Dockerfile").read_text()
    sources = [path for name, path in built.items() if name.startswith("FETCHCONTENT_SOURCE_DIR_")]
    assert len(sources) == 3
    for path in sources:
        assert f"tar -C {path} " in image, "the image brings what is to be compiled"
    assert "ORTFORGE_DEFINITIONS" in dependencies("system").files["system.cmake"]
    own = contribution("openvino", dependencies="system", image="ours.Dockerfile").cmake_defines
    assert "ORTFORGE_DEFINITIONS" not in own, "an image of one's own may have an OpenVINO of the newer ABI"
