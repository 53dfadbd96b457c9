"""OpenVINO: Intel's compiler and kernels. Its CPU device also runs on other makers' x86-64 processors."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ortforge.api import Availability, Backend, BuildContext, BuildContribution, Device, available, unavailable

from ._needs import ARM64, X86_64, other_machine, other_system


def ortforge_backends() -> Iterable[Backend]:
    """Give the OpenVINO backend: on the CPU unless ``device_type`` says otherwise."""
    yield Backend(
        name="openvino",
        ep="OpenVINOExecutionProvider",
        summary="OpenVINO, on x86-64 CPUs, and on Intel GPUs and NPUs with device_type",
        published=("onnxruntime-openvino",),
        options={"device_type": "CPU"},
        availability=_availability,
        build=_build,
    )


def _availability(device: Device) -> Availability:
    problem = other_system(device, "linux", "windows", "darwin") or other_machine(device, *X86_64, *ARM64)
    return unavailable(f"OpenVINO does not run here: {problem}") if problem else available()


def _build(context: BuildContext) -> BuildContribution:
    """``--use_openvino`` takes a device: ``CPU`` from 1.18 on, ``CPU_FP32`` before."""
    old = [int(part) for part in re.findall(r"\d+", context.version)[:2]] < [1, 18]
    return BuildContribution(
        flags={"use_openvino": "CPU_FP32" if old else "CPU"},
        must_hold=("onnxruntime/capi/libonnxruntime_providers_openvino.so",),
    )
