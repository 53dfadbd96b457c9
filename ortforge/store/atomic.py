"""The one place that writes a file atomically, and that turns a disk's refusals into words.

What is written appears under its name whole or not at all, also when the process is killed or the power
fails: the data is synced before the rename, and the folder after it.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from ortforge.errors import StoreError
from ortforge.store.hashing import canonical

__all__ = ["disk_errors", "free_space", "publish", "readable_size", "remove", "sync_tree", "write_bytes", "write_json"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_ELSEWHERE: Final = "Give ortforge another folder: --store DIR, or ORTFORGE_STORE=DIR."


def write_bytes(path: str | os.PathLike[str], data: bytes | bytearray | memoryview) -> None:
    """Write a file atomically, replacing one of that name.

    :raises StoreError: the disk is full, or the folder is missing or may not be written.
    """
    final = Path(path)
    temp = final.with_name(f".{secrets.token_hex(8)}.tmp")
    with disk_errors(final, needed=len(data)):
        try:
            with temp.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temp.replace(final)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        _sync(final.parent)


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = None) -> None:
    """Write a value as JSON, atomically, with its keys in their own order.

    :raises TypeError: the value has no JSON form (NaN, a set …); the message says where.
    :raises StoreError: see :func:`write_bytes`.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent) + "\n"
        data = text.encode()
    except (TypeError, ValueError):
        canonical(value)  # raises the same complaint with the place in the value
        raise
    write_bytes(path, data)


def publish(temp: str | os.PathLike[str], final: str | os.PathLike[str]) -> None:
    """Give a finished file or folder its final name: synced first, then renamed on the same filesystem.

    :raises FileExistsError: ``final`` is a folder that is not empty; it is left as it is, and so is ``temp``.
    :raises StoreError: the disk is full, or ``final``'s folder is missing or may not be written.
    """
    source, target = Path(temp), Path(final)
    with disk_errors(target):
        sync_tree(source)
        try:
            source.rename(target)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                raise FileExistsError(error.errno, "a folder of that name is there already", str(target)) from error
            raise
        _sync(target.parent)


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a file or a folder, also one that was made read-only. Nothing happens when it is not there.

    :raises OSError: something of it cannot be removed.
    """
    target = Path(path)
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(target.lstat().st_mode):
            target.unlink()
            return
        for folder, _, _ in os.walk(target):
            with suppress(OSError):
                Path(folder).chmod(0o700)
        for folder, folders, files in os.walk(target, topdown=False):
            for name in (*files, *folders):
                # Another process may be removing the same left-over: what is gone already is no error.
                with suppress(FileNotFoundError):
                    _remove_entry(os.path.join(folder, name))  # noqa: PTH118 - many of them
        target.rmdir()


@contextmanager
def disk_errors(path: str | os.PathLike[str], *, needed: int | None = None, verb: str = "written") -> Iterator[None]:
    """Turn what the operating system says about using ``path`` into a :class:`StoreError`.

    ``FileExistsError`` passes through: it is an answer, not a failure.

    :param needed: bytes that were to be written; :param verb: what was to be done; both for the message.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise _explain(error, Path(path), needed, verb) from error


def readable_size(size: float) -> str:
    """Write a number of bytes for people.

    >>> readable_size(1_536_000)
    '1.5 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _explain(error: OSError, path: Path, needed: int | None, verb: str) -> StoreError:
    if error.errno in _FULL:
        size = f" ({readable_size(needed)})" if needed is not None else ""
        return StoreError(
            f"The disk is full: {path}{size} could not be {verb}. {free_space(path)}",
            meant="A quota of this user is used up." if error.errno == errno.EDQUOT else "",
            todo=f"Free space (ortforge cache clean removes what no result needs) and run again: "
            f"what was finished is kept. {_ELSEWHERE}",
        )
    if error.errno == errno.EROFS:
        return StoreError(f"{path} could not be {verb}: its filesystem is read-only.", todo=_ELSEWHERE)
    if error.errno in _DENIED:
        return StoreError(
            f"{path} could not be {verb}: {os.strerror(error.errno or 0).lower()}.",
            meant=f"The folder belongs to another user than this one (uid {os.geteuid()}), or was made read-only.",
            todo=_ELSEWHERE,
        )
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return StoreError(
            f"{path} could not be {verb}: its folder is not there.",
            meant="The store may have been removed while ortforge was running.",
            todo="Run again; finished results that are still there are used.",
        )
    if error.errno == errno.EFBIG:
        return StoreError(
            f"{path} could not be {verb}: it is larger than this process may write (ulimit -f). {free_space(path)}",
            todo="Raise the limit (ulimit -f unlimited) and run again.",
        )
    reason = error.strerror or str(error)
    return StoreError(f"{path} could not be {verb}: {reason}.", todo=f"Check that disk, then run again. {_ELSEWHERE}")


def _remove_entry(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 - many of them
    except (IsADirectoryError, PermissionError):
        os.rmdir(path)  # noqa: PTH106 - many of them


def free_space(path: Path) -> str:
    """Say how much is free on the filesystem that holds ``path`` or its nearest existing parent."""
    for folder in (path, *path.parents):
        try:
            facts = os.statvfs(folder)
        except OSError:
            continue
        free, total = facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
        files = "; it holds as many files as it can" if facts.f_files and not facts.f_favail else ""
        return f"{readable_size(free)} of {readable_size(total)} are free there now{files}."
    return ""


def sync_tree(path: Path) -> None:
    """Wait until a file, or a folder and all below it, is on the disk.

    :raises OSError: it could not be written.
    """
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
    else:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe's other end is not waited for
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
