"""Writes a run's report in every form that plugins offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ortforge.errors import StoreError, UsageError, nearest
from ortforge.plugin_manager import Plugins

__all__ = ["write_reports"]


def write_reports(
    report: Mapping[str, Any], plugins: Plugins, folder: Path, formats: Sequence[str] | None = None
) -> list[Path]:
    """Write ``report.SUFFIX`` for each format; return the files.

    :raises UsageError: an unknown format. :raises StoreError: the folder cannot be written.
    """
    for name in formats or ():
        if name not in plugins.reports:
            close = nearest(name, plugins.reports)
            raise UsageError(
                f"there is no report format {name!r}.",
                meant=f"Perhaps you meant {close!r}." if close else "",
                todo=f"Known: {', '.join(sorted(plugins.reports))}.",
            )
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in formats or plugins.reports:
            writer = plugins.reports[name]
            path = folder / f"report{writer.suffix}"
            writer.write(report, path)
            written.append(path)
    except OSError as error:
        raise StoreError(
            f"the report could not be written to {folder}: {error.strerror}.",
            todo="The results are kept: give another folder with 'ortforge report --output DIR'.",
        ) from error
    return written
