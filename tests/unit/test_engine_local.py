"""The local executor: one run's interruption is its own, and nothing that happens to a task stops the queue."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from ortforge.api import Task, TaskOutcome
from ortforge.engine.local import LocalExecutor
from ortforge.engine.work import INTERRUPTION


def task(name: str, *, exclusive: bool = False) -> Task:
    return Task(name, "check", "", {}, (), "", exclusive=exclusive)


def interrupted(_: Task) -> TaskOutcome:
    event = INTERRUPTION.get()
    assert event is not None
    return TaskOutcome("failed" if event.is_set() else "ok")


def test_an_interrupted_run_leaves_the_next_one_in_the_process_alone() -> None:
    first = LocalExecutor(1)
    began = threading.Event()

    def wait(_: Task) -> TaskOutcome:
        began.set()
        event = INTERRUPTION.get()
        assert event is not None
        return TaskOutcome("failed" if event.wait(10) else "ok")

    running = first.submit(wait, task("running"))
    queued = [first.submit(wait, task("queued")), first.submit(wait, task("timing", exclusive=True))]
    assert began.wait(10)
    first.shutdown(cancel=True)
    assert running.result().status == "failed"
    assert all(future.cancelled() for future in queued)
    with pytest.raises(RuntimeError):
        first.submit(wait, task("late"))
    second = LocalExecutor(1)
    assert second.submit(interrupted, task("next")).result(10).status == "ok"
    second.shutdown(cancel=False)


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_future_cancelled_while_it_waits_does_not_hold_the_queue(exclusive: bool) -> None:
    executor = LocalExecutor(1)
    go = threading.Event()

    def wait(_: Task) -> TaskOutcome:
        go.wait(10)
        return TaskOutcome("ok")

    first = executor.submit(wait, task("first"))
    dropped = executor.submit(wait, task("dropped", exclusive=exclusive))
    last: Future[TaskOutcome] = executor.submit(wait, task("last", exclusive=exclusive))
    assert dropped.cancel()
    go.set()
    assert first.result(10).status == last.result(10).status == "ok"
    executor.shutdown(cancel=False)


def test_what_a_task_raises_frees_its_cores() -> None:
    executor = LocalExecutor(1)

    def leave(_: Task) -> TaskOutcome:
        raise SystemExit(3)

    assert isinstance(executor.submit(leave, task("leaving")).exception(10), SystemExit)
    assert executor.submit(lambda _: TaskOutcome("ok"), task("next")).result(10).status == "ok"
    executor.shutdown(cancel=False)
