"""Which flags exclude or need each other, found before a build rather than in the middle of one.

Read from the checks in build.py and build_args.py, and from the dependent options of cmake/CMakeLists.txt, which turn a
setting off without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ortforge.build.flags.knowledge import is_within

__all__ = ["conflicts"]


@dataclass(frozen=True, slots=True)
class _Rule:
    """``name`` is wrong beside one of ``excludes``, or without one of ``needs``; ``why`` says what would happen."""

    name: str
    why: str
    excludes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    since: str = ""
    until: str = ""


_PYTHON: Final = ("build_wheel", "enable_pybind", "enable_training", "gen_doc")
_WHEEL: Final = 'a wheel holds Python bindings, which {}; build it with artifact = "cxx", or leave it out'

_RULES: Final = (
    _Rule(
        "use_xnnpack",
        "XNNPACK needs contrib operators, and CMake would keep them",
        ("disable_contrib_ops",),
        (),
        "1.12",
    ),
    _Rule("use_cuda", "CUDA needs run-time type information, and CMake would keep it", ("disable_rtti",), (), "1.10"),
    _Rule("use_cuda", "ROCm and CUDA cannot be in one build", ("use_rocm",), (), "1.6"),
    _Rule("use_dml", "DirectML does not support minimal builds", ("minimal_build",), (), "1.6"),
    _Rule("use_jsep", "build.py refuses both in one build", ("use_webgpu",), (), "1.20"),
    _Rule("disable_exceptions", "only a minimal build can do without exceptions", (), ("minimal_build",), "1.5"),
    _Rule("enable_nvtx_profile", "its markers are in CUDA's kernels", (), ("use_cuda", "use_tensorrt", "use_rocm")),
    _Rule("enable_cuda_profiling", "it has no effect without CUDA", (), ("use_cuda", "use_tensorrt")),
    _Rule("enable_cuda_line_info", "it has no effect without CUDA", (), ("use_cuda", "use_tensorrt")),
    _Rule("enable_cuda_minimal_build", "it has no effect without CUDA", (), ("use_cuda", "use_tensorrt")),
    _Rule("disable_cuda_nhwc_ops", "it has no effect without CUDA", (), ("use_cuda", "use_tensorrt")),
    _Rule("use_external_dawn", "build.py refuses it without WebGPU", (), ("use_webgpu",)),
    _Rule("use_qnn", "build.py wants the folder of Qualcomm's SDK", (), ("qnn_home",)),
    _Rule("rv64", "build.py wants the toolchain's folder", (), ("riscv_toolchain_root",)),
    _Rule("dnnl_gpu_runtime", "oneDNN's GPU runtime is built with OpenCL", (), ("dnnl_opencl_root",)),
    _Rule("dnnl_opencl_root", "it says where OpenCL is for oneDNN's GPU runtime", (), ("dnnl_gpu_runtime",)),
    _Rule("dnnl_aarch64_runtime", "it is built with the Arm Compute Library", (), ("dnnl_acl_root",)),
    _Rule("dnnl_acl_root", "it says where the Arm Compute Library is for oneDNN", (), ("dnnl_aarch64_runtime",)),
    _Rule(
        "enable_reduced_operator_type_support",
        "types are reduced to those that the operators' configuration lists",
        (),
        ("include_ops_by_config",),
    ),
    _Rule("enable_lazy_tensor", "CMake turns it off without training", (), ("enable_training",), "1.13"),
)

_FORCED: Final = (
    ("use_tensorrt", "use_cuda", "TensorRT turns CUDA on"),
    ("use_openvino", "use_full_protobuf", "OpenVINO forces the full protobuf library"),
    ("use_vitisai", "use_full_protobuf", "Vitis AI forces the full protobuf library"),
    ("build_wheel", "build_shared_lib", "a wheel holds the shared library"),
    ("build_wheel", "enable_pybind", "a wheel holds the Python bindings"),
)
"""``first`` sets ``second``, so that turning ``second`` off would be lost."""


def conflicts(flags: Mapping[str, Any], version: str, *, artifact: str) -> list[str]:
    """Return a sentence for each pair of flags that cannot be together, or flag that lacks what it needs."""

    def on(name: str) -> bool:
        value = flags.get(name)
        return value is not None and value is not False and value != "off"

    found = [*_python(on, version, artifact), *_needed(flags, on, version)]
    if artifact == "wheel" and on("wheel_name_suffix") and (on("use_cuda") or on("use_tensorrt")):
        found.append(
            "--wheel_name_suffix: with CUDA it breaks setup.py's reading of its arguments; distribution and "
            "local_version in the target name the wheel"
        )
    for first, second, why in _FORCED:
        if flags.get(second) is False and (on(first) or (first == "build_wheel" and artifact == "wheel")):
            found.append(f"--{second}: it cannot be turned off: {why}; remove it")
    return found


def _python(on: Callable[[str], bool], version: str, artifact: str) -> list[str]:
    asked = next((name for name in _PYTHON if on(name)), "")
    if artifact != "wheel" and not asked:
        return []
    whose = _WHEEL if artifact == "wheel" else f"{asked} turns on Python bindings, which {{}}; leave one of the two out"
    reasons = (
        ("minimal_build", "a minimal build does not have", "1.5"),
        ("disable_rtti", "need run-time type information", "1.4"),
        ("disable_exceptions", "need exceptions", "1.5"),
    )
    found = [
        f"--{name}: {whose.format(why)}" for name, why, since in reasons if on(name) and is_within(version, since, "")
    ]
    if on("enable_training_apis") and not on("enable_training") and is_within(version, "1.16", ""):
        found.append(f"--enable_training_apis: {whose.format('need the whole training')}; enable_training is that")
    return found


def _needed(flags: Mapping[str, Any], on: Callable[[str], bool], version: str) -> list[str]:
    found = []
    for rule in _RULES:
        if not on(rule.name) or not is_within(version, rule.since, rule.until):
            continue
        found += [
            f"--{rule.name}: it cannot be together with {other}: {rule.why}; leave one of them out"
            for other in rule.excludes
            if on(other)
        ]
        if rule.needs and not any(on(other) for other in rule.needs):
            found.append(f"--{rule.name}: it needs {' or '.join(rule.needs)}: {rule.why}")
    lowest = flags.get("nnapi_min_api")
    if lowest is not None and str(lowest).isdecimal() and int(lowest) < 27:
        found.append(f"--nnapi_min_api: it is at least 27, not {lowest}")
    return found
