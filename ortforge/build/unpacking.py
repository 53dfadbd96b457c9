"""Unpacks archives that somebody else made: nothing outside the folder is touched, whatever their entries say.

The data filter of :mod:`tarfile` (PEP 706) does the extraction; what it would quietly mend (a leading slash) or has let
through in older Pythons (links through links) is refused before it is asked.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from ortforge.errors import EnvironmentLacksError, FetchError

__all__ = ["MOST_BYTES", "Bounds", "stays_inside", "unpack"]

MOST_BYTES: Final = 20 << 30
"""The most that an archive may unpack to. ONNX Runtime's tree has 0.4 GB, with all submodules of old versions 2 GB."""

_MOST_ENTRIES: Final = 1_000_000
_MOST_HEADER: Final = 1 << 20  # of one extended header: tarfile reads it into memory whole
_CHUNK: Final = 1 << 20
_MAGIC: Final = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open, b"BZh": bz2.open}


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much an archive may unpack to: in all, and beyond ``free`` bytes as a multiple of its own size.

    Source code compresses about ten times with xz; what exceeds a hundred is made to fill the disk.
    """

    most_bytes: int = MOST_BYTES
    ratio: int = 100
    free: int = 1 << 30

    def of(self, archive: Path) -> int:
        """Return the limit for one archive, in bytes."""
        return min(self.most_bytes, max(self.free, self.ratio * archive.stat().st_size))


def unpack(archive: Path, into: Path, bounds: Bounds | None = None) -> Path:
    """Unpack a tar (plain, gz, xz, bz2, zst) or zip archive into a new folder ``into``.

    What it is says its content, not its name. Modes become 644 or 755; owners and times are not taken over.

    :return: the one folder at its top, or ``into`` where there are several things.
    :raises FetchError: it is damaged, cut off or too large, or an entry would leave the folder: an absolute path,
        ``..``, a link to the outside, a device.
    :raises EnvironmentLacksError: this Python has no data filter, or nothing here reads zst.
    """
    if not hasattr(tarfile, "data_filter"):
        raise EnvironmentLacksError(
            "This Python cannot unpack archives safely: it lacks tarfile's data filter.",
            todo="Use Python 3.11.4 or newer.",
        )
    with _damage(archive.name):
        with archive.open("rb") as file:
            head = file.read(6)
        into.mkdir(parents=True)
        guard = _Guard(archive.name, (bounds or Bounds()).of(archive))
        if head.startswith(b"PK"):
            _unzip(archive, into, guard)
        else:
            with _decompressed(archive, head) as data:
                _untar(data, into, guard)
    found = [path for path in into.iterdir() if path.name != "pax_global_header"]  # what some readers make of git's
    if not found:
        raise FetchError(f"The archive {archive.name} is empty.")
    return found[0] if len(found) == 1 and found[0].is_dir() and not found[0].is_symlink() else into


@dataclass(slots=True)
class _Guard:
    """Refuses entries by their name, kind and size, before anything of them is written."""

    archive: str
    most_bytes: int
    bytes: int = 0
    entries: int = 0
    links: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)

    def admit(self, name: str, size: int) -> str:
        """Return the entry's normal name below the folder."""
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise self._refuse(name, "it would be written outside of the folder")
        clean = "/".join(part for part in parts if part != ".")
        above = [*PurePosixPath(clean).parents][:-1] if clean else []
        if clean in self.links or any(str(folder) in self.links for folder in above):
            raise self._refuse(name, "it would be written through a link")
        self.bytes += max(size, 0)
        self.entries += 1
        if self.bytes > self.most_bytes or self.entries > _MOST_ENTRIES:
            raise FetchError(
                f"The archive {self.archive} unpacks to more than {self.most_bytes:,} bytes, or to more than "
                f"{_MOST_ENTRIES:,} entries.",
                meant="It is made to fill the disk, or holds more than a source tree.",
                todo="Give an archive of the source tree alone.",
            )
        return clean

    def symlink(self, name: str, clean: str, target: str) -> None:
        """Admit a symbolic link: its target stays inside, and nothing is written through it later."""
        if not stays_inside(clean, target):
            raise self._refuse(name, f"it is a link to {target or 'nothing'}, outside of the folder")
        if clean in self.files:
            raise self._refuse(name, "it would take the place of a file")
        self.links.add(clean)

    def hard_link(self, name: str, target: str) -> None:
        """Admit a hard link: only to a file that this archive brought before."""
        if "/".join(part for part in PurePosixPath(target).parts if part != ".") not in self.files:
            raise self._refuse(name, f"it is a link to {target}, which is no file of the archive")

    def odd(self, name: str) -> FetchError:
        """Return the error for a device, a pipe or a socket."""
        return self._refuse(name, "it is neither file, folder nor link")

    def _refuse(self, name: str, why: str) -> FetchError:
        shown = name.encode("unicode_escape").decode()[:200]
        return FetchError(
            f"The archive {self.archive} is refused: its entry {shown!r} is not safe: {why}.",
            meant="It is damaged, or made to harm who unpacks it.",
            todo="Get it from the project itself, and compare its sha256.",
        )


def stays_inside(link: str, target: str) -> bool:
    """Return whether a symbolic link at ``link`` (a path below some folder) cannot lead out of that folder.

    ``..`` is taken at the beginning alone: after a name it would depend on what else is a link. With this, and nothing
    lying behind a link, no chain of links leads out.

    >>> stays_inside("a/b", "../c"), stays_inside("a/b", "../../c"), stays_inside("a", "c/../d")
    (True, False, False)
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    return bool(parts) and not target.startswith("/") and ".." not in parts[ups:] and ups <= link.count("/")


class _Entry(tarfile.TarInfo):
    """A tar entry; extended headers of a size that only fills the memory are refused."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Entry:
        found = super().frombuf(buf, encoding, errors)
        if not found.isreg() and found.type in b"xgXLK" and found.size > _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {found.size:,} bytes")
        return found


def _untar(data: IO[bytes], into: Path, guard: _Guard) -> None:
    watched = _Watched(data)
    with tarfile.open(fileobj=watched, mode="r|", tarinfo=_Entry) as archive:  # type: ignore[call-overload]
        for member in archive:
            clean = guard.admit(member.name, member.size if member.isreg() else 0)
            if not clean:
                continue
            if member.issym():
                guard.symlink(member.name, clean, member.linkname)
            elif member.islnk():
                guard.hard_link(member.name, member.linkname)
            elif not (member.isreg() or member.isdir()):
                raise guard.odd(member.name)
            archive.extract(_plain(member), into, set_attrs=True, filter="data")
            if member.isreg() or member.islnk():
                guard.files.add(clean)
    watched.finish()


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return an entry without owner, and with one of two modes."""
    mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member.replace(mode=mode, uid=os.getuid(), gid=os.getgid(), uname="", gname="", deep=False)


class _Watched:
    """Passes bytes on, and knows whether the archive's end came: two blocks of zeros (POSIX.1, pax)."""

    def __init__(self, data: IO[bytes]) -> None:
        self._data = data
        self._last = b""

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes."""
        found = self._data.read(size)
        self._last = (self._last + found)[-1024:]
        return found

    def finish(self) -> None:
        """Read what follows the last entry, so that the compressor's own checksum is looked at.

        :raises tarfile.ReadError: the end is missing.
        """
        while self.read(_CHUNK):
            pass
        if len(self._last) < 1024 or any(self._last):
            raise tarfile.ReadError("its end is missing")


def _unzip(path: Path, into: Path, guard: _Guard) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            clean = guard.admit(member.orig_filename, member.file_size)
            if not clean:
                continue
            if member.flag_bits & 1:
                raise FetchError(f"The archive {path.name} is encrypted.", todo="Give one that is not.")
            mode = member.external_attr >> 16
            target = into / clean
            target.parent.mkdir(parents=True, exist_ok=True)
            if stat.S_ISLNK(mode):
                link = archive.read(member).decode() if member.file_size < 4096 else ""
                guard.symlink(member.filename, clean, link)
                target.symlink_to(link)
            elif member.is_dir():
                target.mkdir(exist_ok=True)
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise guard.odd(member.filename)
            else:
                with archive.open(member) as reader, target.open("wb") as writer:
                    shutil.copyfileobj(reader, writer, _CHUNK)
                target.chmod(0o755 if mode & 0o100 else 0o644)
                guard.files.add(clean)


@contextmanager
def _decompressed(archive: Path, head: bytes) -> Iterator[IO[bytes]]:
    """Open an archive as the tar that it holds."""
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        with _zstd(archive) as data:
            yield data
        return
    opens: Any = next((opens for magic, opens in _MAGIC.items() if head.startswith(magic)), Path.open)
    with opens(archive, "rb") as data:
        yield data


@contextmanager
def _zstd(archive: Path) -> Iterator[IO[bytes]]:
    """Decompress with the ``zstd`` program: Python has it from 3.14 on only."""
    program = shutil.which("zstd")
    if program is None:
        raise EnvironmentLacksError(
            f"{archive.name} is compressed with zstd, and nothing here reads that.",
            todo="Install zstd (Debian: apt-get install zstd), or give a tar.xz.",
        )
    with subprocess.Popen(
        [program, "-dcq", "--", str(archive)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            yield process.stdout
            said = process.stderr.read().decode(errors="replace").strip()
            if process.wait() != 0:
                raise tarfile.ReadError(said or "zstd failed")
        finally:
            process.kill()


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Turn what the readers raise for a damaged archive, or for a full disk, into what it means."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise _damaged(name, error) from error
    except (UnicodeError, NotImplementedError, RuntimeError) as error:  # odd names; methods that zipfile cannot read
        raise _damaged(name, error) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchError(f"The disk is full: {name} could not be unpacked.", todo="Free some space.") from error
        if error.errno is None or isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError)):
            raise _damaged(name, error) from error  # bz2 says it so; or an entry takes another's place
        raise FetchError(f"{name} could not be unpacked: {error.strerror or error}.") from error


def _damaged(name: str, error: Exception) -> FetchError:
    return FetchError(
        f"{name} is no archive, or it is damaged: {error}.",
        meant="A download that was interrupted, or a web page that was saved under this name, looks like this.",
        todo="Fetch it again, and compare its sha256.",
    )
