"""Gathers what ONNX Runtime's build downloads, so that a build needs no network; and says whether a gathering is whole.

A folder of this kind holds ``mirror/``, which ORT's CMake looks into by itself (since 1.18, below its own tree) before
it downloads: each file lies under its address without ``https://``. Repositories lie there in the same way, and git is
told to look there (:func:`environment`); wheels lie in ``mirror/python``. ``index.json`` has every file's digest.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ortforge.errors import ConfigurationError, FetchError, StoreError, nearest
from ortforge.store.atomic import write_json
from ortforge.store.hashing import digest_json, sha256_file

__all__ = [
    "INDEX",
    "MIRROR",
    "PYTHON",
    "Checked",
    "Dependency",
    "check",
    "digest",
    "environment",
    "lacking",
    "place_of",
    "read_deps",
    "read_entries",
]

MIRROR: Final = "mirror"
PYTHON: Final = f"{MIRROR}/python"
"""Where wheels lie; no host is called that."""

INDEX: Final = "index.json"
_SEEN: Final = ".seen.json"
_DEP_NAME: Final = re.compile(r"[A-Za-z0-9_.+-]+")
_SHA1: Final = re.compile(r"[0-9a-fA-F]{40}")


@dataclass(frozen=True, slots=True)
class Dependency:
    """One line of ``cmake/deps.txt``: an archive that ORT's CMake downloads."""

    name: str
    url: str
    sha1: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What a folder holds: files and bytes that are as the index says, and a sentence per file that is not."""

    files: int
    bytes: int
    problems: tuple[str, ...]


def read_deps(text: str) -> tuple[Dependency, ...]:
    """Read ``cmake/deps.txt``: lines of ``name;url;sha1``, and comments that start with ``#``.

    :raises FetchError: a line is not of this form, or two have one name.

    >>> read_deps("re2;https://example.org/re2.zip;" + 40 * "a")[0].name
    're2'
    """
    found: dict[str, Dependency] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split(";")]
        if len(fields) != 3 or not _DEP_NAME.fullmatch(fields[0]) or not _SHA1.fullmatch(fields[2]):
            raise FetchError(
                f"Line {number} of deps.txt is not name;url;sha1: {line[:120]!r}",
                meant="The source was changed, or its deps.txt is damaged.",
            )
        if fields[0] in found:
            raise FetchError(f"Line {number} of deps.txt names {fields[0]} a second time.")
        found[fields[0]] = Dependency(fields[0], fields[1], fields[2].lower())
    return tuple(found.values())


def place_of(url: str) -> str:
    """Return where ORT's CMake looks for an address, below the folder; ``""`` when it would not look.

    :raises FetchError: the address cannot be a path below it.

    >>> place_of("https://github.com/a/b.zip")
    'mirror/github.com/a/b.zip'
    """
    if not url.startswith("https://"):
        return ""
    parts = url.removeprefix("https://").split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts) or parts[0] == "python":
        raise FetchError(f"deps.txt names an address that cannot be a path: {url[:200]}")
    return f"{MIRROR}/{'/'.join(parts)}"


def environment(mirror: str) -> dict[str, str]:
    """Return the variables that make git and pip take what they need from a mirror folder.

    git's ``url.<base>.insteadOf`` turns every ``https://`` address into a path below the folder.

    :param mirror: where ``mirror/`` lies in the container.
    """
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{mirror}/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://",
        "PIP_FIND_LINKS": f"{mirror}/python",
        "PIP_NO_INDEX": "1",
    }


def digest(folder: str) -> str:
    """Return the digest of what a gathered folder holds, ``""`` for ``""``.

    A file's content is read only when its size, time or inode is not what it was when it was last read.

    :raises ConfigurationError: there is no such folder, or it was not gathered by ``ortforge vendor``.
    :raises FetchError: a file is missing, damaged, or was not gathered.
    """
    if not folder:
        return ""
    root = Path(folder)
    files, missing = _read_index(root)
    _, problems = _compare(root, files, missing, trust_times=True)
    if problems:
        raise FetchError(
            f"The vendored dependencies in {root} are not whole:\n" + "\n".join(f"- {text}" for text in problems[:8]),
            meant=f"There are {len(problems)} problems in all." if len(problems) > 8 else "",
            todo=f"Gather again what is missing: ortforge vendor TARGET --out {root}",
        )
    return digest_json({name: entry["sha256"] for name, entry in files.items()})


def check(folder: Path) -> Checked:
    """Read every file of a gathered folder, and compare it with the index.

    :raises ConfigurationError: there is no such folder, or it was not gathered by ``ortforge vendor``.
    """
    files, missing = _read_index(folder)
    good, problems = _compare(folder, files, missing, trust_times=False)
    return Checked(len(good), sum(files[name]["bytes"] for name in good), tuple(problems))


def lacking(folder: Path, deps: str) -> list[str]:
    """Return the names of a source's dependencies that a gathered folder does not have, or has in another version.

    :param deps: the text of the source's ``deps.txt``.
    """
    files = read_entries(folder)
    return [
        one.name
        for one in read_deps(deps)
        if (place := place_of(one.url)) and files.get(place, {}).get("sha1", "") != one.sha1
    ]


def read_entries(root: Path) -> dict[str, dict[str, Any]]:
    """Return what the index says: path below the folder, to ``sha256``, ``bytes``, ``sha1`` and what it is for.

    :raises ConfigurationError: there is no such folder, or it was not gathered by ``ortforge vendor``.
    """
    return _read_index(root)[0]


def _read_index(root: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return what is there, and the names of what could not be had."""
    try:
        index = json.loads((root / INDEX).read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = index["files"]
        missing = [str(name) for name in index.get("missing", ())]
        if index["schema"] != 1 or not all(_is_entry(name, entry) for name, entry in files.items()):
            raise ValueError
    except FileNotFoundError:
        beside = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() and not root.is_dir() else []
        close = nearest(root.name, beside)
        what = "was not gathered by 'ortforge vendor': it has no index.json" if root.is_dir() else "does not exist"
        raise ConfigurationError(
            f"The folder of vendored dependencies {root} {what}.",
            meant=f"Perhaps {root.with_name(close)} was meant." if close else "",
            todo=f"Gather it: ortforge vendor TARGET --out {root}",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ConfigurationError(
            f"{root / INDEX} cannot be read as the index of vendored dependencies ({type(error).__name__}).",
            todo=f"Gather again: ortforge vendor TARGET --out {root}",
        ) from None
    return files, missing


def _is_entry(name: str, entry: Mapping[str, Any]) -> bool:
    inside = name.startswith(f"{MIRROR}/") and not any(part in ("", ".", "..") for part in name.split("/"))
    return inside and isinstance(entry["bytes"], int) and re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]) is not None


def _compare(
    root: Path, files: Mapping[str, Mapping[str, Any]], missing: Sequence[str], *, trust_times: bool
) -> tuple[list[str], list[str]]:
    """Return the files that are as the index says, and what is wrong with the others."""
    seen = _read_seen(root) if trust_times else {}
    there = dict(_files_below(root / MIRROR, MIRROR))
    good, known = [], {}
    problems = [f"{name} could not be had when the folder was filled." for name in missing]
    for name, entry in files.items():
        facts = there.pop(name, None)
        if facts is None:
            problems.append(f"{name} is missing.")
        elif facts.st_size != entry["bytes"]:
            problems.append(
                f"{name} has {facts.st_size:,} bytes, and not {entry['bytes']:,}: it is cut short or changed."
            )
        else:
            stamp = [facts.st_size, facts.st_mtime_ns, facts.st_ino, entry["sha256"]]
            if seen.get(name) != stamp and sha256_file(root / name) != entry["sha256"]:
                problems.append(f"{name} was changed: its sha256 is not {entry['sha256']}.")
            else:
                good.append(name)
                known[name] = stamp
    problems += [f"{name} was not gathered: no digest of it is known." for name in sorted(there)]
    if known != seen:
        _write_seen(root, known)
    return good, problems


def _files_below(folder: Path, name: str) -> Iterator[tuple[str, os.stat_result]]:
    """Give every file with its name from the root; a link counts as a file that nothing describes."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        below = f"{name}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(Path(entry.path), below)
        else:
            yield below, entry.stat(follow_symlinks=False)


def _read_seen(root: Path) -> dict[str, Any]:
    try:
        seen = json.loads((root / _SEEN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return seen if isinstance(seen, dict) else {}


def _write_seen(root: Path, known: Mapping[str, Sequence[Any]]) -> None:
    """Remember when files were read; in a folder that cannot be written they are read each time."""
    try:
        write_json(root / _SEEN, known)
    except StoreError:
        return
