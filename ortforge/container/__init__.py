"""Containers of a Docker engine: the one place that knows the Docker SDK."""

from __future__ import annotations

from ortforge.container.container import Container
from ortforge.container.engine import Engine, EngineFacts, VolumeFacts, connect
from ortforge.container.failures import ContainerLostError
from ortforge.container.images import ImageFacts
from ortforge.container.spec import ContainerSpec, Ran, caller

__all__ = [
    "Container",
    "ContainerLostError",
    "ContainerSpec",
    "Engine",
    "EngineFacts",
    "ImageFacts",
    "Ran",
    "VolumeFacts",
    "caller",
    "connect",
]
