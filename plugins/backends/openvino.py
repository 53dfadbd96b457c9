"""OpenVINO: Intel's compiler and kernels. Its CPU device also runs on other makers' x86-64 processors."""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import (
    Availability,
    Backend,
    BuildContext,
    BuildContribution,
    Device,
    available,
    unavailable,
)

from ._building import library, need_image, release
from ._needs import ARM64, X86_64, other_machine, other_system

_LIBRARIES = (
    "libopenvino.so.[0-9]*",
    "libopenvino_onnx_frontend.so.[0-9]*",
    "libopenvino_ir_frontend.so.[0-9]*",  # reads what cache_dir keeps
    "libopenvino_auto_plugin.so",
    "libopenvino_hetero_plugin.so",
    "libtbb.so.[0-9]*",
    "libtbbbind_2_5.so.[0-9]*",  # tells big cores from small ones
    "libhwloc.so.[0-9]*",
)
"""What the provider needs and loads to run on CPUs, as OpenVINO 2024 and newer name it."""

_FROM_SOURCE = {
    **{f"FETCHCONTENT_SOURCE_DIR_{name.upper()}": f"/usr/src/{name}" for name in ("abseil_cpp", "protobuf", "re2")},
    "ONNX_CUSTOM_PROTOC_EXECUTABLE": "/usr/bin/protoc",
    "ORTFORGE_DEFINITIONS": "_GLIBCXX_USE_CXX11_ABI=0",
}
"""OpenVINO's Python package is compiled for the older ABI of libstdc++ (2025.0 to 2025.4 are), and its CMake files ask
the same of all that links to it. The system's C++ libraries have the newer one, so the image brings their sources, for
this build to compile them alike."""


def ortforge_backends() -> Iterable[Backend]:
    """Give the OpenVINO backend: on the CPU unless ``device_type`` says otherwise."""
    yield Backend(
        name="openvino",
        ep="OpenVINOExecutionProvider",
        summary="OpenVINO, on x86-64 CPUs, and on Intel GPUs and NPUs with device_type",
        published=("onnxruntime-openvino",),
        options={"device_type": "CPU"},
        # Its threads are TBB's, one for each core unless this is set, whatever the session says. Measured with 1.21.0
        # and 1.24.1: without it two threads compute in a session of one. Devices other than CPUs ignore it.
        threads_option="num_of_threads",
        availability=_availability,
        build=_build,
    )


def _availability(device: Device) -> Availability:
    problem = other_system(device, "linux", "windows", "darwin") or other_machine(device, *X86_64, *ARM64)
    return unavailable(f"OpenVINO does not run here: {problem}") if problem else available()


def _build(context: BuildContext) -> BuildContribution:
    """``--use_openvino`` takes a device: ``CPU`` from 1.18 on, ``CPU_FP32`` before.

    OpenVINO finds its plugins beside its own library, so all of it goes into one folder of the wheel, and libraries
    look for each other there (``$ORIGIN``). The Python package's libraries do so already.
    """
    need_image(context, "OpenVINOExecutionProvider", "OpenVINO", "openvino")
    plugin = "libopenvino_intel_cpu_plugin.so" if context.machine in X86_64 else "libopenvino_arm_cpu_plugin.so"
    return BuildContribution(
        flags={"use_openvino": "CPU_FP32" if release(context.version) < (1, 18, 0) else "CPU"},
        cmake_defines={
            "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
            "CMAKE_INSTALL_RPATH": "$ORIGIN",
            **(_FROM_SOURCE if context.image == "openvino" and context.dependencies == "system" else {}),
        },
        bundle=(*_LIBRARIES, plugin),
        must_hold=(
            library(context, "libonnxruntime_providers_openvino.so"),
            library(context, "libonnxruntime_providers_shared.so"),
            *(library(context, name) for name in (*_LIBRARIES, plugin)),
        ),
    )
