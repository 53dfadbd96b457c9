"""Paired, interleaved timing: two workers take turns, so that what disturbs one disturbs the other.

A round starts fresh processes for both sides, both at once, because where a process's memory happens to lie moves its
latency by some percent; a turn is a few iterations of one side; a pair is one turn of each. Where it matters how
quickly a model loads, the two take turns at that as well, at the end of a round.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from ortforge.api import TaskOutcome
from ortforge.engine.artefacts import model_file, providers_for, session_for
from ortforge.engine.work import Work, failed_job, limits_of
from ortforge.errors import StoreError
from ortforge.runtime.device import pressure
from ortforge.runtime.supervisor import Interpreter, JobOutcome, Limits, WorkerDied, WorkerSession

__all__ = ["SIDES", "TIMING_LOCK", "Pairs", "Side", "alone", "measure", "thinned"]

TIMING_LOCK: Final = "timing"
"""Held while something is timed, so that another ortforge on the same store does not time at that moment."""

TURN_NS: Final = 10_000_000
"""Length aimed at for one turn: long against a message to the worker (~0.1 ms), short against machine noise."""

MOST_ITERATIONS: Final = 1000
LEAST_PAIRS: Final = 5
"""Pairs that a round should have even when its time is over, within :data:`PATIENCE` times its budget …"""
FEWEST_PAIRS: Final = 2
"""… and those that it has whatever they cost."""

MAX_REPEATS: Final = 2
"""Rounds that are taken again at most because other work had the CPUs during them."""

PATIENCE: Final = 10
"""A round may take so many times its budget to reach :data:`LEAST_PAIRS`; no round begins when that is used up."""

MOST_KEPT: Final = 1000
"""Raw samples that are kept of each side. Figures are made from all of them; a model of microseconds has
hundreds of thousands, and a run holds the results of all its cells."""

Pairs = list[tuple[float, float]]
"""``(baseline ns, candidate ns)`` of one round."""

SIDES: Final = ("baseline", "candidate")
LOCK_LOOK_S: Final = 0.2

WARM_UP_SHARE: Final = 0.3
"""Share of a round's time that warming up may take before measuring starts regardless."""


LOADING_SHARE: Final = 0.4
"""A round's loads may take so much of its time again. Where one pair takes longer, the processes' own start counts."""
MOST_LOADS: Final = 10
"""Pairs of loads in a round: more of them teach nothing that other rounds do not teach better."""
LEAST_LOADS: Final = 3
"""Pairs that the time should be enough for: a turn is shortened for it."""
LOADS_NS: Final = 30_000_000
"""Length aimed at for one side's turn at loading."""
MOST_AT_ONCE: Final = 5
"""Loads in a turn at most. After the other side's turn a load of 8 ms takes 16 now and then: of several in a turn the
first does not count."""


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
            "providers": providers_for(how["providers"], artefact),
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

    Rounds end when the comparison is decided (:func:`ortforge.verdict.timing.is_decided`), and after ``rounds`` at the
    latest. Contended rounds are set aside and repeated, up to :data:`MAX_REPEATS` times; where fewer than two rounds
    are left without them, all rounds are used and the timing is contended.

    :param parameters: ``budget_s``, ``rounds``, and ``loads``: whether loading is timed in pairs too.

    The facts hold ``round_pairs`` (rounds of (baseline ns, candidate ns), each the median of one turn), raw
    ``samples`` and ``baseline_samples`` in ns, start-up figures of both sides, the ``threads`` that computed, and the
    trust in all of it; and ``load_pairs`` like ``round_pairs`` where loads were asked for.
    """
    samples = str(work.store.objects.get(data))
    sides = tuple(Side(side.interpreter, {**side.job, "samples": samples}) for side in (baseline, candidate))
    rounds = max(1, int(parameters["rounds"]))
    budget = float(parameters["budget_s"]) / rounds
    loading_s = LOADING_SHARE * budget if parameters.get("loads") else 0.0
    try:
        taken = _rounds(work, sides, limits_of(context), rounds, budget, loading_s)
    except _SideDied as death:
        failure = failed_job(death.outcome, f"while it was timed, its {death.side} ended" if death.side else "")
        return {}, replace(failure, result={"side": death.side})
    return _facts(taken, loads=bool(loading_s)), None


def _rounds(
    work: Work, sides: Sequence[Side], limits: Limits, rounds: int, budget_s: float, loading_s: float
) -> list[_Round]:
    """Take rounds until the comparison is decided, or nothing is to be expected of more of them."""
    from ortforge.verdict.timing import is_decided

    began = time.monotonic()
    taken: list[_Round] = []
    while len(taken) < rounds + MAX_REPEATS:
        if taken and time.monotonic() - began > PATIENCE * budget_s * rounds:
            break  # a model this slow is known well enough, or not at all
        with work.store.objects.scratch() as scratch:
            first = len(taken) % 2
            taken.append(_round(work, sides, limits, scratch, budget_s, loading_s, first))
        clean = [one for one in taken if not one.is_contended]
        if is_decided([one.pairs for one in clean], rounds, [one.loads for one in clean] if loading_s else ()):
            break
        if len(clean) + MAX_REPEATS < len(taken):
            break  # the machine stays busy
    return taken


def _facts(taken: Sequence[_Round], *, loads: bool) -> dict[str, Any]:
    from ortforge.verdict.timing import MIN_ROUNDS, is_contended, own_noise, paired, percentiles, trust

    clean = [one for one in taken if not one.is_contended]
    used = clean if len(clean) >= min(MIN_ROUNDS, len(taken)) else taken
    raw = [[ns for one in used for ns in one.raw[number]] for number in (0, 1)]
    starts = [[one.starts[number] for one in used] for number in (0, 1)]
    shares = [one.pressure for one in used if one.pressure is not None]
    share = max(shares) if any(map(is_contended, shares)) else sum(shares) / len(shares) if shares else None
    round_pairs = [one.pairs for one in used]
    label, why = trust(raw[1], share, baseline_ns=raw[0], interval=paired(round_pairs))
    facts: dict[str, Any] = {
        "round_pairs": round_pairs,
        "own_noise": own_noise(round_pairs),
        "samples": thinned(raw[1]),
        "baseline_samples": thinned(raw[0]),
        "trust": label,
        "trust_reason": why,
        "contended_rounds": sum(one.is_contended for one in taken),
        **_threads(starts),
        **percentiles(raw[1]),
        "baseline_p50_s": percentiles(raw[0])["p50_s"],
        **_start_figures(starts[1], ""),
        **_start_figures(starts[0], "baseline_"),
    }
    return facts | ({"load_pairs": [one.loads for one in used]} if loads else {})


def _threads(starts: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return how many threads computed on each side, and a note where that is not the same number."""
    baseline, candidate = (
        round(median(counts)) if (counts := [start["threads"] for start in side if start.get("threads")]) else None
        for side in starts
    )
    note = ""
    if baseline and candidate and baseline != candidate:
        note = f"The conditions differ: {candidate} threads computed, and {baseline} of the baseline."
        note = note.replace("1 threads", "1 thread")
    return {"threads": {"candidate": candidate, "baseline": baseline}, "threads_note": note}


class _SideDied(Exception):  # noqa: N818 - says what happened; the outcome says why
    """A worker is gone; ``side`` is one of :data:`SIDES`."""

    def __init__(self, side: str, outcome: JobOutcome) -> None:
        super().__init__(outcome.reason)
        self.side = side
        self.outcome = outcome


@contextmanager
def _blaming(number: int) -> Iterator[None]:
    try:
        yield
    except WorkerDied as death:
        raise _SideDied(SIDES[number], death.outcome) from death


@contextmanager
def alone(work: Work) -> Iterator[None]:
    """Hold the timing lock; an interrupted run does not wait for it.

    :raises StoreError: the run was interrupted while another process was timing.
    """
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(work.store.lock(TIMING_LOCK, wait=False))
                break
            except StoreError as error:
                # One with a cause is the disk's refusal, which waiting does not mend.
                if error.__cause__ is not None or work.cancel.wait(LOCK_LOOK_S):
                    raise
        yield


def thinned(samples: Sequence[int]) -> list[int]:
    """Return at most :data:`MOST_KEPT` of the samples, evenly spaced, in their order."""
    if len(samples) <= MOST_KEPT:
        return list(samples)
    return [samples[number * len(samples) // MOST_KEPT] for number in range(MOST_KEPT)]


@dataclass(frozen=True, slots=True)
class _Round:
    """What one round measured: both sides' times and start-up figures, baseline first.

    :param pressure: share of the time of its turns in which some task waited for a CPU, ``None`` where not known.
    """

    pairs: Pairs
    loads: Pairs
    raw: tuple[list[int], list[int]]
    starts: tuple[dict[str, Any], dict[str, Any]]
    pressure: float | None

    @property
    def is_contended(self) -> bool:
        """Whether other work had the CPUs during its turns."""
        from ortforge.verdict.timing import is_contended

        return is_contended(self.pressure)


def _round(
    work: Work, sides: Sequence[Side], limits: Limits, scratch: Path, budget_s: float, loading_s: float, first: int
) -> _Round:
    """One round: fresh workers, warm-up, then pairs until the budget is used, and at last pairs of loads."""
    from ortforge.verdict.timing import stable

    raw: tuple[list[int], list[int]] = ([], [])
    with ExitStack() as stack:
        workers = _started(work, sides, limits, scratch, stack)
        turns = _Turns(workers, limits)
        before, started = pressure(), time.monotonic()
        deadline, patience = started + budget_s, started + PATIENCE * budget_s
        turns.find_length()
        history: tuple[list[float], list[float]] = ([], [])
        warm_until = started + WARM_UP_SHARE * budget_s
        while time.monotonic() < warm_until and not all(stable(medians) for medians in history):
            for number, ns in enumerate(turns.pair((0, 1))):
                history[number].append(median(ns))
        pairs: Pairs = []
        while (
            len(pairs) < FEWEST_PAIRS
            or (now := time.monotonic()) < deadline
            or (len(pairs) < LEAST_PAIRS and now < patience)
        ):
            # Who goes first alternates, so that a drift favours neither side.
            both = turns.pair((0, 1) if (len(pairs) + first) % 2 == 0 else (1, 0))
            for number, ns in enumerate(both):
                raw[number].extend(ns)
            pairs.append((float(median(both[0])), float(median(both[1]))))
        own = [float(worker.ready["load_s"]) for worker in workers]
        loads = turns.loads(own, loading_s, first) if sum(own) <= loading_s else []
        after, seconds = pressure(), time.monotonic() - started
        share = (after - before) / 1e6 / seconds if before is not None and after is not None else None
        starts = [_finished(number, worker, limits) for number, worker in enumerate(workers)]
    return _Round(pairs, loads or [(own[0] * 1e9, own[1] * 1e9)], raw, (starts[0], starts[1]), share)


def _started(work: Work, sides: Sequence[Side], limits: Limits, scratch: Path, stack: ExitStack) -> list[WorkerSession]:
    """Start both workers at once: they import at the same time, and load their models one after the other."""
    sessions = []
    for number, side in enumerate(sides):
        folder = scratch / str(number)
        folder.mkdir()
        job = {**side.job, "one_at_a_time": str(scratch / "loading")}
        sessions.append(WorkerSession(side.interpreter, job, limits=limits, workdir=folder, cancel=work.cancel))
    for number, session in enumerate(sessions):
        with _blaming(number):
            session.start()
        stack.push(session)
    with ThreadPoolExecutor(len(sessions)) as pool:
        waits = [pool.submit(session.wait_until_ready) for session in sessions]
    for number, wait in enumerate(waits):
        with _blaming(number):
            wait.result()
    return sessions


def _finished(number: int, worker: WorkerSession, limits: Limits) -> dict[str, Any]:
    with _blaming(number):
        return {**worker.ready, **worker.ask({"op": "finish"}, timeout=limits.run_s)}


class _Turns:
    """Asks both workers for turns: the same number of iterations over the same samples of each."""

    def __init__(self, workers: Sequence[WorkerSession], limits: Limits) -> None:
        self._workers = workers
        self._limits = limits
        self._length = 1
        self._start = 0

    def find_length(self) -> None:
        """Choose how many iterations make a turn of about :data:`TURN_NS`, by the faster side."""
        shortest = min(min(ns) for ns in self.pair((0, 1)))
        if shortest < TURN_NS:  # a longer one is a turn by itself, and too dear to be run only for this
            self._length = 3
            shortest = min(min(ns) for ns in self.pair((0, 1)))
        self._length = max(1, min(MOST_ITERATIONS, round(TURN_NS / max(1, shortest))))

    def pair(self, order: tuple[int, int]) -> tuple[list[int], list[int]]:
        """Take one turn of each side; return the baseline's and the candidate's iterations in ns."""
        # The first iteration after the other side's turn finds cold caches: it is run and not counted, unless one
        # iteration alone is longer than a turn, when caches no longer matter.
        discard = 1 if self._length > 1 else 0
        command = {"op": "turn", "iterations": self._length, "discard": discard, "start": self._start}
        taken: list[list[int]] = [[], []]
        for number in order:
            with _blaming(number):
                taken[number] = self._workers[number].ask(command, timeout=self._limits.run_s)["ns"]
        self._start += self._length
        return taken[0], taken[1]

    def loads(self, own_s: Sequence[float], seconds: float, first: int) -> Pairs:
        """Let both load their model in turn, for about so long; no other turn can follow.

        :param own_s: what it took them when they started.
        """
        began, pairs = time.monotonic(), list[tuple[float, float]]()
        wanted = min(MOST_AT_ONCE, LOADS_NS / 1e9 / max(1e-3, min(own_s)))
        times = max(1, int(min(wanted, seconds / LEAST_LOADS / sum(own_s) - 1)))
        command = {"op": "load", "times": times, "discard": 1 if times > 1 else 0}
        while len(pairs) < MOST_LOADS and (not pairs or time.monotonic() - began < seconds):
            ns = [0.0, 0.0]
            for number in (0, 1) if (len(pairs) + first) % 2 == 0 else (1, 0):
                with _blaming(number):
                    taken = self._workers[number].ask(command, timeout=self._limits.load_s)["ns"]
                    ns[number] = float(median(taken))
            pairs.append((ns[0], ns[1]))
        return pairs


def _start_figures(starts: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, Any]:
    figures = {f"{prefix}{name}": median(start[name] for start in starts) for name in ("load_s", "first_run_s")}
    return {**figures, f"{prefix}peak_rss": max(start["peak_rss"] for start in starts)}
