"""Is a GPU's driver seen? Without one, cells on GPU execution providers are ``unsupported``."""

from __future__ import annotations

import glob
from collections.abc import Iterable

from ortforge.api import Check, CheckContext, CheckOutcome


def ortforge_checks() -> Iterable[Check]:
    """Give the check."""
    yield Check(name="gpu", summary="a GPU's driver answers, where there is a GPU", run=check)


def check(context: CheckContext) -> CheckOutcome:
    """Say what was probed, and whether a driver's device node is there that does not answer."""
    if context.device.gpus:
        seen = (f"{gpu.name} (driver {gpu.driver or 'unknown'})" for gpu in context.device.gpus)
        return CheckOutcome("ok", "; ".join(seen))
    if glob.glob("/dev/nvidia[0-9]*"):  # noqa: PTH207  (nothing but whether there are any)
        return CheckOutcome(
            "warning",
            "There is an NVIDIA device node, and nvidia-smi does not answer.",
            "Put nvidia-smi on PATH, or let the container have it (nvidia-container-toolkit, capability 'utility').",
        )
    return CheckOutcome("ok", "No GPU's driver is seen: cells on GPU execution providers will be unsupported.")
