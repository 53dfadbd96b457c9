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

__all__ = ["Json", "MatrixFile", "Prepared", "Shared", "StoreFolder", "echo_json", "known", "prepare", "the_plugins"]

MatrixFile = Annotated[Path, typer.Option("--matrix", "-m", metavar="FILE", help="The matrix file.")]
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


def prepare(ctx: typer.Context, matrix_file: Path, store: Path | None, only: Sequence[str] | None = None) -> Prepared:
    """Load the matrix, probe the device, open the store and lay out the plan.

    :raises ConfigurationError: the matrix file cannot be used.
    :raises UsageError: ``only`` matches no cell.
    """
    from ortforge.matrix import load
    from ortforge.plan.planner import make_plan
    from ortforge.runtime import device, workerfiles
    from ortforge.store import open_store

    plugins = the_plugins(ctx)
    matrix = load(matrix_file, known(plugins))
    here = device.probe()
    opened = open_store(store)
    plan = make_plan(matrix, plugins, here, worker=workerfiles.digest())
    if only:
        plan = _select(plan, only)
    return Prepared(matrix, plugins, here, opened, plan)


def _select(plan: Plan, only: Sequence[str]) -> Plan:
    from fnmatch import fnmatchcase

    from ortforge.errors import UsageError, nearest

    chosen = [cell for cell in plan.cells if any(fnmatchcase(cell.id, glob) for glob in only)]
    if not chosen:
        close = nearest(only[0], [cell.id for cell in plan.cells])
        raise UsageError(
            f"no cell matches {', '.join(map(repr, only))}.",
            meant=f"Perhaps you meant {close!r}." if close else "",
            todo="'ortforge plan --cells' lists all cells.",
        )
    return plan.needed_by(chosen)


def echo_json(value: Any) -> None:
    """Print a value as JSON, the one form that machines get."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
