"""From settled steps to a cell's verdict: deaths while timing, missing baselines, and defects that stay one cell's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ortforge.api import Device, Task, TaskOutcome
from ortforge.cli.run import executor_named
from ortforge.engine import work
from ortforge.engine.cells import judge_cell
from ortforge.engine.local import LocalExecutor
from ortforge.engine.run import execute
from ortforge.engine.walk import Settled, walk
from ortforge.errors import UsageError
from ortforge.plan.graph import Cell, Kind, Plan, Step
from ortforge.plugin_manager import Plugins
from ortforge.portable.comparison import parity
from ortforge.store import Store, open_store
from ortforge.worker.samples import SampleWriter

ANSWERS = [{"y": np.full((1, 4), float(number), np.float32)} for number in range(3)]
PARITY = parity.compare(ANSWERS, ANSWERS)
RATIO = {"ratio": 2.0, "low": 1.9, "high": 2.1}
TIMED = {
    **RATIO,
    "outcome": "faster",
    "noise": 0.03,
    "trust": "stable",
    "trust_reason": "",
    **dict.fromkeys(("load_s", "first_run_s", "peak_rss", "baseline_load_s"), 1),
}
RESULTS: Mapping[str, Mapping[str, Any]] = {
    "fetch": {"bytes": 10},
    "check": {"placement": None, "load_s": 0.1, "first_run_s": 0.1, "peak_rss": 1},
    "compare": PARITY,
    "time": TIMED,
    "noise": {**TIMED, "noise": {"floor": 0.03, "pairs": 9, "rounds": 3}},
}
KINDS: tuple[Kind, ...] = ("fetch", "provision", "inspect", "dataset", "reference", "check", "compare", "noise", "time")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


def settle(**changes: Any) -> tuple[Cell, dict[str, Settled]]:
    """Return a recipe's cell on the baseline's own runtime, all of whose steps went well but those given."""
    settled = {}
    for kind in KINDS:
        good = Settled(Step(f"{kind}:m", kind, {}), "ok", f"key-{kind}", f"made-{kind}", RESULTS.get(kind, {}))
        settled[f"{kind}:m"] = replace(good, **changes.get(kind, {}))
    steps = {kind: f"{kind}:m" for kind in KINDS} | {"artefact": "fetch:m"}
    facts = {"ep_name": "CPUExecutionProvider", "goal": "latency", "on_baseline": True}
    return Cell(
        "m/int8@t:cpu/here", "m", "int8", "t", "cpu", "here", "m/none@t:cpu/here", "", steps, (), facts
    ), settled


def test_a_cell_that_dies_while_it_is_timed_has_not_passed() -> None:
    died = {"status": "crashed", "reason": "crashed with SIGSEGV", "result": {"side": "candidate"}}
    cell, settled = settle(time=died)
    found = judge_cell(cell, settled, ("--matrix", "matrix.toml"))
    assert found["status"] == "crashed"
    assert "SIGSEGV" in found["reasons"][0]


def test_a_cell_whose_baseline_dies_is_not_to_blame() -> None:
    died = {"status": "crashed", "reason": "its baseline ended: SIGSEGV", "result": {"side": "baseline"}}
    cell, settled = settle(time=died)
    found = judge_cell(cell, settled, ("--matrix", "matrix.toml"))
    assert found["status"] == "undecided"
    assert found["timing"] is None
    assert any("its baseline ended" in reason for reason in found["reasons"])


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_the_baseline_that_dies_beside_itself_has_not_passed(side: str) -> None:
    cell, settled = settle(noise={"status": "timeout", "reason": "still running", "result": {"side": side}})
    cell = replace(cell, recipe="none", baseline="", facts={**cell.facts, "is_baseline": True})
    assert judge_cell(cell, settled, ("--matrix", "matrix.toml"))["status"] == "timeout"


def test_the_overall_ratio_beside_the_baseline_needs_no_other_cell() -> None:
    cell, settled = settle()
    assert judge_cell(cell, settled, ("--matrix", "matrix.toml"))["overall"] == {**RATIO, "outcome": "faster"}
    elsewhere = replace(cell, facts={**cell.facts, "on_baseline": False}, baseline="m/none@u:cpu/here")
    assert judge_cell(elsewhere, settled, ("--matrix", "matrix.toml"))["overall"] is None
    plain = Settled(Step("time:m/none@u:cpu/here", "time", {}), "ok", result={"ratio": 0.5, "low": 0.5, "high": 0.5})
    composed = judge_cell(elsewhere, {**settled, plain.step.id: plain}, ("--matrix", "matrix.toml"))["overall"]
    assert composed["ratio"] == pytest.approx(1.0)


def test_a_cell_without_timing_is_judged_without_it() -> None:
    cell, settled = settle()
    cell = replace(cell, steps={role: name for role, name in cell.steps.items() if role not in {"time", "noise"}})
    found = judge_cell(cell, settled, ("--matrix", "matrix.toml"))
    assert (found["status"], found["timing"], found["overall"]) == ("undecided", None, None)


_METRIC = """
from pathlib import Path
from ortforge.api import Metric

def overlap(reference, candidate, labels):
    return float(Path(__file__).with_name("anchors.txt").read_text())

def ortforge_metrics():
    yield Metric("overlap", "share of boxes that overlap", overlap)
"""


def test_a_third_party_metric_that_raises_is_told_and_tried_again(
    store: Store, install_plugin: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = install_plugin("ortforge-boxes", _METRIC)
    monkeypatch.setitem(work._shared, "plugins", Plugins(first_party=False, environ={}))
    with store.objects.scratch() as scratch:
        writer = SampleWriter(scratch / "samples")
        for number in range(3):
            writer.write({"y": np.full((1, 4), float(number), np.float32)})
        writer.close()
        samples = store.objects.put(scratch / "samples")
    cell, settled = settle()
    sides = tuple(f"{kind}:m" for kind in ("reference", "check", "dataset"))
    compare = Step("compare:m", "compare", {"tasks": ["overlap"], "roles": {}}, sides)
    plan = Plan({**{name: Step(name, settled[name].step.kind, {}) for name in sides}, "compare:m": compare}, ())

    def judged(**tolerance: Any) -> dict[str, Any]:
        def run(task: Task) -> TaskOutcome:
            return work.run_task(task) if task.kind == "compare" else TaskOutcome("ok", samples)

        made = walk(plan, store, LocalExecutor(1), store.ledger.start_run(), run=run)["compare:m"]
        facts = {**cell.facts, "tolerance": tolerance}
        return judge_cell(replace(cell, facts=facts), {**settled, "compare:m": made}, ("--matrix", "matrix.toml"))

    told = 'The metric "overlap" of plugin ortforge-boxes (ortforge-boxes 1.0) failed: FileNotFoundError'
    failed = judged()
    assert (failed["status"], failed["parity"]["identical"]) == ("failed", True)
    assert failed["reasons"][0].startswith(told)
    unlimited = judged(agreement=None)
    assert unlimited["status"] == "pass"
    assert unlimited["notes"][0].startswith(told)
    module.with_name("anchors.txt").write_text("1.0")
    assert judged()["status"] == "pass"


class _Quiet:
    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: None


def test_a_cell_that_cannot_be_judged_fails_alone(store: Store) -> None:
    good, settled = settle()
    steps = {name: found.step for name, found in settled.items()}
    bad = replace(good, id="bad", facts={**good.facts, "tolerance": {"nonsense": 1}})
    report = execute(
        Plan(steps, (bad, good)),
        matrix_file=Path("matrix.toml"),
        store=store,
        plugins=Plugins(first_party=False, third_party=False),
        device=Device("here", "linux", "x86_64", "CPU", frozenset(), 1, 0.0, 1 << 30),
        executor=LocalExecutor(1),
        listener=_Quiet(),
        run=lambda task: TaskOutcome("ok", f"made-{task.kind}", RESULTS.get(task.kind, _PROVISIONED)),
    )
    matrix = str(Path("matrix.toml").resolve())  # a store serves several folders
    assert (report["run"]["matrix"], store.ledger.runs()[0].matrix) == (matrix, matrix)
    entries = {cell["id"]: cell for cell in report["cells"]}
    assert entries["bad"]["status"] == "failed"
    assert "nonsense" in entries["bad"]["reasons"][0]
    assert "Traceback" in entries["bad"]["log"]
    assert entries[good.id]["status"] == "pass"
    assert entries["bad"].keys() == entries[good.id].keys()


@pytest.mark.parametrize(
    ("fetched", "metadata", "licence"),
    [
        ({"licence": "MIT"}, {"license": "AGPL-3.0"}, "MIT"),
        ({}, {"author": "somebody", "License": "AGPL-3.0"}, "AGPL-3.0"),
        ({}, {"licence": "Apache-2.0"}, "Apache-2.0"),
        ({"licence": ""}, {"description": "a net"}, ""),
    ],
)
def test_a_models_licence_is_its_packages_or_its_own(
    store: Store, fetched: dict[str, str], metadata: dict[str, str], licence: str
) -> None:
    results = {**RESULTS, "fetch": {"bytes": 10, **fetched}, "inspect": {"metadata": metadata}}
    cell, settled = settle()
    report = execute(
        Plan({name: found.step for name, found in settled.items()}, (cell,)),
        matrix_file=Path("matrix.toml"),
        store=store,
        plugins=Plugins(first_party=False, third_party=False),
        device=Device("here", "linux", "x86_64", "CPU", frozenset(), 1, 0.0, 1 << 30),
        executor=LocalExecutor(1),
        listener=_Quiet(),
        run=lambda task: TaskOutcome("ok", f"made-{task.kind}", results.get(task.kind, _PROVISIONED)),
    )
    assert report["models"]["m"]["licence"] == licence


_PROVISIONED = {"probe": {"ort_version": "1", "python": "3", "providers": []}, "environment": {"packages": []}}


class _Plugins:
    executors: Mapping[str, Any] = {"cluster": LocalExecutor(7)}


def test_an_executor_is_chosen_by_name() -> None:
    plugins: Any = _Plugins()
    assert isinstance(executor_named("local", plugins, 2), LocalExecutor)
    assert executor_named("cluster", plugins, 2) is plugins.executors["cluster"]
    with pytest.raises(UsageError) as refused:
        executor_named("clutser", plugins, 2)
    assert "'cluster'" in str(refused.value)
