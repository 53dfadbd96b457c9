"""ortforge explain: everything known of one cell."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Annotated, Any

import typer

from ortforge.cli.shared import Json, MatrixRun, StoreFolder, echo_json, existing_store, prepare, saved_report
from ortforge.errors import OrtforgeError, UsageError, nearest


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("explain", epilog="Example: ortforge explain 'vad/int8@stock:cpu/here'")(explain)


def explain(
    ctx: typer.Context,
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A cell's id, as reports print it.")],
    run: Annotated[str, typer.Option("--run", help="A run's id, or 'latest'.")] = "latest",
    matrix: MatrixRun = None,
    store: StoreFolder = None,
    tensors: Annotated[
        bool, typer.Option("--tensors/--no-tensors", help="Compare its tensors with the model's before the recipe.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Show one cell's verdict with its reasons, numbers, placement and log.

    Where a recipe changed the model, every tensor is compared with what it was before: which are worst, where it
    begins, and a list of nodes to leave out that can be pasted into the recipe. That is done once and kept.
    """
    from ortforge.report.cell import show_cell

    ledger = existing_store(ctx, store).ledger
    report = saved_report(ledger, run, matrix)
    cells = {entry["id"]: entry for entry in report["cells"]}
    if cell not in cells:
        close = nearest(cell, cells)
        raise UsageError(
            f"run {report['run']['id']} has no cell {cell!r}.",
            meant=f"Perhaps you meant {close!r}." if close else "",
            todo="'ortforge report' lists the cells.",
        )
    if tensors:
        known = cells[cell].get("differences")
        _compare(ctx, cells[cell], report, store)
        # The report of the run shows it from now on, too.
        found = cells[cell].get("differences")
        if found and found != known and ledger.run(report["run"]["id"]) is not None:
            ledger.amend_report(report["run"]["id"], report)
    if as_json:
        echo_json(cells[cell])
    else:
        show_cell(cells[cell], report)


def _compare(ctx: typer.Context, cell: dict[str, Any], report: dict[str, Any], store: Path | None) -> None:
    """Put what :func:`compare_tensors` finds into ``cell["differences"]``; say on stderr why it finds nothing."""
    matrix = Path(report["run"].get("matrix") or "")
    artefact = cell.get("artefact") or {}
    if not artefact.get("changed"):
        if cell.get("recipe") == "none":
            typer.echo("note: this cell has no recipe, so there are no tensors to compare.", err=True)
        return
    if not matrix.is_file():
        typer.echo(f"note: tensors were not compared: the run's matrix file {matrix} is not there.", err=True)
        return
    from ortforge.engine.explaining import compare_tensors
    from ortforge.store.store import RUN_LOCK

    try:
        prepared = prepare(ctx, matrix, store, [glob.escape(cell["id"])])
        with prepared.store.lock(RUN_LOCK, shared=True):
            done = compare_tensors(
                prepared.plan, cell["id"], prepared.plugins, prepared.store, artefact=str(artefact.get("digest"))
            )
    except OrtforgeError as error:
        typer.echo(f"note: tensors were not compared: {error}", err=True)
        return
    if done.status == "ok":
        cell["differences"] = dict(done.result)
    else:
        typer.echo(f"note: tensors were not compared: {done.status}: {done.reason}", err=True)
