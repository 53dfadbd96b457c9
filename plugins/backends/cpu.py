"""The CPU execution provider: in every build, runs everywhere, and what the others are held against."""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Backend, BuildContext, BuildContribution


def ortforge_backends() -> Iterable[Backend]:
    """Give the CPU backend."""
    yield Backend(
        name="cpu",
        ep="CPUExecutionProvider",
        summary="ONNX Runtime's own kernels, on any CPU",
        published=("onnxruntime",),
        build=_build,
    )


def _build(context: BuildContext) -> BuildContribution:
    """Nothing to add: it is in every build."""
    return BuildContribution()
