"""Refuses results that were made from files which changed while a run used them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ortforge.errors import FetchError

__all__ = ["last_modified", "last_modified_of", "refuse_changed"]


def refuse_changed(planned: str, now: str, reference: str, file: str) -> None:
    """Compare the digest that a step was planned with and the digest of what is there now.

    :param file: the file that was written last, to be named.
    :raises FetchError: they differ: the step's key is not that of what it read.
    """
    if now == planned:
        return
    raise FetchError(
        f"{reference} changed while the run used it: {file} was written after the run had been planned.",
        meant="Another program probably still writes to it.",
        todo="Run again when the file is complete; this result was not kept.",
    )


def last_modified(place: Path) -> str:
    """Return the file at or below a path that was written last, or the path itself when there is none."""
    return last_modified_of(place.rglob("*") if place.is_dir() else [place]) or str(place)


def last_modified_of(files: Iterable[Path]) -> str:
    """Return which of some files was written last, or ``""`` when there is none."""
    times = {file: file.stat().st_mtime_ns for file in files if file.is_file()}
    return str(max(times, key=lambda file: times[file])) if times else ""
