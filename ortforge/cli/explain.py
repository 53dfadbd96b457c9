"""ortforge explain: everything known of one cell."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ortforge.cli.shared import Json, MatrixRun, StoreFolder, echo_json, existing_store, prepare, saved_report
from ortforge.errors import OrtforgeError, UsageError, nearest

if TYPE_CHECKING:
    from ortforge.api import TaskOutcome
    from ortforge.store import Store


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
    budget: Annotated[
        float,
        typer.Option(
            "--budget",
            metavar="SECONDS",
            min=0,
            help="For quantizing again with lists of nodes left out; 0 tries none.",
        ),
    ] = 120.0,
    as_json: Json = False,
) -> None:
    """Show one cell's verdict with its reasons, numbers, placement and log.

    Where a recipe changed the model, every tensor is compared with what it was before: which are worst, and where it
    begins. The nodes that add most noise are then left out and the model is quantized again, until it holds its
    tolerance: what is printed to be pasted was measured. All that is done once and kept.
    """
    from ortforge.report.cell import show_cell

    opened = existing_store(ctx, store)
    ledger = opened.ledger
    report = saved_report(ledger, run, matrix)
    cells = {entry["id"]: entry for entry in report["cells"]}
    if cell not in cells:
        close = nearest(cell, cells)
        raise UsageError(
            f"run {report['run']['id']} has no cell {cell!r}.",
            meant=f"Perhaps you meant {close!r}." if close else "",
            todo="'ortforge report' lists the cells.",
        )
    if tensors and _place(cells[cell], opened).endswith(".ort"):
        typer.echo(
            "note: tensors were not compared: the model is in ONNX Runtime's own format, which cannot be taken apart. "
            "Explain a cell whose recipe is the same without format = 'ort'.",
            err=True,
        )
    elif tensors:
        known = cells[cell].get("differences")
        _compare(ctx, cells[cell], report, store, budget)
        # The report of the run shows it from now on, too.
        found = cells[cell].get("differences")
        if found and found != known and ledger.run(report["run"]["id"]) is not None:
            ledger.amend_report(report["run"]["id"], report)
    if place := _place(cells[cell], opened):
        cells[cell]["artefact"]["path"] = place
    if as_json:
        echo_json(cells[cell])
    else:
        try:
            show_cell(cells[cell], report)
        except Exception as error:
            if not cells[cell].pop("differences", None):
                raise
            typer.echo(f"note: the differences cannot be shown: {type(error).__name__}: {error}", err=True)
            show_cell(cells[cell], report)


def _place(cell: dict[str, Any], store: Store) -> str:
    """Return where the cell's model lies in the store, to be copied from there, or ``""``."""
    from ortforge.engine.artefacts import model_file

    digest = str((cell.get("artefact") or {}).get("digest"))
    try:
        return str(model_file(store.objects.get(digest)).resolve()) if store.objects.has(digest) else ""
    except (OrtforgeError, OSError, ValueError, KeyError):
        return ""


def _compare(
    ctx: typer.Context, cell: dict[str, Any], report: dict[str, Any], store: Path | None, budget: float
) -> None:
    """Put what :func:`explain_cell` finds into ``cell["differences"]``; say on stderr why it finds nothing."""
    from ortforge.api.wording import TUNING

    matrix = Path(report["run"].get("matrix") or "")
    artefact = cell.get("artefact") or {}
    if not artefact.get("changed"):
        if cell.get("recipe") == "none":
            typer.echo("note: this cell has no recipe, so there are no tensors to compare.", err=True)
        else:
            typer.echo("note: the recipe made no model, so there are no tensors to compare.", err=True)
        return
    if set(artefact["changed"]) == {TUNING}:
        typer.echo("note: the recipe changed the session alone, so there are no tensors to compare.", err=True)
        return
    if artefact.get("no_op"):
        typer.echo("note: the recipe changed nothing, so there are no tensors to compare.", err=True)
        return
    if not matrix.is_file():
        typer.echo(f"note: tensors were not compared: the run's matrix file {matrix} is not there.", err=True)
        return
    from ortforge.engine.explaining import explain_cell
    from ortforge.store.store import RUN_LOCK

    def say(text: str) -> None:
        typer.echo(f"… {text}", err=True)

    try:
        prepared = prepare(ctx, matrix, store, [glob.escape(cell["id"])])
        with prepared.store.lock(RUN_LOCK, shared=True):
            found = explain_cell(
                prepared.plan,
                cell["id"],
                prepared.plugins,
                prepared.store,
                artefact=str(artefact.get("digest")),
                budget_s=budget,
                say=say,
            )
    except OrtforgeError as error:
        typer.echo(f"note: tensors were not compared: {error}", err=True)
        return
    except Exception as error:  # the verdict is shown all the same
        typer.echo(f"note: tensors were not compared: a defect in ortforge: {type(error).__name__}: {error}", err=True)
        return
    if found.differences.status != "ok":
        typer.echo(f"note: tensors were not compared: {_why(found.differences)}", err=True)
        return
    cell["differences"] = dict(found.differences.result)
    if found.exclusion.status == "ok":
        cell["differences"]["exclusion"] = dict(found.exclusion.result)
    else:
        cell["differences"]["unproved"] = _why(found.exclusion)


def _why(outcome: TaskOutcome) -> str:
    """Say why a step has no result; that something cannot be done needs no status before it."""
    return outcome.reason if outcome.status == "unsupported" else f"{outcome.status}: {outcome.reason}"
