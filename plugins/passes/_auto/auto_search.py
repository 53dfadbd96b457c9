"""The search itself: screen whole schemes, keep few nodes of the promising ones in float, time what holds.

1. *Screening.* Every scheme quantizes the whole model. What it answers is held against the float model's answers on
   samples that were not calibrated on, and it takes turns with the float model for a moment.
2. *Refining.* A scheme that is faster than the best that holds, and does not hold itself, is given back as few nodes as
   it needs: nodes are ranked by the noise that each adds to the outputs (:mod:`node_noise`), the shortest prefix of
   the ranking with which the tolerance holds is found by bisection in the simulation, and the model is built and
   judged. Where simulation and model differ, the difference is taken into account and the bisection done again.
3. *The final.* What holds is timed again, in fresh processes, in turns with the float model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .._half import mixed_search
from .._measuring import closeness, pair_timing
from .._models import model_file, onnx_graph
from . import node_noise, weight_blocks
from .candidate_choice import AS_FAST, FINALISTS, Candidate, Ranking, finalists, ships, shortest_prefix
from .scheme_table import OPTIMIZED, SCHEMES, Scheme
from .trial_bench import Bench

if TYPE_CHECKING:
    from ortforge.api import PassJob, Trial

__all__ = ["Search", "is_worth_refining"]

GLANCE_S: Final = 0.6
"""Time that a candidate takes turns with the float model when it is first seen."""
GLANCE_PRECISE: Final = 0.05
"""Width of the interval, as a share of the ratio, at which a glance ends: as far as :data:`PROMISING` is from 1."""
FINAL_S: Final = 1.0
FINAL_PRECISE: Final = pair_timing.FLOOR / 2.0
"""The same in the final, where half the margin of a verdict is precise enough to choose by."""
FINAL_LOADS_S: Final = 0.4
MIN_START_S: Final = 0.2
"""What starting a process of the final takes at least: they import ONNX Runtime all at once, on all cores."""
FINAL_ROUNDS: Final = 2
"""The final is timed so many times in fresh processes: where memory lies moves a process's latency by some percent."""

MOST_PROBES: Final = 4
"""Candidates that one scheme is refined with at most."""

PROMISING: Final = 1.05
"""A whole scheme that is not this much faster than the float model gains nothing when nodes are given back."""

FAR_TOO_SLOW: Final = 0.75
"""A scheme that does not even come to this speed speaks for all that share its kernels."""

SCREENING_SHARE: Final = 0.65
"""Share of the time after which no further scheme is screened, unless none holds yet."""

RANKING_SHARE: Final = 0.15
"""Share of the time that ranking one scheme may take; nodes are put into groups to stay below it."""

MOST_PARTS: Final = 8
"""Candidates that a scheme is refined with whose noise comes from stretches of the graph."""

TIME_USED_UP: Final = "the time was used up"
TIME_KEPT: Final = "the time is kept for refining what was found"
FOR_WANT_OF_TIME: Final = (TIME_USED_UP, TIME_KEPT)
"""Reasons of schemes that more time would have let be tried."""

RANKED_ON: Final = 4
"""Samples that the noise of single nodes is taken from."""


class Search:
    """One search over one model; holds the float model's process, and the files of candidates, until it is closed.

    :param judged_on: numbers of the samples that candidates are judged and timed on. :param feeds: the same samples.
    """

    def __init__(
        self,
        job: PassJob,
        bench: Bench,
        feeds: Sequence[Mapping[str, Any]],
        judged_on: Sequence[int],
        tolerance: Mapping[str, Any],
        *,
        margin: float,
        excluded: Collection[str],
        most_candidates: int,
    ) -> None:
        self.candidates: list[Candidate] = []
        self.rankings: dict[str, Ranking] = {}
        self.skipped: dict[str, str] = {}
        self.run_s = 0.0
        self._job, self._bench, self._feeds, self._judged_on = job, bench, feeds, judged_on
        self._tolerance, self._margin = tolerance, margin
        self._excluded, self._most = tuple(excluded), most_candidates
        self._began = time.monotonic()
        self._deadline = float("inf")
        job.expect_trials(2)
        with job.trial(Path(job.model), judged_on, reference=True) as trial:
            self._reference = trial.answers()
        began = time.monotonic()
        self._float: Trial = job.trial(Path(job.model), judged_on)
        self._start_s = time.monotonic() - began
        self.float_parity = closeness.compare(self._reference, self._float.answers())
        self.float_bytes = model_file.size(Path(job.model))

    def close(self) -> None:
        """End the float model's process."""
        self._float.close()

    def allow(self, seconds: float) -> None:
        """Set the time that the search may take from its beginning, the final and all.

        What the final takes is kept for it, though no more than half: without candidates it has nothing to time.
        """
        turns_s = (pair_timing.FEWEST_TURNS + 2) * self._float.first_run_s
        final_s = FINAL_ROUNDS * (
            FINAL_S + FINAL_LOADS_S + (FINALISTS + 1) * (max(MIN_START_S, self._start_s) + turns_s)
        )
        self._deadline = self._began + seconds - min(final_s, seconds / 2.0)

    @property
    def over(self) -> str:
        """Why no further candidate may be begun, or ``""``."""
        if time.monotonic() >= self._deadline:
            return TIME_USED_UP
        return "as many candidates as allowed were tried" if len(self.candidates) >= self._most else ""

    @property
    def best(self) -> Candidate | None:
        """The fastest candidate that holds, so far."""
        return max((c for c in self.candidates if c.holds), key=lambda c: c.speed, default=None)

    @property
    def _is_faster(self) -> bool:
        """Whether a candidate that holds is faster than the float model."""
        return any(c.holds and c.ratio is not None and c.ratio.is_faster for c in self.candidates)

    def screen(self, scheme: Scheme) -> None:
        """Quantize everything with a scheme, unless it does not fit, or there is no time for it."""
        late = time.monotonic() > self._began + SCREENING_SHARE * (self._deadline - self._began)
        if reason := self.over:
            self.skipped[scheme.name] = reason
        elif late and (self.best is not None or any(map(is_worth_refining, self.candidates))):
            self.skipped[scheme.name] = TIME_KEPT
        else:
            try:
                unfit = self._as_slow_as(scheme) or scheme.unfit(self._bench)
            except Exception as problem:
                unfit = f"it cannot be prepared: {model_file.first_line(problem)}"
            if unfit:
                self.skipped[scheme.name] = unfit
            else:
                self.attempt(scheme, self._excluded)

    def _as_slow_as(self, scheme: Scheme) -> str:
        """Return which candidate on the same kernels was much too slow, in a sentence, or ``""``."""
        for found in self.candidates:
            other = SCHEMES.get(found.scheme)
            alike = scheme.kernels and other is not None and other.kernels == scheme.kernels
            if alike and found.ratio is not None and found.ratio.high < FAR_TOO_SLOW:
                return (
                    f"{found.name} is {found.speed:.2g} times as fast as the float model, and its kernels are the same"
                )
        return ""

    def attempt(self, scheme: Scheme, kept: Sequence[str], *, only_if_close: bool = False) -> Candidate:
        """Make, load, judge and time one candidate; what goes wrong is a finding about it.

        :param only_if_close: it is not timed when it does not hold.
        """
        extra = len(set(kept) - set(self._excluded))
        make = partial(scheme.make, self._bench, kept)
        return self._judge(scheme.name, tuple(kept), "float", extra, make, only_if_close=only_if_close)

    def in_blocks(self, candidate: Candidate) -> Candidate | None:
        """Try a candidate's kept nodes with 8-bit weights in blocks, which is closer to float than to int8."""
        if candidate.path is None or not candidate.kept:
            return None
        model = model_file.load(candidate.path)
        changed = weight_blocks.to_blocks(model, candidate.kept, bits=8, block=128)
        if not changed:
            return None
        extra = len(set(candidate.kept) - set(self._excluded))
        return self._judge(candidate.scheme, candidate.kept, "weights-8", extra, lambda: model)

    def _judge(
        self,
        scheme: str,
        kept: tuple[str, ...],
        kept_as: str,
        extra: int,
        make: Callable[[], Any],
        *,
        only_if_close: bool = False,
    ) -> Candidate:
        name = f"{scheme}+{extra}" if extra else scheme
        name += f" ({kept_as})" if kept_as != "float" else ""
        found = Candidate(name, scheme, kept, kept_as, loads_faster=scheme == OPTIMIZED)
        self._job.say(self._so_far(f"candidate {len(self.candidates) + 1}, {name}"))
        began = time.monotonic()
        self._job.expect_trials(1)
        try:
            found = self._measured(found, make(), only_if_close=only_if_close)
        except Exception as problem:
            found = replace(found, problem=model_file.first_line(problem))
        found = replace(found, seconds=time.monotonic() - began)
        self.candidates.append(found)
        return found

    def _so_far(self, doing: str) -> str:
        best = self.best
        return f"{doing}; best so far: {f'{best.name}, {best.speed:.2f} times' if best else 'the float model'}"

    def _measured(self, candidate: Candidate, model: Any, *, only_if_close: bool) -> Candidate:
        if candidate.scheme != OPTIMIZED and not _changed(model, self._bench.model):
            raise ValueError("nothing was quantized")
        folder = self._bench.workdir / f"candidate-{len(self.candidates)}"
        folder.mkdir()
        path = folder / "model.onnx"
        if isinstance(model, Path):
            # As it is: the same file as that pass makes by itself is the same artefact.
            model_file.copy(model, path)
        else:
            model_file.save(model, path, ir_version=self._bench.ir_version)
        timeout_s = max(60.0, 30.0 * len(self._feeds) * self._float.first_run_s)
        with self._job.trial(path, self._judged_on, timeout_s=timeout_s) as trial:
            answers = trial.answers()
            parity = closeness.compare(self._reference, answers)
            fails = tuple(closeness.violations(parity, self._tolerance, self._margin))
            # What the verdict itself would say: it looks at more than these few measures.
            fails = fails or tuple(self._job.broken_limits(self._reference, answers))
            elsewhere = () if fails else self._fails_elsewhere(path)
            fails += elsewhere
            ratio = None
            if not (fails and only_if_close):
                (ratio,), self.run_s = pair_timing.against_first(
                    [self._float, trial], GLANCE_S, precise=GLANCE_PRECISE, hopeless=FAR_TOO_SLOW
                )
        return replace(
            candidate,
            path=path,
            parity=parity,
            excess=max(closeness.excess(parity, self._tolerance, self._margin), 2.0 if fails else 0.0),
            fails=fails,
            tiers_fail=bool(elsewhere),
            ratio=ratio,
            bytes=model_file.size(path),
        )

    def _fails_elsewhere(self, path: Path) -> tuple[str, ...]:
        """Return which limits a candidate breaks on CPUs that the model must run on and that add products otherwise."""
        answers = self._job.elsewhere(path, self._judged_on)
        if answers is None:
            return ()
        numbers, outputs = answers
        parity = closeness.compare([self._reference[number] for number in numbers], outputs)
        fails = closeness.violations(parity, self._tolerance, self._margin)
        self._bench.saturates |= bool(fails)
        return tuple(f"on other CPU tiers that the model must run on: {sentence}" for sentence in fails)

    def _refine_parts(self, scheme: Scheme) -> None:
        """Find stretches of the graph that a scheme can have, by trying halves, quarters and so on."""
        names = scheme.parts(self._bench) if scheme.parts else ()

        def attempt(kept: Sequence[str]) -> mixed_search.Attempt:
            if not kept:  # the whole scheme, which does not hold
                return mixed_search.Attempt(len(names), False)
            found = self.attempt(scheme, (*self._excluded, *kept), only_if_close=True)
            return mixed_search.Attempt(len(names) - len(kept), found.holds)

        mixed_search.search(names, [], attempt, most=MOST_PARTS, over=lambda: bool(self.over))

    def fall_back(self, scheme: Scheme) -> None:
        """Try what is left when no candidate is faster: it costs a moment beyond the time for candidates."""
        if not self._is_faster:
            self.attempt(scheme, self._excluded)

    def refine(self, whole: Candidate, scheme: Scheme) -> None:
        """Find the fewest nodes that a whole scheme must keep in float to hold, and build it with them."""
        if scheme.parts and not self._is_faster:
            self._refine_parts(scheme)
        if whole.path is None or scheme.targets is None:
            return
        try:
            targets = scheme.targets(self._bench, model_file.load(whole.path))
            targets = {name: how for name, how in targets.items() if name not in self._excluded}
            if not targets:
                raise ValueError("it is not known what it does to single nodes")
            base = scheme.base(self._bench) if scheme.base else self._bench.model
            simulation, ranking = self._ranked(base, targets)
        except Exception as problem:
            self.skipped[f"{scheme.name}, refined"] = model_file.first_line(problem)
            return
        self.rankings[scheme.name] = ranking
        order = {group: number for number, group in enumerate(simulation.groups)}
        known: dict[int, float] = {}

        def simulated(count: int) -> float:
            if count not in known:
                left = [order[group] for group in ranking.groups[count:]]
                known[count] = closeness.excess(simulation.parity(left), self._tolerance, self._margin)
            return known[count]

        self._probe(scheme, whole, ranking, simulated)

    def _probe(self, scheme: Scheme, whole: Candidate, ranking: Ranking, simulated: Callable[[int], float]) -> None:
        """Build candidates where the simulation says that the limit lies, and learn from each how far off it is."""
        total = len(ranking.groups)
        fails, holds, limit = 0, total, 1.0
        for _ in range(MOST_PROBES):
            count = min(max(shortest_prefix(total, simulated, limit), fails + 1), holds - 1)
            if count <= fails or self.over:
                return
            surely = whole.ratio.low if whole.ratio else 0.0
            if self.best is not None and _slowed(surely, count / total) <= self.best.speed:
                self.skipped[f"{scheme.name}, refined"] = (
                    f"it would have to keep {count} of {total} groups of nodes, which leaves it no faster than "
                    f"{self.best.name}"
                )
                return
            probe = self.attempt(scheme, (*self._excluded, *ranking.kept(count)))
            if probe.holds:
                holds = count
                if probe.excess > 0.5 or simulated(count) <= 0.0 or count == fails + 1:
                    return
            else:
                fails = count
                if probe.problem or not probe.may_reach > PROMISING:
                    return  # keeping more can only make it slower
            if simulated(count) > 0.0 and probe.excess not in (0.0, float("inf")):
                limit = simulated(count) / probe.excess
            else:
                limit /= 2.0

    def _ranked(self, base: Any, targets: Mapping[str, node_noise.Quantized]) -> tuple[node_noise.Simulation, Ranking]:
        """Ask for the noise of every node, or of groups of neighbours where that would take too long."""
        names = [node.name for node in base.graph.node if node.name in targets]
        few = self._feeds[:RANKED_ON]
        # Measured: a branch and its rounding cost the simulation about a third.
        each_s = max(1e-4, 1.3 * self.run_s * len(few))
        allowed = max(8, int(RANKING_SHARE * (self._deadline - self._began) / each_s))
        size = -(-len(names) // allowed)
        groups = [tuple(names[start : start + size]) for start in range(0, len(names), size)]
        self._job.say(self._so_far(f"asking {len(names)} nodes for the noise that they add"))
        threads = int(self._job.session.get("intra_op_threads") or 0) if hasattr(self._job, "session") else 0
        simulation = node_noise.Simulation(
            base, targets, groups, self._feeds, self._bench.workdir, threads=threads, ranked_on=len(few)
        )
        noise = {group: simulation.noise(number) for number, group in enumerate(groups)}
        # Equal noise: in the order of the graph, so that the same timings give the same result.
        ordered = sorted(groups, key=lambda group: -noise[group])
        return simulation, Ranking(tuple(ordered), tuple(noise[group] for group in ordered))

    def final(self) -> Candidate | None:
        """Time what holds once more, in fresh processes; return what ships, or ``None``: the float model does."""
        timed = self._timed(finalists(self.candidates))
        for candidate in timed:
            self.candidates = [candidate if c.path == candidate.path else c for c in self.candidates]
        return ships(timed, self.float_bytes)

    def _timed(self, able: Sequence[Candidate]) -> list[Candidate]:
        self._float.close()
        if not able:
            return []
        self._job.say(f"the final: {', '.join(c.name for c in able)}")
        rounds: list[list[pair_timing.Ratio]] = []
        loads: list[list[pair_timing.Ratio]] = []
        for _ in range(FINAL_ROUNDS):
            with ExitStack() as stack:
                paths = [Path(self._job.model), *(c.path for c in able if c.path is not None)]
                self._job.expect_trials(len(paths))
                trials: list[Trial] = [stack.enter_context(self._job.trial(path, self._judged_on)) for path in paths]
                ratios, self.run_s = pair_timing.against_first(trials, FINAL_S, precise=FINAL_PRECISE)
                rounds.append(ratios)
                loads.append(pair_timing.loads_against_first(trials, FINAL_LOADS_S))
        return [
            replace(c, ratio=pair_timing.joined(found), loading=pair_timing.joined(loading))
            for c, found, loading in zip(able, zip(*rounds, strict=True), zip(*loads, strict=True), strict=True)
        ]


def is_worth_refining(candidate: Candidate) -> bool:
    """Whether a candidate that does not hold is quick enough for nodes to be given back, which makes it slower still.

    Where stretches of the graph are given back, what is gained is size, and being as fast is enough.
    """
    scheme = SCHEMES.get(candidate.scheme)
    enough = AS_FAST if scheme and scheme.parts else PROMISING
    able = not candidate.holds and not candidate.problem and not candidate.tiers_fail
    return able and candidate.may_reach >= enough


def _slowed(speed: float, kept: float) -> float:
    """Return what is left of a speed when a share of the nodes runs as fast as in the float model (Amdahl's law)."""
    return 1.0 / ((1.0 - kept) / max(speed, 1e-9) + kept)


def _changed(made: Any, float_model: Any) -> bool:
    """Whether quantization did anything: there are quantized operators, or other types of weights."""
    if onnx_graph.quantized_ops(made):
        return True
    sides = (made, float_model)
    types = [sorted(w.data_type for graph in onnx_graph.graphs(side) for w in graph.initializer) for side in sides]
    return types[0] != types[1]
