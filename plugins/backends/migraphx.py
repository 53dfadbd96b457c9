"""MIGraphX: AMD GPUs with ROCm, on Linux.

ONNX Runtime's Python has no name for its memory (1.21 to 1.32 know cuda, dml, cann and webgpu, and new ones any GPU by
its maker's number), so inputs and outputs lie in the host's and each timed run copies them.
"""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Availability, Backend, Device, available, unavailable

from ._building import refuse
from ._needs import describe, gpus_of, other_system


def ortforge_backends() -> Iterable[Backend]:
    """Give the MIGraphX backend. ROCm itself must be installed on the machine."""
    yield Backend(
        name="migraphx",
        ep="MIGraphXExecutionProvider",
        summary="MIGraphX, on AMD GPUs with ROCm",
        published=("onnxruntime-migraphx",),
        versions=">=1.4",
        availability=_availability,
        build=refuse(
            "MIGraphXExecutionProvider",
            "there is no toolchain image with ROCm and MIGraphX",
            'Take it from a package: requires = ["onnxruntime-migraphx"].',
        ),
        address_space_limit=False,
    )


def _availability(device: Device) -> Availability:
    problem = other_system(device, "linux")
    if problem:
        return unavailable(f"MIGraphX does not run here: {problem}")
    if not gpus_of(device, "amd", "advanced micro devices"):
        return unavailable(f"no AMD GPU was found on this device ({describe(device)})")
    return available()
