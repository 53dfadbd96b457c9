"""Where steps run. A task and its outcome are plain data, so they can cross to another machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Executor", "Task", "TaskOutcome"]


@dataclass(frozen=True, slots=True)
class Task:
    """One step, ready to run: its key is known and its inputs are in the store.

    :param inputs: for each input step its id, identity and result, in the order of the step's inputs.
    :param context: where to find things: what can change without changing the result.
    :param since: a moment (seconds since the epoch): what was made before it, such as an installed environment, must
        not stand in for this step's work. 0 in a run that may use everything it finds.
    :param cores: cores it may use; :param exclusive: nothing else of ours may run beside it (timing).
    :param store: where the objects are. :param device: name of the device it must run on, or ``""`` for any.
    """

    step_id: str
    kind: str
    key: str
    parameters: Mapping[str, Any]
    inputs: tuple[tuple[str, str, Mapping[str, Any]], ...]
    store: str
    context: Mapping[str, Any] = field(default_factory=dict)
    cores: int = 1
    exclusive: bool = False
    device: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """What became of a task.

    :param status: ``ok``, or one of ``crashed``, ``out-of-memory``, ``timeout``, ``failed``, ``unsupported``.
    :param identity: digest of what it made: what later steps' keys are made from. Empty unless ``ok``.
    :param result: JSON facts (placement, samples, statistics …).
    :param reason: a sentence, when it is not ``ok``; :param log: tail of stderr.
    """

    status: str
    identity: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    log: str = ""
    seconds: float = 0.0


class Executor(Protocol):
    """Runs tasks. ``run`` is a picklable function; the future never raises for a task's own failure."""

    name: str

    def submit(self, run: Callable[[Task], TaskOutcome], task: Task) -> Future[TaskOutcome]:
        """Start a task when cores are free; an exclusive task waits until it is alone on its device."""

    def shutdown(self, *, cancel: bool) -> None:
        """Wait for running tasks, or with ``cancel`` end them, and free what the executor holds."""
