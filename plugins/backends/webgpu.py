"""WebGPU, as a plugin EP (onnxruntime-ep-webgpu, ONNX Runtime 1.24.4 or newer): GPUs by Vulkan, Direct3D 12 or Metal.

Without a GPU it runs on SwiftShader, a Vulkan driver in software, some hundred times slower: good for parity alone,
and only where the user set it up (see the reason below).

Inputs and outputs lie in the host's memory and each timed run copies them: a buffer of WebGPU's belongs to one session,
and versions differ in how Python gets one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ortforge.api import Availability, Backend, Device, PluginEp, available, unavailable

from ._needs import describe, other_system

_ALLOW = "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"
_DRIVER = "VK_DRIVER_FILES"
_SOFTWARE_DRIVERS = ("swiftshader", "lvp", "llvmpipe")
"""Parts of the file names of Vulkan drivers in software: SwiftShader, and Mesa's lavapipe."""


def ortforge_backends() -> Iterable[Backend]:
    """Give the WebGPU backend."""
    yield Backend(
        name="webgpu",
        ep="WebGpuExecutionProvider",
        summary="WebGPU, on GPUs of any maker",
        published=("onnxruntime-ep-webgpu",),
        versions=">=1.24.4",
        availability=_availability,
        software=_software,
        plugin=PluginEp("onnxruntime-ep-webgpu", "onnxruntime_ep_webgpu", "WebGpuExecutionProvider"),
        address_space_limit=False,
        variables=(_ALLOW, _DRIVER),
    )


def _software(device: Device) -> str:
    named = os.environ.get(_DRIVER, "").lower()
    if _software_driver() and (not device.gpus or any(name in named for name in _SOFTWARE_DRIVERS)):
        return f"WebGPU runs on a software adapter here ({_DRIVER})"
    return ""


def _availability(device: Device) -> Availability:
    problem = other_system(device, "linux", "windows", "darwin")
    if problem:
        return unavailable(f"WebGPU does not run here: {problem}")
    if device.gpus or _software_driver():
        return available()
    return unavailable(
        f"no GPU was found on this device ({describe(device)}); for parity alone a software driver will do: "
        f"set {_ALLOW}=1 and {_DRIVER} to SwiftShader's .json file"
    )


def _software_driver() -> bool:
    """Whether the user allowed a software adapter and named a Vulkan driver that is there."""
    drivers = [name for name in os.environ.get(_DRIVER, "").split(os.pathsep) if name]
    return os.environ.get(_ALLOW) == "1" and any(Path(name).is_file() for name in drivers)
