"""time: a session that takes turns with another one, telling the raw nanoseconds of every iteration.

Only the run itself is inside the clock. Its arrays are dropped before the next iteration, and the garbage
collector is off: a turn makes no cycles. When the turns are over, the two may take turns at loading their models.
"""

from __future__ import annotations

import fcntl
import gc
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .limits import peak_rss
from .protocol import Channel, JobError
from .thread_times import computing_threads, cpu_times

if TYPE_CHECKING:
    from .io_binding import Runner

__all__ = ["SPINNING_STOP", "load_again", "run", "take_turn"]

SPINNING_STOP = "session.force_spinning_stop"
"""ORT's threads spin for a while after a run, waiting for the next. Told to stop, they leave the cores to the other
side during its turn. Known since ORT 1.12, so by every version that is served here."""

MOST_FEED_BYTES = 1 << 30
"""Feeds are held in memory, so that reading files is no part of a turn; samples beyond this are left out."""


MAX_WAIT_S = 10.0
"""Maximum wait for the other side's model to load."""


@dataclass(frozen=True)
class _Held:
    """All that keeps the session alive: dropped together, so that a model is not in memory twice."""

    timed: Runner
    feeds: list[Any]


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do a ``time`` job: get ready, then answer commands until told to finish."""
    held: _Held | None = _get_ready(job, channel)
    gc.collect()
    gc.disable()
    position, peak = 0, 0
    threads: int | None = None
    began = cpu_times()
    while True:
        command = channel.read()
        op = command.get("op")
        if op == "turn" and held is not None:
            start = int(command.get("start", position))
            iterations, discard = int(command["iterations"]), int(command.get("discard", 0))
            channel.reply(take_turn(held.timed, held.feeds, iterations, discard, start))
            position = (start + iterations) % len(held.feeds)
        elif op == "load":
            if held is not None:
                peak, threads, held = peak_rss(), computing_threads(began, cpu_times()), None
                gc.collect()
            channel.reply(load_again(job, command))
        elif op == "finish":
            channel.leave()
            threads = threads if held is None else computing_threads(began, cpu_times())
            channel.reply({"peak_rss": peak or peak_rss(), "threads": threads})
            return
        else:
            raise JobError("failed", f"a time job knows the commands turn, then load, and finish, not {op!r} here")


def load_again(job: Mapping[str, Any], command: Mapping[str, Any]) -> dict[str, Any]:
    """Make the session anew and drop it, ``discard + times`` times; tell how long the counted ones took, in ns."""
    import onnxruntime as ort

    from .session import open_session

    ns: list[int] = []
    discard = int(command.get("discard", 0))
    for number in range(discard + int(command.get("times", 1))):
        begin = time.perf_counter_ns()
        opened = open_session(ort, job["model"], job["providers"], job["session"], config={SPINNING_STOP: "1"})
        end = time.perf_counter_ns()
        del opened
        if number >= discard:
            ns.append(end - begin)
    return {"ns": ns}


def _get_ready(job: Mapping[str, Any], channel: Channel) -> _Held:
    started = time.perf_counter()
    import onnxruntime as ort  # noqa: F401 - imported here, so that its time is not the load's

    from . import io_binding, session, tensors  # noqa: F401
    from .samples import Samples

    import_s = time.perf_counter() - started
    samples = Samples(job["samples"])
    channel.phase("load")
    with _one_at_a_time(job.get("one_at_a_time")):
        channel.phase("load")  # its limit begins here
        return _load(job, channel, samples, import_s)


@contextmanager
def _one_at_a_time(path: str | None) -> Iterator[None]:
    """Hold a lock file while loading, so that the two sides of a round do not disturb each other's load times.

    After :data:`MAX_WAIT_S`, and where the file cannot be locked, loading goes on without the lock.
    """
    try:
        file = open(path, "w") if path else None  # noqa: PTH123, SIM115 - the worker does without pathlib here
    except OSError:
        file = None
    if file is None:
        yield
        return
    with file:
        until = time.monotonic() + MAX_WAIT_S
        while time.monotonic() < until:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.002)
            except OSError:
                break
        yield


def _load(job: Mapping[str, Any], channel: Channel, samples: Any, import_s: float) -> _Held:
    import onnxruntime as ort

    from .io_binding import runner
    from .session import open_session
    from .tensors import cast_feeds, check_feeds

    started = time.perf_counter()
    opened = open_session(ort, job["model"], job["providers"], job["session"], config={SPINNING_STOP: "1"})
    load_s = time.perf_counter() - started
    session = opened.session
    timed = runner(ort, session, job["providers"], job["session"])

    channel.phase("run")
    feeds: list[Any] = []
    first_run_s = 0.0
    held = 0
    types = job["session"].get("inputs") or {}
    for number in range(len(samples)):
        sample = cast_feeds(samples.feeds(number), types, number)
        held += sum(getattr(array, "nbytes", 0) for array in sample.values())
        if feeds and held > MOST_FEED_BYTES:
            break
        check_feeds(session.get_inputs(), session.get_overridable_initializers(), sample, number)
        started = time.perf_counter()
        feeds.append(timed.hold(sample))
        if number == 0 or timed.captured:  # each shape's graph is captured before anything counts
            timed.prepare(feeds[number])
            timed.run(None, feeds[number])
        if number == 0:
            first_run_s = time.perf_counter() - started
    if not feeds:
        raise JobError("input", "there are no samples to time with")
    ready = {"import_s": import_s, "load_s": load_s, "first_run_s": first_run_s, "samples": len(feeds)}
    ready["spinning_stop"] = (job["session"].get("config") or {}).get(SPINNING_STOP, "1") == "1"
    channel.reply({"ready": ready})
    return _Held(timed, feeds)


def take_turn(timed: Runner, feeds: list[Any], iterations: int, discard: int, start: int) -> dict[str, Any]:
    """Run ``discard + iterations`` iterations; the counted ones begin at sample ``start``.

    :param feeds: the samples as ``timed.hold`` returned them.
    """
    ns: list[int] = []
    prepare, run_model, clock = timed.prepare, timed.run, time.perf_counter_ns
    for number in range(discard):
        feed = feeds[(start + number) % len(feeds)]
        prepare(feed)
        run_model(None, feed)
    before, cpu = resource.getrusage(resource.RUSAGE_SELF), time.process_time_ns()
    for number in range(iterations):
        feed = feeds[(start + number) % len(feeds)]
        prepare(feed)
        begin = clock()
        out = run_model(None, feed)
        end = clock()
        del out
        ns.append(end - begin)
    used = time.process_time_ns() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {"ns": ns, "cpu_ns": used, "preempted": after.ru_nivcsw - before.ru_nivcsw, "start": start}
