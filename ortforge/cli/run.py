"""ortforge run: do the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ortforge.cli.shared import Json, MatrixFile, Only, StoreFolder, echo_json, prepare


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("run", epilog="Example: ortforge run --cell '*/int8@stock*' --output report")(run)


def run(
    ctx: typer.Context,
    matrix: MatrixFile = Path("matrix.toml"),
    store: StoreFolder = None,
    cell: Only = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Where report.html, .json and .xml go (default: ortforge-report)."
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do every step again, whatever is known.")] = False,
    retime: Annotated[bool, typer.Option("--retime", help="Measure all times again, on a quieter machine.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry/--no-retry", help="Try again what failed last time, or let it stand.")
    ] = True,
    cores: Annotated[int, typer.Option("--cores", min=0, help="Core budget for parallel steps (0: all).")] = 0,
    as_json: Json = False,
) -> None:
    """Run the matrix: every model, recipe, runtime and EP gets a verdict. What is known is not done again.

    Exit code 0: every cell passes; 1: a verdict is not pass; 2: usage or configuration; 4: the machine lacks something.
    """
    from ortforge.engine.local import LocalExecutor
    from ortforge.engine.run import execute
    from ortforge.engine.walk import WalkOptions
    from ortforge.plan.graph import EXCLUSIVE_KINDS
    from ortforge.report.progress import make_progress
    from ortforge.report.writing import write_reports
    from ortforge.store.store import RUN_LOCK

    prepared = prepare(ctx, matrix, store, cell)
    budget = cores or prepared.matrix.limits.cores or prepared.device.cores
    # Cleaning the store waits for runs, and runs for cleaning.
    with prepared.store.lock(RUN_LOCK, shared=True), make_progress(quiet=as_json) as listener:
        report = execute(
            prepared.plan,
            matrix_file=matrix,
            store=prepared.store,
            plugins=prepared.plugins,
            device=prepared.device,
            executor=LocalExecutor(budget),
            listener=listener,
            options=WalkOptions(fresh=fresh, fresh_kinds=EXCLUSIVE_KINDS if retime else frozenset(), retry=retry),
        )
    written = write_reports(report, prepared.plugins, output or Path("ortforge-report"))
    if as_json:
        echo_json(report)
    else:
        from ortforge.report.table import show

        show(report, written)
    raise typer.Exit(report["exit_code"])
