"""exclusion: a list of nodes to keep in float, proved by quantizing again with it.

Each trial goes the whole way of the cell: the recipe's own passes, the cell's own session, all validation samples, the
model's own tolerance. What is found is therefore what the next run will say, but for the time it takes.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ortforge.api import Task, TaskOutcome
from ortforge.engine.excluding import MOST, Budget, Measured, alternatives, search, verdict_on
from ortforge.engine.steps import check, compare, differences, transform
from ortforge.engine.work import Work
from ortforge.portable.comparison.limits import exceeded
from ortforge.store.hashing import digest_json
from ortforge.verdict.tolerance import Tolerance

RANKED_ON: Final = 2
"""Samples on which a trial's tensors are compared to rank them: less than for the cell's own model, which is shown."""

Input = tuple[str, str, Mapping[str, Any]]


@dataclass
class _Cell:
    """The cell's own steps as far as they are done again: inputs of the passes, the check and the comparison.

    ``made`` is the model that was made last.
    """

    task: Task
    work: Work
    model: Input
    runtime: Input
    data: Input
    inspected: Input
    reference: Input
    made: Input | None = None

    def measured(self, changes: Mapping[str, Any]) -> Measured:
        """Quantize with changed parameters, run and compare; what goes wrong is the answer, not an error."""
        started = time.monotonic()

        def failed(what: str, outcome: TaskOutcome) -> Measured:
            why = f"{what}: {outcome.reason or outcome.status}"
            return Measured(problem=why.splitlines()[0], seconds=time.monotonic() - started)

        self.made = None
        made = self.quantized(changes)
        if isinstance(made, TaskOutcome):
            return failed("it could not be made", made)
        self.made = made
        inputs = (made, self.runtime, self.data, self.inspected)
        context = self.task.context["check"]
        ran = check.run(self.as_task(self.task.parameters["check"], inputs, context), self.work)
        if ran.status != "ok":
            return failed("it did not run", ran)
        outputs = ("check", ran.identity, ran.result)
        compared = compare.run(
            self.as_task(self.task.parameters["compare"], (self.reference, outputs, self.data), context), self.work
        )
        if not compared.result:
            return failed("it was not compared", compared)
        worth = _worth(compared.result, Tolerance(**self.task.parameters["tolerance"]))
        return replace(worth, seconds=round(time.monotonic() - started, 2))

    def ranking(self) -> Sequence[Mapping[str, Any]]:
        """Rank what adds noise to the model that was made last; nothing, when it cannot be compared."""
        return mixed_first(self.compared())

    def compared(self) -> Mapping[str, Any]:
        """Compare the tensors of the model that was made last; nothing, when it cannot be compared."""
        if self.made is None:
            return {}
        tools = self.task.inputs[7]
        inputs = (self.made, self.model, tools, self.data)
        how = {**self.task.parameters["differences"], "count": RANKED_ON}
        found = differences.run(self.as_task(how, inputs, self.task.context["check"]), self.work)
        return found.result if found.status == "ok" else {}

    def quantized(self, changes: Mapping[str, Any]) -> Input | TaskOutcome:
        """Apply the recipe's passes, the first of them with changed parameters; return the model as an input."""
        model, place = self.model, 7
        for number, how in enumerate(self.task.parameters["passes"]):
            count, context = how["inputs"], self.task.context["passes"][number]
            given = {**how["transform"]["parameters"], **(changes if number == 0 else {})}
            inputs = (model, *self.task.inputs[place : place + count])
            outcome = transform.run(self.as_task({**how["transform"], "parameters": given}, inputs, context), self.work)
            if outcome.status != "ok":
                return outcome
            model, place = (model[0], outcome.identity, outcome.result), place + count
        return model

    def as_task(self, parameters: Mapping[str, Any], inputs: Sequence[Input], context: Mapping[str, Any]) -> Task:
        """Return this task as one of another kind."""
        return replace(self.task, parameters=parameters, inputs=tuple(inputs), context=context)


def run(task: Task, work: Work) -> TaskOutcome:
    """Search the list within the budget; the identity is the digest of what was measured."""
    (_, _, found), model, runtime, data, inspected, reference, (_, _, compared) = task.inputs[:7]
    cell = _Cell(task, work, model, runtime, data, inspected, reference)
    how = task.parameters
    before = _worth(compared, Tolerance(**how["tolerance"]))
    quantized = int(found["quantized_nodes"])
    most = max(1, int(MOST * quantized))
    if not found["ranking"] and not found.get("mixed"):
        return TaskOutcome("unsupported", reason="no quantized node adds noise that could be measured")
    given = how["passes"][0]["transform"]["parameters"]
    budget = Budget(float(how["budget_s"]), time.monotonic)

    def measure(nodes: Sequence[str]) -> Measured:
        work.say(f"quantizing again with {len(nodes)} of {quantized} nodes in float")
        return cell.measured({"nodes_to_exclude": [*given["nodes_to_exclude"], *nodes]})

    mixed = _without_mixed(found, measure, cell, budget)
    result = search(mixed_first(found), found["nodes_to_exclude"], before, most, measure, cell.ranking, budget)
    result["mixed"] = mixed
    instead = []
    if not before.holds and not result["nodes_to_exclude"]:
        for change, why in alternatives(given, found):
            line = ", ".join(f"{name} = {json.dumps(value)}" for name, value in change.items())
            if not budget.allows_another():
                instead.append({"line": line, "why": why, **Measured(problem="the time was up").facts()})
                continue
            work.say(f"quantizing again with {line}")
            measured = cell.measured(change)
            budget.lap()
            instead.append({"line": line, "why": why, **measured.facts()})
            if measured.holds:
                break
    result |= {"before": before.facts(), "alternatives": instead, "quantized_nodes": quantized, "most_nodes": most}
    result |= {"noise_by_op": _by_op(found["ranking"]), "pass": how["passes"][0]["transform"]["pass"]}
    result |= {"budget_s": budget.seconds, "spent_s": round(budget.spent, 1), "samples": compared["samples"]}
    result["verdict"] = verdict_on(result)
    return TaskOutcome("ok", digest_json(result), result)


def mixed_first(found: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the ranking, with the nodes at its front that have one scale for values of very different size.

    A ruined slice of small values adds next to nothing to the noise of the whole, by which the ranking goes.
    """
    ranking = list(found.get("ranking") or ())
    shares = {place["tensor"]: place["share"] for place in ranking}
    first = [
        {**{name: one[name] for name in ("tensor", "node", "op", "nodes")}, "is_weight": False}
        | {"share": shares.get(one["tensor"], 0.0)}
        for one in found.get("mixed") or ()
    ]
    taken = {place["tensor"] for place in first}
    return [*first, *(place for place in ranking if place["tensor"] not in taken)]


def _without_mixed(
    found: Mapping[str, Any], measure: Callable[[Sequence[str]], Measured], cell: _Cell, budget: Budget
) -> dict[str, Any] | None:
    """Quantize again without the nodes that have one scale for values of very different size.

    :returns: ``nodes``, what the model is worth, and how many slices of its outputs are ruined ``before`` and
        ``after`` (``None``: not known); ``None`` where there are no such nodes.
    """
    nodes = list(dict.fromkeys(name for one in found.get("mixed") or () for name in one["nodes"]))
    if not nodes:
        return None
    measured = measure(nodes)
    after = cell.compared() if not measured.problem else {}
    budget.lap()
    count = {"before": _ruined(found), "after": _ruined(after) if after else None}
    return {"nodes": nodes, **count, **measured.facts()}


def _ruined(found: Mapping[str, Any]) -> int:
    return sum(one["ruined"] for one in found.get("ruined_outputs") or ())


def _worth(parity: Mapping[str, Any], tolerance: Tolerance) -> Measured:
    worst = parity["worst"]
    breaks = (*parity["problems"], *exceeded(parity, tolerance))
    return Measured(worst.get("cosine"), worst.get("sqnr_db"), worst.get("max_rel_range"), breaks)


def _by_op(ranking: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    shares: dict[str, float] = defaultdict(float)
    for place in ranking:
        shares[place["op"]] += place["share"]
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))
