"""Refuses results that were made from files which changed while a run used them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ortforge.errors import FetchError

__all__ = ["files_below", "refuse_changed"]


def refuse_changed(planned: str, now: str, reference: str, files: Callable[[], Iterable[Path]]) -> None:
    """Compare the digest that a step was planned with and the digest of what is there now.

    :param files: gives the files that may have changed; the one that was written last is named.
    :raises FetchError: they differ: the step's key is not that of what it read.
    """
    if now == planned:
        return
    raise FetchError(
        f"{reference} changed while the run used it: {_last_modified(files())} was written after the run was planned.",
        meant="Another program probably still writes to it.",
        todo="Run again when the file is complete; this result was not kept.",
    )


def files_below(place: Path) -> Iterable[Path]:
    """Return the files at or below a path."""
    return place.rglob("*") if place.is_dir() else [place]


def _last_modified(files: Iterable[Path]) -> str:
    times = {file: file.stat().st_mtime_ns for file in files if file.is_file()}
    return str(max(times, key=lambda file: times[file])) if times else "a file"
