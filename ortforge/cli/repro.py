"""ortforge repro: reproduce one cell's verdict in the foreground."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ortforge.cli.shared import Json, MatrixFile, StoreFolder, echo_json, prepare
from ortforge.errors import UsageError
from ortforge.portable.statuses import BROKEN

if TYPE_CHECKING:
    from ortforge.engine.repro import Reproduced


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("repro", epilog="Example: ortforge repro 'vad/none@openvino:openvino/here'")(repro)


def repro(
    ctx: typer.Context,
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A cell's id, as reports print it.")],
    matrix: MatrixFile = Path("matrix.toml"),
    store: StoreFolder = None,
    run: Annotated[
        str, typer.Option("--run", metavar="RUN", help="The run whose verdict is reproduced (default: the latest).")
    ] = "",
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Keep the model, samples, reference outputs and a script there."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Reproduce one cell's verdict: run its check again, compare with the reference, and judge.

    The model, the data and the runtime are those that the report names by their keys, while they are in the store;
    what has changed since is listed. A cell that failed in a pass runs that pass again. Timings are not repeated: the
    verdict uses those of the report. The exit code is 0 when the status is the one in the report, and otherwise 1,
    also when no report has the cell.

    With --keep the case is left in a folder: its script needs only the runtime's own Python, and prints how the
    outputs differ from the reference's, so the case can be handed to others.
    """
    from ortforge.engine.repro import reported_cell, reproduce
    from ortforge.store.store import RUN_LOCK

    if keep is not None:
        _make(keep)
    prepared = prepare(ctx, matrix, store, [glob.escape(cell)])
    reported, report = reported_cell(prepared.store.ledger, cell, matrix, run)
    if run and not reported:
        raise UsageError(
            f"No run {run!r} of this store has the cell {cell!r}.", todo="'ortforge report --list' lists runs."
        )
    where = ("--matrix", str(matrix.resolve()), "--store", str(prepared.store.root))
    say = partial(typer.echo, err=as_json)
    with prepared.store.lock(RUN_LOCK, shared=True):
        found = reproduce(
            prepared.plan, cell, prepared.store, keep, say=say, reported=reported, report=report, where=where
        )
    if as_json:
        facts = {"same": found.is_same, "changed": list(found.changed), "same_outputs": found.same_outputs}
        facts |= {"run": (report.get("run") or {}).get("id"), "reported": reported.get("status")}
        echo_json({**facts, "cell": found.cell})
    else:
        _show(found, report)
    raise typer.Exit(0 if found.is_same else 1)


def _show(found: Reproduced, report: Mapping[str, Any]) -> None:
    """Print the verdict, and whether it is that of the report."""
    typer.echo(f"{found.cell['id']}: {found.cell['status']}")
    for reason in found.cell["reasons"]:
        typer.echo(f"  {reason}")
    for note in found.cell["notes"]:
        typer.echo(f"  Note: {note}")
    for text in found.changed:
        typer.echo(text)
    if not found.reported:
        typer.echo("No report has this cell, so there is no verdict to compare with. 'ortforge run' makes one.")
        return
    run = (report.get("run") or {}).get("id", "?")
    if found.is_same:
        typer.echo(f"Reproduced: the status is the one in the report of run {run}.")
        if list(found.cell["reasons"]) != list(found.reported["reasons"]):
            typer.echo("The reasons are others. The report says:")
            for reason in found.reported["reasons"]:
                typer.echo(f"  {reason}")
    else:
        typer.echo(f"Not reproduced: the report of run {run} says {found.reported['status']}:")
        for reason in found.reported["reasons"]:
            typer.echo(f"  {reason}")
    if found.same_outputs is not None:
        typer.echo(
            "The outputs are bitwise those of the run."
            if found.same_outputs
            else "The outputs are not bitwise those of the run."
        )
    if found.cell["log"] and found.cell["status"] in BROKEN:
        typer.echo(found.cell["log"])


def _make(folder: Path) -> None:
    """Make the folder of ``--keep`` before anything runs.

    :raises UsageError: it cannot be made or written.
    """
    elsewhere = "Name another folder with --keep."
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file.", todo=elsewhere)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}.", todo=elsewhere) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{folder} may not be written.", todo=elsewhere)
