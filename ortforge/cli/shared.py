"""What verbs share: common options, and how a matrix becomes a plan. Heavy imports happen inside functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ortforge.api import Device
    from ortforge.matrix import Known, Matrix
    from ortforge.plan.graph import Plan
    from ortforge.plugin_manager import Plugins
    from ortforge.store import Store
    from ortforge.store.ledger import Ledger

__all__ = [
    "Json",
    "MatrixFile",
    "MatrixRun",
    "Prepared",
    "Shared",
    "StoreFolder",
    "echo_json",
    "existing_store",
    "known",
    "load_matrix",
    "open_until_end",
    "prepare",
    "saved_report",
    "the_plugins",
]

MatrixFile = Annotated[Path, typer.Option("--matrix", "-m", metavar="FILE", help="The matrix file.")]
MatrixRun = Annotated[
    Path | None,
    typer.Option(
        "--matrix", "-m", metavar="FILE", help="Whose run 'latest' means (default: ./matrix.toml, if it has one)."
    ),
]
StoreFolder = Annotated[
    Path | None, typer.Option("--store", metavar="DIR", help="Where results are kept (default: the user's cache).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Only = Annotated[
    list[str] | None,
    typer.Option("--cell", "-c", metavar="GLOB", help="Only cells whose id matches, e.g. 'vad/*@stock*'; repeatable."),
]


@dataclass(frozen=True, slots=True)
class Shared:
    """The options that stand before the verb."""

    debug: bool = False
    blocked: tuple[str, ...] = ()
    third_party: bool = True


@dataclass(frozen=True, slots=True)
class Prepared:
    """A matrix laid out for this machine."""

    matrix: Matrix
    plugins: Plugins
    device: Device
    store: Store
    plan: Plan


def the_plugins(ctx: typer.Context) -> Plugins:
    """Load the plugins as the options before the verb ask."""
    from ortforge.engine.work import share
    from ortforge.plugin_manager import Plugins

    shared: Shared = ctx.obj
    plugins = Plugins(blocked=shared.blocked, third_party=shared.third_party)
    for row in plugins.refused():
        if row.status == "unknown":
            typer.echo(f"ortforge: {row.name!r} was to be left out: {row.error}.", err=True)
    share(plugins)
    return plugins


def known(plugins: Plugins) -> Known:
    """Return the names that plugins offer to a matrix file."""
    from ortforge.matrix import Known

    return Known(
        backends=tuple(plugins.backends),
        passes=dict(plugins.passes),
        model_schemes=tuple(plugins.models),
        dataset_schemes=tuple(plugins.datasets),
        source_schemes=tuple(plugins.sources),
        metrics=tuple(plugins.metrics),
        allocators=tuple(plugins.allocators),
    )


def open_until_end(ctx: typer.Context, folder: Path | None) -> Store:
    """Open the store that a verb works on; it is closed when the verb ends, however it ends."""
    from ortforge.store import open_store

    store = open_store(folder)
    ctx.call_on_close(store.close)
    return store


def existing_store(ctx: typer.Context, folder: Path | None) -> Store:
    """Open the store of a verb that only looks: one that is named must be there, and is not made by a misspelling.

    :raises UsageError: ``folder`` does not exist.
    """
    from ortforge.errors import UsageError, nearest

    if folder is not None and not folder.expanduser().exists():
        beside = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        close = nearest(folder.name, beside)
        raise UsageError(
            f"there is no store {folder}.",
            meant=f"Perhaps you meant {folder.with_name(close)}." if close else "",
            todo="'ortforge run --store DIR' makes one.",
        )
    return open_until_end(ctx, folder)


def saved_report(ledger: Ledger, run: str, matrix: Path | None) -> dict[str, Any]:
    """Load a run's report, and say on stderr when ``latest`` is not of the matrix file that lies here.

    :raises UsageError: there is no such run.
    """
    from ortforge.report.saved import MATRIX, load_report

    found = load_report(ledger, run, matrix)
    shown, here = found.get("run") or {}, Path(MATRIX)
    if run == "latest" and matrix is None and here.is_file() and shown.get("matrix") != str(here.resolve()):
        what = f"{shown.get('id')} of {shown.get('matrix')}"
        typer.echo(f"note: no run of ./{here} is in this store: this is run {what}.", err=True)
    return found


def load_matrix(ctx: typer.Context, matrix_file: Path) -> tuple[Matrix, Plugins]:
    """Load the plugins and the matrix file.

    :raises ConfigurationError: the matrix file cannot be used.
    """
    from ortforge.errors import ConfigurationError
    from ortforge.matrix import load

    plugins = the_plugins(ctx)
    try:
        matrix = load(matrix_file, known(plugins))
    except ConfigurationError as error:
        # A name may be unknown because the plugin that has it could not be used.
        lost = [f"{row.name} ({row.status})" for row in plugins.rows() if row.status != "loaded"]
        if lost:
            error.todo += f"\nPlugins that are not used or not wholly: {', '.join(lost)}; see 'ortforge plugins list'."
        raise
    return matrix, plugins


def prepare(ctx: typer.Context, matrix_file: Path, store: Path | None, only: Sequence[str] | None = None) -> Prepared:
    """Load the matrix, probe the device, open the store and lay out the plan.

    :raises ConfigurationError: the matrix file cannot be used.
    :raises UsageError: ``only`` matches no cell.
    """
    from ortforge.plan.planner import make_plan
    from ortforge.runtime import device, workerfiles

    matrix, plugins = load_matrix(ctx, matrix_file)
    here = device.probe()
    opened = open_until_end(ctx, store)
    plan = make_plan(matrix, plugins, here, worker=workerfiles.digest())
    if only:
        plan = _select(plan, only)
    return Prepared(matrix, plugins, here, opened, plan)


def _select(plan: Plan, only: Sequence[str]) -> Plan:
    from fnmatch import fnmatchcase

    from ortforge.errors import UsageError
    from ortforge.matrix.expectations import nearest_cell

    chosen = [cell for cell in plan.cells if any(fnmatchcase(cell.id, glob) for glob in only)]
    if not chosen:
        close = nearest_cell(only[0], [cell.id for cell in plan.cells])
        raise UsageError(
            f"no cell matches {', '.join(map(repr, only))}.",
            meant=f"Did you mean {close!r}?" if close else "",
            todo="'ortforge plan --cells' lists all cells.",
        )
    return plan.needed_by(chosen)


def echo_json(value: Any) -> None:
    """Print a value as JSON, the one form that machines get."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
