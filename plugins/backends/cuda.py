"""CUDA: NVIDIA GPUs.

The wheel lists the EP on machines without a GPU too and then runs on the CPU in silence, so the device decides
here, before anything is installed.
"""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Availability, Backend, BuildContext, BuildContribution, Device

from ._building import need_image
from ._needs import on_nvidia
from ._nvidia import cuda_part, objection


def ortforge_backends() -> Iterable[Backend]:
    """Give the CUDA backend. ONNX Runtime's default allows TF32; ``use_tf32 = "0"`` turns it off."""
    yield Backend(
        name="cuda",
        ep="CUDAExecutionProvider",
        summary="CUDA, on NVIDIA GPUs",
        published=("onnxruntime-gpu",),
        availability=_availability,
        build=_build,
        address_space_limit=False,
        memory="cuda",
        objection=objection,
    )


def _availability(device: Device) -> Availability:
    return on_nvidia(device, "CUDA")


def _build(context: BuildContext) -> BuildContribution:
    """Its libraries come with the machine, or with NVIDIA's Python packages: ``onnxruntime.preload_dlls()``."""
    need_image(context, "CUDAExecutionProvider", "CUDA and cuDNN", "cuda", "tensorrt")
    return cuda_part(context, "CUDAExecutionProvider")
