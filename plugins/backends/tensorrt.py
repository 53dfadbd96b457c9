"""TensorRT: NVIDIA's compiler for its GPUs.

The wheel holds the EP but not TensorRT itself: the target must also require it (``tensorrt`` of the major version
that the wheel was built for), or the EP fails to load and the cell says so.
"""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Availability, Backend, Device

from ._needs import on_nvidia


def ortforge_backends() -> Iterable[Backend]:
    """Give the TensorRT backend."""
    yield Backend(
        name="tensorrt",
        ep="TensorrtExecutionProvider",
        summary="TensorRT engines, on NVIDIA GPUs",
        published=("onnxruntime-gpu",),
        availability=_availability,
        address_space_limit=False,
    )


def _availability(device: Device) -> Availability:
    return on_nvidia(device, "TensorRT")
