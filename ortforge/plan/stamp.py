"""Whether an optimized model may run where it is about to: its stamp names the conditions it was made under.

ONNX Runtime writes the graph that it would itself run into the file. What that graph depends on grows with the level:

======== ==========================================================================================================
level    the saved graph holds
======== ==========================================================================================================
basic    ONNX operators alone: constants folded, dead nodes gone. It runs anywhere.
extended fused operators that only the EP it was made for is sure to have.
layout   weights reordered into blocks of the CPU's vector width (16 with AVX-512, 8 without) for internal operators
         that change between ONNX Runtime versions without notice: elsewhere it fails or computes garbage.
all      the same as layout.
======== ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

__all__ = ["MATTERING_CPU_FLAGS", "broken"]

MATTERING_CPU_FLAGS: Final = frozenset(
    {
        "amx_bf16",
        "amx_int8",
        "amx_tile",
        "asimddp",
        "avx",
        "avx2",
        "avx512_bf16",
        "avx512_vnni",
        "avx512bw",
        "avx512f",
        "avx512vl",
        "avx_vnni",
        "bf16",
        "i8mm",
        "sve",
    }
)
"""CPU features by which ORT's CPU EP chooses kernels and weight layouts (names as Linux gives them)."""


def broken(stamp: Mapping[str, Any], *, ort_version: str, ep: str, cpu_flags: Collection[str]) -> str:
    """Return why a stamped model must not run here, or ``""`` when its stamp holds.

    :param stamp: ``{"ort_version", "ep", "level", "cpu_flags"}``, as the ``optimize`` pass returns it.
    :param ort_version: version of the runtime it would run on.
    :param ep: short name of the EP it would run on.
    :param cpu_flags: all features of the CPU it would run on; those that don't matter are ignored.
    """
    level = stamp.get("level", "all")
    made_for = stamp.get("ep", "")
    if level == "basic":
        return ""
    again = "Make it again there: run the recipe for this target, or use level = 'basic'."
    if made_for != ep:
        return (
            f"The model was optimized at level {level} for the EP {made_for}, and its fused operators may not exist "
            f"on {ep}. {again}"
        )
    if level == "extended":
        return ""
    if stamp.get("ort_version", "") != ort_version:
        return (
            f"The model was optimized at level {level} by ONNX Runtime {stamp.get('ort_version', '(unknown)')}, and "
            f"its internal operators change between versions; this runtime is {ort_version}. {again}"
        )
    had, has = set(stamp.get("cpu_flags", ())), MATTERING_CPU_FLAGS.intersection(cpu_flags)
    if had != has:
        lacks, more = ", ".join(sorted(had - has)), ", ".join(sorted(has - had))
        differs = "; ".join(
            part
            for part in (f"this CPU lacks {lacks}" if lacks else "", f"it has {more} besides" if more else "")
            if part
        )
        return (
            f"The model was optimized at level {level} with weights laid out for another CPU's vector units "
            f"({differs}). {again}"
        )
    return ""
