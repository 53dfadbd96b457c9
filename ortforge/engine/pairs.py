"""Paired, interleaved timing: two workers take turns, so that what disturbs one disturbs the other.

A round starts fresh processes for both sides, because where a process's memory happens to lie moves its
latency by some percent; a turn is a few iterations of one side; a pair is one turn of each.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from ortforge.api import TaskOutcome
from ortforge.engine.artefacts import model_file, session_for
from ortforge.engine.work import CANCEL, Work, failed_job, limits_of
from ortforge.runtime.device import pressure
from ortforge.runtime.supervisor import Interpreter, Limits, WorkerDied, WorkerSession

__all__ = ["TIMING_LOCK", "Side", "measure"]

TIMING_LOCK: Final = "timing"
"""Held while something is timed, so that another ortforge on the same store does not time at that moment."""

TURN_NS: Final = 10_000_000
"""Length aimed at for one turn: long against a message to the worker (~0.1 ms), short against machine noise."""

MOST_ITERATIONS: Final = 20
LEAST_PAIRS: Final = 5
WARM_UP_SHARE: Final = 0.3
"""Share of a round's time that warming up may take before measuring starts regardless."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that take turns: how its worker is started and what it is told."""

    interpreter: Interpreter
    job: Mapping[str, Any]

    @classmethod
    def make(
        cls, work: Work, how: Mapping[str, Any], model: str, artefact: Mapping[str, Any], runtime: Mapping[str, Any]
    ) -> Side:
        """Put together a side from a cell's session options, artefact and runtime."""
        job = {
            "op": "time",
            "model": str(model_file(work.store.objects.get(model))),
            "ep": how["ep"],
            "providers": how["providers"],
            "session": session_for(how["session"], artefact),
        }
        return cls(work.interpreter(runtime["environment"], how["environment"]), job)


def measure(
    work: Work,
    baseline: Side,
    candidate: Side,
    data: str,
    parameters: Mapping[str, Any],
    context: Mapping[str, Any],
) -> tuple[dict[str, Any], TaskOutcome | None]:
    """Time both sides; return the facts, or a failure when a worker died.

    The facts hold ``round_pairs`` (rounds of (baseline ns, candidate ns), each the median of one turn), raw
    ``samples`` and ``baseline_samples`` in ns, start-up figures of both sides, and the trust in all of it.
    """
    from ortforge.verdict.timing import percentiles, trust

    samples = str(work.store.objects.get(data))
    sides = tuple(Side(side.interpreter, {**side.job, "samples": samples}) for side in (baseline, candidate))
    rounds = max(1, int(parameters["rounds"]))
    budget = float(parameters["budget_s"]) / rounds
    limits = limits_of(context)
    raw: tuple[list[int], list[int]] = ([], [])
    starts: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    round_pairs: list[list[tuple[float, float]]] = []
    contention_us, measured_s = 0.0, 0.0
    try:
        for number in range(rounds):
            with work.store.objects.scratch() as scratch:
                before, started = pressure(), time.monotonic()
                round_pairs.append(_round(sides, limits, scratch, budget, raw, starts, first=number % 2))
                after = pressure()
                if before is not None and after is not None:
                    contention_us += after - before
                    measured_s += time.monotonic() - started
    except WorkerDied as death:
        return {}, failed_job(death.outcome, "while it was timed")
    share = contention_us / 1e6 / measured_s if measured_s else None
    label, why = trust(raw[1], share)
    facts: dict[str, Any] = {
        "round_pairs": round_pairs,
        "samples": raw[1],
        "baseline_samples": raw[0],
        "trust": label,
        "trust_reason": why,
        **percentiles(raw[1]),
        "baseline_p50_s": percentiles(raw[0])["p50_s"],
        **_start_figures(starts[1], ""),
        **_start_figures(starts[0], "baseline_"),
    }
    return facts, None


def _round(
    sides: Sequence[Side],
    limits: Limits,
    scratch: Path,
    budget_s: float,
    raw: tuple[list[int], list[int]],
    starts: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    first: int,
) -> list[tuple[float, float]]:
    """One round: fresh workers, warm-up, then pairs until the budget is used."""
    from ortforge.verdict.timing import stable

    with ExitStack() as stack:
        workers: list[WorkerSession] = []
        for number, side in enumerate(sides):
            folder = scratch / str(number)
            folder.mkdir()
            session = WorkerSession(side.interpreter, side.job, limits=limits, workdir=folder, cancel=CANCEL)
            workers.append(stack.enter_context(session))
        deadline = time.monotonic() + budget_s
        # Both sides do the same number of iterations, so that both meet the same samples in the same pair.
        length = min(_turn_length(worker, limits) for worker in workers)
        history: tuple[list[float], list[float]] = ([], [])
        warm_until = time.monotonic() + WARM_UP_SHARE * budget_s
        while time.monotonic() < warm_until and not all(stable(medians) for medians in history):
            for number, worker in enumerate(workers):
                history[number].append(median(_turn(worker, length, limits)))
        pairs: list[tuple[float, float]] = []
        while len(pairs) < LEAST_PAIRS or time.monotonic() < deadline:
            # Who goes first alternates, so that a drift favours neither side.
            order = (0, 1) if (len(pairs) + first) % 2 == 0 else (1, 0)
            medians = [0.0, 0.0]
            for number in order:
                ns = _turn(workers[number], length, limits)
                raw[number].extend(ns)
                medians[number] = float(median(ns))
            pairs.append((medians[0], medians[1]))
        for number, worker in enumerate(workers):
            finish = worker.ask({"op": "finish"}, timeout=limits.run_s)
            starts[number].append({**worker.ready, **finish})
    return pairs


def _turn(worker: WorkerSession, iterations: int, limits: Limits) -> list[int]:
    # The first iteration after the other side's turn finds cold caches: it is run and not counted, unless one
    # iteration alone is longer than a turn, when caches no longer matter.
    command = {"op": "turn", "iterations": iterations, "discard": 1 if iterations > 1 else 0}
    ns: list[int] = worker.ask(command, timeout=limits.run_s)["ns"]
    return ns


def _turn_length(worker: WorkerSession, limits: Limits) -> int:
    """Return how many iterations make a turn of about :data:`TURN_NS`."""
    ns = worker.ask({"op": "turn", "iterations": 3, "discard": 1}, timeout=limits.run_s)["ns"]
    shortest: int = min(ns)
    return max(1, min(MOST_ITERATIONS, round(TURN_NS / max(1, shortest))))


def _start_figures(starts: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, Any]:
    figures = {f"{prefix}{name}": median(start[name] for start in starts) for name in ("load_s", "first_run_s")}
    return {**figures, f"{prefix}peak_rss": max(start["peak_rss"] for start in starts)}
