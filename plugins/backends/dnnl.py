"""oneDNN (once MKL-DNN): Intel's kernels for CPUs. No published wheel holds it: it takes a build from source."""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Availability, Backend, BuildContext, BuildContribution, Device, available, unavailable

from ._building import library, release
from ._needs import ARM64, X86_64, other_machine


def ortforge_backends() -> Iterable[Backend]:
    """Give the oneDNN backend."""
    yield Backend(
        name="dnnl",
        ep="DnnlExecutionProvider",
        summary="oneDNN kernels, on x86-64 and ARM CPUs",
        versions=">=1.1",
        # Its threads are OpenMP's, which wait busily by default: with a neighbour on the machine, every one of the
        # many small primitives of a graph then takes as long as the kernel lets the neighbour run.
        environment={"OMP_WAIT_POLICY": "passive"},
        threads_option="num_of_threads",
        availability=_availability,
        build=_build,
    )


def _availability(device: Device) -> Availability:
    problem = other_machine(device, *X86_64, *ARM64)
    return unavailable(f"oneDNN is not built here: {problem}") if problem else available()


def _build(context: BuildContext) -> BuildContribution | None:
    """``--use_dnnl`` exists since 1.1; before, the EP had another name (``--use_mkldnn``).

    A distribution's oneDNN comes into the wheel when it is repaired, as the provider needs it. ORT's own does not:
    setup.py packs libdnnl.so.2, and its build makes .so.3 since 1.14 (ORT 10275).
    """
    if release(context.version) < (1, 1, 0):
        return None
    return BuildContribution(
        flags={"use_dnnl": True},
        bundle=() if context.dependencies == "system" else ("libdnnl.so.[0-9]",),
        must_hold=(
            library(context, "libonnxruntime_providers_dnnl.so"),
            library(context, "libonnxruntime_providers_shared.so"),
            *(("libdnnl*.so*",) if context.artifact == "wheel" or context.dependencies != "system" else ()),
        ),
    )
