"""trial: a model that a pass tries out, in a process of its own, so that a crash ends the trial and not the pass.

The session is the cell's own, made as its ``run`` and ``time`` jobs make it. It answers samples and takes turns with
other trials until it is told to finish. The pass's side is :mod:`.trials`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .protocol import Channel, JobError
from .timed import SPINNING_STOP, load_again, take_turn

if TYPE_CHECKING:
    from .io_binding import Runner

__all__ = ["run"]


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do a ``trial`` job: load the model, then answer commands until told to finish."""
    tried: _Tried | None = _load(job, channel)
    gc.collect()
    gc.disable()
    while True:
        command = channel.read()
        op = command.get("op")
        if op == "answer" and tried is not None:
            tried.answer(Path(command["output"]))
            channel.reply({})
        elif op == "turn" and tried is not None:
            channel.reply(tried.turn(command))
        elif op == "load":
            if tried is not None:
                tried = None
                gc.collect()
            channel.reply(load_again(job, command))
        elif op == "finish":
            channel.leave()
            channel.reply({})
            return
        else:
            raise JobError("failed", f"a trial knows the commands answer, turn, then load, and finish, not {op!r} here")


def _load(job: Mapping[str, Any], channel: Channel) -> _Tried:
    import onnxruntime as ort

    from .io_binding import runner
    from .samples import Samples
    from .session import open_session
    from .tensors import cast_feeds, check_feeds

    samples = Samples(job["samples"])
    channel.phase("load")
    started = time.perf_counter()
    opened = open_session(ort, job["model"], job["providers"], job["session"], config={SPINNING_STOP: "1"})
    load_s = time.perf_counter() - started
    session = opened.session
    timed = runner(ort, session, job["providers"], job["session"])

    channel.phase("run")
    types = job["session"].get("inputs") or {}
    feeds = [cast_feeds(samples.feeds(int(number)), types, int(number)) for number in job["numbers"]]
    for number, sample in zip(job["numbers"], feeds, strict=True):
        check_feeds(session.get_inputs(), session.get_overridable_initializers(), sample, int(number))
    if not feeds:
        raise JobError("input", "there are no samples to try the model on")
    started = time.perf_counter()
    held = [timed.hold(feeds[0])]
    timed.prepare(held[0])
    timed.run(None, held[0])
    channel.reply({"load_s": load_s, "first_run_s": time.perf_counter() - started})
    return _Tried(ort, session, timed, feeds, held)


@dataclass
class _Tried:
    """All that keeps the session alive: dropped together. ``held``: the feeds, as far as they were needed in turns."""

    ort: Any
    session: Any
    timed: Runner
    feeds: list[dict[str, Any]]
    held: list[Any]

    def answer(self, output: Path) -> None:
        """Write the outputs for all samples to a samples folder."""
        _answer(self.ort, self.session, self.timed, self.feeds, output)

    def turn(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Run some iterations."""
        for sample in self.feeds[len(self.held) :]:
            self.held.append(self.timed.hold(sample))
            if self.timed.captured:  # each shape's graph is captured before anything counts
                self.timed.prepare(self.held[-1])
                self.timed.run(None, self.held[-1])
        iterations, discard = int(command["iterations"]), int(command.get("discard", 0))
        return take_turn(self.timed, self.held, iterations, discard, int(command.get("start", 0)))


def _answer(ort: Any, session: Any, timed: Runner, feeds: list[dict[str, Any]], output: Path) -> None:
    """Write the outputs for all samples to a samples folder."""
    from .host_values import HostValues
    from .io_binding import Bound
    from .samples import SampleWriter
    from .structure import is_plain, type_name

    types = {entry.name: type_name(entry.type) for entry in session.get_outputs()}
    writer = SampleWriter(output, [name for name, kind in types.items() if is_plain(kind)], types)
    # A plain run of a session with CUDA graphs would be captured at addresses that are gone by the next.
    graph = timed if isinstance(timed, Bound) and timed.captured else None
    values: Any = graph or HostValues(ort, session)
    for sample in feeds:
        writer.write(dict(zip(types, values.answer(values.hold(sample)), strict=True)))
    writer.close()
