"""Core ML: Apple's CPU, GPU and Neural Engine. The ordinary macOS wheel holds it."""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Availability, Backend, Device, available, unavailable

from ._building import refuse
from ._needs import other_system


def ortforge_backends() -> Iterable[Backend]:
    """Give the Core ML backend."""
    yield Backend(
        name="coreml",
        ep="CoreMLExecutionProvider",
        summary="Core ML, on Apple devices",
        published=("onnxruntime", "onnxruntime-silicon"),
        versions=">=1.7",
        availability=_availability,
        build=refuse(
            "CoreMLExecutionProvider",
            "it needs macOS and its compiler, and builds run in Linux containers",
            'Take it from a package on a Mac: requires = ["onnxruntime"].',
        ),
    )


def _availability(device: Device) -> Availability:
    problem = other_system(device, "darwin")
    return unavailable(f"Core ML does not run here: {problem}") if problem else available()
