"""CUDA: NVIDIA GPUs.

The wheel lists the EP on machines without a GPU too and then runs on the CPU in silence, so the device decides
here, before anything is installed.
"""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Availability, Backend, Device

from ._needs import on_nvidia


def ortforge_backends() -> Iterable[Backend]:
    """Give the CUDA backend. ONNX Runtime's default allows TF32; ``use_tf32 = "0"`` turns it off."""
    yield Backend(
        name="cuda",
        ep="CUDAExecutionProvider",
        summary="CUDA, on NVIDIA GPUs",
        published=("onnxruntime-gpu",),
        availability=_availability,
        address_space_limit=False,
    )


def _availability(device: Device) -> Availability:
    return on_nvidia(device, "CUDA")
