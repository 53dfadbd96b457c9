"""ortforge report: show or write again what a run found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ortforge.cli.shared import Json, StoreFolder, echo_json, the_plugins


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("report", epilog="Example: ortforge report --format html --output report")(report)


def report(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="A run's id, or 'latest'.")] = "latest",
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
    from ortforge.report.saved import REPRO, load_report
    from ortforge.store import open_store

    opened = open_store(store)
    if runs:
        for entry in opened.ledger.runs():
            if entry.matrix == REPRO:
                continue
            code = "unfinished" if entry.exit_code is None else f"exit {entry.exit_code}"
            typer.echo(f"{entry.id}  {entry.started}  {code}  {entry.matrix}")
        return
    found = load_report(opened.ledger, run)
    written: list[Path] = []
    if output is not None or formats:
        from ortforge.report.writing import write_reports

        written = write_reports(found, the_plugins(ctx), output or Path("ortforge-report"), formats)
    if as_json:
        echo_json(found)
        return
    from ortforge.report.table import show

    show(found, written)
