"""Rewrites a wheel: another name, a local version, files that ORT's packaging forgot; and says what it changed.

ORT's ``setup.py`` takes the first name of a fixed chain when several EPs are built (ORT 9756, 19268), has no local
version for inference wheels, packs ``libdnnl.so.2`` where CMake built ``libdnnl.so.3`` and drops the provider's
library in manylinux mode (ORT 10275, 7155). Changing the wheel afterwards is the same for every version of ORT;
patching ``setup.py`` is not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, Final

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from ortforge.build.package.archive import EARLIEST, Entry, Wheel, WheelName, open_wheel, parse_name, write_wheel
from ortforge.errors import BuildError, ConfigurationError

__all__ = ["Change", "Changes", "WheelChanges", "final_name", "rewrite"]

_NAME: Final = re.compile(r"^([A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9])$", re.IGNORECASE)
_PACKAGE_INFO: Final = "onnxruntime/capi/build_and_package_info.py"
_SIGNATURES: Final = ("RECORD.jws", "RECORD.p7s")


@dataclass(frozen=True, slots=True)
class WheelChanges:
    """What to change in a wheel.

    :param distribution: its new name, ``""`` to keep it. :param local_version: what follows ``+`` in its version; an
        empty one keeps what is there. :param add_files: path inside the wheel to a file of this machine; replaces.
    :param remove: patterns of paths inside the wheel. :param add_dist_info: path below ``.dist-info`` to content.
    :param tag: ``cp313-cp313-manylinux_2_41_x86_64``; ``None`` keeps it.
    """

    distribution: str = ""
    local_version: str = ""
    add_files: Mapping[str, Path] = field(default_factory=dict)
    remove: Sequence[str] = ()
    add_dist_info: Mapping[str, bytes] = field(default_factory=dict)
    tag: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """One difference. ``kind``: renamed, version, tag, added, removed, replaced, edited.

    For files, ``before`` and ``after`` are their SHA-256; for names, versions and tags the values themselves.
    """

    kind: str
    path: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """What :func:`rewrite` made: the new wheel, its SHA-256, and how it differs from the old one, sorted."""

    wheel: Path
    sha256: str
    changes: tuple[Change, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """Return the differences as JSON values."""
        return [asdict(change) for change in self.changes]


def rewrite(wheel: Path, out: Path, changes: WheelChanges, *, timestamp: int = EARLIEST) -> Changes:
    """Write the changed wheel into the folder ``out``, under the name that its new metadata gives it.

    The same wheel and changes give the same bytes, see :func:`~ortforge.build.package.archive.write_wheel`.

    :raises ConfigurationError: the new name, local version or tag is none.
    :raises BuildError: the wheel is damaged; a file to be added is missing; a pattern to be removed matches nothing.
    """
    with open_wheel(wheel) as source:
        plan = _Plan(source, changes)
        plan.lay_out()
        out.mkdir(parents=True, exist_ok=True)
        target = out / str(plan.name)
        if target.exists() and target.samefile(wheel):
            raise BuildError(f"{wheel} cannot be written over while it is read.", todo="Write into another folder.")
        digest = write_wheel(target, plan.dist_info, plan.entries.values(), timestamp=timestamp)
    return Changes(target, digest, tuple(sorted(plan.changes)))


def final_name(wheel: Path, changes: WheelChanges) -> tuple[str, str]:
    """Return the distribution and version that a wheel's metadata will have after :func:`rewrite`.

    :raises ConfigurationError, BuildError: as :func:`rewrite`.
    """
    with open_wheel(wheel) as source:
        plan = _Plan(source, changes)
        return plan.distribution, plan.version


class _Plan:
    """The new wheel's entries, gathered step by step from the old one's."""

    def __init__(self, source: Wheel, wanted: WheelChanges) -> None:
        self.source = source
        self.wanted = wanted
        self.changes: list[Change] = []
        metadata = source.headers("METADATA")
        self.old_distribution = str(metadata["Name"])
        self.distribution = _checked_distribution(wanted.distribution) or self.old_distribution
        self.old_version = str(metadata["Version"])
        self.version = _with_local(self.old_version, wanted.local_version)
        renamed = replace(
            source.name,
            distribution=_escaped(self.distribution) if wanted.distribution else source.name.distribution,
            version=self.version.replace("-", "_") if wanted.local_version else source.name.version,
        )
        self.name = _with_tag(renamed, wanted.tag)
        stem = f"{self.name.distribution}-{self.name.version}"
        same = stem == f"{source.name.distribution}-{source.name.version}"
        self.dist_info = source.dist_info if same else f"{stem}.dist-info"
        self.data = f"{stem}.data"
        self.entries: dict[str, Entry] = {}

    def lay_out(self) -> None:
        self._keep()
        self._remove()
        self._add()
        self._edit_metadata()
        self._edit_wheel()
        self._edit_package_info()

    def _keep(self) -> None:
        """Take every file, except RECORD (it is written anew) and signatures over it (they would be wrong)."""
        old_info, old_data = self.source.dist_info, self.source.dist_info.removesuffix(".dist-info") + ".data"
        for name in self.source.names:
            folder, _, rest = name.partition("/")
            if folder == old_info and rest == "RECORD":
                continue
            if folder == old_info and rest in _SIGNATURES:
                self.changes.append(Change("removed", name, self.source.digest(name)[0]))
                continue
            moved = {old_info: self.dist_info, old_data: self.data}.get(folder, folder)
            target = f"{moved}/{rest}" if rest else name
            self.entries[target] = Entry(target, self.source.size(name), _opener(self.source, name))
        if self.dist_info != old_info:
            self.changes.append(Change("renamed", old_info, old_info, self.dist_info))

    def _remove(self) -> None:
        for pattern in self.wanted.remove:
            found = [name for name in self.entries if fnmatchcase(name, pattern)]
            if not found:
                raise BuildError(
                    f"{self.source.path.name} has nothing that {pattern} matches, so it cannot be removed.",
                    todo="'unzip -l' shows what it has.",
                )
            for name in found:
                self.changes.append(Change("removed", name, _digest(self.entries.pop(name))))

    def _add(self) -> None:
        for name, path in self.wanted.add_files.items():
            _refuse_outside(name)
            if not path.is_file():
                raise BuildError(f"{path} is to be added to the wheel as {name}, and is not there.")
            self._put(Entry.of_file(name, path))
        for name, data in self.wanted.add_dist_info.items():
            _refuse_outside(name)
            self._put(Entry.of_bytes(f"{self.dist_info}/{name}", data))

    def _put(self, entry: Entry) -> None:
        before = self.entries.get(entry.name)
        old, new = _digest(before) if before else "", _digest(entry)
        if old != new:
            self.changes.append(Change("replaced" if before else "added", entry.name, old, new))
        self.entries[entry.name] = entry

    def _edit_metadata(self) -> None:
        edits = {}
        if self.distribution != self.old_distribution:
            edits["Name"] = self.distribution
            self.changes.append(Change("renamed", "Name", self.old_distribution, self.distribution))
        if self.version != self.old_version:
            edits["Version"] = self.version
            self.changes.append(Change("version", "Version", self.old_version, self.version))
        if edits:
            name = f"{self.dist_info}/METADATA"
            text = _read(self.entries[name]).decode()
            for header, value in edits.items():
                text = re.sub(rf"^{header}:.*$", f"{header}: {value}", text, count=1, flags=re.MULTILINE)
            self.entries[name] = Entry.of_bytes(name, text.encode())

    def _edit_wheel(self) -> None:
        """Let WHEEL list the tags of the file name: where they differ, installers refuse it or warn."""
        name = f"{self.dist_info}/WHEEL"
        before = [str(tag) for tag in self.source.headers("WHEEL").get_all("Tag", [])]
        if sorted(before) == list(self.name.tags):
            return
        lines = [line for line in _read(self.entries[name]).decode().splitlines() if line.strip()]
        kept = [line for line in lines if not line.startswith("Tag:")]
        text = "\n".join([*kept, *(f"Tag: {tag}" for tag in self.name.tags)]) + "\n"
        self.entries[name] = Entry.of_bytes(name, text.encode())
        self.changes.append(Change("tag", "WHEEL", " ".join(sorted(before)), " ".join(self.name.tags)))

    def _edit_package_info(self) -> None:
        """Let ORT say its new name: it asks the installed distribution of that name for its version and place."""
        if self.distribution == self.old_distribution or _PACKAGE_INFO not in self.entries:
            return
        before = _read(self.entries[_PACKAGE_INFO])
        after = re.sub(
            rb"^package_name = .*$", f"package_name = {self.distribution!r}".encode(), before, flags=re.MULTILINE
        )
        if after != before:
            self.entries[_PACKAGE_INFO] = Entry.of_bytes(_PACKAGE_INFO, after)
            digests = (hashlib.sha256(data).hexdigest() for data in (before, after))
            self.changes.append(Change("edited", _PACKAGE_INFO, *digests))


def _opener(source: Wheel, name: str) -> Callable[[], AbstractContextManager[IO[bytes]]]:
    return lambda: source.open(name)


def _read(entry: Entry) -> bytes:
    with entry.open() as file:
        return file.read()


def _digest(entry: Entry) -> str:
    with entry.open() as file:
        return _sha256(file)


def _sha256(file: IO[bytes]) -> str:
    hashed = hashlib.sha256()
    while block := file.read(1 << 20):
        hashed.update(block)
    return hashed.hexdigest()


def _refuse_outside(name: str) -> None:
    if name.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        raise BuildError(f"{name!r} is no path inside a wheel.", todo="Give a relative path without '..'.")


def _escaped(distribution: str) -> str:
    """Return a distribution's name as file names have it.

    >>> _escaped("ORT.dnnl-jemalloc")
    'ort_dnnl_jemalloc'
    """
    return canonicalize_name(distribution).replace("-", "_")


def _checked_distribution(name: str) -> str:
    if name and not _NAME.match(name):
        raise ConfigurationError(
            f"{name!r} is no name for a distribution.",
            meant="It has letters, digits, '-', '_' and '.', and begins and ends with a letter or digit.",
            todo='Something like distribution = "onnxruntime-dnnl".',
        )
    return name


def _with_local(version: str, local: str) -> str:
    """Return a version with another local part, in its normal form.

    >>> _with_local("1.21.0", "dnnl.jemalloc")
    '1.21.0+dnnl.jemalloc'
    """
    if not local:
        return version
    try:
        return str(Version(f"{version.partition('+')[0]}+{local}"))
    except InvalidVersion:
        raise ConfigurationError(
            f"{local!r} is no local version.",
            meant="It has letters and digits, in parts that dots join.",
            todo='Something like local_version = "dnnl.jemalloc".',
        ) from None


def _with_tag(name: WheelName, tag: str | None) -> WheelName:
    if tag is None:
        return name
    try:
        given = parse_name(f"x-1-{tag}.whl")
    except BuildError:
        raise ConfigurationError(
            f"{tag!r} is no wheel tag.", meant="It has three parts, such as cp313-cp313-manylinux_2_28_x86_64."
        ) from None
    return replace(name, python=given.python, abi=given.abi, platform=given.platform)
