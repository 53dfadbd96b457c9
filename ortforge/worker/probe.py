"""probe: what this runtime is, asked of the runtime itself."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .protocol import Channel

__all__ = ["run"]

_OURS = ("libonnxruntime", "onnxruntime_pybind11_state")


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do a ``probe`` job and finish it. With a ``session`` that names a plugin EP, its devices are listed too."""
    import numpy as np
    import onnxruntime as ort

    channel.phase("run")
    session = job.get("session") or {}
    if session.get("library") or session.get("module"):
        from .session import register_plugin

        register_plugin(ort, session)
    channel.finish(
        {
            "ort_version": ort.__version__,
            "providers": list(ort.get_available_providers()),
            "build_info": ort.get_build_info() if hasattr(ort, "get_build_info") else "",
            "python": platform.python_version(),
            "numpy": np.__version__,
            "devices": _devices(ort),
            "libraries": {path.name: _sha256(path) for path in _loaded(ort)},
        }
    )


def _devices(ort: Any) -> list[dict[str, Any]]:
    from .session import describe_device

    if not hasattr(ort, "get_ep_devices"):
        return []
    return [describe_device(device) for device in ort.get_ep_devices()]


def _loaded(ort: Any) -> list[Path]:
    """Return ORT's own libraries as they are mapped into this process."""
    if sys.platform == "linux":
        maps = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
        mapped = {line.split(None, 5)[5] for line in maps if line.count(" ") >= 5 and "/" in line}
        return sorted(Path(name) for name in mapped if Path(name).name.startswith(_OURS))
    return sorted(path for path in Path(ort.__file__).parent.rglob("*") if path.name.startswith(_OURS))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
