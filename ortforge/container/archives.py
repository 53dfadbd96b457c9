"""Files into and out of containers: tar streams, in which nothing may leave the folder that it is meant for."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Final

from ortforge.errors import BuildError

__all__ = ["owned", "tar_of_files", "unpack"]

_IN_MEMORY: Final = 8 << 20
_INSIDE: Final = "/ortforge/any/folder"
"""Stands for the folder in the container. Nothing is there: links in it are not followed."""
_EPOCH: Final = 315532800
"""1980-01-01, the oldest time that zip files know: what is packed later has a stable time."""


def tar_of_files(files: Mapping[str, bytes], *, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> bytes:
    """Return a tar of files (path to content), the same for the same files.

    :raises BuildError: a path is absolute or leaves the folder.
    """
    buffer = io.BytesIO()
    folders: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sorted(files.items()):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise _leaves(name, "a file for the container")
            for folder in reversed(path.parents):
                if str(folder) not in {".", *folders}:
                    folders.add(str(folder))
                    archive.addfile(_member(str(folder), tarfile.DIRTYPE, 0o755, owner))
            member = _member(str(path), tarfile.REGTYPE, mode, owner)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def owned(archive: Path | bytes, owner: tuple[int, int]) -> IO[bytes]:
    """Return a tar's content again, uncompressed and owned by ``owner``, after every member was looked at.

    :param archive: a tar file or its bytes, compressed or not. The caller closes what is returned.
    :raises BuildError: it is no tar, it is cut off, or a member would leave the folder that it is unpacked into.
    """
    name = "the archive" if isinstance(archive, bytes) else archive.name
    given: IO[bytes] = io.BytesIO(archive) if isinstance(archive, bytes) else archive.open("rb")
    out: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
    try:
        with (
            given,
            _reading(name),
            tarfile.open(fileobj=given, mode="r|*") as source,
            tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as target,
        ):
            for member in source:
                if member.name.startswith("/"):  # the filter would take the slash away
                    raise _leaves(member.name, name)
                safe = tarfile.data_filter(member, _INSIDE)
                safe.uid, safe.gid, safe.uname, safe.gname = *owner, "", ""
                if safe.mode is None:  # the filter leaves a folder's to whoever unpacks it
                    safe.mode = 0o755
                target.addfile(safe, source.extractfile(member) if member.isreg() else None)
    except BaseException:
        out.close()
        raise
    out.seek(0)
    return out


def unpack(chunks: Iterable[bytes], into: Path, *, rename: Callable[[str], str] = str) -> None:
    """Unpack a tar as it comes, with the data filter: plain files, folders and links that stay inside.

    :param rename: gives a member's path another name.
    :raises BuildError: it is cut off, or a member would leave ``into``.
    """
    into.mkdir(parents=True, exist_ok=True)
    with _reading("what came out of the container"), tarfile.open(fileobj=_Reader(chunks), mode="r|") as archive:
        for member in archive:
            named = member.replace(name=rename(member.name), deep=False)
            archive.extract(named, into, set_attrs=True, filter="data")


class _Reader(io.RawIOBase):
    """A file to read, made of pieces that come from elsewhere."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        pieces = [self._rest]
        have = len(self._rest)
        while size is None or size < 0 or have < size:
            piece = next(self._chunks, b"")
            if not piece:
                break
            pieces.append(piece)
            have += len(piece)
        data = b"".join(pieces)
        end = have if size is None or size < 0 else size
        self._rest = data[end:]
        return data[:end]


class _reading:  # noqa: N801 - reads as a statement
    """Turns what :mod:`tarfile` raises into messages."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        if not hasattr(tarfile, "data_filter"):
            raise BuildError(
                "This Python cannot unpack archives safely: it lacks tarfile's data filter.",
                todo="Use Python 3.11.4 or newer.",
            )

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, tarfile.FilterError):
            raise _leaves(error.tarinfo.name, self._name) from error
        if isinstance(error, (tarfile.TarError, EOFError)):
            raise BuildError(
                f"{self._name} is no tar archive, or it is cut off: {error}",
                meant="A download that was interrupted looks like this.",
                todo="Fetch it again.",
            ) from error


def _member(name: str, kind: bytes, mode: int, owner: tuple[int, int]) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = kind, mode, _EPOCH
    member.uid, member.gid = owner
    return member


def _leaves(member: str, archive: str) -> BuildError:
    return BuildError(
        f"{archive} holds {member!r}, which would leave the folder that it is unpacked into.",
        meant="An absolute path, a path with '..', a device, or a link that points outside.",
        todo="Nothing was unpacked from there on. Do not trust this archive.",
    )
