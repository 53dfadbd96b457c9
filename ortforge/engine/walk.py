"""Walks a plan: decides for each step whether it is known, must run or is blocked, and keeps the journal.

The walk is one thread; steps run in the executor. Whatever happens to a step is recorded before anything
that depends on it starts, so killing the process loses at most the steps in flight.
"""

from __future__ import annotations

import queue
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from ortforge.api import Executor, Task, TaskOutcome
from ortforge.engine.news import Beginning, Begun, Done, outcome_of
from ortforge.engine.work import CORRUPT, run_task
from ortforge.errors import EnvironmentLacksError, OrtforgeError
from ortforge.plan.graph import OBJECT_KINDS, Plan, Step, key_of
from ortforge.plan.lookup import look_up
from ortforge.plan.recorded_files import is_current
from ortforge.portable.statuses import NOT_RUN
from ortforge.runtime.environment import Environment, verify
from ortforge.store import Store
from ortforge.store.ledger import StepRecord

__all__ = ["Events", "Settled", "WalkOptions", "walk"]

_MOST_REMAKES: Final = 3
"""How often one step is made again because its object was damaged, before the store itself is suspected."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a step in this run. ``status`` is ``ok``, a failure's status, ``blocked`` or ``skipped``."""

    step: Step
    status: str
    key: str = ""
    identity: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    log: str = ""
    seconds: float = 0.0
    cached: bool = False

    @property
    def ok(self) -> bool:
        """Whether later steps can use it."""
        return self.status == "ok"


class Events:
    """What the walk tells while it goes; the base class ignores all of it."""

    def step_started(self, step: Step) -> None:
        """Be told that a step began: not when it was queued (where it runs elsewhere: when it was sent there)."""

    def step_settled(self, settled: Settled) -> None:
        """Be told what became of a step (also of a cached or blocked one)."""


@dataclass(frozen=True, slots=True)
class WalkOptions:
    """How a walk treats what the ledger knows.

    :param fresh: do every step again; only what this very run made is used twice. Requirements are resolved anew.
    :param fresh_kinds: the same for some kinds alone.
    :param retry: try again what failed last time; otherwise the recorded failure stands.
    """

    fresh: bool = False
    fresh_kinds: frozenset[str] = frozenset()
    retry: bool = True


def walk(
    plan: Plan,
    store: Store,
    executor: Executor,
    run_id: str,
    *,
    options: WalkOptions | None = None,
    events: Events | None = None,
    run: Callable[[Task], TaskOutcome] = run_task,
    skip: Callable[[Step, Mapping[str, Settled]], str] | None = None,
) -> dict[str, Settled]:
    """Settle every step of the plan and return what became of each.

    :param run: what the executor calls for each task (a benchmark passes a stub).
    :param skip: given a step and what is settled so far (all that the step needs is), returns why the step is not
        needed, or ``""``. Such a step is ``skipped``, in this run only.
    :raises KeyboardInterrupt: after the executor's running steps were ended; finished results are kept.
    """
    state = _Walk(plan, store, executor, run_id, options or WalkOptions(), events or Events(), run, skip)
    try:
        return state.finish()
    except BaseException:
        executor.shutdown(cancel=True)
        raise


@dataclass(slots=True)
class _Walk:
    plan: Plan
    store: Store
    executor: Executor
    run_id: str
    options: WalkOptions
    events: Events
    run: Callable[[Task], TaskOutcome]
    skip: Callable[[Step, Mapping[str, Settled]], str] | None = None
    settled: dict[str, Settled] = field(default_factory=dict)
    known: dict[str, StepRecord] = field(default_factory=dict)
    made: dict[str, Settled] = field(default_factory=dict)
    in_flight: dict[str, list[str]] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    users: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    forced: set[str] = field(default_factory=set)
    remakes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    checked: dict[str, bool] = field(default_factory=dict)
    ready: deque[str] = field(default_factory=deque)
    news: queue.SimpleQueue[Begun | Done] = field(default_factory=queue.SimpleQueue)
    began: dict[str, float] = field(default_factory=dict)
    since: float = field(default_factory=time.time)

    def finish(self) -> dict[str, Settled]:
        if not self.options.fresh:
            _, records = look_up(self.plan, self.store.ledger.done_many)
            self.known = {record.key: record for record in records.values()}
        for step in self.plan.steps.values():
            needs = {*step.inputs, *step.after}
            self.waiting[step.id] = len(needs)
            for name in needs:
                self.users[name].append(step.id)
            if not needs:
                self.ready.append(step.id)
        while self.ready or self.in_flight:
            while self.ready:
                self.consider(self.plan.steps[self.ready.popleft()])
            if self.in_flight:
                self.hear(self.news.get())
        return self.settled

    def hear(self, news: Begun | Done) -> None:
        if isinstance(news, Begun):
            self.began.setdefault(news.key, news.at)
            self.events.step_started(self.plan.steps[news.step_id])
        else:
            self.receive(news.step_id, news.key, self.began.pop(news.key, news.queued), news.future)

    def anew(self, kind: str) -> bool:
        """Say whether steps of a kind are done again whatever is known."""
        return self.options.fresh or kind in self.options.fresh_kinds

    def consider(self, step: Step) -> None:
        """Settle a step whose predecessors are settled, or hand it to the executor."""
        if step.id in self.settled or self.waiting[step.id]:
            return
        for name in (*step.inputs, *step.after):
            if not self.settled[name].ok:
                culprit = self.settled[name]
                reason = culprit.reason if culprit.status == "blocked" else f"{name} {culprit.status}: {culprit.reason}"
                self.settle(Settled(step, "blocked", reason=reason, log=culprit.log))
                return
        if self.skip is not None and (reason := self.skip(step, self.settled)):
            self.settle(Settled(step, "skipped", reason=reason))
            return
        key = key_of(step, (self.settled[name].identity for name in step.inputs))
        if key in self.in_flight:
            if step.id not in self.in_flight[key]:
                self.in_flight[key].append(step.id)
            return
        earlier = None if step.id in self.forced else self.earlier(step, key)
        if earlier is not None:
            self.settle(earlier)
        elif self.inputs_present(step):
            self.submit(step, key)

    def earlier(self, step: Step, key: str) -> Settled | None:
        """Return what is already known under this key: made in this run, or recorded before."""
        if key in self.made:
            return replace(self.made[key], step=step, seconds=0.0)
        if self.anew(step.kind):
            return None
        record = self.known.get(key) or self.store.ledger.done(key)
        if record is not None and not is_current(step, record):
            return None
        if record is None:
            # A failure is tried again. NOT_RUN is no failure: this very runtime cannot do it, and never will.
            last = self.store.ledger.last(key)
            record = last if last and (last.status in NOT_RUN or not self.options.retry) else None
        if record is None:
            return None
        return Settled(
            step, record.status, key, record.identity, record.result, record.reason, record.log, record.seconds, True
        )

    def inputs_present(self, step: Step) -> bool:
        """Check that what the step's inputs made is still there; what is gone is made again first."""
        gone = [name for name in step.inputs if not self.present(self.settled[name])]
        for name in gone:
            if name in self.settled:  # it may have been made from another one that is gone, and wait for it already
                self.make_again(name)
        return not gone

    def present(self, settled: Settled) -> bool:
        if not settled.cached:
            return True
        if settled.identity not in self.checked:
            if settled.step.kind in OBJECT_KINDS:
                found = self.store.objects.has(settled.identity)
            elif settled.step.kind == "provision":
                found = _stands(settled.result)
            elif settled.step.kind == "image":
                found = _image_stands(settled.identity)
            else:
                found = True
            self.checked[settled.identity] = found
        return self.checked[settled.identity]

    def make_again(self, name: str) -> None:
        """Unsettle a step, and all that was settled from it, so that it is done once more."""
        self.forced.add(name)
        self.made.pop(self.settled[name].key, None)
        self.unsettle(name)
        self.ready.append(name)

    def unsettle(self, name: str) -> None:
        stack = [name]
        while stack:
            current = stack.pop()
            settled = self.settled.pop(current, None)
            if settled is None:
                continue
            self.checked.pop(settled.identity, None)
            for user in self.users[current]:
                self.waiting[user] += 1
                stack.append(user)

    def submit(self, step: Step, key: str) -> None:
        inputs = tuple((name, self.settled[name].identity, self.settled[name].result) for name in step.inputs)
        task = Task(
            step.id,
            step.kind,
            key,
            step.parameters,
            inputs,
            str(self.store.root),
            context=step.context,
            cores=step.cores,
            exclusive=step.exclusive,
            since=self.since if self.anew(step.kind) else 0.0,
        )
        self.in_flight[key] = [step.id]
        queued = time.time()
        try:
            future = self.executor.submit(Beginning(self.run, task, self.news), task)
        except Exception as error:
            future = Future()
            future.set_exception(error)
        future.add_done_callback(lambda done: self.news.put(Done(step.id, key, queued, done)))

    def receive(self, name: str, key: str, started: float, future: Future[TaskOutcome]) -> None:
        """Record an outcome, then settle the step and all others that have the same key."""
        outcome = outcome_of(future)
        step = self.plan.steps[name]
        names = self.in_flight.pop(key)
        if outcome.status == CORRUPT:
            self.recover(step, names, outcome)
            return
        record = StepRecord(
            key=key,
            step_id=name,
            kind=step.kind,
            status=outcome.status,
            identity=outcome.identity,
            result=outcome.result,
            reason=outcome.reason,
            log=outcome.log,
            seconds=outcome.seconds,
            started=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        )
        self.store.ledger.record(self.run_id, record)
        made = Settled(
            step, outcome.status, key, outcome.identity, outcome.result, outcome.reason, outcome.log, outcome.seconds
        )
        if made.ok:
            self.made[key] = made
        for number, waiting in enumerate(names):
            self.forced.discard(waiting)
            if self.is_current(waiting, key):
                self.settle(replace(made, step=self.plan.steps[waiting], seconds=made.seconds if number == 0 else 0.0))
            elif waiting not in self.settled and not self.waiting[waiting]:
                self.ready.append(waiting)

    def is_current(self, name: str, key: str) -> bool:
        """Say whether a step still is to be settled under a key: an input may have been made anew meanwhile."""
        if name in self.settled or self.waiting[name]:
            return False
        step = self.plan.steps[name]
        return key_of(step, (self.settled[needed].identity for needed in step.inputs)) == key

    def recover(self, step: Step, names: list[str], outcome: TaskOutcome) -> None:
        """An input was damaged and dropped: make it again, then do the step; give up after a few times."""
        digest = outcome.result.get("digest", "")
        settled = [self.settled.get(name) for name in step.inputs]
        producer = next((found.step.id for found in settled if found is not None and found.identity == digest), "")
        if producer and self.remakes[producer] < _MOST_REMAKES:
            self.remakes[producer] += 1
            self.make_again(producer)
        elif None not in settled:
            again = (
                f" It was made again {_MOST_REMAKES} times: check the disk that holds the store." if producer else ""
            )
            for name in names:
                if not self.waiting[name] and name not in self.settled:
                    self.settle(Settled(self.plan.steps[name], "failed", reason=f"{outcome.reason}{again}"))
            return
        # Otherwise a sibling met the same damage first, and the input is being made again already.
        # Steps that shared this one's key may have got the same object from another producer.
        self.ready.extend(name for name in names if not self.waiting[name])

    def settle(self, settled: Settled) -> None:
        self.settled[settled.step.id] = settled
        self.events.step_settled(settled)
        for user in self.users[settled.step.id]:
            self.waiting[user] -= 1
            if not self.waiting[user]:
                self.ready.append(user)


def _stands(result: Mapping[str, Any]) -> bool:
    """Say whether a recorded environment is still what it was; one of another schema is not.

    One for an image stands while the image is there under its id.
    """
    try:
        environment = Environment.from_json(result["environment"])
    except (KeyError, TypeError, ValueError):
        return False
    if verify(environment):
        return False
    if not environment.image:
        return True
    from ortforge.container import connect  # most runtimes need no container

    try:
        return bool(connect().image_id(environment.image))
    except EnvironmentLacksError:
        return False  # making it again says what is missing


def _image_stands(image: str) -> bool:
    """Say whether a toolchain image is still there; asked only when something is to be built in it."""
    from ortforge.container import connect

    try:
        return bool(connect().image_id(image))
    except OrtforgeError:
        return True  # no engine answers: the step that needs it says so better
