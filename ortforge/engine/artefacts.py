"""How artefacts lie in the store: see docs/formats.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ortforge.store.atomic import write_json

__all__ = ["model_file", "seal", "session_for"]


def model_file(folder: Path) -> Path:
    """Return the model inside an artefact folder."""
    name: str = json.loads((folder / "index.json").read_text("utf-8"))["file"]
    return folder / name


def seal(folder: Path, name: str, stamp: Mapping[str, Any] | None = None) -> int:
    """Write the index of a finished artefact folder; return its size in bytes.

    :param stamp: what decides where and how it may be loaded: as part of the folder it is part of the identity.
    """
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    index = {"schema": 1, "file": name, "bytes": total}
    write_json(folder / "index.json", {**index, "stamp": stamp} if stamp else index)
    return total


def session_for(session: Mapping[str, Any], artefact: Mapping[str, Any]) -> dict[str, Any]:
    """Return the session options for an artefact.

    A model that was optimized up to the layout level is loaded as it is: optimizing it again would cost the
    load time that the recipe saved. One saved at a lower level still needs ORT's later optimizations.
    """
    stamp = artefact.get("stamp") or {}
    if stamp.get("level") in {"layout", "all"}:
        return {**session, "graph_optimization_level": "disable"}
    return dict(session)
