"""What several backends ask of a build: versions compared, where libraries lie, and refusals in the same words."""

from __future__ import annotations

import re
from collections.abc import Callable

from ortforge.api import BuildContext, BuildContribution, ConfigurationError

CUSTOM = ("/", "Dockerfile")
"""What the path of somebody's own Dockerfile has, and the name of one of ortforge's has not."""


def release(version: str) -> tuple[int, int, int]:
    """Return a version's first three numbers, so that versions compare: ``1.21.0rc1`` is ``(1, 21, 0)``."""
    numbers = [int(part) for part in re.findall(r"\d+", version)[:3]]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch


def library(context: BuildContext, name: str) -> str:
    """Return where a library of ORT's has to lie: in the wheel's ``capi``, or anywhere in a C++ tree."""
    return f"onnxruntime/capi/{name}" if context.artifact == "wheel" else name


def need_image(context: BuildContext, ep: str, what: str, *images: str) -> None:
    """Refuse an image of ortforge's that lacks what an EP is built against; somebody's own image may have it.

    :param what: what it lacks. :param images: those that have it.
    """
    if context.image in images or any(sign in context.image for sign in CUSTOM):
        return
    names = " or ".join(f'image = "{name}"' for name in images)
    raise ConfigurationError(
        f"{ep} is built against {what}, which the image {context.image} does not have.",
        todo=f"Write {names} into the target, or name a Dockerfile of your own that brings it.",
    )


def refuse(ep: str, why: str, todo: str) -> Callable[[BuildContext], BuildContribution | None]:
    """Return what a backend answers whose EP no build here can hold."""

    def answer(context: BuildContext) -> BuildContribution | None:
        raise ConfigurationError(f"{ep} cannot be built into ONNX Runtime here: {why}.", todo=todo)

    return answer
