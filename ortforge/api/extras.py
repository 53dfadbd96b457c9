"""Metrics, report writers, doctor checks and CLI verbs, as plugins describe them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Check", "CheckOutcome", "Command", "Metric", "Report"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A task metric, or an extra parity metric.

    :param compute: ``(reference outputs, candidate outputs, labels) -> value``. Outputs are one mapping per sample
        from output name to numpy array; labels are one JSON value per sample, or ``None`` when there are none.
        Returns ``None`` where the metric does not apply.
    :param needs_labels: a task metric; it is computed for reference and candidate alike (candidate passed
        as both), and the drop between them is what a tolerance limits.
    """

    name: str
    summary: str
    compute: Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]], Sequence[Any] | None], float | None]
    higher_is_better: bool = True
    needs_labels: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """A report writer: ``write(report, path)`` writes the run's JSON report in its own form."""

    name: str
    summary: str
    suffix: str
    write: Callable[[Mapping[str, Any], Path], None]


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What a doctor check found: ``ok``, ``warning`` or ``problem``; ``todo`` says what to do."""

    status: str
    message: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of ``ortforge doctor``; ``fix`` mends what ``run`` found, where that is safe."""

    name: str
    summary: str
    run: Callable[[], CheckOutcome]
    fix: Callable[[], CheckOutcome] | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """An extra CLI verb. ``target`` is ``module:function``, imported only when the verb is used."""

    name: str
    summary: str
    target: str
