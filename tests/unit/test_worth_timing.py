"""Which cells are timed: those whose speed can matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ortforge.api import Task, TaskOutcome
from ortforge.engine.cells import judge_cell
from ortforge.engine.local import LocalExecutor
from ortforge.engine.walk import Settled, walk
from ortforge.engine.worth_timing import reason_not_to_time, skipper
from ortforge.plan.graph import Cell, Kind, Plan, Step
from ortforge.portable.comparison.parity import compare
from ortforge.store import open_store

ANSWERS = [{"y": np.arange(4.0) + number} for number in range(3)]
RIGHT = compare(ANSWERS, ANSWERS)
WRONG = {**RIGHT, "identical": False, "problems": ["The output y has another shape."]}
OTHER = "OtherExecutionProvider"
KINDS: tuple[Kind, ...] = ("fetch", "provision", "inspect", "dataset", "reference", "check", "compare", "transform")
ELSEWHERE = {"nodes": {"CPUExecutionProvider": 3}, "sources": ["profile"], "agree": True}


def results(**more: Any) -> dict[str, dict[str, Any]]:
    placement = {"nodes": {OTHER: 3}, "sources": ["profile"], "agree": True}
    check = {"placement": placement, "load_s": 0.1, "first_run_s": 0.1, "peak_rss": 1}
    size = {"bytes": 10, "changed": {"fused": {}}, "warnings": []}
    return {"fetch": {"bytes": 10}, "check": check, "compare": RIGHT, "transform": size} | more


def laid_out() -> tuple[Cell, dict[str, Step]]:
    """Return a cell of one recipe on an EP, and its steps in their order."""
    steps = {kind: Step(f"{kind}:m", kind, {}) for kind in KINDS}
    names = {kind: step.id for kind, step in steps.items() if kind != "transform"}
    time = Step("time:m", "time", {}, ("transform:m",), ("check:m", "compare:m"))
    roles = {**names, "artefact": "transform:m", "time": "time:m"}
    facts = {"ep_name": OTHER, "goal": "latency"}
    cell = Cell("m/fused@t:other/here", "m", "fused", "t", "other", "here", "m/none@t:other/here", "", roles)
    cell = replace(cell, transforms=("transform:m",), facts=facts)
    return cell, {step.id: step for step in (*steps.values(), time)}


def walked(folder: Path, made: dict[str, dict[str, Any]], *, unchanged: bool = False) -> tuple[Settled, dict[str, Any]]:
    """Walk the cell's plan with given results; return what became of its timing, and its entry of the report."""
    cell, steps = laid_out()
    asked: list[str] = []

    def run(task: Task) -> TaskOutcome:
        asked.append(task.kind)
        kind = "fetch" if unchanged and task.kind == "transform" else task.kind
        return TaskOutcome("ok", f"made-{kind}", made.get(task.kind, {}))

    with open_store(folder) as store:
        plan = Plan(steps, (cell,))
        settled = walk(plan, store, LocalExecutor(1), store.ledger.start_run(), run=run, skip=skipper([cell]))
        assert ("time" in asked) is settled["time:m"].ok
        assert store.ledger.done(settled["time:m"].key) is None or settled["time:m"].ok
    settled["time:m"] = replace(settled["time:m"], result=dict(TIMED)) if settled["time:m"].ok else settled["time:m"]
    return settled["time:m"], judge_cell(cell, settled, ())


TIMED = {"ratio": 2.0, "low": 1.9, "high": 2.1, "outcome": "faster", "noise": 0.03, "trust": "stable"} | dict.fromkeys(
    ("load_s", "first_run_s", "peak_rss"), 1
)


def test_a_right_cell_on_its_ep_is_timed(tmp_path: Path) -> None:
    timing, entry = walked(tmp_path, results())
    assert (timing.status, entry["timing"]["outcome"]) == ("ok", "faster")


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (results(compare=WRONG), "inaccurate"),
        (results(check={"placement": ELSEWHERE}), "misplaced"),
        (results(check={"placement": None}), "misplaced"),
    ],
)
def test_what_can_never_ship_is_not_timed(tmp_path: Path, made: dict[str, Any], status: str) -> None:
    timing, entry = walked(tmp_path, made)
    assert (timing.status, entry["status"], entry["timing"]) == ("skipped", status, None)
    assert timing.reason == f"the cell is {status}, so its speed does not matter."


def test_an_artifact_that_is_the_unoptimized_model_is_not_timed_and_never_slower(tmp_path: Path) -> None:
    timing, entry = walked(tmp_path, results(), unchanged=True)
    assert timing.status == "skipped"
    assert "byte for byte" in timing.reason
    assert entry["artefact"]["no_op"] and entry["timing"] is None


def test_a_pass_in_a_chain_that_changed_nothing_is_named(tmp_path: Path) -> None:
    changed = {"preprocess": {}, "to-float16": {"no_op": True}}
    _, entry = walked(tmp_path, results(transform={"bytes": 9, "changed": changed, "warnings": []}))
    assert 'The pass "to-float16" changed nothing here.' in entry["notes"]
    assert not any("preprocess" in note for note in entry["notes"])


def test_a_cell_that_cannot_be_judged_may_still_be_timed() -> None:
    cell, steps = laid_out()
    skip = skipper([replace(cell, facts={"tolerance": {"nonsense": 1}})])
    settled = {name: Settled(step, "ok", result={}) for name, step in steps.items()}
    assert skip(steps["time:m"], settled) == ""
    assert skip(steps["check:m"], settled) == ""


def test_the_reason_does_not_ask_for_the_timing() -> None:
    cell, steps = laid_out()
    made = results()
    settled = {
        name: Settled(step, "ok", identity=name, result=made.get(step.kind, {}))
        for name, step in steps.items()
        if name != "time:m"
    }
    assert reason_not_to_time(cell, settled) == ""


@pytest.mark.parametrize(("made", "word"), [(results(), ""), (results(compare=WRONG), "inaccurate")])
def test_the_reason_does_not_wait_for_the_cpu_tiers(made: dict[str, Any], word: str) -> None:
    """They are settled before the timing in one run and after it in another: both must time the same cells."""
    cell, steps = laid_out()
    cell = replace(cell, steps={**cell.steps, "tiers": "tiers:m"})
    settled = {
        name: Settled(step, "ok", identity=name, result=made.get(step.kind, {}))
        for name, step in steps.items()
        if name != "time:m"
    }
    skip = skipper([cell])
    before = skip(steps["time:m"], settled)
    wrong_elsewhere = Settled(Step("tiers:m", "tiers", {}), "failed", reason="no tools")
    assert before == skip(steps["time:m"], {**settled, "tiers:m": wrong_elsewhere})
    assert word in before and bool(before) == bool(word)
