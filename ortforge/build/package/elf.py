"""Reads what an audit has to know of a shared library: what it needs, from where, and what it says of itself.

Structure comes from pyelftools (it arrives with auditwheel). The dynamic symbol table is unpacked in one go instead,
because a large library has a hundred thousand entries.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ortforge.errors import BuildError, EnvironmentLacksError

__all__ = ["ElfFacts", "read_elf"]

_MACHINES: Final = {
    "EM_X86_64": "x86_64",
    "EM_386": "i686",
    "EM_AARCH64": "aarch64",
    "EM_ARM": "armv7l",
    "EM_PPC64": "ppc64le",
    "EM_S390": "s390x",
    "EM_RISCV": "riscv64",
    "EM_LOONGARCH": "loongarch64",
}
_PYBIND: Final = b"module was compiled for Python"
_EXECUTABLE: Final = 1  # PF_X
_UNDEFINED: Final = 0  # SHN_UNDEF
_WEAK: Final = 2  # STB_WEAK
_UNVERSIONED: Final = 1  # VER_NDX_GLOBAL: smaller numbers name no version


@dataclass(frozen=True, slots=True)
class ElfFacts:
    """One shared library of a wheel.

    :param path: in the wheel. :param machine: as wheel tags name it. :param rpath: entries of ``DT_RPATH``;
        :param runpath: of ``DT_RUNPATH``. :param versions: soname to the symbol versions needed from it.
    :param executable_stack: it asks for one, or (as the loader reads it) does not say that it needs none.
    :param undefined: symbols it needs without a version, weak ones left out. :param defined: symbols it gives.
    :param marks: which of the byte strings looked for it holds. :param pythons: among them is the version of Python
        (``3.13``) that a module made with pybind11 was compiled for; empty for other libraries.
    """

    path: str
    machine: str
    soname: str = ""
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    versions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    executable_stack: bool = False
    undefined: frozenset[str] = frozenset()
    defined: frozenset[str] = frozenset()
    marks: frozenset[bytes] = frozenset()
    pythons: frozenset[str] = frozenset()

    @property
    def file(self) -> str:
        """Its file name."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The folder in the wheel that it lies in."""
        return self.path.rpartition("/")[0]


def read_elf(path: str, data: bytes, marks: Iterable[bytes] = ()) -> ElfFacts | None:
    """Read a shared library or program.

    :param marks: byte strings to look for in all of it.
    :returns: ``None`` for what is no ELF file, or one that the loader never sees (object files).
    :raises BuildError: it begins like one and cannot be read. :raises EnvironmentLacksError: pyelftools is missing.
    """
    if data[:4] != b"\x7fELF":
        return None
    try:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError:
        raise EnvironmentLacksError(
            "Auditing a wheel takes pyelftools, which is not installed.", todo="pip install 'ortforge[build]'"
        ) from None
    try:
        elf = ELFFile(io.BytesIO(data))
        if elf["e_type"] not in ("ET_DYN", "ET_EXEC"):
            return None
        facts = _dynamic(elf)
        defined, undefined = _symbols(elf)
        return ElfFacts(
            path=path,
            machine=_MACHINES.get(elf["e_machine"], str(elf["e_machine"])),
            **facts,
            versions=_versions(elf),
            executable_stack=_executable_stack(elf),
            undefined=undefined,
            defined=defined,
            marks=frozenset(mark for mark in marks if mark in data),
            pythons=_pythons(data),
        )
    except (ELFError, ValueError, KeyError, IndexError, AttributeError, struct.error, UnicodeDecodeError) as error:
        raise BuildError(
            f"{path} begins like a shared library and cannot be read: {type(error).__name__}: {error}.",
            meant="It was cut off, or damaged while it was patched.",
            todo="Build it again.",
        ) from None


def _dynamic(elf: Any) -> dict[str, Any]:
    tags: dict[str, list[str]] = {"needed": [], "soname": [], "rpath": [], "runpath": []}
    for segment in elf.iter_segments("PT_DYNAMIC"):
        for tag in segment.iter_tags():
            name = tag.entry.d_tag.removeprefix("DT_").lower()
            if name in tags:
                tags[name].append(getattr(tag, name))
    return {
        "needed": tuple(tags["needed"]),
        "soname": tags["soname"][0] if tags["soname"] else "",
        # One that is empty as a whole is ignored; an empty entry between colons is the current folder.
        "rpath": tuple(entry for path in tags["rpath"] if path for entry in path.split(":")),
        "runpath": tuple(entry for path in tags["runpath"] if path for entry in path.split(":")),
    }


def _pythons(data: bytes) -> frozenset[str]:
    """Return what may be the version of Python that pybind11 compares with the interpreter's at import."""
    if _PYBIND not in data:
        return frozenset()
    return frozenset(found.decode() for found in re.findall(rb"(?<=\0)3\.\d{1,2}(?=\0)", data))


def _versions(elf: Any) -> dict[str, tuple[str, ...]]:
    section = elf.get_section_by_name(".gnu.version_r")
    if section is None:
        return {}
    found: dict[str, set[str]] = {}
    for need, auxiliaries in section.iter_versions():
        found.setdefault(need.name, set()).update(auxiliary.name for auxiliary in auxiliaries)
    return {library: tuple(sorted(names)) for library, names in sorted(found.items())}


def _executable_stack(elf: Any) -> bool:
    """Whether the loader would make the stack executable; since glibc 2.41 it refuses to, at dlopen (ORT 24911)."""
    for segment in elf.iter_segments("PT_GNU_STACK"):
        return bool(segment["p_flags"] & _EXECUTABLE)
    return any(True for _ in elf.iter_segments("PT_DYNAMIC"))  # not said: glibc takes it as asked for


def _symbols(elf: Any) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the dynamic symbols it defines, and of those it needs without a version."""
    section = elf.get_section_by_name(".dynsym")
    if section is None:
        return frozenset(), frozenset()
    names = elf.get_section(section["sh_link"]).data()
    order = "<" if elf.little_endian else ">"
    versioned = elf.get_section_by_name(".gnu.version")
    indices: tuple[int, ...] = ()
    if versioned is not None:
        raw = versioned.data()
        indices = struct.unpack(f"{order}{len(raw) // 2}H", raw)
    # Elf64_Sym: name, info, other, shndx, value, size; Elf32_Sym has info, other and shndx at its end.
    wide = elf.elfclass == 64
    layout = struct.Struct(order + ("IBBHQQ" if wide else "IIIBBH"))
    info_at, index_at = (1, 3) if wide else (3, 5)
    defined: set[str] = set()
    undefined: set[str] = set()
    for number, symbol in enumerate(layout.iter_unpack(section.data())):
        if symbol[0] == 0:
            continue
        name = names[symbol[0] : names.index(b"\0", symbol[0])].decode("utf-8", "replace")
        if symbol[index_at] != _UNDEFINED:
            defined.add(name)
        elif symbol[info_at] >> 4 != _WEAK and (not indices or indices[number] & 0x7FFF <= _UNVERSIONED):
            undefined.add(name)
    return frozenset(defined), frozenset(undefined)
