"""Reads and writes wheels: what comes in is checked, and the same content always goes out as the same bytes.

A wheel is a zip file whose ``RECORD`` lists every other file with its SHA-256
(https://packaging.python.org/en/latest/specifications/binary-distribution-format/).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import re
import stat
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from ortforge.errors import BuildError

__all__ = ["EARLIEST", "Entry", "Wheel", "WheelName", "is_library", "open_wheel", "parse_name", "write_wheel"]

EARLIEST: Final = 315532800
"""1980-01-01 in seconds since 1970: the earliest time that a zip file can state, and the default time of ours."""

_BLOCK: Final = 1 << 20
_LIBRARY: Final = re.compile(r"\.so(\.[0-9A-Za-z_]+)*$")
_DAMAGED: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class WheelName:
    """The parts of a wheel's file name; ``python``, ``abi`` and ``platform`` may be several, joined by dots."""

    distribution: str
    version: str
    build: str
    python: str
    abi: str
    platform: str

    def __str__(self) -> str:
        parts = (self.distribution, self.version, self.build, self.python, self.abi, self.platform)
        return "-".join(part for part in parts if part) + ".whl"

    @property
    def tag(self) -> str:
        """The tag as the file name has it: ``cp313-cp313-manylinux_2_28_x86_64``."""
        return f"{self.python}-{self.abi}-{self.platform}"

    @property
    def tags(self) -> tuple[str, ...]:
        """Every single tag that it stands for, sorted: what ``WHEEL`` has to list."""
        return tuple(
            sorted(
                f"{python}-{abi}-{platform}"
                for python in self.python.split(".")
                for abi in self.abi.split(".")
                for platform in self.platform.split(".")
            )
        )


def parse_name(name: str) -> WheelName:
    """Take a wheel's file name apart.

    :raises BuildError: it is no wheel's name.

    >>> parse_name("onnxruntime-1.21.0-cp313-cp313-linux_x86_64.whl").platform
    'linux_x86_64'
    """
    parts = name.removesuffix(".whl").split("-")
    if not name.endswith(".whl") or len(parts) not in (5, 6) or not all(parts):
        raise BuildError(
            f"{name} is not the name of a wheel.",
            meant="A wheel is called DISTRIBUTION-VERSION-PYTHON-ABI-PLATFORM.whl.",
            todo="Give it the name that it was built with: installers read its tags from there.",
        )
    build = parts.pop(2) if len(parts) == 6 else ""
    return WheelName(parts[0], parts[1], build, *parts[2:])


def is_library(name: str) -> bool:
    """Whether a path inside a wheel is a shared library's, by its name: ``x.so``, ``x.so.1.2``."""
    return _LIBRARY.search(name.rpartition("/")[2]) is not None


@dataclass(slots=True)
class Wheel:
    """An open wheel. Made by :func:`open_wheel`; close it, or use it in a ``with`` statement.

    :param names: its files, sorted, without folders. :param dist_info: name of its ``.dist-info`` folder.
    """

    path: Path
    name: WheelName
    names: tuple[str, ...]
    dist_info: str
    _archive: zipfile.ZipFile = field(repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def size(self, name: str) -> int:
        """Return how many bytes a file has when it is unpacked."""
        return self._archive.getinfo(name).file_size

    def read(self, name: str) -> bytes:
        """Return a file's content.

        :raises BuildError: it is damaged, or there is no such file.
        """
        with self.open(name) as file:
            return file.read()

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for reading.

        :raises BuildError: it is damaged, or there is no such file.
        """
        if name not in self.names:
            raise BuildError(f"{self.path.name} has no file {name}.")
        try:
            with self._archive.open(name) as file:
                yield file
        except _DAMAGED as error:
            raise _damaged(self.path, f"{name} cannot be read: {error}") from None

    def digest(self, name: str) -> tuple[str, int]:
        """Return a file's SHA-256 (hexadecimal) and size in bytes; it is read in pieces.

        :raises BuildError: it is damaged.
        """
        hashed = hashlib.sha256()
        size = 0
        with self.open(name) as file:
            while block := file.read(_BLOCK):
                hashed.update(block)
                size += len(block)
        return hashed.hexdigest(), size

    def headers(self, name: str) -> Message:
        """Return the headers of ``METADATA`` or ``WHEEL``.

        :raises BuildError: the wheel has no such file.
        """
        return BytesParser().parsebytes(self.read(f"{self.dist_info}/{name}"))

    def record(self) -> dict[str, tuple[str, str]]:
        """Return what ``RECORD`` says: path to digest (``sha256=…``) and size, both as text.

        :raises BuildError: it is missing or no CSV of three columns.
        """
        text = self.read(f"{self.dist_info}/RECORD").decode("utf-8", "replace")
        rows: dict[str, tuple[str, str]] = {}
        for row in csv.reader(io.StringIO(text)):
            if len(row) != 3:
                raise _damaged(self.path, f"its RECORD has a line of {len(row)} columns instead of 3: {','.join(row)}")
            rows[row[0]] = (row[1], row[2])
        return rows


def _damaged(path: Path, how: str) -> BuildError:
    return BuildError(
        f"{path.name} is damaged: {how}.",
        meant="It was cut off while it was written or copied.",
        todo="Build or download it again.",
    )


def open_wheel(path: Path) -> Wheel:
    """Open a wheel and check that it is one; the content of its files is checked as they are read.

    :raises BuildError: there is no such file, it is truncated or no zip file, holds a path that leads out of it, a
        link or a name twice, or lacks its ``.dist-info``.
    """
    name = parse_name(path.name)
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise BuildError(f"{path} cannot be read: {error.strerror}.", todo="Is the path right?") from None
    except _DAMAGED:
        with path.open("rb") as file:
            begins_well = file.read(4) == b"PK\x03\x04"
        if begins_well:
            raise _damaged(path, "its end, with the list of its files, is missing") from None
        raise BuildError(
            f"{path.name} is not a zip file, so it is no wheel.",
            meant="An error page or an empty file was saved under its name.",
            todo="Build or download it again.",
        ) from None
    try:
        names = _checked_names(path, archive)
        return Wheel(path, name, names, _dist_info(path, names), archive)
    except BaseException:
        archive.close()
        raise


def _checked_names(path: Path, archive: zipfile.ZipFile) -> tuple[str, ...]:
    names: set[str] = set()
    for entry in archive.infolist():
        parts = entry.filename.rstrip("/").split("/")
        leaves = entry.filename.startswith("/") or "\\" in entry.filename or ":" in parts[0]
        if leaves or any(part in ("", ".", "..") for part in parts):
            raise BuildError(
                f"{path.name} holds a file {entry.filename!r}, which would be unpacked outside of its place.",
                todo="Don't install it, and tell whoever made it.",
            )
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise BuildError(f"{path.name} holds a link, {entry.filename}: installers make a text file of it.")
        if entry.is_dir():
            continue
        if entry.flag_bits & 1:
            raise BuildError(f"{path.name} holds {entry.filename} encrypted: no installer can read that.")
        if entry.filename in names:
            raise BuildError(f"{path.name} holds {entry.filename} twice: installers disagree which one counts.")
        names.add(entry.filename)
    return tuple(sorted(names))


def _dist_info(path: Path, names: Iterable[str]) -> str:
    folders = sorted({name.split("/")[0] for name in names if name.split("/")[0].endswith(".dist-info")})
    if len(folders) != 1:
        what = f"has {len(folders)} .dist-info folders" if folders else "has no .dist-info folder"
        raise BuildError(f"{path.name} {what}, so it is no wheel.", todo="Build or download it again.")
    for needed in ("METADATA", "WHEEL", "RECORD"):
        if f"{folders[0]}/{needed}" not in names:
            raise BuildError(f"{path.name} has no {folders[0]}/{needed}, so it is no wheel.", todo="Build it again.")
    return folders[0]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to be written into a wheel.

    :param size: in bytes, as ``open`` will give them. :param open: opens its content for reading.
    """

    name: str
    size: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]

    @classmethod
    def of_bytes(cls, name: str, data: bytes) -> Entry:
        """Return an entry whose content is at hand."""
        return cls(name, len(data), lambda: io.BytesIO(data))

    @classmethod
    def of_file(cls, name: str, path: Path) -> Entry:
        """Return an entry whose content is a file of this machine."""
        return cls(name, path.stat().st_size, lambda: path.open("rb"))


def write_wheel(out: Path, dist_info: str, entries: Iterable[Entry], *, timestamp: int = EARLIEST) -> str:
    """Write a wheel, with a new ``RECORD``, and return its SHA-256.

    The bytes depend on names, contents and ``timestamp`` only, not on the entries' order, on file modes, on the clock
    or the umask: entries are sorted (``.dist-info`` last, as the specification advises), all have one time and
    zlib's default level, libraries and scripts are 0755 and everything else 0644. Another implementation of zlib
    may pack the same content into other bytes.

    :param timestamp: seconds since 1970, as ``SOURCE_DATE_EPOCH``; before 1980 counts as 1980.
    :raises BuildError: a name comes twice.
    """
    record = f"{dist_info}/RECORD"
    ordered = sorted(
        (entry for entry in entries if entry.name != record),
        key=lambda entry: (entry.name.startswith(f"{dist_info}/"), entry.name),
    )
    for one, other in itertools.pairwise(ordered):
        if one.name == other.name:
            raise BuildError(f"{one.name} would be in {out.name} twice.")
    moment = time.gmtime(max(timestamp, EARLIEST))[:6]
    rows: list[tuple[str, str, str | int]] = []
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in ordered:
            with entry.open() as source:
                digest, size = _write_entry(archive, entry.name, entry.size, source, moment)
            rows.append((entry.name, f"sha256={digest}", size))
        rows.append((record, "", ""))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        data = text.getvalue().encode()
        _write_entry(archive, record, len(data), io.BytesIO(data), moment)
    with out.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_entry(
    archive: zipfile.ZipFile, name: str, size: int, source: IO[bytes], moment: tuple[int, ...]
) -> tuple[str, int]:
    """Write one file; return its digest as RECORD has it (URL-safe base64 without padding) and its size."""
    year, month, day, hour, minute, second = moment[:6]
    info = zipfile.ZipInfo(name, (year, month, day, hour, minute, second))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3  # Unix: whose modes external_attr holds
    executable = is_library(name) or "/scripts/" in name
    info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    info.file_size = size
    hashed = hashlib.sha256()
    written = 0
    with archive.open(info, "w") as sink:
        while block := source.read(_BLOCK):
            hashed.update(block)
            written += sink.write(block)
    return base64.urlsafe_b64encode(hashed.digest()).rstrip(b"=").decode(), written
