"""Whether an optimized model may run where it is about to: its stamp names the conditions it was made under.

ONNX Runtime writes the graph that it would itself run into the file. What that graph depends on grows with the level:

======== ==========================================================================================================
level    the saved graph holds
======== ==========================================================================================================
basic    ONNX operators alone: constants folded, dead nodes gone. It runs anywhere.
extended fused operators that only the EP it was made for is sure to have, and an older ONNX Runtime may not know.
layout   weights reordered into blocks of the CPU's vector width (16 with AVX-512, 8 without) for internal operators
         that change between ONNX Runtime versions without notice: elsewhere it fails or computes garbage.
all      the same as layout.
======== ==========================================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from ortforge.portable.cpu_tiers import TIERS, tier_of

__all__ = ["KEY", "LEVELS", "MATTERING_CPU_FLAGS", "broken", "joined", "read"]

KEY: Final = "ortforge.stamp"
"""Name of the stamp in a model's metadata."""

LEVELS: Final = ("basic", "extended", "layout", "all")
"""What a stamp's level can be, the one that binds a model the least first."""

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


def read(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the stamp in a model's metadata, or ``{}``.

    One that cannot be read has no level that is known, so :func:`broken` refuses it.
    """
    if KEY not in metadata:
        return {}
    try:
        found = json.loads(metadata[KEY])
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"level": metadata[KEY][:40]}


def joined(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the stamp of a model that two passes have stamped: optimizing a bound graph again does not set it free."""
    if not before or not after:
        found = before or after
        return dict(found) if found else None
    stricter = before.get("level") != "basic" and _rank(before) >= _rank(after)
    if "tiers" in before or "tiers" in after:  # such a stamp need not name a level
        stricter = "level" not in after or ("level" in before and stricter)
    made = dict(before if stricter else after)
    limits = [set(stamp["tiers"]) for stamp in (before, after) if "tiers" in stamp]
    return {**made, "tiers": [name for name in TIERS if all(name in some for some in limits)]} if limits else made


def _rank(stamp: Mapping[str, Any]) -> int:
    level = stamp.get("level")
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def broken(stamp: Mapping[str, Any], *, ort_version: str, ep: str, cpu_flags: Collection[str]) -> str:
    """Return why a stamped model must not run here, or ``""`` when its stamp holds.

    :param stamp: ``{"ort_version", "ep", "level", "cpu_flags"}``, as the ``optimize`` pass returns it; ``tiers`` lists
        the CPU tiers on which the model's integer products are known to be right.
    :param ort_version: version of the runtime it would run on.
    :param ep: short name of the EP it would run on.
    :param cpu_flags: all features of the CPU it would run on; those that don't matter are ignored.
    """
    if "tiers" in stamp:
        if why := _other_tier(stamp["tiers"], tier_of(cpu_flags)):
            return why
        if "level" not in stamp:
            return ""
    level = stamp.get("level", "all")
    if level == "basic":
        return ""
    again = "Make it again there: run the recipe for this target, or use level = 'basic'."
    if level not in LEVELS:
        return (
            f"The model's stamp ({KEY} in its metadata) names the optimization level {level!r}, which is none of "
            f"{', '.join(LEVELS)}: nobody can say what it was optimized for. {again}"
        )
    made_for, made_by = stamp.get("ep", "(unknown)"), str(stamp.get("ort_version", "(unknown)"))
    if made_for != ep:
        return (
            f"The model was optimized at level {level} for the EP {made_for}, and its fused operators may not exist "
            f"on {ep}. {again}"
        )
    if level == "extended":
        return _older(made_by, ort_version, again)
    if made_by != ort_version:
        return (
            f"The model was optimized at level {level} by ONNX Runtime {made_by}, and "
            f"its internal operators change between versions; this runtime is {ort_version}. {again}"
        )
    return _other_cpu(level, set(stamp.get("cpu_flags", ())), MATTERING_CPU_FLAGS.intersection(cpu_flags), again)


def _other_tier(tiers: Collection[str], here: str) -> str:
    if here in tiers:
        return ""
    where = TIERS[here].title if here else "a CPU of no known tier"
    names = ", ".join(TIERS[name].title if name in TIERS else str(name) for name in tiers) or "no CPU tier"
    return (
        f"The model's 8-bit integer products are known to be right on {names}, and this machine is {where}. "
        "Quantize it with reduce_range = true or unsigned weights, or run it on one of these CPUs."
    )


def _older(made_by: str, ort_version: str, again: str) -> str:
    """Return why a runtime may not know the operators of a newer one, or ``""``; patch releases add none."""
    if _minor(ort_version) >= _minor(made_by):
        return ""
    return (
        f"The model was optimized at level extended by ONNX Runtime {made_by}; this runtime is the older "
        f"{ort_version}, which may not know its fused operators. {again}"
    )


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _other_cpu(level: str, had: set[str], has: Collection[str], again: str) -> str:
    has = set(has)
    if had == has:
        return ""
    lacks, more = ", ".join(sorted(had - has)), ", ".join(sorted(has - had))
    differs = "; ".join(
        part for part in (f"this CPU lacks {lacks}" if lacks else "", f"it has {more} besides" if more else "") if part
    )
    return (
        f"The model was optimized at level {level} with weights laid out for another CPU's vector units "
        f"({differs}). {again}"
    )
