"""What a step's code gets to work with, and the one place that turns errors into outcomes."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from ortforge.api import Task, TaskOutcome
from ortforge.engine.lacking import marked
from ortforge.errors import EnvironmentLacksError, OrtforgeError
from ortforge.plugin_manager import Plugins
from ortforge.runtime import workerfiles
from ortforge.runtime.environment import Environment
from ortforge.runtime.supervisor import Interpreter, JobOutcome, Limits
from ortforge.store import Store, open_store
from ortforge.store.hashing import canonical
from ortforge.store.objects import CorruptObjectError

__all__ = ["CORRUPT", "INTERRUPTION", "Work", "failed_job", "hearing", "limits_of", "ready", "run_task", "share"]

INTERRUPTION: Final[ContextVar[threading.Event | None]] = ContextVar("ortforge_interruption", default=None)
"""Given by an executor to the tasks in its own process: an event that it sets when the run is interrupted."""

CORRUPT: Final = "corrupt-input"
"""Internal status: an input object was damaged and dropped; the engine makes it again and retries."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a step works with: the store, the plugins and the worker, which all steps in this process share.

    :param cancel: set when the run is being interrupted: supervisors then end their processes at once.
    """

    store: Store
    plugins: Plugins
    worker: Path
    cancel: threading.Event = field(default_factory=threading.Event)
    step: str = ""

    def say(self, text: str) -> None:
        """Tell whoever watches the run, if somebody does, how far this step is."""
        for hear in tuple(_audience):
            hear(self.step, text)

    def interpreter(self, environment: Mapping[str, Any], variables: Mapping[str, str] | None = None) -> Interpreter:
        """Return how to start a worker in an environment that a ``provision`` step made.

        ``environment["preload"]`` is the library that such a worker loads before all others, if any.
        """
        made = Environment.from_json(environment)
        extra = dict(variables or {})
        first = environment.get("preload")
        if first:
            extra["LD_PRELOAD"] = f"{first}:{extra['LD_PRELOAD']}" if extra.get("LD_PRELOAD") else first
        if made.image:
            return Interpreter.container(
                made.image, made.python, worker=self.worker, folder=made.folder, environment=extra
            )
        return Interpreter.local(made.python, worker=self.worker, environment=extra)


_shared: dict[str, Plugins] = {}
_audience: list[Callable[[str, str], None]] = []


@contextmanager
def hearing(hear: Callable[[str, str], None]) -> Iterator[None]:
    """Let ``hear(step id, text)`` know what the steps in this process say; it is called from their threads."""
    _audience.append(hear)
    try:
        yield
    finally:
        _audience.remove(hear)


def share(plugins: Plugins) -> None:
    """Give the steps that run in this process the plugins that were loaded already, blocked ones left out."""
    _shared["plugins"] = plugins
    ready.cache_clear()  # a later run in the same process may have others


@cache
def ready(store: str) -> Work:
    """Return what steps on a store work with; made once per process."""
    opened = open_store(Path(store))
    folder, _ = workerfiles.install(opened.root)
    return Work(opened, _shared.get("plugins") or Plugins(), folder)


def run_task(task: Task) -> TaskOutcome:
    """Run one task: every deliberate error and every defect in a step becomes its outcome."""
    started = time.monotonic()
    refused = task.context.get("refused")
    if refused:
        return TaskOutcome("failed", reason=refused, result=dict(task.context.get("refused_result") or {}))
    raised: BaseException | None = None
    try:
        module = import_module(f"ortforge.engine.steps.{task.kind}")
        work = replace(ready(task.store), cancel=INTERRUPTION.get() or threading.Event(), step=task.step_id)
        outcome: TaskOutcome = module.run(task, work)
        canonical(outcome.result)  # what has no JSON form is this step's failure, not the ledger's
    except CorruptObjectError as error:
        return TaskOutcome(
            CORRUPT, reason=str(error), result={"digest": error.digest}, seconds=time.monotonic() - started
        )
    except OrtforgeError as error:
        raised = error
        outcome = TaskOutcome("failed", reason=str(error), result={"exit_code": int(error.exit_code)})
    except MemoryError:
        outcome = TaskOutcome("out-of-memory", reason="ortforge itself ran out of memory in this step")
    except OSError as error:
        raised = error
        outcome = TaskOutcome("failed", reason=f"the operating system refused: {error}")
    except Exception as error:
        raised = error
        text = f"{type(error).__name__}: {error}"
        outcome = TaskOutcome("failed", reason=f"a defect in ortforge or a plugin: {text}", log=traceback.format_exc())
    variables = task.parameters.get("variables")
    if outcome.status == "ok" and variables:  # for `ortforge plan`: what was set when the step ran
        outcome = replace(outcome, result={**outcome.result, "variables": variables})
    return replace(marked(outcome, raised, Path(task.store)), seconds=time.monotonic() - started)


def failed_job(outcome: JobOutcome, what: str = "") -> TaskOutcome:
    """Turn a worker's failure into the step's outcome."""
    reason = f"{what}: {outcome.reason}" if what else outcome.reason
    return TaskOutcome(
        outcome.status, reason=reason, log=outcome.log, result={"kind": outcome.kind} if outcome.kind else {}
    )


def limits_of(context: Mapping[str, Any]) -> Limits:
    """Read a step's limits from its context."""
    limits = context["limits"]
    memory = limits["memory"]
    if not memory:
        raise EnvironmentLacksError("a step has no memory limit", todo="Set limits.memory in matrix.toml.")
    return Limits(
        import_s=limits["import_s"],
        load_s=limits["load_s"],
        run_s=limits["run_s"],
        apply_s=limits["run_s"],
        memory=memory,
        address_space=context.get("address_space", True),
    )
