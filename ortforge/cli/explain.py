"""ortforge explain: everything known of one cell."""

from __future__ import annotations

from typing import Annotated

import typer

from ortforge.cli.shared import Json, MatrixRun, StoreFolder, echo_json, existing_store, saved_report
from ortforge.errors import UsageError, nearest


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("explain", epilog="Example: ortforge explain 'vad/int8@stock:cpu/here'")(explain)


def explain(
    ctx: typer.Context,
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A cell's id, as reports print it.")],
    run: Annotated[str, typer.Option("--run", help="A run's id, or 'latest'.")] = "latest",
    matrix: MatrixRun = None,
    store: StoreFolder = None,
    as_json: Json = False,
) -> None:
    """Show one cell's verdict with its reasons, numbers, placement and log."""
    from ortforge.report.cell import show_cell

    report = saved_report(existing_store(ctx, store).ledger, run, matrix)
    cells = {entry["id"]: entry for entry in report["cells"]}
    if cell not in cells:
        close = nearest(cell, cells)
        raise UsageError(
            f"run {report['run']['id']} has no cell {cell!r}.",
            meant=f"Perhaps you meant {close!r}." if close else "",
            todo="'ortforge report' lists the cells.",
        )
    if as_json:
        echo_json(cells[cell])
    else:
        show_cell(cells[cell], report)
