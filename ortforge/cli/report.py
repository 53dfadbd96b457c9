"""ortforge report: show or write again what a run found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from ortforge.cli.shared import Json, MatrixRun, StoreFolder, echo_json, existing_store, saved_report, the_plugins

_LISTED: Final = ("id", "matrix", "matrix_digest", "started", "finished", "host", "argv", "exit_code")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("report", epilog="Example: ortforge report --format html --output report")(report)


def report(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="A run's id, or 'latest'.")] = "latest",
    matrix: MatrixRun = None,
    store: StoreFolder = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write report files there.")
    ] = None,
    formats: Annotated[
        list[str] | None, typer.Option("--format", "-f", help="A report format; repeatable (default: all).")
    ] = None,
    runs: Annotated[bool, typer.Option("--list", help="List the runs in the store.")] = False,
    as_json: Json = False,
) -> None:
    """Show the verdicts of an earlier run, or write its report files again."""
    from ortforge.report.saved import REPRO
    from ortforge.report.writing import check_formats, write_reports

    opened = existing_store(ctx, store)
    if runs:
        entries = [entry for entry in opened.ledger.runs() if entry.matrix != REPRO]
        if as_json:
            echo_json([{name: getattr(entry, name) for name in _LISTED} for entry in entries])
            return
        for entry in entries:
            code = "unfinished" if entry.exit_code is None else f"exit {entry.exit_code}"
            typer.echo(f"{entry.id}  {entry.started}  {code}  {entry.matrix}")
        return
    found = saved_report(opened.ledger, run, matrix)
    written: list[Path] = []
    problem = None
    if output is not None or formats:
        plugins = the_plugins(ctx)
        check_formats(plugins, formats or ())
        written, problem = write_reports(found, plugins, output or Path("ortforge-report"), formats)
    if as_json:
        echo_json(found)
    else:
        from ortforge.report.table import show

        show(found, written)
    if problem is not None:
        raise problem
