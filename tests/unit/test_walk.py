"""The walk: what is known is not done again, what is damaged is made again, what fails blocks only its users."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ortforge.api import Task, TaskOutcome
from ortforge.engine.local import LocalExecutor
from ortforge.engine.walk import Events, Settled, WalkOptions, walk
from ortforge.engine.work import CORRUPT
from ortforge.plan.graph import Plan, Step, key_of
from ortforge.runtime.environment import Environment, verify
from ortforge.store import Store, open_store

from .test_environment import wheel


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


class Maker:
    """Runs tasks for real, as files in the store, and remembers which; some may be told to fail."""

    def __init__(self, store: Store, failing: dict[str, str] | None = None) -> None:
        self.store = store
        self.failing = failing or {}
        self.did: list[str] = []
        self.salt = ""

    def __call__(self, task: Task) -> TaskOutcome:
        self.did.append(task.step_id)
        for _, identity, _ in task.inputs:
            self.store.objects.get(identity)
        if task.step_id in self.failing:
            return TaskOutcome(self.failing[task.step_id], reason="because")
        with self.store.objects.scratch() as scratch:
            path = scratch / "file"
            path.write_text(f"{task.key}{self.salt}")
            return TaskOutcome("ok", self.store.objects.put(path), {"made": task.step_id})


PLAN = Plan(
    {
        step.id: step
        for step in (
            Step("fetch:a", "fetch", {"name": "a"}),
            Step("fetch:b", "fetch", {"name": "b"}),
            Step("transform:a", "transform", {"pass": 1}, ("fetch:a",)),
            Step("transform:b", "transform", {"pass": 1}, ("fetch:b",)),
            Step("check:a", "check", {}, ("transform:a",)),
            Step("check:b", "check", {}, ("transform:b",)),
            Step("time:a", "time", {}, ("transform:a",), ("check:a",)),
        )
    },
    (),
)


def go(store: Store, run: Callable[[Task], TaskOutcome], plan: Plan = PLAN, **options: Any) -> dict[str, str]:
    executor = LocalExecutor(2)
    settled = walk(plan, store, executor, store.ledger.start_run(), options=WalkOptions(**options), run=run)
    executor.shutdown(cancel=False)
    return {name: "cached" if found.cached else found.status for name, found in settled.items()}


def test_everything_is_done_once_and_then_known(store: Store) -> None:
    maker = Maker(store)
    assert set(go(store, maker).values()) == {"ok"}
    assert sorted(maker.did) == sorted(PLAN.steps)
    maker.did.clear()
    assert set(go(store, maker).values()) == {"cached"}
    assert maker.did == []
    assert set(go(store, maker, fresh=True).values()) == {"ok"}
    assert len(maker.did) == len(PLAN.steps)


def test_a_fresh_run_tells_its_tasks_since_when_everything_must_be_made(store: Store) -> None:
    maker, told = Maker(store), dict[str, float]()

    def run(task: Task) -> TaskOutcome:
        told[task.step_id] = task.since
        return maker(task)

    began = time.time()
    go(store, run)
    assert set(told.values()) == {0.0}
    told.clear()
    go(store, run, fresh_kinds=frozenset({"time"}))
    assert list(told) == ["time:a"]
    assert told["time:a"] >= began
    go(store, run, fresh=True)
    assert len(set(told.values())) == 1
    assert min(told.values()) >= began


def test_a_fresh_run_resolves_requirements_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    wheel(tmp_path / "wheels", "standin", "1.0", {"standin/__init__.py": ""})
    context = {"requires": ["onnxruntime==1.32.0", "standin"], "python": "", "wheels": []}
    bare = Step("provision:t", "provision", {"requires": context["requires"]}, context=context)
    tools = Step("tools:t", "provision", {"extra": ["packaging"]}, (bare.id,), context=context)
    plan = Plan({bare.id: bare, tools.id: tools}, ())

    def versions(**options: Any) -> tuple[list[str], list[str], bool]:
        executor = LocalExecutor(2)
        found = walk(plan, store, executor, store.ledger.start_run(), options=WalkOptions(**options))
        environments = [Environment.from_json(found[name].result["environment"]) for name in plan.steps]
        assert [verify(environment) for environment in environments] == ["", ""]
        known = all(step.cached for step in found.values())
        return [found[name].identity for name in plan.steps], [made.version("standin") for made in environments], known

    first, version, _ = versions()
    assert version == ["1.0", "1.0"]
    wheel(tmp_path / "wheels", "standin", "2.0", {"standin/__init__.py": ""})
    assert versions() == (first, ["1.0", "1.0"], True)
    second, version, known = versions(fresh=True)
    assert (version, known) == (["2.0", "2.0"], False)
    assert not set(first) & set(second)
    assert versions() == (second, ["2.0", "2.0"], True)


def test_a_failure_blocks_its_users_alone_and_is_tried_again(store: Store) -> None:
    failing = Maker(store, {"transform:a": "crashed"})
    found = go(store, failing)
    assert found["transform:a"] == "crashed"
    assert found["check:a"] == found["time:a"] == "blocked"
    assert found["check:b"] == "ok"
    failing.did.clear()
    assert go(store, failing, retry=False)["check:a"] == "blocked"
    assert failing.did == []
    mended = Maker(store)
    assert go(store, mended)["check:a"] == "ok"
    assert sorted(mended.did) == ["check:a", "time:a", "transform:a"]


def test_after_gates_without_being_part_of_the_key(store: Store) -> None:
    found = go(store, Maker(store, {"check:a": "inaccurate"}))
    assert found["time:a"] == "blocked"


def test_steps_that_would_do_the_same_are_done_once(store: Store) -> None:
    twins = Plan(
        {
            step.id: step
            for step in (
                Step("fetch:a", "fetch", {}),
                Step("check:1", "check", {}, ("fetch:a",)),
                Step("check:2", "check", {}, ("fetch:a",)),
            )
        },
        (),
    )
    maker = Maker(store)
    assert set(go(store, maker, twins).values()) == {"ok"}
    assert len(maker.did) == 2


def test_what_is_gone_is_made_again_when_it_is_needed(store: Store) -> None:
    maker = Maker(store, {"check:a": "timeout"})
    go(store, maker)
    made = store.ledger.done_many(record.key for record in store.ledger.attempts(store.ledger.runs()[0].id))
    lost = next(record for record in made.values() if record.step_id == "transform:a")
    store.objects.drop(lost.identity)
    again = Maker(store)
    assert go(store, again)["check:a"] == "ok"
    assert again.did.count("transform:a") == 1
    assert again.did.count("transform:b") == 0


def test_all_that_is_gone_is_made_again_though_one_was_made_from_the_other(store: Store) -> None:
    both = Step("check:both", "check", {}, ("fetch:a", "transform:a", "fetch:a"))
    plan = Plan({name: PLAN.steps[name] for name in ("fetch:a", "transform:a")} | {both.id: both}, ())
    go(store, Maker(store, {both.id: "timeout"}), plan)
    for record in list(store.ledger.attempts(store.ledger.runs()[0].id)):
        if record.identity:
            store.objects.drop(record.identity)
    again = Maker(store)
    assert go(store, again, plan)[both.id] == "ok"
    assert sorted(again.did) == ["check:both", "fetch:a", "transform:a"]


def test_other_bytes_the_second_time_are_another_input(store: Store) -> None:
    go(store, Maker(store, {"time:a": "timeout"}))
    lost = next(
        record for record in store.ledger.attempts(store.ledger.runs()[0].id) if record.step_id == "transform:a"
    )
    store.objects.drop(lost.identity)
    again = Maker(store)
    again.salt = "other"
    assert go(store, again)["time:a"] == "ok"
    # check:a was known for the old bytes; its number must not be shown for the new ones.
    assert "check:a" in again.did


def test_a_damaged_object_is_dropped_and_made_again(store: Store) -> None:
    maker = Maker(store)
    tries: list[str] = []

    def run(task: Task) -> TaskOutcome:
        if task.step_id == "check:a" and not tries:
            tries.append(task.step_id)
            digest = task.inputs[0][1]
            store.objects.drop(digest)
            return TaskOutcome(CORRUPT, reason="damaged", result={"digest": digest})
        return maker(task)

    assert set(go(store, run).values()) == {"ok"}
    assert maker.did.count("transform:a") == 2


def test_exclusive_tasks_run_alone_and_others_in_parallel() -> None:
    running: list[str] = []
    seen: list[tuple[str, int]] = []
    lock = threading.Lock()

    def run(task: Task) -> TaskOutcome:
        with lock:
            running.append(task.step_id)
            seen.append((task.kind, len(running)))
        time.sleep(0.05)
        with lock:
            running.remove(task.step_id)
        return TaskOutcome("ok")

    executor = LocalExecutor(3)
    futures: list[Future[TaskOutcome]] = []
    for number in range(12):
        exclusive = number % 3 == 0
        kind = "time" if exclusive else "check"
        futures.append(executor.submit(run, Task(f"{kind}:{number}", kind, "", {}, (), "", exclusive=exclusive)))
    executor.shutdown(cancel=False)
    assert all(future.result().status == "ok" for future in futures)
    assert {count for kind, count in seen if kind == "time"} == {1}
    assert max(count for kind, count in seen if kind == "check") == 3


class Watching(Events):
    """Keeps what it is told, and from which thread."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.threads: set[int] = set()

    def step_started(self, step: Step) -> None:
        self.told.append(f"{step.id} started")
        self.threads.add(threading.get_ident())

    def step_settled(self, settled: Settled) -> None:
        self.told.append(f"{settled.step.id} {settled.status}")


def test_a_step_has_started_when_it_runs_and_not_when_it_is_queued(store: Store) -> None:
    plan = Plan({step.id: step for step in (Step("time:a", "time", {}), Step("check:b", "check", {}))}, ())
    watching = Watching()

    def run(task: Task) -> TaskOutcome:
        time.sleep(0.1)
        return TaskOutcome("ok", task.step_id)

    executor = LocalExecutor(1)
    blocker = executor.submit(run, Task("another", "check", "", {}, (), ""))
    walk(plan, store, executor, store.ledger.start_run(), events=watching, run=run)
    assert blocker.done()
    assert watching.told == ["check:b started", "check:b ok", "time:a started", "time:a ok"]
    assert watching.threads == {threading.get_ident()}, "who shows progress is called from one thread"


class Elsewhere:
    """An executor as a plugin brings it: tasks and what runs them are pickled, and run in another process."""

    name = "elsewhere"

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def submit(self, run: Callable[[Task], TaskOutcome], task: Task) -> Future[TaskOutcome]:
        return self.pool.submit(run, task)

    def shutdown(self, *, cancel: bool) -> None:
        self.pool.shutdown(cancel_futures=cancel)


def test_steps_that_run_in_another_process_start_and_end_too(store: Store) -> None:
    step = Step("fetch:a", "fetch", {}, context={"refused": "not on this node"})
    watching, executor = Watching(), Elsewhere()
    settled = walk(Plan({step.id: step}, ()), store, executor, store.ledger.start_run(), events=watching)
    executor.shutdown(cancel=False)
    assert settled["fetch:a"].reason == "not on this node"
    assert watching.told == ["fetch:a started", "fetch:a failed"]


def test_an_interruption_keeps_what_was_finished(store: Store) -> None:
    maker = Maker(store)

    def run(task: Task) -> TaskOutcome:
        return maker(task)

    class Interrupting(LocalExecutor):
        def submit(self, run: Callable[[Task], TaskOutcome], task: Task) -> Future[TaskOutcome]:
            if task.step_id == "check:b":
                raise KeyboardInterrupt
            return super().submit(run, task)

    with pytest.raises(KeyboardInterrupt):
        walk(PLAN, store, Interrupting(1), store.ledger.start_run(), run=run)
    kept = len(store.ledger.attempts(store.ledger.runs()[0].id))
    assert kept >= 2
    maker.did.clear()
    go(store, maker)
    assert len(maker.did) <= len(PLAN.steps) - kept


def star(*users: str) -> Plan:
    """Return a plan of one model that several checks use."""
    steps = [Step("fetch:a", "fetch", {}), *(Step(name, "check", {"n": name}, ("fetch:a",)) for name in users)]
    return Plan({step.id: step for step in steps}, ())


def test_siblings_in_flight_that_meet_the_same_damage_have_it_mended_once(store: Store) -> None:
    plan = star(*(f"check:{number}" for number in range(5)))
    maker = Maker(store)
    together, told = threading.Barrier(5), threading.Semaphore(0)
    tried: set[str] = set()

    def run(task: Task) -> TaskOutcome:
        if task.kind == "check" and task.step_id not in tried:
            tried.add(task.step_id)
            together.wait(10)
            store.objects.drop(task.inputs[0][1])
            told.release()
            return TaskOutcome(CORRUPT, reason="damaged", result={"digest": task.inputs[0][1]})
        if task.kind == "fetch" and tried:  # it is mended when all have met the damage and said so
            assert all(told.acquire(timeout=10) for _ in range(5))
            time.sleep(0.3)
        return maker(task)

    executor = LocalExecutor(5)
    settled = walk(plan, store, executor, store.ledger.start_run(), run=run)
    assert {name: found.status for name, found in settled.items()} == dict.fromkeys(plan.steps, "ok")
    assert maker.did.count("fetch:a") == 2


@pytest.mark.parametrize("fresh", [False, True])
def test_what_was_in_flight_on_older_bytes_is_not_shown_for_newer_ones(store: Store, fresh: bool) -> None:
    users = star("check:slow", "check:damaged").steps
    plan = Plan({**users, "compare:slow": Step("compare:slow", "compare", {}, ("check:slow",))}, ())
    maker = Maker(store)
    slow_began, made_again = threading.Event(), threading.Event()

    def run(task: Task) -> TaskOutcome:
        tries = maker.did.count(task.step_id)
        outcome = maker(task)
        if task.step_id == "fetch:a" and tries:
            made_again.set()
        elif task.step_id == "check:slow" and not tries:
            slow_began.set()
            made_again.wait(10)
        elif task.step_id == "check:damaged" and not tries:
            slow_began.wait(10)
            maker.salt = "other bytes the second time"
            return TaskOutcome(CORRUPT, reason="damaged", result={"digest": task.inputs[0][1]})
        return outcome

    executor = LocalExecutor(3)
    options = WalkOptions(fresh=fresh)
    settled = walk(plan, store, executor, store.ledger.start_run(), options=options, run=run)
    model = settled["fetch:a"].identity
    for name in ("check:slow", "check:damaged"):
        assert settled[name].key == key_of(plan.steps[name], [model])
    assert settled["compare:slow"].key == key_of(plan.steps["compare:slow"], [settled["check:slow"].identity])
    assert maker.did.count("check:slow") == 2


def test_an_object_that_cannot_be_kept_ends_as_a_failure(store: Store) -> None:
    def run(task: Task) -> TaskOutcome:
        if task.kind == "check":
            return TaskOutcome(CORRUPT, reason="damaged.", result={"digest": task.inputs[0][1]})
        return Maker(store)(task)

    executor = LocalExecutor(2)
    settled = walk(star("check:a", "check:b"), store, executor, store.ledger.start_run(), run=run)
    assert settled["fetch:a"].ok
    assert {settled[name].status for name in ("check:a", "check:b")} == {"failed"}
    assert "check the disk" in settled["check:a"].reason


class Losing(LocalExecutor):
    """An executor, as a plugin may bring it, that loses one task in some way."""

    def __init__(self, how: str) -> None:
        super().__init__(2)
        self.how = how

    def submit(self, run: Callable[[Task], TaskOutcome], task: Task) -> Future[TaskOutcome]:
        if task.step_id != "transform:a":
            return super().submit(run, task)
        if self.how == "refused":
            raise RuntimeError("the cluster is gone")
        future: Future[TaskOutcome] = Future()
        if self.how == "cancelled":
            future.cancel()
        elif self.how == "garbage":
            future.set_result("done")  # type: ignore[arg-type]
        else:
            future.set_exception(SystemExit(3))
        return future


@pytest.mark.parametrize("how", ["refused", "cancelled", "garbage", "exit"])
def test_a_task_that_its_executor_loses_is_a_failure_and_not_the_end_of_the_run(store: Store, how: str) -> None:
    maker = Maker(store)
    settled = walk(PLAN, store, Losing(how), store.ledger.start_run(), run=maker)
    assert settled["transform:a"].status == "failed"
    assert settled["transform:a"].reason
    assert settled["check:a"].status == "blocked"
    assert settled["check:b"].ok


def test_an_environment_recorded_in_another_form_is_made_again(store: Store) -> None:
    plan = Plan(
        {
            step.id: step
            for step in (Step("provision:a", "provision", {}), Step("check:a", "check", {}, ("provision:a",)))
        },
        (),
    )
    did: list[str] = []

    def run(task: Task) -> TaskOutcome:
        did.append(task.step_id)
        if task.kind == "check" and len(did) == 2:
            return TaskOutcome("failed", reason="the first time")
        return TaskOutcome("ok", "identity", {"environment": {"schema": 0}})

    for _ in range(2):
        settled = walk(plan, store, LocalExecutor(1), store.ledger.start_run(), run=run)
    assert settled["check:a"].ok
    assert did.count("provision:a") == 2


def test_what_a_runtime_cannot_do_is_not_asked_again(store: Store) -> None:
    asked = Maker(store, {"transform:a": "unsupported"})
    go(store, asked)
    asked.did.clear()
    found = go(store, asked)
    assert found["transform:a"] == "cached"
    assert found["check:a"] == "blocked"
    assert asked.did == []
    go(store, asked, fresh=True)
    assert "transform:a" in asked.did
