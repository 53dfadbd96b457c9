"""The engine's part of ``ortforge build``: what is known is not done again, and what is gone is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from ortforge.api import Task, TaskOutcome
from ortforge.engine.building import Built, build_targets, export
from ortforge.plan.graph import Step
from ortforge.plan.planner import BuildPlan
from ortforge.report.progress import SilentProgress
from ortforge.store import Store, open_store


class Elsewhere:
    """An executor that makes packages of one file, and fails where it is told to."""

    name = "elsewhere"

    def __init__(self, store: Store, fail: str = "") -> None:
        self.store, self.fail = store, fail
        self.ran: list[str] = []

    def submit(self, run: Callable[[Task], TaskOutcome], task: Task) -> Future[TaskOutcome]:
        self.ran.append(task.step_id)
        future: Future[TaskOutcome] = Future()
        if task.step_id == self.fail:
            future.set_result(TaskOutcome("failed", reason="no space", result={"exit_code": 4}))
            return future
        with self.store.objects.scratch() as scratch:
            (scratch / "out").mkdir()
            (scratch / "out" / "a.whl").write_text(task.kind)
            future.set_result(TaskOutcome("ok", self.store.objects.put(scratch / "out"), {"made": task.kind}))
        return future

    def shutdown(self, *, cancel: bool) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as store:
        yield store


def plan(last: str = "prove:t") -> BuildPlan:
    steps = [
        Step("compile:t", "compile", {}, (), (), {}),
        Step("package:t", "package", {}, ("compile:t",), (), {}),
        Step("prove:t", "prove", {}, ("package:t",), (), {}),
    ]
    if last == "compile:t":
        return BuildPlan({"compile:t": steps[0]}, {"t": (last, last)})
    return BuildPlan({step.id: step for step in steps}, {"t": ("package:t", last)})


def build(store: Store, fail: str = "", last: str = "prove:t") -> tuple[Built, list[str]]:
    executor = Elsewhere(store, fail)
    (built,) = build_targets(plan(last), store=store, executor=executor, listener=SilentProgress())
    return built, executor.ran


def test_a_second_build_is_known_and_its_wheel_the_same(store: Store, tmp_path: Path) -> None:
    first, ran = build(store)
    assert (first.status, ran) == ("ok", ["compile:t", "package:t", "prove:t"])
    second, ran = build(store)
    assert (second.digest, ran) == (first.digest, [])
    assert all(step["cached"] for step in second.steps)
    place = export(second, store, tmp_path / "dist")
    assert (place / "a.whl").read_text() == "package"
    (place / "a.whl").write_text("mine to change")
    assert (export(second, store, tmp_path / "dist") / "a.whl").read_text() == "package"


@pytest.mark.parametrize("gone", [("package:t",), ("package:t", "compile:t")])
def test_a_wheel_that_left_the_store_is_made_again(store: Store, tmp_path: Path, gone: tuple[str, ...]) -> None:
    first, _ = build(store)
    keys = {step["id"]: step["key"] for step in first.steps}
    for name in gone:
        record = store.ledger.done(keys[name])
        assert record is not None
        folder = store.objects.get(record.identity)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(folder)
    second, ran = build(store)
    assert (second.status, second.digest) == ("ok", first.digest)
    assert set(gone) == set(ran), "and what is left is not"
    assert export(second, store, tmp_path / "dist").is_dir()


def test_a_failure_has_the_steps_exit_code_and_hands_nothing_out(store: Store) -> None:
    built, ran = build(store, fail="compile:t")
    assert ran == ["compile:t"]
    assert (built.status, built.exit_code, built.digest) == ("failed", 4, "")
    assert built.reason == "compile:t: no space"


def test_a_build_that_ends_early_has_no_proof(store: Store) -> None:
    built, ran = build(store, last="compile:t")
    assert (built.status, ran, built.proof) == ("ok", ["compile:t"], None)
    assert built.facts == {"made": "compile"}
