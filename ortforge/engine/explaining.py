"""Finds out where a cell's model leaves the one that it was made from, for ``ortforge explain``.

It is one step more than a run has, with a key like all others: asked again, the ledger answers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from ortforge.api import TaskOutcome
from ortforge.engine.local import LocalExecutor
from ortforge.engine.walk import walk
from ortforge.plan.graph import Cell, Plan, Step
from ortforge.plugin_manager import Plugins
from ortforge.report.saved import REPRO
from ortforge.store import Store

__all__ = ["SAMPLES", "compare_tensors", "differences_step", "threshold_db"]

SAMPLES: Final = 8
"""How many validation samples are compared: every tensor of both models is held for one at a time."""

COSINE: Final = 0.99
"""What a tensor is held to where the model's tolerance names no cosine."""


def threshold_db(cosine: float | None) -> float:
    """Return the SQNR in dB at which noise that is independent of the signal leaves this cosine.

    With noise of energy N beside a signal of energy S the cosine is ``1 / sqrt(1 + N/S)``, so ``S/N = c² / (1 - c²)``.
    """
    wanted = min(max(cosine if cosine else COSINE, 0.1), 0.999999)
    return 10.0 * math.log10(wanted**2 / (1.0 - wanted**2))


def differences_step(plan: Plan, cell: Cell, plugins: Plugins) -> Step | str:
    """Return the step for a cell, or the reason why there is nothing to compare.

    The reference is what the first quantizing or converting pass was given; for a recipe without one, the model.
    """
    if cell.unsupported:
        return f"the cell is unsupported here: {cell.unsupported}"
    if not cell.transforms:
        return "it has no recipe, so there is no other model to compare it with; give a cell with a recipe"
    passes = [plan.steps[name] for name in cell.transforms]
    if any(step.parameters["suffix"] != ".onnx" for step in passes):
        return "its model is in the ORT format, whose tensors cannot be put out; leave out the pass that writes .ort"
    changing = (step for step in passes if plugins.passes[step.parameters["pass"]].kind in ("quantize", "convert"))
    first = next(changing, passes[0])
    check = plan.steps[cell.steps["check"]]
    tolerance = cell.facts.get("tolerance") or {}
    cosine = tolerance.get("cosine") if isinstance(tolerance, dict) else getattr(tolerance, "cosine", None)
    parameters = {**check.parameters, "count": SAMPLES, "threshold_db": round(threshold_db(cosine), 3)}
    inputs = (cell.steps["artefact"], first.inputs[0], first.inputs[1], cell.steps["dataset"])
    return Step(f"differences:{cell.id}", "differences", parameters, inputs, context=check.context)


def compare_tensors(plan: Plan, cell_id: str, plugins: Plugins, store: Store, *, artefact: str) -> TaskOutcome:
    """Settle a cell's ``differences`` step and all that it needs; status ``unsupported`` where there is nothing.

    :param artefact: digest of the model that the verdict is on. A matrix that has changed since gives another one, of
        which nothing is said under that verdict.
    """
    cell = next(cell for cell in plan.cells if cell.id == cell_id)
    step = differences_step(plan, cell, plugins)
    if isinstance(step, str):
        return TaskOutcome("unsupported", reason=step)
    more = replace(plan, steps={**plan.steps, step.id: step})
    wanted = more.needed_by([replace(cell, steps={"differences": step.id})])
    run_id = store.ledger.start_run(matrix=REPRO, matrix_digest=plan.matrix_digest, argv=["explain", cell_id])
    executor = LocalExecutor(1)
    settled = walk(wanted, store, executor, run_id)
    executor.shutdown(cancel=False)
    made = settled[cell.steps["artefact"]]
    if made.ok and made.identity != artefact:
        why = "the matrix gives another model now than the one of that run; 'ortforge run' judges it anew"
        return TaskOutcome("unsupported", reason=why)
    done = settled[step.id]
    return TaskOutcome(done.status, done.identity, done.result, done.reason, done.log, done.seconds)
