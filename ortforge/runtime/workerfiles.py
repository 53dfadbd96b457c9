"""Puts a copy of the worker where any runtime can import it, without anything else of ortforge beside it."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from ortforge import worker

__all__ = ["PACKAGE", "digest", "install"]

PACKAGE: Final = "ortforge_worker"
"""The copy's name: a runtime that happens to have ortforge installed must not run that one's worker."""


@cache
def _sources() -> tuple[Path, ...]:
    return tuple(sorted(Path(worker.__path__[0]).glob("*.py")))


@cache
def digest() -> str:
    """Return the digest of the worker's sources: part of the key of every step that a worker does."""
    content = hashlib.blake2b(digest_size=16)
    for path in _sources():
        data = path.read_bytes()
        content.update(f"{path.name}\0{len(data)}\0".encode())
        content.update(data)
    return content.hexdigest()


def install(root: Path) -> tuple[Path, str]:
    """Copy the worker to ``root/worker/<digest>/ortforge_worker``; return that folder (for PYTHONPATH) and the digest.

    Several processes may do this at once: each makes its own copy, and the first rename wins.

    :raises OSError: the folder cannot be written.
    """
    name = digest()
    folder = root / "worker" / name
    if (folder / PACKAGE / "__main__.py").is_file():
        return folder, name
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        (partial / PACKAGE).mkdir()
        for path in _sources():
            shutil.copyfile(path, partial / PACKAGE / path.name)
        partial.chmod(0o755)
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / PACKAGE / "__main__.py").is_file():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already, when the rename was ours
    return folder, name
