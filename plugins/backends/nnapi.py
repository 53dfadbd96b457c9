"""NNAPI: Android's neural network interface. There are no Python wheels for it."""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Availability, Backend, Device, available, unavailable

from ._building import refuse
from ._needs import other_system


def ortforge_backends() -> Iterable[Backend]:
    """Give the NNAPI backend."""
    yield Backend(
        name="nnapi",
        ep="NnapiExecutionProvider",
        summary="NNAPI, on Android devices",
        versions=">=1.4",
        availability=_availability,
        build=refuse(
            "NnapiExecutionProvider",
            "it needs Android's NDK and runs on Android alone, where Python wheels are not used",
            "Build it with ONNX Runtime's own scripts for Android.",
        ),
    )


def _availability(device: Device) -> Availability:
    problem = other_system(device, "android")
    return unavailable(f"NNAPI does not run here: {problem}") if problem else available()
