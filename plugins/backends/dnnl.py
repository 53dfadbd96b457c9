"""oneDNN (once MKL-DNN): Intel's kernels for CPUs. No published wheel holds it: it takes a build from source."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ortforge.api import Availability, Backend, BuildContext, BuildContribution, Device, available, unavailable

from ._needs import ARM64, X86_64, other_machine


def ortforge_backends() -> Iterable[Backend]:
    """Give the oneDNN backend."""
    yield Backend(
        name="dnnl",
        ep="DnnlExecutionProvider",
        summary="oneDNN kernels, on x86-64 and ARM CPUs",
        versions=">=1.1",
        availability=_availability,
        build=_build,
    )


def _availability(device: Device) -> Availability:
    problem = other_machine(device, *X86_64, *ARM64)
    return unavailable(f"oneDNN is not built here: {problem}") if problem else available()


def _build(context: BuildContext) -> BuildContribution | None:
    """``--use_dnnl`` exists since 1.1; before, the EP had another name (``--use_mkldnn``)."""
    if [int(part) for part in re.findall(r"\d+", context.version)[:2]] < [1, 1]:
        return None
    return BuildContribution(
        flags={"use_dnnl": True},
        must_hold=(
            "onnxruntime/capi/libonnxruntime_providers_dnnl.so",
            "onnxruntime/capi/libonnxruntime_providers_shared.so",
        ),
    )
