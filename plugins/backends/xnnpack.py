"""XNNPACK: Google's kernels for floating point and quantized operators on CPUs.

It runs on any of the processors below, and yet no published wheel holds it: it takes a build from source.
"""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Availability, Backend, BuildContext, BuildContribution, Device, available, unavailable

from ._building import release
from ._needs import ARM64, X86_64, other_machine


def ortforge_backends() -> Iterable[Backend]:
    """Give the XNNPACK backend."""
    yield Backend(
        name="xnnpack",
        ep="XnnpackExecutionProvider",
        summary="XNNPACK kernels, on x86-64 and ARM CPUs",
        versions=">=1.12",
        # It has a thread pool besides the session's, of one thread unless this is set.
        # https://onnxruntime.ai/docs/execution-providers/Xnnpack-ExecutionProvider.html
        threads_option="intra_op_num_threads",
        availability=_availability,
        build=_build,
    )


def _availability(device: Device) -> Availability:
    problem = other_machine(device, *X86_64, *ARM64, "armv7l", "wasm32")
    return unavailable(f"XNNPACK has no kernels here: {problem}") if problem else available()


def _build(context: BuildContext) -> BuildContribution | None:
    """``--use_xnnpack`` exists since 1.12; the EP is linked in, so the wheel holds no file of its own.

    With the system's packages the wheel brings their library: it comes in when the wheel is repaired.
    """
    if release(context.version) < (1, 12, 0):
        return None
    linked = context.dependencies == "system" and context.artifact == "wheel"
    return BuildContribution(flags={"use_xnnpack": True}, must_hold=("libXNNPACK*.so*",) if linked else ())
