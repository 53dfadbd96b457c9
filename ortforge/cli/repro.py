"""ortforge repro: run one cell's check again in the foreground, to see it happen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ortforge.cli.shared import MatrixFile, StoreFolder, prepare


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
) -> None:
    """Do one cell's check again, whatever is known, and print what the runtime said.

    With --keep the model, the samples and a script are left in a folder: the script needs only the
    runtime's own Python, so the case can be handed to others.
    """
    from ortforge.engine.repro import reproduce
    from ortforge.store.store import RUN_LOCK

    prepared = prepare(ctx, matrix, store, [cell.replace("[", "[[]")])
    with prepared.store.lock(RUN_LOCK, shared=True):
        outcome = reproduce(prepared.plan, cell, prepared.store, keep, say=typer.echo)
    typer.echo(f"{outcome.status}" + (f": {outcome.reason}" if outcome.reason else ""))
    if outcome.log:
        typer.echo(outcome.log)
    raise typer.Exit(0 if outcome.status == "ok" else 1)
