"""run: a model answers all samples; its outputs, start-up times, memory and placement are kept.

Placement comes from the same session as the outputs: it is profiled during the first sample and then
``end_profiling()`` switches that off, so nothing is loaded twice (the cost that matters for a big model) and what is
said about placement is said about the very session that answered.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import blame
from .diagnostics import Remarks
from .limits import peak_rss
from .protocol import Channel, JobError

if TYPE_CHECKING:
    from .io_binding import Bound

__all__ = ["run"]

_TWICE_BELOW_S = 1.0
"""A first run shorter than this is done again under the profiler: its time share is then of a warm run."""


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do a ``run`` job and finish it."""
    started = time.perf_counter()
    import onnxruntime as ort

    from . import nvidia, stability
    from .device_memory import DeviceMemory
    from .exchange import Exchange
    from .io_binding import Bound, runner
    from .samples import Samples, SampleWriter
    from .session import open_session

    import_s = time.perf_counter() - started
    samples = Samples(job["samples"])

    channel.phase("load")
    placed = bool(job.get("placement"))
    config = {"session.record_ep_graph_assignment_info": "1"} if placed else {}
    profile = str(Path.cwd() / "profile") if placed else ""
    memory = DeviceMemory() if any(name in nvidia.EPS for name, _ in job["providers"]) else None
    started = time.perf_counter()
    providers, settings = job["providers"], job["session"]
    data = str(job["samples"]) if len(samples) else None
    opened = open_session(ort, job["model"], providers, settings, config=config, profile=profile, samples=data)
    load_s = time.perf_counter() - started
    if not len(samples):
        why = samples.source.removeprefix("none: ")
        raise JobError(
            "input",
            "This runtime loads the model, and there are no samples to run: its inputs are not known, because the "
            f"reference runtime does not load it ({why.rstrip('.')}). Choose another [reference] runtime.",
        )
    session = opened.session

    channel.phase("run")
    inputs, outputs = session.get_inputs(), session.get_outputs()
    timed = runner(ort, session, job["providers"], job["session"])
    captured = isinstance(timed, Bound) and timed.captured
    answer = blame.Watched(
        _Replayed(timed) if isinstance(timed, Bound) and timed.captured else _Answer(ort, session), job
    )
    output = Path(job["output"])
    if output.exists():
        shutil.rmtree(output)
    exchange = Exchange(samples, session, job["session"])
    writer = SampleWriter(output, exchange.plain_outputs, exchange.output_types)
    first_run_s = 0.0
    profile_file: Path | None = None
    remarks = Remarks()
    for number in range(len(samples)):
        feeds = exchange.feeds(number)
        started = time.perf_counter()
        answered = answer.node_by_node(feeds) if number == 0 else answer(feeds)
        if number == 0:
            first_run_s = time.perf_counter() - started
            if placed:
                if first_run_s < _TWICE_BELOW_S:
                    answer.node_by_node(feeds)
                with remarks.instead_of_failing("The profile was not written"):
                    profile_file = Path(session.end_profiling())
            if captured:
                answered = answer(feeds)
        writer.write(exchange.kept(answered))
    writer.close(random=samples.random, source=samples.source, widened=answer.widened)
    peak = peak_rss()
    device = int(dict(job["providers"][0][1] or {}).get("device_id", 0)) if job["providers"] else 0
    in_force: dict[str, str] = {}
    held: dict[str, Any] | None = None
    with remarks.instead_of_failing("The options that the EP has in force are not known"):
        in_force = dict(session.get_provider_options().get(opened.ep) or {})
    with remarks.instead_of_failing("The EP's remarks are not known"):
        remarks.extend(nvidia.remarks(opened.ep, in_force, timed.place, captured))
    with remarks.instead_of_failing("The memory held on the device is not known"):
        held = memory.held(device) if memory else None
        if memory and (which := memory.where(device)):
            remarks.append(which)
    placement = _placed(opened.ep, session, profile_file) if placed else None

    facts = {
        "ort_version": ort.__version__,
        "providers": session.get_providers(),
        "import_s": import_s,
        "load_s": load_s,
        "first_run_s": first_run_s,
        "peak_rss": peak,
        "device_memory": held,
        "ep_options": in_force,
        "io_binding": timed.place,
        "remarks": list(remarks),
        "samples": len(samples),
        "placement": placement,
        "inputs": described(inputs),
        "outputs": described(outputs),
    }
    if job.get("repeat"):
        # The first session ends here, so that the model is not in memory twice.
        del opened, session, timed, answer, inputs, outputs, exchange
        facts["self_difference"] = None
        with remarks.instead_of_failing("Whether the model answers the same twice is not known"):
            facts["self_difference"] = stability.self_difference(ort, job)
        facts["remarks"] = list(remarks)
    channel.finish(facts)


class _Answer:
    """Runs a session on values in host memory."""

    def __init__(self, ort: Any, session: Any) -> None:
        from .host_values import HostValues

        self._values = HostValues(ort, session)
        self.widened = self._values.widened

    def node_by_node(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Answer so that a profile has the nodes: as always."""
        return self(feeds)

    def __call__(self, feeds: Mapping[str, Any]) -> list[Any]:
        return self._values.answer(self._values.hold(feeds))


class _Replayed:
    """Runs a session as a CUDA graph, with new samples in the buffers of the one that it was captured with."""

    widened: tuple[str, ...] = ()

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def node_by_node(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Run without capturing: a replayed graph has no nodes that a profile could show."""
        self._bound.rehearse(self._bound.hold(feeds))
        return []

    def __call__(self, feeds: Mapping[str, Any]) -> list[Any]:
        return self._bound.answer(self._bound.hold(feeds))


def _placed(ep: str, session: Any, profile: Path | None) -> dict[str, Any]:
    """Return which nodes ran where. A source that cannot be read is left out and named: it never fails the cell."""
    from . import nvidia
    from .placement import Executed, assigned, executed, placement, unknown_placement

    ran: Executed | None = None
    took: Mapping[str, Counter[str]] | None = None
    problems = Remarks()
    with problems.instead_of_failing("The profile cannot be read"):
        ran = executed(profile) if profile is not None else None
    with problems.instead_of_failing("ONNX Runtime's assignment of nodes cannot be read"):
        took = assigned(session)
    with problems.instead_of_failing("The profile cannot be removed"):
        if profile is not None:
            profile.unlink(missing_ok=True)
    with problems.instead_of_failing("The placement cannot be put together"):
        found = placement(ep, ran, took)
        found = nvidia.without_time(found) if ep in nvidia.EPS else found
        return {**found, "note": "; ".join(filter(None, (found["note"], *problems)))}
    return unknown_placement("; ".join(problems))


def described(entries: list[Any]) -> list[dict[str, Any]]:
    """Return a session's inputs or outputs as JSON: name, dtype and shape (a number, a symbol or ``None``)."""
    from .tensors import ort_dtype

    return [{"name": entry.name, "dtype": ort_dtype(entry.type), "shape": list(entry.shape)} for entry in entries]
