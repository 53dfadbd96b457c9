"""CPU tiers: how ONNX Runtime's CPU EP adds up 8-bit integer products on each kind of CPU. This is their only home.

ORT's kernels (MLAS) are chosen when the process starts, by the CPU's instructions. Most compute ``u8 x s8`` products
exactly. Those for AVX2 and for AVX-512 without VNNI use ``vpmaddubsw``: it multiplies two neighbors along K, unsigned
by signed, and adds both products in a *saturating* 16-bit integer, so ``255 * 127 + 255 * 127 = 64770`` becomes 32767.

========================== ======================================================= ======== ======== ===========
tier                       instructions of the kernels                             u8 x s8  u8 x u8  s8 x s8
========================== ======================================================= ======== ======== ===========
``avx2``                   ``vpmaddubsw``; u8 x u8 is widened to 16 bits first      saturate exact    exact
``avx512``                 the same, 512 bits wide (AVX-512 BW, DQ, VL)            saturate exact    exact
``avx-vnni``               ``vpdpbusd``: four products into 32 bits                exact    exact    exact
``avx512-vnni``            the same, 512 bits wide                                 exact    exact    exact
``amx``                    ``tdpbusd``                                             exact    exact    exact
``neon``                   ``smull``, ``smlal``, ``sadalp``: two products in 16 bits, exact except for -128 x -128 twice
``neon-dotprod``           ``udot``, ``sdot`` or ``smmla``: four into 32 bits       exact    exact    exact
========================== ======================================================= ======== ======== ===========

s8 x s8 on x86-64 is computed by scalar code that widens first (or by AVX-VNNI-INT8): exact, and slow. A *QDQ* model
with signed activations is not computed like that: on x86-64 ORT turns its activations into u8 when it loads the model.

Sources: MLAS of ONNX Runtime, ``platform.cpp`` (which CPU gets which kernel), ``qgemm.h`` (which signs get which
kernel), ``convsym.cpp``, ``x86_64/*`` and ``aarch64/Qgemm*.S``, ``ConvSym*.S``; Intel's manual for ``vpmaddubsw``. The
``avx2`` row was compared with ORT 1.32 under QEMU bit for bit (docs/cpu-tiers.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

__all__ = [
    "DEFAULT",
    "EXACT",
    "GROUPS",
    "SATURATING",
    "TIERS",
    "WIDENING",
    "Tier",
    "expand",
    "other_arithmetic",
    "tier_of",
]

EXACT: Final = "exact"
"""Every product is widened to 32 bits before it is added."""

SATURATING: Final = "saturating-pairs"
"""Pairs of u8 x s8 products along K are added in a saturating 16-bit integer."""

WIDENING: Final = "widening-pairs"
"""Two s8 x s8 products are added in a wrapping 16-bit integer: exact unless both are ``-128 * -128``."""


@dataclass(frozen=True, slots=True)
class Tier:
    """One kind of CPU, as ORT's integer kernels distinguish them.

    :param title: the name in sentences.
    :param arithmetic: how u8 x s8 products are added: :data:`EXACT`, :data:`SATURATING` or :data:`WIDENING`.
    """

    name: str
    title: str
    machine: str
    arithmetic: str


TIERS: Final = {
    tier.name: tier
    for tier in (
        Tier("avx2", "AVX2 without VNNI", "x86-64", SATURATING),
        Tier("avx512", "AVX-512 without VNNI", "x86-64", SATURATING),
        Tier("avx-vnni", "AVX-VNNI", "x86-64", EXACT),
        Tier("avx512-vnni", "AVX-512 VNNI", "x86-64", EXACT),
        Tier("amx", "AMX", "x86-64", EXACT),
        Tier("neon", "NEON without dot product", "aarch64", WIDENING),
        Tier("neon-dotprod", "NEON with dot product", "aarch64", EXACT),
    )
}
"""Every tier, by the name that a matrix file uses."""

GROUPS: Final = {
    machine: tuple(name for name, tier in TIERS.items() if tier.machine == machine) for machine in ("x86-64", "aarch64")
}
"""Names for several tiers: all x86-64 CPUs with AVX2, all 64-bit Arm CPUs."""

DEFAULT: Final = GROUPS["x86-64"]
"""Where a model must run unless its ``tiers`` say otherwise."""


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Return the tiers that some names of tiers and groups stand for, in the order of :data:`TIERS`.

    >>> expand(["aarch64", "avx2"])
    ('avx2', 'neon', 'neon-dotprod')

    :raises KeyError: a name is neither a tier nor a group.
    """
    chosen = {tier for name in names for tier in (GROUPS[name] if name in GROUPS else (TIERS[name].name,))}
    return tuple(name for name in TIERS if name in chosen)


def tier_of(cpu_flags: Collection[str]) -> str:
    """Return the tier of a CPU with these features (names as Linux gives them), or ``""`` where none is known.

    The order of the tests is that of MLAS's ``platform.cpp``: AVX-512 without VNNI replaces AVX-VNNI's kernels.

    >>> tier_of({"avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"})
    'avx512'
    """
    flags = set(cpu_flags)
    if "asimddp" in flags:
        return "neon-dotprod"
    if "asimd" in flags:
        return "neon"
    if not {"avx2", "fma"} <= flags:
        return ""
    if {"amx_tile", "amx_int8"} <= flags:
        return "amx"
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "avx512-vnni" if "avx512_vnni" in flags else "avx512"
    return "avx-vnni" if "avx_vnni" in flags else "avx2"


def other_arithmetic(here: str, required: Iterable[str]) -> str:
    """Return :data:`SATURATING` or :data:`EXACT` where a required tier has it and a CPU of tier ``here`` does not.

    ``""`` where none has another, or the CPU's own tier is not known.

    >>> other_arithmetic("amx", ["avx2", "amx"]), other_arithmetic("amx", ["amx", "neon"])
    ('saturating-pairs', '')
    """
    if here not in TIERS:
        return ""
    other = EXACT if TIERS[here].arithmetic == SATURATING else SATURATING
    return other if any((TIERS[name].arithmetic == SATURATING) == (other == SATURATING) for name in required) else ""
