"""Finds the report of an earlier run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ortforge.errors import UsageError, nearest
from ortforge.store.ledger import Ledger, RunRecord

__all__ = ["MATRIX", "REPRO", "load_report"]

MATRIX: Final = "matrix.toml"
"""The matrix file of a folder where nobody names one."""

REPRO: Final = "repro"
"""What stands for the matrix file in the runs that ``ortforge repro`` makes: they have no report."""


def load_report(ledger: Ledger, name: str, matrix: Path | None = None) -> dict[str, Any]:
    """Return the report of a run, by its id, the word ``latest``, or the path of a ``report.json``.

    :param matrix: the matrix file whose latest run is meant. A store may serve several projects, so without one it is
        the ``matrix.toml`` of this folder, where that has been run, and only then any.
    :raises UsageError: no such run, or it did not finish.
    """
    path = Path(name)
    if path.suffix == ".json":
        try:
            found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise UsageError(f"there is no file {name}.") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"{name} is not a report that can be read: {error}.") from None
        if "cells" not in found or "run" not in found:
            raise UsageError(f"{name} is JSON, and not a report of ortforge.", todo="Give a report.json of a run.")
        return found
    runs = [run for run in ledger.runs() if run.report is not None]
    if not runs:
        raise UsageError("no finished run is in this store.", todo="Call 'ortforge run' first, or give --store DIR.")
    if name == "latest":
        newest = ledger.run(_latest(runs, matrix).id)
        return dict((newest and newest.report) or {})
    wanted = ledger.run(name)
    if wanted is not None and wanted.report is not None:
        return dict(wanted.report)
    if wanted is not None:
        raise UsageError(f"run {name} did not finish.", todo="'ortforge run' goes on with it.")
    close = nearest(name, [run.id for run in runs])
    raise UsageError(
        f"there is no run {name!r}.",
        meant=f"Perhaps you meant {close!r}." if close else "",
        todo="'ortforge report --list' lists the runs.",
    )


def _latest(runs: Sequence[RunRecord], matrix: Path | None) -> RunRecord:
    """Return the latest of some runs, latest first: that of the matrix file, or of this folder's, or any."""
    wanted = str((matrix or Path(MATRIX)).resolve())
    own = [run for run in runs if run.matrix == wanted]
    if own or matrix is None:
        return (own or runs)[0]
    close = nearest(wanted, {run.matrix for run in runs})
    raise UsageError(
        f"no finished run of {matrix} is in this store.",
        meant=f"Perhaps you meant --matrix {close}." if close else "",
        todo=f"Call 'ortforge run --matrix {matrix}' first; 'ortforge report --list' lists the runs.",
    )
