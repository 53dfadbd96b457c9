"""Reads what is installed in an environment: distributions, their files, and the wheels that they came from.

uv's lock says which wheels could be installed, each with its sha256; the installed ``WHEEL`` and ``RECORD`` files
say which one was, and what it holds. Together they identify a runtime to the byte.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag, parse_tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from ortforge.store.hashing import sha256_file

__all__ = [
    "Distribution",
    "LockedPackage",
    "LockedWheel",
    "damaged",
    "overlaps",
    "read_distributions",
    "read_lock",
    "wheel_of",
]


@dataclass(frozen=True, slots=True)
class LockedWheel:
    """A wheel that a lock allows: file name, sha256, and for one of this machine its path."""

    filename: str
    sha256: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """A package of a lock, with the wheels that fit the interpreter it was resolved for."""

    name: str
    version: str
    wheels: tuple[LockedWheel, ...]


@dataclass(frozen=True, slots=True)
class Distribution:
    """An installed distribution.

    :param folder: its ``.dist-info`` folder; :param tags: the ``Tag`` lines of ``WHEEL``.
    :param files: path relative to site-packages → ``sha256=…`` as RECORD has it, without scripts and the
        installer's own notes: those differ between folders.
    """

    name: str
    version: str
    folder: Path
    tags: frozenset[Tag]
    files: Mapping[str, str]


_INSTALLERS_OWN = frozenset({"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json"})


def read_lock(lock: Path) -> tuple[LockedPackage, ...]:
    """Read the packages of a ``pylock.toml`` that uv wrote."""
    packages = []
    for package in tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]:
        sources = [*package.get("wheels", ()), *((package["archive"],) if "archive" in package else ())]
        wheels = tuple(_locked_wheel(source, lock.parent) for source in sources)
        packages.append(LockedPackage(canonicalize_name(package["name"]), package.get("version", ""), wheels))
    return tuple(packages)


def _locked_wheel(source: Mapping[str, Any], base: Path) -> LockedWheel:
    """Read a wheel of a lock; older versions of uv state no sha256 for a file of a local folder (``--find-links``)."""
    address = urlsplit(str(source.get("url", "")))
    local = unquote(address.path) if address.scheme == "file" else str(source.get("path", ""))
    path = str(base / local) if local else ""
    return LockedWheel(_filename(source), _digest(source, path), path)


def _digest(source: Mapping[str, Any], path: str) -> str:
    stated = str(source.get("hashes", {}).get("sha256", ""))
    if stated or not path:
        return stated
    try:
        return sha256_file(Path(path))
    except OSError:
        return ""  # it is gone since; what is installed stays identified by its RECORD


def _filename(source: Mapping[str, str]) -> str:
    address = source.get("name") or unquote(urlsplit(source.get("url", "")).path) or source.get("path", "")
    return PurePosixPath(address.replace("\\", "/")).name


def read_distributions(sites: Iterable[Path]) -> tuple[Distribution, ...]:
    """Read every distribution of the given site-packages folders, ordered by name."""
    found = []
    for site in dict.fromkeys(sites):
        for folder in site.glob("*.dist-info"):
            metadata = HeaderParser().parsestr((folder / "METADATA").read_text(encoding="utf-8", errors="replace"))
            wheel = HeaderParser().parsestr((folder / "WHEEL").read_text(encoding="utf-8", errors="replace"))
            tags = frozenset(tag for line in wheel.get_all("Tag", ()) for tag in parse_tag(line.strip()))
            with (folder / "RECORD").open(encoding="utf-8", newline="") as record:
                files = {row[0]: row[1] for row in csv.reader(record) if len(row) > 1 and _is_of_wheel(row[0])}
            name = canonicalize_name(metadata["Name"])
            found.append(Distribution(name, metadata["Version"], folder, tags, files))
    return tuple(sorted(found, key=lambda distribution: distribution.name))


def _is_of_wheel(path: str) -> bool:
    parts = PurePosixPath(path).parts
    own = len(parts) == 2 and parts[0].endswith(".dist-info") and parts[1] in _INSTALLERS_OWN
    return not own and ".." not in parts and not path.startswith("/") and "__pycache__" not in parts


def wheel_of(distribution: Distribution, locked: Sequence[LockedPackage]) -> LockedWheel:
    """Return the wheel of the lock that a distribution came from: the one whose tags it carries.

    Some wheels carry other tags inside than in their name; then the only candidate is taken, or an empty one.
    """
    candidates = [wheel for package in locked if package.name == distribution.name for wheel in package.wheels]
    for wheel in candidates:
        try:
            tags = parse_wheel_filename(wheel.filename)[3]
        except InvalidWheelFilename:
            continue
        if tags & distribution.tags:
            return wheel
    return candidates[0] if len(candidates) == 1 else LockedWheel("", "")


def overlaps(distributions: Sequence[Distribution]) -> dict[str, tuple[str, str]]:
    """Return the files that two distributions both bring with different content: path → their names."""
    owner: dict[str, Distribution] = {}
    found: dict[str, tuple[str, str]] = {}
    for distribution in distributions:
        for path, digest in distribution.files.items():
            other = owner.setdefault(path, distribution)
            if other is not distribution and other.files[path] != digest:
                found[path] = (other.name, distribution.name)
    return found


def damaged(distribution: Distribution, *, besides: Iterable[str] = ()) -> str:
    """Return the first file that is not what RECORD says, or ``""``. ``besides`` names files not to look at.

    RECORD's digests are urlsafe base64 without padding (binary distribution format, PyPA specifications).
    """
    skipped = frozenset(besides)
    site = distribution.folder.parent
    for path, stated in distribution.files.items():
        algorithm, _, digest = stated.partition("=")
        if path in skipped or not digest or algorithm not in hashlib.algorithms_available:
            continue
        try:
            with (site / path).open("rb") as file:
                found = hashlib.file_digest(file, algorithm).digest()
        except FileNotFoundError:
            return path
        if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != digest.rstrip("="):
            return path
    return ""
