"""ortforge compare: what changed between two runs."""

from __future__ import annotations

from typing import Annotated

import typer

from ortforge.cli.shared import Json, MatrixRun, StoreFolder, echo_json, existing_store, saved_report
from ortforge.errors import ExitCode


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("compare", epilog="Example: ortforge compare 20261120-101500-1a2b latest")(compare)


def compare(
    ctx: typer.Context,
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run's id, a report.json, or 'latest'.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="The same; the later one.")] = "latest",
    matrix: MatrixRun = None,
    store: StoreFolder = None,
    as_json: Json = False,
) -> None:
    """Compare two runs: verdicts, parity, and speed where the two are comparable.

    Exit code 0: no cell vanished or got worse. 1: one did. 2: a run does not exist or cannot be read.
    """
    from ortforge.report import comparison
    from ortforge.report.compare import compare as comparing

    ledger = existing_store(ctx, store).ledger
    found = comparing(saved_report(ledger, run_a, matrix), saved_report(ledger, run_b, matrix))
    if as_json:
        echo_json(found)
    else:
        comparison.show(found)
    raise typer.Exit(ExitCode.VERDICT if found["regressions"] else ExitCode.PASS)
