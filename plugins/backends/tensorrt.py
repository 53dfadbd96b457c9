"""TensorRT: NVIDIA's compiler for its GPUs.

The wheel holds the EP but not TensorRT itself: the target must also require it (``tensorrt`` of the major version
that the wheel was built for), or the EP fails to load and the cell says so.
"""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Availability, Backend, Device, available, unavailable

from ._needs import describe, gpus_of, other_system


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
    problem = other_system(device, "linux", "windows")
    if problem:
        return unavailable(f"TensorRT does not run here: {problem}")
    if not gpus_of(device, "nvidia"):
        return unavailable(f"no NVIDIA GPU was found on this device ({describe(device)})")
    return available()
