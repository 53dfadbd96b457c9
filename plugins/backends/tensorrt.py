"""TensorRT: NVIDIA's compiler for its GPUs.

The wheel holds the EP but not TensorRT itself: the target must also require it (``tensorrt`` of the major version
that the wheel was built for), or the EP fails to load and the cell says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ortforge.api import Availability, Backend, BuildContext, BuildContribution, Device

from ._building import CUSTOM, library, need_image
from ._needs import on_nvidia
from ._nvidia import cuda_part, need_tensorrt, objection, tensorrt_libraries


def ortforge_backends() -> Iterable[Backend]:
    """Give the TensorRT backend."""
    yield Backend(
        name="tensorrt",
        ep="TensorrtExecutionProvider",
        summary="TensorRT engines, on NVIDIA GPUs",
        published=("onnxruntime-gpu",),
        availability=_availability,
        build=_build,
        address_space_limit=False,
        memory="cuda",
        objection=objection,
    )


def _availability(device: Device) -> Availability:
    return on_nvidia(device, "TensorRT")


def _build(context: BuildContext) -> BuildContribution:
    """It brings the CUDA EP along, which takes the nodes that TensorRT leaves."""
    need_image(context, "TensorrtExecutionProvider", "TensorRT", "tensorrt")
    need_tensorrt(context, "TensorrtExecutionProvider")
    part = cuda_part(context, "TensorrtExecutionProvider")
    own = any(sign in context.image for sign in CUSTOM)
    return replace(
        part,
        flags={**part.flags, "use_tensorrt": True, **({} if own else {"tensorrt_home": "/usr"})},
        must_hold=(*part.must_hold, library(context, "libonnxruntime_providers_tensorrt.so")),
        external_libraries=(*part.external_libraries, *tensorrt_libraries(context.version)),
    )
