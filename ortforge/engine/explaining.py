"""Finds out where a cell's model leaves the one that it was made from, and what helps, for ``ortforge explain``.

These are two steps more than a run has, with keys like all others: asked again, the ledger answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ortforge.api import TaskOutcome
from ortforge.engine.local import LocalExecutor
from ortforge.engine.walk import Settled, walk
from ortforge.engine.work import hearing
from ortforge.plan.graph import Cell, Plan, Step
from ortforge.plugin_manager import Plugins
from ortforge.report.saved import REPRO
from ortforge.store import Store

__all__ = ["BUDGET_S", "SAMPLES", "Explained", "differences_step", "exclusion_step", "explain_cell", "threshold_db"]

SAMPLES: Final = 8
"""How many validation samples are compared: every tensor of both models is held for one at a time."""

COSINE: Final = 0.99
"""What a tensor is held to where the model's tolerance names no cosine."""

BUDGET_S: Final = 120.0
"""Seconds that the search for a list of nodes to leave out may take, unless the user says otherwise."""


@dataclass(frozen=True, slots=True)
class Explained:
    """What became of both steps. A status other than ``ok`` has a reason, and the second's may be ``skipped``."""

    differences: TaskOutcome
    exclusion: TaskOutcome


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


def exclusion_step(plan: Plan, cell: Cell, plugins: Plugins, compared: Step, budget_s: float) -> Step | str:
    """Return the step that proves a list of nodes to leave out, or the reason why there can be none.

    :param compared: the cell's ``differences`` step, which ranks them.
    """
    passes = [plan.steps[name] for name in cell.transforms]
    kinds = [plugins.passes[step.parameters["pass"]].kind for step in passes]
    if "quantize" not in kinds:
        return "the recipe does not quantize, and only quantized nodes can be left out"
    passes = passes[kinds.index("quantize") :]
    name = passes[0].parameters["pass"]
    if "measures" in passes[0].parameters:
        return f"{name} looks for such a list itself; what it kept in float stands in its result"
    if "nodes_to_exclude" not in passes[0].parameters["parameters"]:
        return f"the pass {name} has no parameter nodes_to_exclude"
    # A pass that only times what it is given would measure for minutes, and changes no number of the model.
    passes = [step for step in passes if "measures" not in step.parameters]
    check, compare = plan.steps[cell.steps["check"]], plan.steps[cell.steps["compare"]]
    parameters = {
        "differences": compared.parameters,
        "check": check.parameters,
        "compare": compare.parameters,
        "tolerance": dict(cell.facts["tolerance"]),
        "budget_s": budget_s,
        "passes": [{"transform": step.parameters, "inputs": len(step.inputs) - 1} for step in passes],
    }
    context = {"check": check.context, "passes": [step.context for step in passes], "limits": check.context["limits"]}
    roles = ("provision", "dataset", "inspect", "reference", "compare")
    inputs = (compared.id, passes[0].inputs[0], *(cell.steps[role] for role in roles))
    inputs += tuple(name for step in passes for name in step.inputs[1:])
    return Step(f"exclusion:{cell.id}", "exclusion", parameters, inputs, context=context)


def explain_cell(
    plan: Plan,
    cell_id: str,
    plugins: Plugins,
    store: Store,
    *,
    artefact: str,
    budget_s: float = BUDGET_S,
    say: Callable[[str], None] = lambda text: None,
) -> Explained:
    """Settle a cell's ``differences`` and ``exclusion`` steps and all that they need.

    Their status is ``unsupported`` where there is nothing to be found, with the reason.

    :param artefact: digest of the model that the verdict is on. A matrix that has changed since gives another one, of
        which nothing is said under that verdict.
    :param budget_s: seconds for trying lists of nodes to leave out; 0: none is tried.
    :param say: told what is being done.
    """
    cell = next(cell for cell in plan.cells if cell.id == cell_id)
    compared = differences_step(plan, cell, plugins)
    if isinstance(compared, str):
        return Explained(*[TaskOutcome("unsupported", reason=compared)] * 2)
    proved = exclusion_step(plan, cell, plugins, compared, budget_s) if budget_s > 0 else "no time was given for it"
    steps = [compared] if isinstance(proved, str) else [compared, proved]
    more = replace(plan, steps={**plan.steps, **{step.id: step for step in steps}})
    wanted = more.needed_by([replace(cell, steps={step.kind: step.id for step in steps})])
    run_id = store.ledger.start_run(matrix=REPRO, matrix_digest=plan.matrix_digest, argv=["explain", cell_id])
    executor = LocalExecutor(1)
    with hearing(lambda _, text: say(text)):
        settled = walk(wanted, store, executor, run_id)
    executor.shutdown(cancel=False)
    made = settled[cell.steps["artefact"]]
    if made.ok and made.identity != artefact:
        why = "the matrix gives another model now than the one of that run; 'ortforge run' judges it anew"
        return Explained(*[TaskOutcome("unsupported", reason=why)] * 2)
    second = TaskOutcome("unsupported", reason=proved) if isinstance(proved, str) else _outcome(settled[proved.id])
    return Explained(_outcome(settled[compared.id]), second)


def _outcome(done: Settled) -> TaskOutcome:
    return TaskOutcome(done.status, done.identity, done.result, done.reason, done.log, done.seconds)
