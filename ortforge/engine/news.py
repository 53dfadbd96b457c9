"""What a walk hears from its executor: that a task begins, and what became of it."""

from __future__ import annotations

import queue
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ortforge.api import Task, TaskOutcome

__all__ = ["Beginning", "Begun", "Done", "outcome_of"]


@dataclass(frozen=True, slots=True)
class Begun:
    """News from where a task runs: it began, at ``at`` seconds since the epoch."""

    step_id: str
    key: str
    at: float


@dataclass(frozen=True, slots=True)
class Done:
    """News from the executor: what was queued at ``queued`` is over."""

    step_id: str
    key: str
    queued: float
    future: Future[TaskOutcome]


class Beginning:
    """What an executor calls for a task: it says that the task begins, and runs it.

    An executor that runs tasks elsewhere pickles it. What arrives there is the plain function: the walk cannot be told
    from there, so the task counts as begun when it is sent.
    """

    def __init__(self, run: Callable[[Task], TaskOutcome], task: Task, news: queue.SimpleQueue[Begun | Done]) -> None:
        self.run = run
        self.task = task
        self.news = news
        self.told = False

    def __call__(self, task: Task) -> TaskOutcome:
        """Run the task, here."""
        self.tell()
        return self.run(task)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        self.tell()
        return _plain, (self.run,)

    def tell(self) -> None:
        """Say once that the task begins now."""
        if not self.told:
            self.told = True
            self.news.put(Begun(self.task.step_id, self.task.key, time.time()))


def _plain(run: Callable[[Task], TaskOutcome]) -> Callable[[Task], TaskOutcome]:
    return run


def outcome_of(future: Future[TaskOutcome]) -> TaskOutcome:
    """Return a task's outcome; what an executor lost or a defect raised is that step's failure, not the run's."""
    if future.cancelled():
        return TaskOutcome("failed", reason="its executor dropped it before it was done")
    error = future.exception()
    if error is None:
        found: Any = future.result()
        if isinstance(found, TaskOutcome):
            return found
        error = TypeError(f"the executor answered with {type(found).__name__}, not with a TaskOutcome")
    log = "".join(traceback.format_exception(error))
    return TaskOutcome("failed", reason=f"a defect in ortforge or a plugin: {type(error).__name__}: {error}", log=log)
