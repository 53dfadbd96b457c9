"""Whether every library of a wheel can be loaded where its tag says: what it needs, how new, found how, stack."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Final

from ortforge.build.package.elf import ElfFacts
from ortforge.build.package.findings import Expectation, Finding, WheelFacts
from ortforge.build.package.platforms import glibc_of

__all__ = ["findings", "needed_glibc", "reaches"]

_LOADERS: Final = re.compile(r"ld-linux[-\w]*\.so\.\d+|ld64\.so\.\d+|ld-musl-\w+\.so\.\d+")
_GLIBC: Final = re.compile(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?")
_RELATIVE_RELOCATIONS: Final = "GLIBC_ABI_DT_RELR"
"""Stands for a format of relocations that glibc reads since 2.36; it is no symbol."""

_VERSIONED: Final = frozenset(
    {
        *("libc.so.6", "libm.so.6", "libmvec.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1"),
        *("libanl.so.1", "libresolv.so.2", "libstdc++.so.6", "libgcc_s.so.1", "libatomic.so.1"),
    }
)
"""Libraries all of whose symbols have versions: a symbol without one is not theirs."""

_OWN_OF_GLIBC: Final = ("__isoc", "__libc_", "_dl_", "__pthread_", "__fdelt", "__glibc")
_OF_PYTHON: Final = ("Py", "_Py")


def findings(facts: WheelFacts, expectation: Expectation) -> Iterator[Finding]:
    """Apply the rules to every library."""
    for path, what in sorted(facts.damaged.items()):
        yield Finding("error", "damaged-library", what, "It cannot be loaded.", "Build it again.", path)
    for library in facts.libraries:
        yield from _needed(library, facts, expectation)
        yield from _versions(library, facts, expectation)
        yield from _unversioned(library, facts)
        yield from _rpath(library)
        yield from _stack(library)
    if facts.platform and facts.platform.tag.startswith("linux") and (newest := needed_glibc(facts)):
        yield Finding(
            "note",
            "needs-glibc",
            f"It runs on glibc {newest[0]}.{newest[1]} and newer.",
            f"Its tag, {facts.platform.tag}, does not say so: an installer takes it on older systems, too.",
            "Repair it, so that its tag says it.",
        )


def needed_glibc(facts: WheelFacts) -> tuple[int, int] | None:
    """Return the newest glibc that any of the libraries needs; ``None`` when none needs glibc."""
    found = [
        version
        for library in facts.libraries
        for names in library.versions.values()
        for name in names
        if (version := _glibc_version(name)) is not None
    ]
    return max(found, default=None)


def reaches(library: ElfFacts, folder: str, *, inherited: bool = False) -> bool:
    """Whether the loader looks in a folder of the wheel for what a library needs.

    :param inherited: look only at what others inherit from it: ``DT_RPATH``, which ``DT_RUNPATH`` turns off.
    """
    entries = library.runpath or library.rpath
    if inherited and library.runpath:
        return False
    return any(_expanded(entry, library.folder) == folder for entry in entries)


def _expanded(entry: str, folder: str) -> str:
    """Return the folder that an RPATH entry means, relative to the wheel's root where it can be.

    >>> _expanded("$ORIGIN/../libs", "onnxruntime/capi"), _expanded("$ORIGIN", ""), _expanded("/opt/lib", "capi")
    ('onnxruntime/libs', '', '/opt/lib')
    """
    place = posixpath.normpath(entry.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", folder or "."))
    return "" if place == "." else place


def _needed(library: ElfFacts, facts: WheelFacts, expectation: Expectation) -> Iterator[Finding]:
    system = facts.platform.libraries if facts.platform else frozenset()
    for name in library.needed:
        if any(fnmatchcase(name, pattern) for pattern in expectation.external_libraries) or _LOADERS.fullmatch(name):
            continue
        places = {other.folder for other in facts.libraries if other.file == name}
        if places:
            own = any(reaches(library, place) for place in places)
            if own or any(reaches(other, place, inherited=True) for other in facts.libraries for place in places):
                continue
            why = f"It is in {', '.join(sorted(places))}, but no RPATH leads there."
            todo = "Give the library the RPATH $ORIGIN (patchelf --set-rpath), or repair the wheel."
        elif name in system:
            continue
        else:
            why, todo = _reason(name, facts)
        yield Finding("error", "unresolved-needed", f"{library.path} needs {name}.", why, todo, library.path)


def _reason(name: str, facts: WheelFacts) -> tuple[str, str]:
    alike = [other.path for other in facts.libraries if other.soname == name]
    if alike:
        why = f"{alike[0]} says that it is that library, but the loader looks for a file of that name."
        return why, f"Rename {alike[0]} to {name}."
    if name.startswith("libpython"):
        why = "Extension modules take Python's symbols from the interpreter, which may have no such library."
        return why, "Repair the wheel: auditwheel takes the need away."
    tag = facts.platform.tag if facts.platform else facts.name.platform
    why = f"It is neither in the wheel, nor among the libraries that {tag} promises, nor said to be external."
    return why, "Repair the wheel so that it is grafted, or let the backend name it in `external_libraries`."


def _glibc_version(name: str) -> tuple[int, int] | None:
    if name == _RELATIVE_RELOCATIONS:
        return (2, 36)
    found = _GLIBC.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


def _versions(library: ElfFacts, facts: WheelFacts, expectation: Expectation) -> Iterator[Finding]:
    """Hold the symbol versions it needs against what its tag, and the user, promise."""
    limits: list[tuple[tuple[int, int], str]] = []
    if facts.platform and facts.platform.glibc:
        limits.append((facts.platform.glibc, f"the tag {facts.platform.tag} promises"))
    if expectation.max_glibc:
        limits.append((glibc_of(expectation.max_glibc), "it has to run on"))
    within = {other.file for other in facts.libraries}
    known = facts.platform.versions if facts.platform else {}
    for source, names in library.versions.items():
        if source in within:
            continue
        if "GLIBC_PRIVATE" in names:
            yield Finding(
                "error",
                "private-symbol",
                f"{library.path} uses symbols of {source} that glibc keeps to itself (GLIBC_PRIVATE).",
                "They may change or go in any release of glibc, also in a security update.",
                "Which of its objects was made for this one glibc? Link it otherwise.",
                library.path,
            )
        newest = max((version for name in names if (version := _glibc_version(name))), default=None)
        for limit, whose in limits:
            if newest is not None and newest > limit:
                yield _too_new(library, source, f"glibc {_dotted(newest)}", f"{whose} {_dotted(limit)}")
        beyond = [name for name in names if (p := name.partition("_"))[0] in known and p[2] not in known[p[0]]]
        if beyond and facts.platform:
            yield _too_new(library, source, ", ".join(beyond), f"the tag {facts.platform.tag} does not promise that")


def _too_new(library: ElfFacts, source: str, needs: str, limit: str) -> Finding:
    return Finding(
        "error",
        "glibc-too-new",
        f"{library.path} needs {needs} ({source}), and {limit}.",
        'On such a system the import ends with "version not found".',
        "Build it in an image with an older glibc, or let the tag say what it needs.",
        library.path,
    )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _unversioned(library: ElfFacts, facts: WheelFacts) -> Iterator[Finding]:
    """Find symbols that a static library brought in from another glibc: no version says so, auditwheel sees none."""
    files = {other.file: other for other in facts.libraries}
    if any(name not in files and name not in _VERSIONED and not _LOADERS.fullmatch(name) for name in library.needed):
        return  # what is not known here may have them
    given: set[str] = set()
    for other in facts.libraries:
        given |= other.defined
    missing = sorted(name for name in library.undefined - given if not name.startswith(_OF_PYTHON))
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        foreign = any(name.startswith(_OWN_OF_GLIBC) for name in missing)
        yield Finding(
            "error" if foreign else "warning",
            "unversioned-symbol",
            f"{library.path} needs {shown} without a version, and nothing in the wheel has it.",
            "A static library that was made for a newer glibc was linked in; no tag says so (ORT 20803)."
            if foreign
            else "Only what another library brings into the process can serve it.",
            "Build that library in the same image, too." if foreign else "Is a library missing from the link?",
            library.path,
        )


def _rpath(library: ElfFacts) -> Iterator[Finding]:
    for entry in (*library.rpath, *library.runpath):
        place = _expanded(entry, library.folder)
        if not entry or place.startswith("/"):
            shown = entry or "an empty entry (the current folder)"
            yield Finding(
                "error",
                "rpath-outside",
                f"{library.path} looks for libraries in {shown}.",
                "Whoever can write there can put code into every process that loads it; on other machines nothing is "
                "there.",
                "Set its RPATH to $ORIGIN (patchelf --set-rpath), or build with CMAKE_SKIP_RPATH.",
                library.path,
            )
        elif place == ".." or place.startswith("../"):
            yield Finding(
                "warning",
                "rpath-outside",
                f"{library.path} looks for libraries in {entry}, which is outside of site-packages.",
                "What lies there differs from environment to environment.",
                "Keep to folders below site-packages.",
                library.path,
            )


def _stack(library: ElfFacts) -> Iterator[Finding]:
    if library.executable_stack:
        yield Finding(
            "error",
            "executable-stack",
            f"{library.path} asks for an executable stack.",
            'glibc 2.41 and newer refuse to load it: "cannot enable executable stack" (ORT 24911). An object that was '
            "assembled without .note.GNU-stack is enough.",
            "Link with -Wl,-z,noexecstack, or run 'patchelf --clear-execstack' on it.",
            library.path,
        )
