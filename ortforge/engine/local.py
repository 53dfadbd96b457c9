"""Runs tasks on this machine: in parallel within the core budget, timing alone."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from ortforge.api import Task, TaskOutcome
from ortforge.engine.work import INTERRUPTION

__all__ = ["LocalExecutor"]

PATIENCE_S: Final = 20.0
"""What an interrupted run waits for its running tasks to end: workers take half a second, but an installation that
has begun cannot be stopped, and must not keep the user from leaving."""

_Waiting = tuple[Callable[[Task], TaskOutcome], Task, "Future[TaskOutcome]"]


class LocalExecutor:
    """One thread per running task; each task supervises processes of its own.

    Shared tasks start while cores are free. An exclusive task starts only when nothing else runs and no
    shared task waits, and nothing starts beside it.

    :param cores: the core budget; a task counts with ``Task.cores``.
    """

    name = "local"

    def __init__(self, cores: int) -> None:
        self._cores = max(1, cores)
        self._busy = 0
        self._alone = False
        self._closed = False
        self._interruption = threading.Event()
        self._shared: deque[_Waiting] = deque()
        self._exclusive: deque[_Waiting] = deque()
        self._lock = threading.Condition()

    def submit(self, run: Callable[[Task], TaskOutcome], task: Task) -> Future[TaskOutcome]:
        """Queue a task and start it when its turn comes.

        :raises RuntimeError: the executor was shut down.
        """
        future: Future[TaskOutcome] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor was shut down")
            (self._exclusive if task.exclusive else self._shared).append((run, task, future))
            self._start()
        return future

    def shutdown(self, *, cancel: bool) -> None:
        """Wait for running tasks; with ``cancel`` drop the queue and end the running ones' processes."""
        dropped: list[_Waiting] = []
        with self._lock:
            self._closed = True
            if cancel:
                self._interruption.set()
                dropped = [*self._shared, *self._exclusive]
                self._shared.clear()
                self._exclusive.clear()
        for _, _, future in dropped:
            future.cancel()
        deadline = time.monotonic() + PATIENCE_S
        with self._lock:
            while self._busy or self._shared or self._exclusive:
                if cancel and time.monotonic() > deadline:
                    return
                self._lock.wait(0.2 if cancel else None)

    def _start(self) -> None:
        """Start what may start now; called with the lock held."""
        while self._shared and not self._alone and self._busy + min(self._need(), self._cores) <= self._cores:
            self._launch(self._shared.popleft())
        while self._exclusive and not self._shared and not self._busy:
            self._alone = self._launch(self._exclusive.popleft())

    def _need(self) -> int:
        return max(1, self._shared[0][1].cores)

    def _launch(self, waiting: _Waiting) -> bool:
        """Start a task's thread; say whether it runs (its future may have been cancelled while it waited)."""
        run, task, future = waiting
        if not future.set_running_or_notify_cancel():
            return False
        cost = max(1, min(task.cores, self._cores))
        thread = threading.Thread(
            target=self._work, args=(run, task, future, cost), name=task.step_id or None, daemon=True
        )
        self._busy += cost
        try:
            thread.start()
        except RuntimeError as error:  # no more threads: this task's failure, not the queue's
            self._busy -= cost
            future.set_exception(error)
            return False
        return True

    def _work(self, run: Callable[[Task], TaskOutcome], task: Task, future: Future[TaskOutcome], cost: int) -> None:
        INTERRUPTION.set(self._interruption)  # a new thread has a context of its own
        try:
            outcome = run(task)
        except BaseException as error:
            # A step's own failure is an outcome; what arrives here is a defect, and the engine reports it as one.
            future.set_exception(error)
        else:
            future.set_result(outcome)
        with self._lock:
            self._busy -= cost
            self._alone = self._alone and not task.exclusive
            self._start()
            self._lock.notify_all()
