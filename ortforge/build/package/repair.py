"""How a wheel is repaired: the calls of auditwheel, which run in the toolchain image, and what they will do.

``auditwheel repair`` copies the libraries that a wheel needs and its tag does not promise into it, under names that
hold a digest, and gives it the best platform tag that its symbol versions allow. Libraries of a GPU's driver have to
stay outside (they belong to the kernel's module), and so do those that another Python package brings.

**Which tag on Debian trixie (glibc 2.41)?** auditwheel's policies end at some glibc; those of 6.8 end at 2.41.
``--plat auto`` gives the oldest that all symbols allow. Trixie's own libraries, grafted, need no glibc newer than
2.38, but GCC 14's libstdc++, which the policies have from 2.39 on: such a wheel becomes ``manylinux_2_39_x86_64``, at
most ``manylinux_2_41_x86_64``, and installers take it where glibc is as new as that. The tag ``linux_x86_64`` would be
taken anywhere, and the import would fail on older systems. So: ``auto`` wherever auditwheel knows the glibc. Where it
does not, a wheel that needs nothing grafted keeps ``linux_x86_64``, with a note, and one that does is refused with
the advice to update auditwheel: half a repair is worse than none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

from ortforge.build.package.archive import Wheel
from ortforge.errors import BuildError, EnvironmentLacksError

__all__ = [
    "AUDITWHEEL",
    "RepairPlan",
    "exclusions",
    "plan_of_repair",
    "read_report",
    "repair_argv",
    "show_argv",
    "superfluous_copies",
]

AUDITWHEEL: Final = ("/opt/auditwheel/bin/auditwheel",)
"""Where the toolchain images have it; ``("python3", "-m", "auditwheel")`` elsewhere. It needs ``patchelf`` on PATH."""

NEVER_GRAFTED: Final = ("libcuda.so.*", "libnvidia-*.so.*", "libnvcuvid.so.*", "libhsa-runtime64.so.*")
"""Libraries of a driver: a copy that does not fit the machine's kernel module cannot work."""

_LIBPYTHON: Final = re.compile(r"libpython\d")


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What a repair will do.

    :param platform: for :func:`repair_argv`; ``""``: leave the wheel as it is. :param graft: soname to the file that
        will be copied. :param excluded: sonames that stay outside. :param isa_check: see :func:`repair_argv`.
    :param notes: sentences for whoever reads the log.
    """

    platform: str
    graft: Mapping[str, str] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()
    isa_check: bool = True
    notes: tuple[str, ...] = ()


def exclusions(external_libraries: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns of sonames that a repair leaves outside, sorted: the backends' and every driver's."""
    return tuple(sorted({*NEVER_GRAFTED, *external_libraries}))


def show_argv(wheel: str, *, auditwheel: Sequence[str] = AUDITWHEEL) -> list[str]:
    """Return the call that prints, as JSON, what :func:`plan_of_repair` reads."""
    return [*auditwheel, "show", "--json", wheel]


def read_report(lines: Iterable[str]) -> dict[str, Any]:
    """Return what ``auditwheel show --json`` printed, from all of its lines, among which may be messages of its log.

    All of them: it prints some 40 lines for each of a dozen policies, more than the last lines of an output hold.

    :raises BuildError: there is no JSON among them.
    """
    text = "\n".join(lines)
    begin, end = text.find("{"), text.rfind("}")
    try:
        report: dict[str, Any] = json.loads(text[begin : end + 1])
    except ValueError:
        last = text.strip().splitlines()[-3:]
        raise BuildError(
            "\n".join(["auditwheel did not say what the wheel needs:", *last]),
            meant="It is not installed in the toolchain image, or too old for 'show --json'.",
            todo="Put a newer auditwheel into the image.",
        ) from None
    return report


def repair_argv(
    wheel: str,
    out: str,
    *,
    exclude: Sequence[str],
    platform: str = "auto",
    isa_check: bool = True,
    auditwheel: Sequence[str] = AUDITWHEEL,
) -> list[str]:
    """Return the call that repairs a wheel into the folder ``out``.

    :param exclude: patterns of sonames, see :func:`exclusions`. :param platform: ``auto``, or a tag's platform.
    :param isa_check: ``False`` for a build that was asked to use instructions which not every machine has: no
        platform tag can say so, and auditwheel refuses it otherwise.
    """
    argv = [*auditwheel, "repair", "--plat", platform, "--wheel-dir", out]
    argv += ["--zip-compression-level", "1"]  # it is packed again, the same way every time, when it is rewritten
    argv += [] if isa_check else ["--disable-isa-ext-check"]
    for pattern in exclude:
        argv += ["--exclude", pattern]
    return [*argv, wheel]


def plan_of_repair(report: Mapping[str, Any], *, exclude: Sequence[str] = ()) -> RepairPlan:
    """Say what ``auditwheel repair`` will do, from what ``auditwheel show --json`` printed.

    :param exclude: patterns of sonames that stay outside.
    :raises BuildError: a library that is needed is nowhere on the machine that reported; or it is no wheel for Linux.
    :raises EnvironmentLacksError: auditwheel is too old to know this glibc, and there is something to be grafted.
    """
    if report.get("error"):
        raise BuildError(f"auditwheel cannot read the wheel: {report['error']}.", todo="Was the wheel built for Linux?")
    if report.get("pure"):
        return RepairPlan("", notes=("The wheel holds no compiled library: there is nothing to repair.",))
    external: Mapping[str, str | None] = report.get("external_libs", {})
    excluded = tuple(sorted(name for name in external if any(fnmatchcase(name, pattern) for pattern in exclude)))
    graft = {name: path for name, path in sorted(external.items()) if name not in excluded}
    python = [name for name in graft if _LIBPYTHON.match(name)]
    lost = [name for name, path in graft.items() if path is None and name not in python]
    if lost:
        raise BuildError(
            f"The wheel needs {', '.join(lost)}, which is nowhere in the toolchain image.",
            meant="The library was built, or installed, where the loader does not look; or another package brings it.",
            todo="Name it in the backend's `bundle`, or in its `external_libraries`.",
        )
    notes = [f"The need for {name} is taken away: the interpreter has those symbols." for name in python]
    newest = str(report.get("sym_tag", ""))
    if newest.startswith("linux"):
        notes.append("auditwheel knows no policy for a glibc as new as the wheel's.")
        if any(name not in python for name in graft):
            raise EnvironmentLacksError(
                f"The wheel's glibc is newer than auditwheel knows, so {', '.join(graft)} cannot be put into it.",
                todo="Put a newer auditwheel into the toolchain image, or build on an image with an older glibc.",
            )
        return RepairPlan("", excluded=excluded, notes=tuple(notes))
    isa_check = not report.get("unsupported_isa")
    if not isa_check:
        notes.append("It uses instructions that not every machine of its platform has; its tag cannot say so.")
    found = {name: path for name, path in graft.items() if path is not None}
    return RepairPlan("auto", found, excluded, isa_check, tuple(notes))


def superfluous_copies(wheel: Wheel) -> tuple[str, ...]:
    """Return the libraries of a wheel that are copies of another one which bears the soname as its file name.

    Published OpenVINO wheels hold ``libopenvino.so`` three times: as files, since a wheel has no links. What is linked
    against asks for the soname; the other names serve compilers only.

    :raises BuildError: the wheel is damaged.
    """
    from ortforge.build.package.archive import is_library
    from ortforge.build.package.elf import read_elf

    groups: dict[tuple[str, int], list[str]] = {}
    for name in wheel.names:
        if is_library(name):
            groups.setdefault(wheel.digest(name), []).append(name)
    found: list[str] = []
    for names in groups.values():
        facts = read_elf(names[0], wheel.read(names[0])) if len(names) > 1 else None
        keep = [name for name in names if facts and facts.soname == name.rpartition("/")[2]]
        found += [name for name in names if keep and name not in keep]
    return tuple(sorted(found))
