"""The search over a session's settings: one after the other, each against what was best so far, in a time budget.

The full product of all values would take hours. What is found one by one is then held against the default session in
processes that had no part in choosing it: only that comparison decides.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .session_timing import Ratio, noise_floor, outcome, ratio_of, take_round
from .space import KNOBS, Settings, Situation

if TYPE_CHECKING:
    from ortforge.api import PassJob

__all__ = ["TIME_USED_UP", "Found", "Tried", "search"]

PROMISING: Final = 1.01
"""Ratio that both rounds of a setting must show for the search to go on from it."""

ROUND_SHARE: Final = 40
"""The budget over this is a round's time …"""
SHORTEST_ROUND_S: Final = 0.25
LONGEST_ROUND_S: Final = 2.0
"""… between these."""

MOST_SAMPLES: Final = 16
"""Samples that are held in memory and run in turn."""

TIME_USED_UP: Final = "the time was used up"

PATIENCE_S: Final = 20.0
PATIENCE: Final = 20.0
"""A candidate may take so many times what the default took to start, and at least so many seconds, for any answer."""


@dataclass(frozen=True)
class Tried:
    """One setting that was tried, and what came of it.

    :param outcome: ``promising`` (the search went on from it), ``beaten by another value``, ``no gain``, or ``failed``,
        with the reason in ``problem``.
    """

    knob: str
    setting: str
    against: str
    outcome: str
    ratio: Ratio | None = None
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as a row of the result."""
        row = {"knob": self.knob, "setting": self.setting, "against": self.against, "outcome": self.outcome}
        return {
            **row,
            **(self.ratio.as_json() if self.ratio else {}),
            **({"problem": self.problem} if self.problem else {}),
        }


@dataclass
class Found:
    """What a search found. ``outcome``: what the best settings are, beside the default; ``none``: nothing was better.

    :param floor: how far the default was from itself. :param itself: its ratio to itself.
    """

    floor: float
    itself: Ratio
    best: Settings = field(default_factory=Settings)
    final: Ratio | None = None
    outcome: str = "none"
    problem: str = ""
    tried: list[Tried] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> Settings:
        """The settings that ship: the best ones, if they beat the default beyond the noise."""
        return self.best if self.outcome == "faster" else Settings()


class _Clock:
    """The budget: what is left of it after the time that the last comparison needs."""

    def __init__(self, budget_s: float) -> None:
        self._until = time.monotonic() + budget_s
        self.round_s = min(LONGEST_ROUND_S, max(SHORTEST_ROUND_S, budget_s / ROUND_SHARE))
        self.reserve_s = 0.0
        self.one_s = 0.0

    @property
    def allows_one(self) -> bool:
        """Whether another round may begin."""
        return time.monotonic() + self.one_s + self.reserve_s < self._until


class _Bench:
    """Starts sessions of one model and lets them take turns."""

    def __init__(self, job: PassJob, round_s: float) -> None:
        self._job = job
        self._round_s = round_s
        self._numbers = list(range(min(MOST_SAMPLES, len(job.samples))))
        self.timeout_s = 120.0

    def say(self, text: str) -> None:
        """Tell whoever watches what is being tried."""
        self._job.say(text)

    def rounds(self, first: Settings, second: Settings, count: int) -> list[list[tuple[float, float]]]:
        """Return rounds of pairs, each from two fresh processes.

        :raises RuntimeError: one of them was refused, crashed or hung.
        """
        taken = []
        for _ in range(count):
            with self._trial(first) as one, self._trial(second) as other:
                taken.append(take_round(one, other, self._round_s))
        return taken

    def _trial(self, settings: Settings) -> Any:
        return self._job.trial(
            Path(self._job.model),
            self._numbers,
            session=settings.session,
            ep_options=settings.ep_options,
            timeout_s=self.timeout_s,
        )


def search(job: PassJob, situation: Situation, knobs: Sequence[str], *, budget_s: float, rounds: int) -> Found:
    """Time the default against itself, try the settings one by one, and hold the best against the default.

    :param knobs: names of what to try. :param rounds: fresh pairs of processes of the first and the last comparison.
    :raises RuntimeError: the default session itself does not load or run.
    """
    clock = _Clock(budget_s)
    bench = _Bench(job, clock.round_s)
    began = time.monotonic()
    bench.say("timing the default against itself")
    same = bench.rounds(Settings(), Settings(), rounds)
    clock.reserve_s = time.monotonic() - began
    clock.one_s = clock.reserve_s / rounds
    bench.timeout_s = max(PATIENCE_S, PATIENCE * clock.one_s)
    found = Found(noise_floor(same), ratio_of(same))
    best = Settings()
    for knob in knobs:
        best = _turn(knob, replace(situation, chosen=best), bench, clock, found)
    found.best = best
    if best:
        bench.say(f"the final: {best.text} against the default")
        try:
            found.final = ratio_of(bench.rounds(Settings(), best, rounds))
            found.outcome = outcome(found.final, found.floor)
        except RuntimeError as died:
            found.outcome, found.problem = "failed", _first_line(died)
    return found


def _turn(knob: str, now: Situation, bench: _Bench, clock: _Clock, found: Found) -> Settings:
    """Try a knob's values on top of what was chosen; return what is chosen after it."""
    values = KNOBS[knob](now)
    if isinstance(values, str):
        found.skipped[knob] = values
        return now.chosen
    candidates: list[tuple[float, Settings, int]] = []
    for value in values:
        if not clock.allows_one:
            found.skipped[f"{knob}: {value.text}"] = TIME_USED_UP
            continue
        tried = _try(knob, value, now.chosen, bench, clock)
        found.tried.append(tried)
        if tried.ratio is not None and tried.outcome == "promising":
            candidates.append((tried.ratio.ratio, value, len(found.tried) - 1))
    if not candidates:
        return now.chosen
    _, value, place = max(candidates, key=lambda candidate: candidate[0])
    for _, _, other in candidates:
        if other != place:
            found.tried[other] = replace(found.tried[other], outcome="beaten by another value")
    return value.over(now.chosen)


def _try(knob: str, value: Settings, chosen: Settings, bench: _Bench, clock: _Clock) -> Tried:
    """Time one value in a round, and in a second one if that looks good; return what came of it."""
    bench.say(f"trying {value.text}" + (f" on top of {chosen.text}" if chosen else ""))
    row = Tried(knob, value.text, chosen.text, "no gain")
    try:
        pairs = bench.rounds(chosen, value.over(chosen), 1)
        if ratio_of(pairs).ratio > PROMISING and clock.allows_one:
            pairs += bench.rounds(chosen, value.over(chosen), 1)
    except RuntimeError as died:
        return replace(row, outcome="failed", problem=_first_line(died))
    each = [ratio_of([one]).ratio for one in pairs]
    agreed = len(each) == 2 and min(each) > PROMISING
    return replace(row, ratio=ratio_of(pairs), outcome="promising" if agreed else "no gain")


def _first_line(died: BaseException) -> str:
    return (str(died).strip().splitlines() or [type(died).__name__])[0][:400]
