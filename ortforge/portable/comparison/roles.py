"""The roles that an output of a model can have; ``recognition.py`` says what each means."""

from __future__ import annotations

from typing import Final

__all__ = ["ROLES"]

ROLES: Final = (
    "classifier",
    "tokens",
    "segmentation",
    "detector",
    "detections",
    "mask",
    "image",
    "embedding",
    "labels",
    "indices",
    "counts",
    "values",
    "constant",
    "ignored",
)
"""Every role, in the order of that module's table."""
