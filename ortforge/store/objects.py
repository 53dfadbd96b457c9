"""Content-addressed objects: files and folders that are found by the digest of what they hold.

An object appears under its digest whole or not at all, is read-only from then on, and is read back through its
digest, so that a damaged one is noticed, dropped and made again instead of being believed.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ortforge.errors import StoreError
from ortforge.store.atomic import disk_errors, publish, remove, sync_tree
from ortforge.store.hashing import DIGEST_LENGTH, digest_tree, list_tree

__all__ = ["CorruptObjectError", "ObjectStore"]

_DIGEST: Final = re.compile(rf"[0-9a-f]{{{DIGEST_LENGTH}}}")
_LARGE: Final = 8 * 1024**2
"""Bytes from which on writing to the disk takes long enough to do something else meanwhile."""
_FOREIGN_AGE_S: Final = 7 * 24 * 3600.0
"""How old a temporary folder of another host or container must be to count as left over: its process cannot be seen."""


class CorruptObjectError(StoreError):
    """An object is not what its digest says, or is gone: it must be made again.

    :param digest: the digest under which it was asked for.
    """

    def __init__(self, digest: str, what: str, *, meant: str = "", todo: str = "") -> None:
        super().__init__(what, meant=meant, todo=todo)
        self.digest = digest

    def __reduce__(self) -> tuple[type[CorruptObjectError], tuple[str, str], dict[str, str]]:
        return type(self), (self.digest, self.what), {"meant": self.meant, "todo": self.todo}


class ObjectStore:
    """Objects below ``root/objects``, and temporary folders on the same filesystem below ``root/tmp``.

    May be used from several threads, and from several processes at once.

    :raises StoreError: the folders cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._objects = root / "objects"
        self._temporary = root / "tmp"
        self._verified: set[str] = set()
        with disk_errors(root):
            self._objects.mkdir(parents=True, exist_ok=True)
            self._temporary.mkdir(exist_ok=True)
        self.sweep()

    def put(self, path: str | os.PathLike[str], *, keep: bool = False) -> str:
        """Make a file or folder an object and return its digest.

        The object takes ``path``'s place: it is renamed where that is possible (same filesystem, no other hard
        link), and copied otherwise. Putting what is there already succeeds, also when another process does so at
        the same moment, and mends a damaged object.

        :param keep: leave ``path`` as it is; copy it.
        :raises StoreError: the disk is full or refuses, or the folder holds a symbolic link or a device.
        :raises FileNotFoundError: ``path`` does not exist.
        """
        source = Path(path)
        entries = list_tree(source)
        size = sum(entry.stat.st_size for entry in entries if not entry.is_folder)
        # A file with a second hard link can be written through that one, behind the object's back.
        sole = all(entry.is_folder or entry.stat.st_nlink == 1 for entry in entries)
        with self.scratch() as scratch:
            staged = scratch / "object"
            with disk_errors(self._objects, needed=size):
                if keep or not sole or not _renamed(source, staged):
                    _copy(source, staged)
            return self._admit(staged, size)

    def get(self, digest: str) -> Path:
        """Return where an object lies. Its content is checked the first time in each process.

        :raises CorruptObjectError: it is damaged (it is dropped then), or not there.
        """
        path = self._place(digest)
        if digest in self._verified and path.exists():
            return path
        if not path.exists():
            self._verified.discard(digest)
            raise CorruptObjectError(
                digest,
                f"Object {digest[:12]} is not in the store {self.root}.",
                meant="It was removed, perhaps by 'ortforge cache clean'.",
                todo="Run again: what is missing is made again.",
            )
        if not self._intact(digest):
            self.drop(digest)
            raise CorruptObjectError(
                digest,
                f"Object {digest[:12]} in the store {self.root} is damaged, and was dropped.",
                meant="A file of it was changed or removed, or the disk lost what was written.",
                todo="Run again: it is made again. If this repeats, check the disk.",
            )
        return path

    @contextmanager
    def reading(self, digest: str) -> Iterator[Path]:
        """Give an object's place while its content is checked beside whatever reads it.

        What was read is good only when this ends without an error; a large model is not read twice in a row.

        :raises CorruptObjectError: as :meth:`get`, at the end at the latest, in place of what a damaged object caused.
        """
        path = self._place(digest)
        if digest in self._verified or not path.exists():
            yield self.get(digest)
            return
        with ThreadPoolExecutor(1) as pool:
            checked = pool.submit(self.get, digest)
            try:
                yield path
            finally:
                checked.result()

    def has(self, digest: str) -> bool:
        """Whether an object is there. Reads none of it: :meth:`get` does."""
        return bool(_DIGEST.fullmatch(digest)) and self._place(digest).exists()

    def drop(self, digest: str) -> bool:
        """Remove an object, at once for everybody; return whether it was there."""
        path = self._place(digest)
        self._verified.discard(digest)
        with self.scratch() as scratch, disk_errors(path), suppress(FileNotFoundError):
            if stat.S_ISDIR(path.lstat().st_mode):
                path.chmod(0o755)  # a folder that is moved must be writable, its parent is written in it
            path.rename(scratch / "dropped")
            return True
        return False

    def bytes(self, digest: str) -> int:
        """Return the size of an object in bytes: the sum of its files. 0 when it is not there, or damaged."""
        with suppress(FileNotFoundError, StoreError):
            return sum(entry.stat.st_size for entry in list_tree(self._place(digest)) if not entry.is_folder)
        return 0

    def last_used(self, digest: str) -> float:
        """Return when a process last asked for an object first, in seconds since the epoch; 0 when it is not there."""
        with suppress(FileNotFoundError):
            return self._place(digest).lstat().st_mtime
        return 0.0

    def __iter__(self) -> Iterator[str]:
        """Give the digests of all objects, in no order."""
        for shelf in _names(self._objects):
            for rest in _names(self._objects / shelf):
                if _DIGEST.fullmatch(shelf + rest):
                    yield shelf + rest

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give an empty folder on the store's filesystem; it is removed afterwards, whatever is in it."""
        folder = self._temporary / f"{_whereabouts()}-{os.getpid()}-{_start_of(os.getpid())}-{secrets.token_hex(4)}"
        with disk_errors(folder):
            folder.mkdir()
        try:
            yield folder
        finally:
            with suppress(OSError):  # what stays is swept the next time the store is opened
                remove(folder)

    def sweep(self) -> None:
        """Remove temporary folders of processes that were killed."""
        for name in _names(self._temporary):
            folder = self._temporary / name
            with suppress(OSError):
                if _abandoned(name, folder.lstat().st_mtime):
                    remove(folder)

    def _place(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise StoreError(f"{digest!r} is not the digest of an object.", meant="It names something else.")
        return self._objects / digest[:2] / digest[2:]

    def _intact(self, digest: str) -> bool:
        """Check an object's content against its digest, and note that it was used."""
        path = self._place(digest)
        try:
            with disk_errors(path, verb="read"):
                if _content(path) != digest:
                    return False
        except StoreError as error:
            if isinstance(error.__cause__, OSError):
                raise
            return False  # a link or a device was put into it
        self._verified.add(digest)
        with suppress(OSError):
            os.utime(path)
        return True

    def _admit(self, staged: Path, size: int) -> str:
        """Publish what nobody else can write any more."""
        digest = _digest_and_sync(staged) if size >= _LARGE else _digest_of(staged)
        path = self._place(digest)
        if path.exists():
            if self._intact(digest):
                return digest
            self.drop(digest)
        with disk_errors(path):
            path.parent.mkdir(exist_ok=True)
            _freeze(staged)
            # Another process may publish the same just now: of two files the later stays, of two folders the earlier.
            with suppress(FileExistsError):
                publish(staged, path)
            if path.is_dir():
                path.chmod(0o555)
        self._verified.add(digest)
        return digest


def _digest_of(staged: Path) -> str:
    with disk_errors(staged, verb="read"):
        return digest_tree(staged)


def _digest_and_sync(staged: Path) -> str:
    """Return the digest; the disk writes while the processor hashes, so that publishing finds little left to do."""
    with ThreadPoolExecutor(1) as pool:
        synced = pool.submit(sync_tree, staged)
        digest = _digest_of(staged)
        with disk_errors(staged):
            synced.result()
    return digest


def _renamed(source: Path, target: Path) -> bool:
    """Move by renaming; return False where only copying works (another filesystem, a folder that is not ours)."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in {errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY}:
            return False
        raise
    return True


def _copy(source: Path, target: Path) -> None:
    try:
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, copy_function=_copy_file)
        else:
            _copy_file(source, target)
    except shutil.Error as error:
        # copytree collects the failures of single files as text; the first one's errno is what matters.
        raise _first_failure(error) from error


def _copy_file(source: str | Path, target: str | Path) -> None:
    shutil.copyfile(source, target, follow_symlinks=False)
    if Path(source).stat().st_mode & stat.S_IXUSR:
        Path(target).chmod(0o755)


def _first_failure(error: shutil.Error) -> OSError:
    text = str(error.args[0][0][2]) if error.args and error.args[0] else str(error)
    found = re.match(r"\[Errno (\d+)\]", text)
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else OSError(text)


def _freeze(path: Path) -> None:
    """Make files and the folders below read-only; the top folder stays writable, for it is still to be moved."""
    for entry in list_tree(path):
        if not entry.is_folder:
            Path(entry.path).chmod(0o555 if entry.executable else 0o444)
        else:
            Path(entry.path).chmod(0o555 if entry.relative else 0o755)


def _content(path: Path) -> str:
    """Return an object's digest, or ``""`` when the disk does not give its content back."""
    try:
        return digest_tree(path)
    except OSError as error:
        # Only what tells of the object itself: "too many open files" must not cost a good one.
        if error.errno in {errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENOENT, errno.ENOTDIR}:
            return ""
        raise


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names alone
    except (FileNotFoundError, NotADirectoryError):
        return []


def _abandoned(name: str, changed: float) -> bool:
    where, _, rest = name.partition("-")
    pid, _, rest = rest.partition("-")
    start = rest.partition("-")[0]
    if where == _whereabouts() and pid.isdigit():
        # A process id comes round again: the same process is the one that also started then.
        return _start_of(int(pid)) != start
    return time.time() - changed > _FOREIGN_AGE_S


def _whereabouts() -> str:
    """Name the space in which process ids mean something: this host, or this container."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
    except OSError:
        space = 0
    host = re.sub(r"[^A-Za-z0-9]", "", os.uname().nodename)[:20] or "host"
    return f"{host}.{space}"


def _start_of(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; ``""`` when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in {b"Z", b"X"} else fields[19].decode()
