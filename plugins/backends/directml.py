"""DirectML: any DirectX 12 GPU, on Windows."""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Availability, Backend, Device, available, unavailable

from ._building import refuse
from ._needs import describe, other_system


def ortforge_backends() -> Iterable[Backend]:
    """Give the DirectML backend. It allows neither memory patterns nor parallel execution in a session.

    ``dml`` is ONNX Runtime's name of its memory, for binding tensors, and of its allocator.
    """
    yield Backend(
        name="directml",
        ep="DmlExecutionProvider",
        summary="DirectML, on DirectX 12 GPUs under Windows",
        published=("onnxruntime-directml",),
        availability=_availability,
        build=refuse(
            "DmlExecutionProvider",
            "it needs Windows and its compiler, and builds run in Linux containers",
            'Take it from a package on Windows: requires = ["onnxruntime-directml"].',
        ),
        address_space_limit=False,
        memory="dml",
    )


def _availability(device: Device) -> Availability:
    problem = other_system(device, "windows")
    if problem:
        return unavailable(f"DirectML does not run here: {problem}")
    if not device.gpus:
        return unavailable(f"no GPU was found on this device ({describe(device)})")
    return available()
