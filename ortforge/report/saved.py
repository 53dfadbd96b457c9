"""Finds the report of an earlier run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from ortforge.errors import UsageError, nearest
from ortforge.store.ledger import Ledger

__all__ = ["REPRO", "load_report"]

REPRO: Final = "repro"
"""What stands for the matrix file in the runs that ``ortforge repro`` makes: they have no report."""


def load_report(ledger: Ledger, name: str) -> dict[str, Any]:
    """Return the report of a run, by its id, the word ``latest``, or the path of a ``report.json``.

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
        newest = ledger.run(max(run.id for run in runs))
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
