"""Source trees: checked to be what the target says, and kept as one tar: the same files, the same bytes."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from packaging.version import InvalidVersion, Version

from ortforge.build.unpacking import stays_inside, unpack
from ortforge.errors import ConfigurationError, FetchError
from ortforge.store.atomic import write_json
from ortforge.store.hashing import sha256_file

__all__ = ["PARSERS", "same_version", "store_tree", "tree_version", "unpack"]

PARSERS: Final = ("tools/ci_build/build.py", "tools/ci_build/build_args.py")
"""Where build.py's flags are declared: the second exists since 1.23."""

_DEPS: Final = "cmake/deps.txt"
_VERSION: Final = "VERSION_NUMBER"
_LEFT_OUT: Final = frozenset({".git", ".hg", ".svn"})
_MTIME: Final = 315_532_800
"""1980-01-01, the earliest time that zip files know: what setup.py packs of the tree must not fail."""


def store_tree(tree: Path, out: Path, *, version: str) -> dict[str, Any]:
    """Write a tree as an object: ``source.tar``, ``index.json``, ``parser/`` (its build.py) and ``deps.txt``.

    The same files give the same bytes: entries are sorted, and owners, times and permissions are fixed. Links stay
    links as long as they stay inside.

    :param version: what the target says it is.
    :return: what ``index.json`` holds: ``version``, ``files``, ``bytes``, ``sha256`` (of the tar), ``licence`` and
        ``stripped`` (it holds no model at all: distributions take out what they cannot rebuild).
    :raises ConfigurationError: it is another version. :raises FetchError: it is no tree of ORT, or holds what no tree
        should (a device, a link to the outside).
    """
    said = tree_version(tree)
    if not same_version(said, version):
        raise ConfigurationError(
            f"The source is ONNX Runtime {said}, and the target says version = {version!r}.",
            meant="The reference names another release, or the version is left over from another one.",
            todo=f'Write version = "{said}", or name the source of {version}.',
        )
    out.mkdir(parents=True, exist_ok=True)
    files = size = models = 0
    with tarfile.open(out / "source.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for path, name in _entries(tree):
            member = _member(path, name)
            if member.isreg():
                files, size, models = files + 1, size + member.size, models + name.endswith((".onnx", ".ort"))
                with path.open("rb") as content:
                    tar.addfile(member, content)
            else:
                tar.addfile(member)
    (out / "parser").mkdir()
    for name in PARSERS:
        if (tree / name).is_file():
            (out / "parser" / Path(name).name).write_bytes((tree / name).read_bytes())
    if (tree / _DEPS).is_file():
        (out / "deps.txt").write_bytes((tree / _DEPS).read_bytes())
    index = {
        "schema": 1,
        "version": said,
        "files": files,
        "bytes": size,
        "sha256": sha256_file(out / "source.tar"),
        "licence": _licence(tree),
        "stripped": models == 0,
    }
    write_json(out / "index.json", index, indent=1)
    return index


def tree_version(tree: Path) -> str:
    """Return the version that a tree says it is.

    :raises FetchError: it is no tree of ONNX Runtime; the message says what it seems to be.
    """
    if _is_tree(tree):
        said = (tree / _VERSION).read_text(encoding="utf-8", errors="replace").strip()
        if re.fullmatch(r"[0-9][0-9A-Za-z.+-]{0,40}", said):
            return said
        raise FetchError(f"{_VERSION} of the source holds {said[:40]!r}, which is no version.")
    raise FetchError(
        f"{tree.name} is no source tree of ONNX Runtime: {_VERSION} and {PARSERS[0]} are not both in it.",
        meant=_looks_like(tree),
        todo="Give the whole repository, as a release's 'Source code' archive has it.",
    )


def same_version(left: str, right: str) -> bool:
    """Return whether two texts name one version.

    >>> same_version("1.21", "1.21.0"), same_version("1.21.1", "1.21.0")
    (True, False)
    """
    try:
        return Version(left) == Version(right)
    except InvalidVersion:
        return left == right


def _is_tree(folder: Path) -> bool:
    return (folder / _VERSION).is_file() and (folder / PARSERS[0]).is_file()


def _looks_like(tree: Path) -> str:
    """Guess what was meant by a folder that is no tree of ORT."""
    inside = [path.name for path in sorted(tree.iterdir()) if path.is_dir() and _is_tree(path)]
    if inside:
        return f"The tree is one folder further down: {inside[0]}."
    if any(_is_tree(folder) for folder in (tree.parent, tree.parent.parent)):
        return "The tree is further up: this is a folder of it."
    if (tree / "core" / "session").is_dir() or (tree / "ci_build").is_dir():
        return "This is a folder of the tree, not the tree."
    if (tree / "include" / "onnxruntime_c_api.h").is_file():
        return "This is a binary release (headers and libraries), not the source."
    if (tree / "onnxruntime" / "capi").is_dir():
        return "This is an unpacked wheel, not the source."
    found = sorted(path.name for path in tree.iterdir())[:6]
    return f"It holds {', '.join(found)}." if found else "It is empty."


def _entries(tree: Path, above: str = "") -> Iterator[tuple[Path, str]]:
    with os.scandir(tree) as scan:
        found = sorted(scan, key=lambda entry: os.fsencode(entry.name))
    for entry in found:
        if entry.name in _LEFT_OUT:
            continue
        path, name = Path(entry.path), f"{above}{entry.name}"
        yield path, name
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(path, f"{name}/")


def _member(path: Path, name: str) -> tarfile.TarInfo:
    """Return a file, folder or link as an entry of the tar."""
    member = tarfile.TarInfo(name)
    member.mtime, member.mode = _MTIME, 0o644
    if path.is_symlink():
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(path), 0o777  # noqa: PTH115
        if not stays_inside(name, member.linkname):
            raise FetchError(
                f"{name} in the source is a link to {member.linkname}, outside of the tree.",
                todo="Put the file itself there: a build must not depend on this machine.",
            )
    elif path.is_dir():
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    elif path.is_file():
        facts = path.stat()
        member.size, member.mode = facts.st_size, 0o755 if facts.st_mode & 0o100 else 0o644
    else:
        raise FetchError(f"{name} in the source is neither file, folder nor link.", todo="Remove it.")
    return member


def _licence(tree: Path) -> str:
    """Return the licence that the tree states, as SPDX names it, ``""`` where it cannot be told."""
    path = tree / "LICENSE"
    text = path.read_text(encoding="utf-8", errors="replace")[:400] if path.is_file() else ""
    return "MIT" if "MIT License" in text else ""
