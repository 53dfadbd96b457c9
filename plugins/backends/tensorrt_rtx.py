"""TensorRT for RTX, as a plugin EP: a compiler of the TensorRT family whose libraries come with its Python package.

It takes QDQ models; calibration tables are for TensorRT's own EP. On a GPU that it was not made for it offers no
device, without saying why, so the device decides here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ortforge.api import Availability, Backend, Device, Gpu, PluginEp, unavailable

from ._needs import gpus_of, on_nvidia


def ortforge_backends() -> Iterable[Backend]:
    """Give the TensorRT for RTX backend."""
    package = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
    yield Backend(
        name="tensorrt-rtx",
        ep="NvTensorRTRTXExecutionProvider",
        summary="TensorRT for RTX, on NVIDIA's RTX GPUs",
        published=(package,),
        versions=">=1.24",
        availability=_availability,
        plugin=PluginEp(package, "onnxruntime_ep_nv_tensorrt_rtx", "NvTensorRTRTXExecutionProvider"),
        address_space_limit=False,
        objection=_objection,
    )


def _availability(device: Device) -> Availability:
    answer = on_nvidia(device, "TensorRT for RTX")
    if not answer.usable or any(_taken(gpu) for gpu in gpus_of(device, "nvidia")):
        return answer
    found = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in gpus_of(device, "nvidia"))
    return unavailable(
        f"TensorRT for RTX takes GPUs of compute capability 8.6, 8.9, and 12.0 or newer, and not {found}"
    )


def _taken(gpu: Gpu) -> bool:
    """Tell whether the EP takes a GPU: as the messages in its library say (0.5.0). Unknown capabilities are tried."""
    major, _, minor = gpu.compute_capability.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        return True
    number = (int(major), int(minor))
    return number in ((8, 6), (8, 9)) or number >= (12, 0)


def _objection(options: Mapping[str, str], session: Mapping[str, Any], device: Device) -> str:
    """A plugin EP runs on the first device that it offers."""
    if "device_id" in options:
        return (
            "TensorRT for RTX takes no device_id: choose the GPU with CUDA_VISIBLE_DEVICES in the environment of its "
            "target"
        )
    return ""
