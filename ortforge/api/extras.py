"""Metrics, report writers, doctor checks and CLI verbs, as plugins describe them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ortforge.api.backend import Device

__all__ = ["Check", "CheckContext", "CheckOutcome", "Command", "Metric", "Report"]


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
class CheckContext:
    """What a doctor check may look at.

    :param store: folder of the store; it need not be there yet.
    :param device: this machine, as it was probed.
    :param uv: uv's executable, ``None`` where there is none; :param uv_environ: the variables that it runs with.
    """

    store: Path
    device: Device
    uv: Path | None
    uv_environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What a doctor check found: ``ok``, ``warning`` or ``problem``; ``todo`` says what to do."""

    status: str
    message: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of ``ortforge doctor``: ``run`` looks, and changes nothing.

    :param fix: mends what ``run`` found, where that loses nothing; called by ``--fix`` after an answer that is not
        ``ok``. ``run`` is asked again after it.
    """

    name: str
    summary: str
    run: Callable[[CheckContext], CheckOutcome]
    fix: Callable[[CheckContext], None] | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """An extra CLI verb. ``target`` is ``module:function``, imported only when the verb is used."""

    name: str
    summary: str
    target: str
