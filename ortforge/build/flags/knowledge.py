"""What build.py's parser cannot say: what replaced a flag, which system it is for, and where it has no effect.

Written by hand. Sources: build.py, build_args.py and cmake/CMakeLists.txt of the versions named, read in ORT's history,
and the issues and pull requests given by number (github.com/microsoft/onnxruntime/issues/NUMBER).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from packaging.version import Version

from ortforge.build.flags.flag import Accepted

__all__ = ["NEEDS", "REMOVED", "Removed", "accepted_by", "effect_of", "is_within", "parser_has_it_on", "platforms_of"]


@dataclass(frozen=True, slots=True)
class Removed:
    """What to do instead of a flag that is gone.

    :param by: the flag that does it now, or ``""``. :param instead: what to do, as a sentence.
    """

    by: str = ""
    instead: str = ""


_MLAS: Final = "ORT's own matrix library (MLAS) is always built in and took its place."
_LISTED: Final = "FETCHCONTENT_SOURCE_DIR_EIGEN3 in the target's defines gives a folder with Eigen."
_TVM: Final = "The TVM execution provider left ORT in 1.21 (pull 22827)."
_ARMNN: Final = "The ArmNN execution provider left ORT in 1.25; ACL serves the same processors."
_ALLOCATOR: Final = 'Write allocator = "{0}" into the target: {0} is linked in or loaded first, whatever the version.'

REMOVED: Final[Mapping[str, Removed]] = {
    "armnn_bn": Removed("use_acl", _ARMNN),
    "armnn_home": Removed("acl_home", _ARMNN),
    "armnn_libs": Removed("acl_libs", _ARMNN),
    "armnn_relu": Removed("use_acl", _ARMNN),
    "build_eager_mode": Removed("", "Eager mode left ORT in 1.15; ORTModule (enable_training) is what remains."),
    "build_server": Removed("", "The server left ORT in 1.2; serve the model with a server that loads ORT."),
    "disable_nccl": Removed("enable_nccl", "Since 1.15 NCCL is off unless it is asked for."),
    "disable_ort_format_load": Removed("", "Since 1.10 every build loads ORT-format models."),
    "eigen_path": Removed("", _LISTED),
    "enable_qspectre": Removed("use_binskim_compliant_compile_flags"),
    "enable_rocm_profiling": Removed(
        "", "The ROCm execution provider left ORT; MIGraphX (use_migraphx) serves AMD GPUs."
    ),
    "enable_training_on_device": Removed("enable_training_apis"),
    "include_ops_by_model": Removed("include_ops_by_config", "Write a configuration of the models' operators first."),
    "ios_sysroot": Removed("apple_sysroot"),
    "llvm_config": Removed("", _TVM),
    "llvm_path": Removed("", _TVM),
    "mpi_home": Removed("", "build.py has no MPI since 1.22; NCCL (enable_nccl, nccl_home) is what remains."),
    "enable_language_interop_ops": Removed("", "Operators written in Python left ORT in 1.19 (pull 21094)."),
    "numpy_version": Removed("", "Install the NumPy to build with before building."),
    "test_all_timeout": Removed("ctest_timeout"),
    "trt_path": Removed("tensorrt_home"),
    "tvm_cuda_runtime": Removed("", _TVM),
    "use_armnn": Removed("use_acl", _ARMNN),
    "use_automl": Removed("use_featurizers"),
    "use_avx512": Removed("", 'CMake has it still: onnxruntime_USE_AVX512 = "ON" in the target\'s defines.'),
    "use_dnnlibrary": Removed("use_nnapi"),
    "use_eigenthreadpool": Removed("", "ORT's own thread pool is always built in."),
    "use_featurizers": Removed("", "The featurizer operators left ORT in 1.10 (pull 9300); nothing took their place."),
    "use_horovod": Removed("", "Horovod left ORT's training in 1.7 (pull 5468); NCCL took its place."),
    "use_jemalloc": Removed("", _ALLOCATOR.format("jemalloc")),
    "use_llvm": Removed("", _TVM),
    "use_mkldnn": Removed("use_dnnl", "MKL-DNN is named oneDNN (DNNL) now."),
    "use_mklml": Removed("", f"{_MLAS} oneDNN is a backend of its own: use_dnnl (issue 6212)."),
    "use_mpi": Removed("", "build.py has no MPI since 1.22; NCCL (enable_nccl, nccl_home) is what remains."),
    "use_ngraph": Removed("use_openvino", "nGraph became a part of OpenVINO."),
    "use_nsync": Removed("", "It is no choice any more."),
    "use_nuphar": Removed(
        "", "The Nuphar execution provider left ORT in 1.13 (pull 11555); the default CPU one took its place."
    ),
    "use_openblas": Removed("", f"{_MLAS} (issue 6212)"),
    "use_openmp": Removed("", "ORT's own thread pool took its place: set intra_op_num_threads (issue 14067)."),
    "use_preinstalled_eigen": Removed("", f'{_LISTED} dependencies = "system" takes the image\'s.'),
    "use_rocm": Removed("use_migraphx", "The ROCm execution provider left ORT in 1.24; MIGraphX serves AMD GPUs."),
    "use_telemetry": Removed("no_telemetry", "Since 1.29 telemetry is built in unless no_telemetry leaves it out."),
    "use_trt": Removed("use_tensorrt"),
    "use_tvm": Removed("", _TVM),
    "use_tvm_hash": Removed("", _TVM),
}
"""By flag: what to do where it does not exist any more."""


@dataclass(frozen=True, slots=True)
class _Fact:
    """A sentence that holds for some versions (both ends included, ``""`` for open) and systems (none for all)."""

    since: str
    until: str
    systems: tuple[str, ...]
    text: str


_NO_ROCM: Final = _Fact(
    "1.24", "", (), "is accepted but has no effect since 1.24, which has no ROCm execution provider (issue 26801)."
)
_EFFECTS: Final[Mapping[str, tuple[_Fact, ...]]] = {
    "use_mimalloc": (
        _Fact(
            "1.14",
            "",
            ("linux", "macos"),
            "is accepted but has no effect on Linux and macOS since 1.14: CMake allows mimalloc on Windows only and "
            "turns it off without a word, while its cache still says ON (issue 25213). "
            + _ALLOCATOR.format("mimalloc"),
        ),
    ),
    "rocm_home": (_NO_ROCM,),
    "rocm_version": (_NO_ROCM,),
}

_SINCE_CONDITIONAL: Final = "1.22"
"""Since then a system's own flags are in the parser on that system only; before, they were accepted everywhere."""

_WINDOWS: Final = frozenset(
    {"arm", "arm64", "arm64ec", "buildasx", "caller_framework", "disable_memleak_checker", "enable_msvc_static_runtime"}
    | {"enable_pix_capture", "enable_wcos", "gdk_edition", "gdk_platform", "msvc_toolset", "use_gdk", "use_telemetry"}
    | {"use_winml", "windows_sdk_version", "winml_root_namespace_override", "x86"}
)
_APPLE: Final = frozenset(
    {"apple_deploy_target", "apple_sysroot", "ios", "ios_toolchain_file", "macos", "osx_arch", "tvos"}
    | {"tvos_toolchain_file", "use_xcode", "visionos", "visionos_toolchain_file", "xcode_code_signing_identity"}
    | {"xcode_code_signing_team_id"}
)
_LINUX: Final = frozenset({"allow_running_as_root", "enable_external_custom_op_schemas"})

_MEANT_FOR: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset({system})
    for system, names in {
        "android": {"android", "android_cpp_shared", "android_run_emulator", "code_coverage", "nnapi_min_api"}
        | {"use_dnnlibrary", "use_nnapi"},
        "macos": _APPLE
        | {"apple_disable_bitcode", "build_apple_framework", "build_objc", "ios_sysroot", "ios_toolchain_dir"}
        | {"use_coreml"},
        "webassembly": {"build_wasm", "build_wasm_static_lib", "use_jsep", "use_webnn"},
        "windows": (_WINDOWS - {"arm", "arm64", "disable_memleak_checker", "x86"})
        | {"dml_external_project", "dml_path", "enable_dx_interop", "enable_windows_store", "use_dml", "use_vstest"},
    }.items()
    for name in names
}
"""Systems that a flag is for in every version."""


def is_within(version: str, since: str, until: str) -> bool:
    """Say whether a version's minor version lies between two, both included; ``""`` leaves an end open."""
    minor = _minor(version)
    return (not since or minor >= _minor(since)) and (not until or minor <= _minor(until))


@functools.cache
def _minor(version: str) -> tuple[int, ...]:
    return Version(version).release[:2]


def platforms_of(name: str, version: str) -> frozenset[str]:
    """Return the systems that a flag is for in a version; none for all."""
    return parser_has_it_on(name, version) or _MEANT_FOR.get(name, frozenset())


def parser_has_it_on(name: str, version: str) -> frozenset[str]:
    """Return the systems whose parser has a flag that the others refuse as unknown; none when all have it."""
    if is_within(version, _SINCE_CONDITIONAL, ""):
        for names, system in ((_WINDOWS, "windows"), (_APPLE, "macos"), (_LINUX, "linux")):
            if name in names:
                return frozenset({system})
    return frozenset({"linux", "macos"}) if name == "allow_running_as_root" else frozenset()


def effect_of(name: str, version: str, system: str) -> str:
    """Return why a flag that is accepted has no effect in a version on a system, or ``""``."""
    for fact in _EFFECTS.get(name, ()):
        if is_within(version, fact.since, fact.until) and (not fact.systems or system in fact.systems):
            return fact.text
    return ""


def _openvino(devices: str, modes: str, listed: str, *extra: str, partition: bool = True) -> Accepted:
    plain = tuple(devices.split())
    without = tuple(f"{device}_NO_PARTITION" for device in plain if partition)
    return Accepted((*plain, *without, *extra), tuple(modes.split()), tuple(listed.split()))


_VPU: Final = "VAD-M_FP16 MYRIAD_FP16 VAD-F_FP32"
_OLD_DEVICES: Final = "CPU GPU MYRIAD FPGA HDDL"
_PRECISIONS: Final = "CPU_FP32 CPU_FP16 GPU_FP32 GPU_FP16"
_THREE: Final = "HETERO MULTI AUTO"
_KINDS: Final = Accepted(("shared_lib", "static_lib"))
_ACCEPTED: Final[Mapping[str, tuple[tuple[str, str, Accepted], ...]]] = {
    # What the checking function in each version's parser compares with.
    "use_openvino": (
        ("1.6", "1.9", _openvino(f"CPU_FP32 GPU_FP32 GPU_FP16 {_VPU}", "HETERO MULTI", _OLD_DEVICES, partition=False)),
        ("1.10", "1.12", _openvino(f"CPU_FP32 GPU_FP32 GPU_FP16 {_VPU}", _THREE, _OLD_DEVICES)),
        ("1.13", "1.14", _openvino(f"{_PRECISIONS} {_VPU}", _THREE, _OLD_DEVICES)),
        ("1.15", "1.16", _openvino(f"{_PRECISIONS} VPUX_FP16 VPUX_U8", _THREE, "CPU GPU VPUX")),
        ("1.17", "1.17", _openvino(_PRECISIONS, _THREE, "CPU GPU")),
        ("1.18", "1.18", _openvino("CPU GPU NPU", _THREE, "CPU GPU NPU")),
        ("1.19", "", _openvino("CPU GPU NPU", _THREE, "CPU GPU NPU", "NPU_NO_CPU_FALLBACK")),
    ),
    "use_qnn": (("1.21", "", _KINDS),),
    "use_webgpu": (("1.24", "", _KINDS),),
    "minimal_build": (
        ("1.6", "1.6", Accepted(("on", "off", "extended"))),
        ("1.7", "", Accepted(("extended", "custom_ops"))),
    ),
}


def accepted_by(name: str, version: str) -> Accepted | None:
    """Return the values that a flag's own checking function accepts in a version, where that is known."""
    for since, until, accepted in _ACCEPTED.get(name, ()):
        if is_within(version, since, until):
            return accepted
    return None


NEEDS: Final[Mapping[str, str]] = {
    "enable_nvtx_profile": "Needs CUDA: use_cuda, or use_tensorrt, which turns it on.",
    "use_cuda": "Needs the CUDA toolkit and cuDNN: cuda_home and cudnn_home, or CUDA_HOME and CUDNN_HOME.",
    "use_nnapi": "Needs Android: elsewhere a stub is built that cannot run a model on NNAPI.",
    "use_openvino": "Needs OpenVINO's CMake files; uses the full protobuf library, whatever use_full_protobuf says.",
    "use_tensorrt": "Needs TensorRT (tensorrt_home or TENSORRT_HOME) and what use_cuda needs, which it turns on.",
    "parallel": "ortforge gives a number: a bare --parallel starts as many compilers as the machine has CPUs, whatever "
    "the container may use.",
    "build_wheel": "Turns on the Python bindings, which exclude minimal_build, disable_rtti and disable_exceptions.",
    "use_dnnl": "oneDNN is a git clone outside deps.txt.",
    "allow_running_as_root": "Without it build.py refuses to run as root (issue 15164).",
    "no_telemetry": "Telemetry is compiled in unless this is given; ORT_DISABLE_TELEMETRY=1 turns it off at run time.",
}
"""By flag: what it needs or brings, in every version that has it."""
