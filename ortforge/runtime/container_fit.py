"""Whether a wheel fits an interpreter and a C library: this machine's, or an image's. Pure, by file names and versions.

Formats: "Platform compatibility tags" of the PyPA specifications (PEP 425, 600, 656).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

__all__ = ["DEFAULT_IMAGE", "image_for", "platform_misfit", "platforms_of", "python_misfit", "pythons_of"]

DEFAULT_IMAGE: Final = "debian:trixie-slim"
"""The image for wheels that do not say which one they want, and what is in it."""
_ITS_PYTHON: Final = "3.13"
_ITS_LIBC: Final = "glibc 2.41"

_LEGACY: Final = {"manylinux2014": 17, "manylinux2010": 12, "manylinux1": 5}
"""Minor versions of glibc 2 that the older names of platforms stand for (PEP 600)."""

_OLDEST_GLIBC: Final = {"x86_64": 5, "i686": 5}
"""Minor version of the oldest glibc 2 that has a platform name; 17 for all other machines."""

_NEWEST_MUSL: Final = 2
"""musl 1.2 is from 2020, and there is no 1.3."""


def platforms_of(machine: str, libc: str) -> tuple[str, ...]:
    """Return the platform tags that a Linux with a C library supports, newest first.

    :param machine: ``x86_64``, ``aarch64``. :param libc: ``glibc 2.41``; ``musl`` or ``musl 1.2.5``.

    >>> platforms_of("aarch64", "glibc 2.18")
    ('manylinux_2_18_aarch64', 'manylinux_2_17_aarch64', 'manylinux2014_aarch64', 'linux_aarch64')
    """
    found = re.match(r"glibc 2\.(\d+)", libc)
    if found is None:
        musl = range(_NEWEST_MUSL, -1, -1) if libc.startswith("musl") else ()
        return (*(f"musllinux_1_{minor}_{machine}" for minor in musl), f"linux_{machine}")
    oldest = _OLDEST_GLIBC.get(machine, 17)
    names = []
    for minor in range(int(found[1]), oldest - 1, -1):
        names.append(f"manylinux_2_{minor}_{machine}")
        names += [f"{name}_{machine}" for name, stands_for in _LEGACY.items() if stands_for == minor]
    return (*names, f"linux_{machine}")


def _tags(filename: str) -> frozenset[Tag]:
    return parse_wheel_filename(filename)[3]


def platform_misfit(filename: str, platforms: Collection[str]) -> str:
    """Return what a wheel needs of a system that supports only these platform tags, or ``""`` when it fits.

    >>> platform_misfit("a-1-cp313-cp313-manylinux_2_41_x86_64.whl", platforms_of("x86_64", "glibc 2.36"))
    'needs glibc 2.41'
    """
    wanted = sorted({tag.platform for tag in _tags(filename)})
    if any(name == "any" or name in platforms for name in wanted):
        return ""
    machines = {name.split("linux_", 1)[-1] for name in platforms if name.startswith("linux_")}
    glibc = [re.fullmatch(r"manylinux_2_(\d+)_(.+)", name) for name in wanted]
    minors = [int(one[1]) for one in glibc if one and one[2] in machines]
    if minors:
        return f"needs glibc 2.{min(minors)}"
    if any(re.fullmatch(rf"musllinux_\d+_\d+_({'|'.join(map(re.escape, machines))})", name) for name in wanted):
        return "needs musl, another C library"
    return f"is for {' or '.join(wanted)}"


def python_misfit(filename: str, version: str) -> str:
    """Return which Python a wheel is for, or ``""`` when it fits CPython of that version (``3.13.5``).

    >>> python_misfit("a-1-cp313-cp313-linux_x86_64.whl", "3.11.2")
    'is for cp313, not for Python 3.11'
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    own = f"cp{major}{minor}"
    fitting: Iterable[Tag] = (
        *cpython_tags((major, minor), abis=[own], platforms=["any"]),
        *compatible_tags((major, minor), interpreter=own, platforms=["any"]),
    )
    pairs = {(tag.interpreter, tag.abi) for tag in fitting}
    tags = _tags(filename)
    if any((tag.interpreter, tag.abi) in pairs for tag in tags):
        return ""
    return f"is for {' or '.join(sorted({tag.interpreter for tag in tags}))}, not for Python {major}.{minor}"


def pythons_of(filename: str) -> tuple[str, ...]:
    """Return the CPython versions that a wheel was made for, oldest first; none when it is for no particular one."""
    versions = set()
    for tag in _tags(filename):
        found = re.fullmatch(r"cp3(\d+)", tag.interpreter)
        if not found or tag.abi == "abi3":
            return ()
        versions.add(int(found[1]))
    return tuple(f"3.{minor}" for minor in sorted(versions))


def image_for(filenames: Sequence[str], pythons: Sequence[str], machine: str) -> str:
    """Return an image whose Python and C library wheels fit, or ``""`` when none is known.

    :param filenames: of local wheels. :param pythons: versions (``3.12``) that may be taken; empty for any.

    >>> image_for([], ["3.11", "3.12"], "x86_64")
    'python:3.12-slim'
    """
    if any(platform_misfit(name, platforms_of(machine, _ITS_LIBC)) for name in filenames):
        return ""
    allowed = [set(pythons)] if pythons else []
    allowed += [set(made_for) for name in filenames if (made_for := pythons_of(name))]
    if not allowed:
        return DEFAULT_IMAGE
    common = set.intersection(*allowed)
    if _ITS_PYTHON in common:
        return DEFAULT_IMAGE
    newest = max(common, key=lambda version: int(version.partition(".")[2]), default="")
    return f"python:{newest}-slim" if newest else ""
