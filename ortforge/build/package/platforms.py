"""What a platform tag promises: which libraries every such machine has, and in which versions.

``manylinux_X_Y`` promises glibc X.Y (PEP 600). Which other libraries may be relied on, and up to which versions of
their symbols, is a policy that auditwheel carries as data; it is read from there, so that the two never disagree.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ortforge.errors import BuildError, EnvironmentLacksError

__all__ = ["Platform", "glibc_of", "platform_of", "strictest"]

_MANYLINUX: Final = re.compile(r"manylinux_(\d+)_(\d+)_(\w+)")
_MUSLLINUX: Final = re.compile(r"musllinux_(\d+)_(\d+)_(\w+)")
_OLD: Final = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_LINUX: Final = re.compile(r"linux_(\w+)")


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform tag, understood.

    :param tag: ``manylinux_2_28_x86_64``. :param machine: ``x86_64``. :param glibc: promised, ``None`` where the tag
        says nothing of it (``linux_x86_64``) or there is none (musl). :param libraries: sonames that may be relied on.
    :param versions: prefix (``GLIBCXX``) to the symbol versions that may be relied on; a prefix that is missing is
        not limited.
    """

    tag: str
    machine: str
    glibc: tuple[int, int] | None = None
    libraries: frozenset[str] = frozenset()
    versions: Mapping[str, frozenset[str]] = field(default_factory=dict)


def glibc_of(text: str) -> tuple[int, int]:
    """Return a glibc version as numbers.

    :raises BuildError: it is none.

    >>> glibc_of("2.36")
    (2, 36)
    """
    found = re.fullmatch(r"(\d+)\.(\d+)", text)
    if found is None:
        raise BuildError(f"{text!r} is no version of glibc.", meant="Something like 2.36.")
    return int(found[1]), int(found[2])


def strictest(tags: Iterable[str]) -> Platform | None:
    """Return the platform with the least promises among a wheel's platform tags: it may be installed on any of them.

    ``None`` when none of them is a Linux tag.
    """
    known = [platform for tag in tags if (platform := platform_of(tag)) is not None]
    return min(known, key=lambda platform: platform.glibc or (99, 0)) if known else None


def platform_of(tag: str) -> Platform | None:
    """Return what a Linux platform tag promises; ``None`` for ``any`` and for other systems.

    :raises EnvironmentLacksError: auditwheel, which knows it, is not installed.
    """
    old, _, machine = tag.partition("_")
    if old in _OLD:
        return _manylinux(tag, _OLD[old], machine)
    if found := _MANYLINUX.fullmatch(tag):
        return _manylinux(tag, (int(found[1]), int(found[2])), found[3])
    if found := _MUSLLINUX.fullmatch(tag):
        machine = found[3]
        own = {"x86_64": "x86_64", "i686": "x86"}.get(machine, machine)
        return Platform(tag, machine, libraries=frozenset({f"libc.musl-{own}.so.1", "libc.so", "libz.so.1"}))
    if found := _LINUX.fullmatch(tag):
        newest = _policies()[-1]
        return Platform(tag, found[1], libraries=newest[1])
    return None


def _manylinux(tag: str, glibc: tuple[int, int], machine: str) -> Platform:
    """Take the newest policy that is not newer than the tag; its limits on libraries other than glibc only count
    where auditwheel knows of this glibc or a newer one.
    """
    policies = _policies()
    fitting = [policy for policy in policies if policy[0] <= glibc] or policies[:1]
    _, libraries, symbols = fitting[-1]
    versions = {prefix: frozenset(known) for prefix, known in symbols.get(machine, {}).items() if prefix != "GLIBC"}
    return Platform(tag, machine, glibc, libraries, versions if glibc <= policies[-1][0] else {})


@functools.cache
def _policies() -> list[tuple[tuple[int, int], frozenset[str], Mapping[str, Any]]]:
    """Return auditwheel's policies, oldest first: glibc, libraries, machine to prefix to versions."""
    from importlib import resources

    try:
        text = resources.files("auditwheel.policy").joinpath("manylinux-policy.json").read_text(encoding="utf-8")
    except (ImportError, FileNotFoundError):
        raise EnvironmentLacksError(
            "Auditing a wheel takes auditwheel's policies, and auditwheel is not installed.",
            todo="pip install 'ortforge[build]'",
        ) from None
    found = []
    for policy in json.loads(text):
        if match := re.fullmatch(r"manylinux_(\d+)_(\d+)", policy["name"]):
            numbers = int(match[1]), int(match[2])
            found.append((numbers, frozenset(policy["lib_whitelist"]), policy["symbol_versions"]))
    return sorted(found, key=lambda policy: policy[0])
