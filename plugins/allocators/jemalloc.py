"""jemalloc: arenas per thread, and less fragmentation in processes that live long."""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Allocator, BuildContext, BuildContribution

from ._first import by_flag_or_first

_SONAME = "libjemalloc.so.2"


def ortforge_allocators() -> Iterable[Allocator]:
    """Give jemalloc."""
    yield Allocator(
        name="jemalloc",
        summary="jemalloc 5, loaded first; built in by a flag up to ONNX Runtime 1.6",
        build=_build,
        preload=_SONAME,
    )


def _build(context: BuildContext) -> BuildContribution:
    """build.py had ``--use_jemalloc`` up to 1.6."""
    return by_flag_or_first(
        context,
        flag="use_jemalloc",
        until=(1, 6),
        soname=_SONAME,
        packages={"": ("libjemalloc2",), "manylinux": ("jemalloc",)},
    )
