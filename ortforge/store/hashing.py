"""The one place that hashes: canonical JSON for keys, and digests of files and folders for content.

BLAKE2b with 20 bytes is used for everything of our own (fast, and as strong as a store needs); SHA-256 only
where the outside world states one: wheels and downloads.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from ortforge.errors import StoreError

__all__ = [
    "DIGEST_LENGTH",
    "TreeEntry",
    "canonical",
    "digest_bytes",
    "digest_file",
    "digest_json",
    "digest_tree",
    "list_tree",
    "sha256_file",
]

_DIGEST_BYTES: Final = 20

DIGEST_LENGTH: Final = 2 * _DIGEST_BYTES
"""Characters of a digest: lower-case hexadecimal."""

PIECE: Final = 16 * 1024**2
"""Bytes of the pieces in which a tree's large files are hashed, side by side."""

_THREADS: Final = 4
_BLOCK: Final = 1024**2

_encode: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


class TreeEntry(NamedTuple):
    """One file or folder of a tree; ``relative`` is a POSIX path, ``""`` for the tree's own root."""

    relative: str
    path: str
    stat: os.stat_result

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder; everything else that :func:`list_tree` gives is a regular file."""
        return stat.S_ISDIR(self.stat.st_mode)

    @property
    def executable(self) -> bool:
        """Whether its owner may execute it."""
        return bool(self.stat.st_mode & stat.S_IXUSR)


def canonical(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8. Tuples are written as lists.

    :raises TypeError: the value holds something that JSON has no form for (NaN, a set, a key that is not a
        string, itself …); the message says what and where.

    >>> canonical({"b": (1, 2.0), "a": None})
    b'{"a":null,"b":[1,2.0]}'
    """
    try:
        text = _encode(value)
        # json writes {1: …} as {"1": …}: two different values would share one key.
        if _string_keys(value):
            return text.encode()
    except RecursionError:
        reason = "value is nested too deeply to be written as JSON"
    except (TypeError, ValueError) as error:
        reason = _complaint(value) or f"it has no canonical JSON form: {error}"
    else:
        reason = _complaint(value)
    raise TypeError(reason)


def digest_json(value: Any) -> str:
    """Return the digest of a JSON value: the same for equal values, whatever the order of their keys.

    :raises TypeError: see :func:`canonical`.
    """
    return hashlib.blake2b(canonical(value), digest_size=_DIGEST_BYTES).hexdigest()


def digest_bytes(data: bytes | bytearray | memoryview) -> str:
    """Return the digest of bytes; equal to :func:`digest_file` of a file that holds them."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def digest_file(path: str | os.PathLike[str]) -> str:
    """Return the digest of a file's content, read in pieces.

    :raises OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, _blake2b).hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, as package indexes state it.

    :raises OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_tree(path: str | os.PathLike[str]) -> str:
    """Return the digest of a file or folder: paths, sizes, contents and executable bits; times do not matter.

    A file and a folder never share a digest, and a folder's own name is not part of it. Of a file of more than one
    :data:`PIECE` the digests of its pieces count: several processors read gigabytes of weights sooner than one.

    :raises StoreError: it holds a symbolic link, a device, or a name that is not UTF-8.
    :raises OSError: it cannot be read.
    """
    rows: list[list[Any]] = []
    for entry in list_tree(path):
        if entry.is_folder:
            rows.append([entry.relative + "/"])
        else:
            content = digest_file(entry.path) if entry.stat.st_size <= PIECE else _digests_of_pieces(entry)
            rows.append([entry.relative, entry.stat.st_size, content, entry.executable])
    return digest_json(rows)


def _digests_of_pieces(entry: TreeEntry) -> list[str]:
    def digest_at(start: int) -> str:
        found = _blake2b()
        with Path(entry.path).open("rb", buffering=0) as file:
            file.seek(start)
            left = PIECE
            while left and (block := file.read(min(left, _BLOCK))):
                found.update(block)
                left -= len(block)
        return found.hexdigest()

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(digest_at, range(0, entry.stat.st_size, PIECE)))


def list_tree(path: str | os.PathLike[str]) -> list[TreeEntry]:
    """Return the root and everything below it, sorted by relative path.

    :raises StoreError: there is something that a store cannot keep faithfully: a symbolic link (it may lead out of
        the tree), a device, a socket, or a name that is not UTF-8.
    :raises OSError: it cannot be read.
    """
    root = os.fspath(path)
    return sorted(_entries("", root, os.lstat(root)))


def _entries(relative: str, path: str, facts: os.stat_result) -> Iterator[TreeEntry]:
    _refuse_odd(path, facts)
    yield TreeEntry(relative, path, facts)
    if stat.S_ISDIR(facts.st_mode):
        with os.scandir(path) as found:
            for entry in found:
                below = f"{relative}/{entry.name}" if relative else entry.name
                yield from _entries(below, entry.path, entry.stat(follow_symlinks=False))


def _refuse_odd(path: str, facts: os.stat_result) -> None:
    shown = path.encode("utf-8", "backslashreplace").decode()
    if stat.S_ISLNK(facts.st_mode):
        raise StoreError(
            f"{shown} is a symbolic link, and the store keeps files and folders only.",
            todo="Put the file itself in its place.",
        )
    if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
        raise StoreError(f"{shown} is neither a file nor a folder.", todo="Remove it from the folder.")
    if shown != path:
        raise StoreError(f"The name of {shown} is not UTF-8.", todo="Rename it.")


def _blake2b() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=_DIGEST_BYTES)


def _string_keys(value: Any) -> bool:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or (isinstance(item, dict | list | tuple) and not _string_keys(item)):
                return False
    elif isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, dict | list | tuple) and not _string_keys(item):
                return False
    return True


def _complaint(value: Any) -> str:
    """Say where a value cannot be written as JSON, and why; ``""`` when no single place is to blame."""
    stack: list[tuple[str, Any, frozenset[int]]] = [("value", value, frozenset())]
    while stack:
        where, item, above = stack.pop()
        if isinstance(item, dict | list | tuple):
            if id(item) in above:
                return f"{where} contains itself, which JSON cannot write"
            inside = above | {id(item)}
            if isinstance(item, dict):
                odd = next((key for key in item if not isinstance(key, str)), None)
                if odd is not None or None in item:
                    return f"{where} has the key {odd!r}: only strings are keys in JSON"
                stack.extend((f"{where}[{key!r}]", below, inside) for key, below in item.items())
                stack.extend((f"a key of {where}", key, inside) for key in item)
            else:
                stack.extend((f"{where}[{number}]", below, inside) for number, below in enumerate(item))
        elif isinstance(item, float):
            if not math.isfinite(item):
                return f"{where} is {item!r}, which JSON has no form for: write null, and a flag beside it"
        elif isinstance(item, str):
            if any("\ud800" <= letter <= "\udfff" for letter in item):
                return f"{where} is {item!r}, which is not valid Unicode"
        elif item is not None and not isinstance(item, int):
            return f"{where} is a {type(item).__module__}.{type(item).__qualname__}, which JSON has no form for"
    return ""
