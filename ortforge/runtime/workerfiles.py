"""Puts a copy of the worker, and of what it shares with ortforge, where any runtime can import it.

The copy is a package of its own, ``ortforge_worker``, with ``worker`` and ``portable`` inside: they import each other
relatively, so the same lines work here and there, and nothing else of ortforge lies beside them.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from ortforge import portable, worker

__all__ = ["PACKAGE", "copy_to", "digest", "install"]

COPY: Final = "ortforge_worker"
"""The copy's name: a runtime that happens to have ortforge installed must not run that one's worker."""
PACKAGE: Final = f"{COPY}.worker"
"""What ``python -m`` runs."""


@cache
def _sources() -> tuple[tuple[Path, Path], ...]:
    """Return each file with its place in the copy."""
    found = []
    for package in (portable, worker):
        root = Path(package.__path__[0])
        found += [(path, path.relative_to(root.parent)) for path in sorted(root.rglob("*.py"))]
    return tuple(found)


@cache
def digest() -> str:
    """Return the digest of the worker's sources: part of the key of every step that a worker does."""
    content = hashlib.blake2b(digest_size=16)
    for path, place in _sources():
        data = path.read_bytes()
        content.update(f"{place.as_posix()}\0{len(data)}\0".encode())
        content.update(data)
    return content.hexdigest()


def copy_to(folder: Path) -> None:
    """Copy the worker to ``folder/ortforge_worker``.

    :raises OSError: the folder cannot be written.
    """
    for path, place in _sources():
        target = folder / COPY / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (folder / COPY / "__init__.py").touch()


def install(root: Path) -> tuple[Path, str]:
    """Copy the worker to ``root/worker/<digest>/ortforge_worker``; return that folder (for PYTHONPATH) and the digest.

    Several processes may do this at once: each makes its own copy, and the first rename wins.

    :raises OSError: the folder cannot be written.
    """
    name = digest()
    folder = root / "worker" / name
    if (folder / COPY / "worker" / "__main__.py").is_file():
        return folder, name
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        copy_to(partial)
        partial.chmod(0o755)
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / COPY / "worker" / "__main__.py").is_file():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already, when the rename was ours
    return folder, name
