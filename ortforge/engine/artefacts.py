"""How artefacts lie in the store: see docs/formats.md."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ortforge.store.atomic import write_bytes
from ortforge.store.hashing import canonical, sha256_file
from ortforge.worker.session import laid_over

__all__ = [
    "add_custom_ops",
    "custom_ops_of",
    "model_file",
    "providers_for",
    "seal",
    "session_for",
    "settings_of",
]


def model_file(folder: Path) -> Path:
    """Return the model inside an artefact folder."""
    name: str = json.loads((folder / "index.json").read_text("utf-8"))["file"]
    return folder / name


CUSTOM_OPS: Final = "custom_ops"
"""Folder inside an artefact for custom-operator libraries, and their entry in its index."""


def add_custom_ops(folder: Path, libraries: Iterable[Path]) -> dict[str, str]:
    """Copy custom-operator libraries into a finished artefact folder; return their sha256 by name inside it.

    The index names them with their digests, so they are part of the artefact's identity. They do not count as bytes
    of the model.

    :raises OSError: a library cannot be read.
    """
    index_file = folder / "index.json"
    index = json.loads(index_file.read_text("utf-8"))
    digests: dict[str, str] = {}
    for library in libraries:
        (folder / CUSTOM_OPS).mkdir(exist_ok=True)
        name = f"{CUSTOM_OPS}/{library.name}"
        shutil.copyfile(library, folder / name)
        digests[name] = sha256_file(folder / name)
    if digests:
        write_bytes(index_file, canonical({**index, CUSTOM_OPS: digests}) + b"\n")
    return digests


def custom_ops_of(folder: Path) -> list[Path]:
    """Return the custom-operator libraries of an artefact folder."""
    names = json.loads((folder / "index.json").read_text("utf-8")).get(CUSTOM_OPS) or {}
    return [folder / name for name in names]


def settings_of(artefact: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that an artefact is to be loaded with: ``session`` and ``ep_options``, if it has any."""
    return {name: dict(artefact[name]) for name in ("session", "ep_options") if artefact.get(name)}


def seal(
    folder: Path, name: str, stamp: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
) -> int:
    """Write the index of a finished artefact folder, the same facts always as the same bytes; return its size in bytes.

    :param stamp: what decides where and how it may be loaded: as part of the folder it is part of the identity.
    :param settings: what :func:`settings_of` gives: part of the identity, too, so that the same model tuned in another
        way is another artefact.
    """
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    index: dict[str, Any] = {"schema": 1, "file": name, "bytes": total, **(settings or {})}
    write_bytes(folder / "index.json", canonical({**index, "stamp": stamp} if stamp else index) + b"\n")
    return total


def session_for(session: Mapping[str, Any], artefact: Mapping[str, Any]) -> dict[str, Any]:
    """Return the session options for an artefact: the cell's, those it was tuned to, types of changed in- and outputs.

    A model that was optimized up to the layout level is loaded as it is: optimizing it again would cost the
    load time that the recipe saved. One saved at a lower level still needs ORT's later optimizations.
    """
    stamp = artefact.get("stamp") or {}
    made = laid_over(session, artefact.get("session") or {})
    if artefact.get("inputs"):
        made["inputs"] = artefact["inputs"]
    if artefact.get("outputs"):
        made["outputs"] = artefact["outputs"]
    if stamp.get("level") in {"layout", "all"}:
        made["graph_optimization_level"] = "disable"
    return made


def providers_for(providers: Sequence[Sequence[Any]], artefact: Mapping[str, Any]) -> list[list[Any]]:
    """Return the execution providers for an artefact, the first of them with the options it was tuned to."""
    own = artefact.get("ep_options") or {}
    return [[name, {**options, **(own if place == 0 else {})}] for place, (name, options) in enumerate(providers)]
