"""Writes a run's report in every form that plugins offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ortforge.errors import OrtforgeError, PluginError, StoreError, UsageError, nearest
from ortforge.plugin_manager import Plugins

__all__ = ["check_formats", "write_reports"]

_ELSEWHERE = "The results are kept: give another folder with 'ortforge report --output DIR'."


def check_formats(plugins: Plugins, formats: Sequence[str]) -> None:
    """Find out before anything is written whether all formats are known.

    :raises UsageError: one is not.
    """
    for name in formats:
        if name not in plugins.reports:
            close = nearest(name, plugins.reports)
            raise UsageError(
                f"there is no report format {name!r}.",
                meant=f"Perhaps you meant {close!r}." if close else "",
                todo=f"Known: {', '.join(sorted(plugins.reports))}.",
            )


def write_reports(
    report: Mapping[str, Any], plugins: Plugins, folder: Path, formats: Sequence[str] | None = None
) -> tuple[list[Path], OrtforgeError | None]:
    """Write ``report.SUFFIX`` for each format; return the files, and what went wrong, for when the verdicts were shown.

    One writer that fails does not keep the others from writing.
    """
    written: list[Path] = []
    problem: OrtforgeError | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [], _unwritable(folder, error)
    for name in formats or plugins.reports:
        writer = plugins.reports[name]
        path = folder / f"report{writer.suffix}"
        try:
            writer.write(report, path)
        except OSError as error:
            problem = problem or _unwritable(path, error)
        except Exception as error:
            problem = problem or PluginError(
                f"the report {path} could not be written: {type(error).__name__}: {error}.",
                meant=f"This is a defect of the plugin {' '.join(plugins.owner('reports', name)).strip()}.",
                todo="The results are kept, and the other reports are written.",
            )
        else:
            written.append(path)
    return written, problem


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"the report could not be written to {path}: {error.strerror or error}.", todo=_ELSEWHERE)
