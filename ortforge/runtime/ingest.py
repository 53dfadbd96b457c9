"""Makes a model artefact folder (docs/formats.md) of what a resolver brought: the model and its external data.

A model comes from elsewhere: it is copied, never loaded, and files it names are taken only from inside its folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ortforge.api import Fetched, external_files, locate_external
from ortforge.errors import DamagedModelError, FetchError
from ortforge.store.hashing import sha256_file

__all__ = ["ingest"]

_CHUNK: Final = 1 << 20


def ingest(fetched: Fetched, destination: Path, *, sha256: str = "") -> dict[str, Any]:
    """Copy a model and the external data it names into ``destination``, with the ``index.json`` of docs/formats.md.

    A model that is no valid protocol buffer is taken as it is: the runtime says what is wrong with it, as a verdict.

    :param sha256: the digest that the model file must have, or ``""``.
    :return: the resolver's facts, and ``file``, ``bytes`` (of all files), ``sha256`` (of the model file), ``external``
        (names of external data files) and ``malformed`` (why the file could not be walked, or ``""``).
    :raises FetchError: it is missing, is no model at all, has another digest, names external data that is refused or
        missing, or there is no room.
    """
    source = fetched.path
    _check_is_model(source)
    name = "model.ort" if source.suffix == ".ort" else "model.onnx"
    locations: list[str] = []
    malformed = ""
    if name == "model.onnx":
        try:
            locations = _external_locations(source, fetched.root)
        except ValueError as error:
            malformed = f"{source.name} is no valid ONNX file: {error}"
    try:
        destination.mkdir(parents=True, exist_ok=True)
        digest = _copy(source, destination / name)
        copied = {source: digest}
        for location in locations:
            copied[source.parent / location] = _copy(source.parent / location, destination / location)
        _check_unchanged(copied)
        _check_digest(source, digest, sha256)
        total = sum((destination / file).stat().st_size for file in (name, *locations))
        index = {"schema": 1, "file": name, "bytes": total}
        (destination / "index.json").write_text(json.dumps(index, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise FetchError(
            f"{source.name} could not be copied: {error.strerror or error}.",
            todo="Free some space (`ortforge cache show` shows what ortforge keeps)." if full else "",
        ) from error
    facts = {"file": name, "bytes": total, "sha256": digest, "external": locations, "malformed": malformed}
    return {**fetched.facts, **facts}


def _check_is_model(path: Path) -> None:
    """Refuse what is clearly something else, with the reason that most often explains it."""
    if not path.is_file():
        raise FetchError(f"{path.name} is {'a folder' if path.is_dir() else 'not there'}, not a model file.")
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if not head:
        raise DamagedModelError(
            f"{path.name} is empty.", todo="Bring the file again: a download was probably cut short."
        )
    if head.startswith(b"version https://git-lfs"):
        raise DamagedModelError(
            f"{path.name} is a Git LFS pointer, not the model itself.",
            todo="Run `git lfs pull` where the file is from.",
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DamagedModelError(
            f"{path.name} is a web page, not a model.", todo="Give the address of the file itself, not of its page."
        )


def _external_locations(model: Path, root: Path) -> list[str]:
    """Return the locations of a model's external data, each checked to be there, allowed and long enough."""
    locations: list[str] = []
    for file in external_files(model):
        path = locate_external(model, root, file.location)
        if PurePosixPath(file.location).as_posix() in ("model.onnx", "index.json"):
            raise FetchError(f"{model.name} keeps external data in a file called {file.location!r}, which is taken.")
        size = path.stat().st_size
        if size < file.end:
            raise DamagedModelError(
                f"{file.location!r}, external data of {model.name}, is cut short: "
                f"{file.end:,} bytes are needed, {size:,} are there.",
                todo="Bring the file again.",
            )
        locations.append(file.location)
    return locations


def _check_unchanged(copied: Mapping[Path, str]) -> None:
    """Read the copied files once more: a copy of a file that is being written is nobody's model.

    :raises FetchError: one of them is not what was copied.
    """
    for path, digest in copied.items():
        if sha256_file(path) != digest:
            raise FetchError(
                f"{path.name} changed while it was copied.",
                meant="Another program probably still writes to it.",
                todo="Run again when the file is complete.",
            )


def _check_digest(source: Path, found: str, required: str) -> None:
    if required and found != required.lower():
        raise FetchError(
            f"{source.name} is not what its sha256 says: {required} was required, {found} is there.",
            meant="The file was changed, or the digest belongs to another file.",
            todo=f'If you trust the file, write sha256 = "{found}".',
        )


def _copy(source: Path, target: Path) -> str:
    """Copy a file's bytes (never a link: what it came from may change) and return their sha256."""
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()
