"""ortforge run: do the main job."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ortforge.cli.shared import Json, MatrixFile, Only, StoreFolder, echo_json, prepare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ortforge.api import Executor
    from ortforge.matrix import Matrix
    from ortforge.plugin_manager import Plugins
    from ortforge.store import Store


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("run", epilog="Example: ortforge run --cell '*/int8@stock*' --output report")(run)


def executor_named(name: str, plugins: Plugins, cores: int) -> Executor:
    """Return where steps run: this machine, or what a plugin offers.

    :raises UsageError: there is no such executor.
    """
    from ortforge.engine.local import LocalExecutor
    from ortforge.errors import UsageError, nearest

    if name in plugins.executors:
        return plugins.executors[name]
    if name == LocalExecutor.name:
        return LocalExecutor(cores)
    known = sorted({LocalExecutor.name, *plugins.executors})
    close = nearest(name, known)
    raise UsageError(
        f"There is no executor called {name!r}.",
        meant=f"Perhaps {close!r} was meant." if close else "",
        todo=f"There are: {', '.join(known)}. 'ortforge plugins list' shows what plugins bring.",
    )


def turn(store: Store, *, fresh: bool) -> AbstractContextManager[None]:
    """Wait until a run may use the store. Runs share it; cleaning it, and a fresh run, have it alone.

    A fresh run makes environments anew where they are, which no other run must have in use.
    """
    from ortforge.store.store import RUN_LOCK

    def say(holder: str) -> None:
        typer.echo(f"ortforge: waiting for the store, which {holder} uses.", err=True)

    return store.lock(RUN_LOCK, shared=not fresh, waiting=say)


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
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do every step again, whatever is known; resolve requirements anew.")
    ] = False,
    retime: Annotated[bool, typer.Option("--retime", help="Measure all times again, on a quieter machine.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry/--no-retry", help="Try again what failed last time, or let it stand.")
    ] = True,
    cores: Annotated[int, typer.Option("--cores", min=0, help="Core budget for parallel steps (0: all).")] = 0,
    executor: Annotated[str, typer.Option("--executor", metavar="NAME", help="Where steps run.")] = "local",
    accept: Annotated[
        bool,
        typer.Option("--accept", help="Write the verdicts to NAME.expect.toml next to the matrix; commit that file."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Require pass for every cell, whatever is expected.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the matrix: every model, recipe, runtime and EP gets a verdict. What is known is not done again.

    Exit code 0: every verdict is as expected or better; the [[expect]] entries of the matrix and the verdicts written
    by --accept say what is expected. Of cells without an expectation, every model, runtime, EP and device must have
    something correct to ship, and none may crash, hang, run out of memory or fail. A recipe that was tried and lost
    is no failure.

    Exit code 1: not so. 2: usage or configuration. 3: a build failed. 4: the environment lacks something, such as
    disk space or the network. 130: interrupted.
    """
    from ortforge.engine.run import Expectations, execute
    from ortforge.engine.walk import WalkOptions
    from ortforge.errors import UsageError
    from ortforge.matrix.expectations import accepted_file, load_expectations
    from ortforge.plan.graph import EXCLUSIVE_KINDS
    from ortforge.report.progress import make_progress
    from ortforge.report.writing import write_reports

    prepared = prepare(ctx, matrix, store, cell)
    if not prepared.plan.cells:
        raise UsageError(
            f"{matrix} has no models, so there is nothing to run.",
            todo="'ortforge build' builds its targets; add [models.NAME] to run models on them.",
        )
    accepted = accepted_file(matrix)
    expectations = Expectations(
        load_expectations(prepared.matrix, rewriting=accept),
        strict=strict,
        accept=accept,
        accepted_source=accepted.name,
    )
    budget = cores or prepared.matrix.limits.cores or prepared.device.cores
    places = executor_named(executor, prepared.plugins, budget)
    for note in prepared.plan.notes:
        typer.echo(f"note: {note}", err=True)
    with turn(prepared.store, fresh=fresh), make_progress(quiet=as_json) as listener:
        report = execute(
            prepared.plan,
            matrix_file=matrix,
            store=prepared.store,
            plugins=prepared.plugins,
            device=prepared.device,
            executor=places,
            listener=listener,
            options=WalkOptions(fresh=fresh, fresh_kinds=EXCLUSIVE_KINDS if retime else frozenset(), retry=retry),
            expectations=expectations,
        )
    for note in report["notes"]:
        if note not in prepared.plan.notes:  # known only after the run
            typer.echo(f"note: {note}", err=True)
    written, problem = write_reports(report, prepared.plugins, output or Path("ortforge-report"))
    if as_json:
        echo_json(report)
    else:
        from ortforge.report.table import show

        show(report, written)
    if accept:
        _accept(report, prepared.matrix, accepted)
    if problem is not None:
        raise problem
    raise typer.Exit(report["exit_code"])


def _accept(report: Mapping[str, Any], matrix: Matrix, path: Path) -> None:
    """Write the verdicts of a run to the file of accepted verdicts, and say on stderr what changed in it.

    :raises ConfigurationError: it is there and cannot be read. :raises StoreError: it cannot be written.
    """
    from ortforge.matrix import cells
    from ortforge.matrix.expectations import write_accepted

    if not report["expectations"]["accepted"]:
        typer.echo(
            f"ortforge: No verdict was accepted, and {path} is as before: something kept the run from being done.",
            err=True,
        )
        return
    changes = write_accepted(path, [spec.id for spec in cells(matrix)], report["cells"])
    counts = ", ".join(f"{len(changed)} {what}" for what, changed in changes.items() if changed) or "nothing changed"
    typer.echo(f"ortforge: Accepted {len(report['cells'])} verdicts in {path} ({counts}). Commit that file.", err=True)
    for name, before, now in changes["changed"]:
        typer.echo(f"  {name}: {before} → {now}", err=True)
