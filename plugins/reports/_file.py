"""Writes a report file whole or not at all: a reader never sees half of one."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 text beside ``path`` and rename it into place.

    :raises OSError: the folder cannot be written, or the disk is full; ``path`` is then as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # What no encoding can hold (half a surrogate pair, from a broken file name) becomes a question mark.
        part.write_bytes(text.encode("utf-8", "replace"))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
