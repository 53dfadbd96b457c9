"""QNN: Qualcomm's accelerators, as a plugin EP (onnxruntime-qnn 2.x, ONNX Runtime 1.24.2 or newer).

On x86-64 Linux its HTP backend is an emulator: right for parity of quantized models, far too slow for timings.
"""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Availability, Backend, Device, PluginEp, available, unavailable

from ._needs import ARM64, X86_64, describe, other_system

_SIGNS = ("qualcomm", "snapdragon", "hexagon")


def ortforge_backends() -> Iterable[Backend]:
    """Give the QNN backend: the HTP (NPU), which wants fixed shapes and QDQ models."""
    yield Backend(
        name="qnn",
        ep="QNNExecutionProvider",
        summary="Qualcomm's NPU (HTP), or its emulator on x86-64 Linux; fixed shapes and QDQ models",
        published=("onnxruntime-qnn",),
        versions=">=1.24.2",
        options={"backend_type": "htp"},
        availability=_availability,
        software=_software,
        # The library takes the name that it is registered under as its EP's name.
        plugin=PluginEp("onnxruntime-qnn", "onnxruntime_qnn", "QNNExecutionProvider"),
    )


def _software(device: Device) -> str:
    if device.system == "linux" and device.machine in X86_64:
        return "QNN's HTP backend is an emulator on x86-64 Linux"
    return ""


def _availability(device: Device) -> Availability:
    problem = other_system(device, "linux", "windows", "android")
    if problem:
        return unavailable(f"QNN does not run here: {problem}")
    if device.system == "linux" and device.machine in X86_64:
        return available()
    named = " ".join((device.cpu_model, *device.npus)).lower()
    if device.machine in ARM64 and any(sign in named for sign in _SIGNS):
        return available()
    return unavailable(f"no Qualcomm processor was found on this device ({describe(device)})")
