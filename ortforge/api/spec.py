"""Every hook on one screen.

Hooks run in this order: the ``ortforge_*`` registrations once, when plugins are first needed; then, per run,
``ortforge_run_started``, ``ortforge_step_finished`` for each step, ``ortforge_cell_judged`` for each cell and
``ortforge_run_finished``. In a plugin module every function whose name starts with ``ortforge_`` is a hook
implementation; the ``hookimpl`` marker is needed only for pluggy's options (``tryfirst`` …).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import pluggy

from ortforge.api.backend import Allocator, Backend
from ortforge.api.datasets import DatasetSource
from ortforge.api.execution import Executor
from ortforge.api.extras import Check, Command, Metric, Report
from ortforge.api.passes import Pass
from ortforge.api.resolver import Resolver, SourceResolver

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT: Final = "ortforge"

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)


@hookspec
def ortforge_backends() -> Iterable[Backend]:  # type: ignore[empty-body]
    """Give execution providers: how each is built, installed and offered to a session."""


@hookspec
def ortforge_allocators() -> Iterable[Allocator]:  # type: ignore[empty-body]
    """Give memory allocators: how each gets into a build or a process, per ORT version."""


@hookspec
def ortforge_passes() -> Iterable[Pass]:  # type: ignore[empty-body]
    """Give model-to-model changes that recipes can name."""


@hookspec
def ortforge_sources() -> Iterable[SourceResolver]:  # type: ignore[empty-body]
    """Give resolvers for ONNX Runtime source trees (``git:``, ``archive:``, ``debian:`` …)."""


@hookspec
def ortforge_models() -> Iterable[Resolver]:  # type: ignore[empty-body]
    """Give resolvers for model references (``path:``, ``package:``, ``https:`` …)."""


@hookspec
def ortforge_datasets() -> Iterable[DatasetSource]:  # type: ignore[empty-body]
    """Give makers of real inputs for a model (``path:``, ``python:``, ``random:`` …)."""


@hookspec
def ortforge_executors() -> Iterable[Executor]:  # type: ignore[empty-body]
    """Give places where steps run (local processes, a cluster)."""


@hookspec
def ortforge_metrics() -> Iterable[Metric]:  # type: ignore[empty-body]
    """Give parity and task metrics that a model's ``tasks`` and ``tolerance`` can name."""


@hookspec
def ortforge_reports() -> Iterable[Report]:  # type: ignore[empty-body]
    """Give report writers; each is offered as ``ortforge report --format NAME``."""


@hookspec
def ortforge_checks() -> Iterable[Check]:  # type: ignore[empty-body]
    """Give checks for ``ortforge doctor``."""


@hookspec
def ortforge_commands() -> Iterable[Command]:  # type: ignore[empty-body]
    """Give extra CLI verbs. Called only when a verb is unknown or help is asked for."""


@hookspec
def ortforge_run_started(run: Mapping[str, Any]) -> None:
    """Be told that a run starts: its id, matrix digest and number of cells."""


@hookspec
def ortforge_step_finished(run_id: str, step: Mapping[str, Any]) -> None:
    """Be told that a step ended: id, kind, key, status, seconds, reason."""


@hookspec
def ortforge_cell_judged(run_id: str, cell: Mapping[str, Any]) -> None:
    """Be told a cell's verdict, as it stands in the JSON report."""


@hookspec
def ortforge_run_finished(run_id: str, report: Mapping[str, Any]) -> None:
    """Be told that a run ended, with the whole JSON report."""
