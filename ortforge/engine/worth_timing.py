"""Which cells are not timed, because their speed cannot matter: known only when their outputs were compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ortforge.engine.cells import judge_cell
from ortforge.engine.walk import Settled
from ortforge.plan.graph import Cell, Step
from ortforge.portable.statuses import BROKEN, NOT_RUN

__all__ = ["TIMING_ROLES", "reason_not_to_time", "skipper"]

TIMING_ROLES = ("time", "noise")
"""Roles of the steps of a cell that time it."""


def reason_not_to_time(cell: Cell, settled: Mapping[str, Settled]) -> str:
    """Return why a cell need not be timed, as the end of "It was not timed: ...", or ``""``.

    The cell is judged as far as it is known without its timing. An inaccurate or misplaced cell never ships whatever
    its speed; an artifact that is byte for byte the model that it was made from has the model's speed. What other CPU
    tiers compute has no part in it: it may be settled before the timing or after it, and a run that finds it in the
    store would leave out a timing that an earlier run has.

    :param settled: what became of all steps of the cell but those that time it and its CPU tiers.
    """
    steps = {role: name for role, name in cell.steps.items() if role not in (*TIMING_ROLES, "tiers")}
    entry = judge_cell(replace(cell, steps=steps), settled, ())
    status = entry["status"]
    if status in ("inaccurate", "misplaced") or status in BROKEN or status in NOT_RUN:
        return f"the cell is {status}, so its speed does not matter."
    if entry["artefact"] and entry["artefact"]["no_op"]:
        return "the recipe changed nothing: the artifact is byte for byte the unoptimized model."
    return ""


def skipper(cells: Iterable[Cell]) -> Callable[[Step, Mapping[str, Settled]], str]:
    """Return what :func:`ortforge.engine.walk.walk` takes as ``skip``: it skips timings that cannot matter."""
    timed = {cell.steps[role]: cell for cell in cells for role in TIMING_ROLES if role in cell.steps}

    def skip(step: Step, settled: Mapping[str, Settled]) -> str:
        if step.id not in timed:
            return ""
        try:
            return reason_not_to_time(timed[step.id], settled)
        except Exception:  # a defect of judging is reported with the cell, which may still be timed
            return ""

    return skip
