"""ortforge repro: run one cell's check again in the foreground, to see it happen."""

from __future__ import annotations

import glob
import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ortforge.cli.shared import Json, MatrixFile, StoreFolder, echo_json, prepare
from ortforge.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("repro", epilog="Example: ortforge repro 'vad/none@openvino:openvino/here'")(repro)


def repro(
    ctx: typer.Context,
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A cell's id, as reports print it.")],
    matrix: MatrixFile = Path("matrix.toml"),
    store: StoreFolder = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep the model, the samples and a script there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Do one cell's check again, whatever is known, and print what the runtime said.

    With --keep the model, the samples and a script are left in a folder: the script needs only the
    runtime's own Python, so the case can be handed to others.
    """
    from ortforge.engine.repro import reproduce
    from ortforge.store.store import RUN_LOCK

    if keep is not None:
        _make(keep)
    prepared = prepare(ctx, matrix, store, [glob.escape(cell)])
    with prepared.store.lock(RUN_LOCK, shared=True):
        outcome = reproduce(prepared.plan, cell, prepared.store, keep, say=partial(typer.echo, err=as_json))
    if as_json:
        facts = {"cell": cell, "status": outcome.status, "reason": outcome.reason, "result": dict(outcome.result)}
        echo_json({**facts, "log": outcome.log, "seconds": outcome.seconds})
        raise typer.Exit(0 if outcome.status == "ok" else 1)
    typer.echo(f"{outcome.status}" + (f": {outcome.reason}" if outcome.reason else ""))
    if outcome.log:
        typer.echo(outcome.log)
    raise typer.Exit(0 if outcome.status == "ok" else 1)


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
