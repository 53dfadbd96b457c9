"""Checks recorded results against what lies outside the store: the files that a dataset's code read, and wheels.

A key covers what is known before a step runs. What a step learns while it runs is kept in its result, and is checked
here before the result is used again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ortforge.plan.graph import Step
from ortforge.store.ledger import StepRecord
from ortforge.worker.opened_files import file_digest, folder_digest

__all__ = ["CHECKED_KINDS", "changed_file", "is_current", "why_outdated"]

CHECKED_KINDS: Final = frozenset({"dataset", "provision"})
"""Kinds of steps whose results name files."""


def is_current(step: Step, record: StepRecord) -> bool:
    """Say whether a recorded result may be used: no file that it was made from has changed."""
    return not why_outdated(step, record.result)


def why_outdated(step: Step, result: Mapping[str, Any]) -> str:
    """Return why a recorded result must be made again, or ``""``."""
    if step.kind not in CHECKED_KINDS:
        return ""
    path = changed_file(result, Path(step.context.get("base", ".")))
    made = "samples were made from it" if step.kind == "dataset" else "the environment was made"
    return f"{path} has changed since {made}" if path else ""


def changed_file(result: Mapping[str, Any], base: Path) -> str:
    """Return the first recorded file or folder that is not what it was, or ``""``."""
    for entry in result.get("files", ()):
        path = base / entry["path"]
        if entry["kind"] == "wheel" and not path.exists():
            continue  # what was installed from it stays what it is
        digest = folder_digest(path) if entry["kind"] == "folder" else _cached_digest(path)
        if digest != entry["sha256"]:
            return str(entry["path"])
    return ""


def _cached_digest(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return _digest_of_state(str(path), status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=4096)
def _digest_of_state(path: str, size: int, modified: int, inode: int) -> str:
    return file_digest(path)
