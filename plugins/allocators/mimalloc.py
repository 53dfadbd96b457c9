"""mimalloc: small free lists per page, quick for many small allocations."""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Allocator, BuildContext, BuildContribution

from ._first import by_flag_or_first

_SONAME = "libmimalloc.so.3"


def ortforge_allocators() -> Iterable[Allocator]:
    """Give mimalloc."""
    yield Allocator(
        name="mimalloc",
        summary="mimalloc 3, loaded first; built in by a flag up to ONNX Runtime 1.13",
        build=_build,
        preload=_SONAME,
    )


def _build(context: BuildContext) -> BuildContribution:
    """``--use_mimalloc`` still exists and has no effect on Linux since 1.14 (ORT 25213).

    Debian has version 3 since trixie; the distributions below the other images have older ones, of other names.
    """
    return by_flag_or_first(
        context,
        flag="use_mimalloc",
        until=(1, 13),
        soname=_SONAME,
        packages={"": ("libmimalloc3",), "manylinux": (), "cuda": (), "tensorrt": ()},
    )
