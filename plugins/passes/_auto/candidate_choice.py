"""What a search found: candidates, rankings, and which of them ships. Data and pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .._measuring import closeness, pair_timing

__all__ = ["AS_FAST", "FINALISTS", "Candidate", "Ranking", "finalists", "ships", "shortest_prefix"]

FINALISTS: Final = 3

SMALLER: Final = 0.95
"""Share of the float model's bytes below which a model counts as smaller."""

QUICKER_LOAD: Final = 1.0 + 2.0 * pair_timing.FLOOR
"""Ratio of the float model's time to load from which on a model that gains nothing else may ship for it. The few loads
of a search scatter widely, so their interval is not asked; the cell's own timing, which takes more, has the last word.
"""

AS_FAST: Final = 1.0 - 2.0 * pair_timing.FLOOR
"""Ratio to the float model's speed from which on a smaller model may ship instead of it, if it is not surely slower.
The cell's own timing, which takes longer, has the last word."""

SAFELY_AS_FAST: Final = 1.0 - pair_timing.FLOOR / 2.0
"""The same with a margin to where a cell's verdict is `slower`, so that measuring again comes to the same verdict."""

MAYBE_AS_FAST: Final = 0.88
"""The same at a glance, in one process: where its memory lies moves a process's latency by some percent."""


@dataclass(frozen=True)
class Candidate:
    """One model that was tried.

    :param kept: nodes left in float (or in ``kept_as``). :param excess: noise over the noise allowed; above 1 it does
        not hold. :param loading: the float model's time to load over its own, where that was measured.
    :param tiers_fail: it holds on this CPU, and not on another CPU tier that the model must run on.
    :param loads_faster: whether it was made for that. :param problem: why it could not be made, loaded or run.
    """

    name: str
    scheme: str
    kept: tuple[str, ...] = ()
    kept_as: str = "float"
    path: Path | None = None
    parity: closeness.Parity = field(default_factory=closeness.Parity)
    excess: float = float("inf")
    fails: tuple[str, ...] = ()
    ratio: pair_timing.Ratio | None = None
    bytes: int = 0
    loading: pair_timing.Ratio | None = None
    loads_faster: bool = False
    seconds: float = 0.0
    problem: str = ""
    tiers_fail: bool = False

    @property
    def holds(self) -> bool:
        """Whether the tolerance holds on the samples it was judged on, with margin."""
        return not self.problem and not self.fails

    @property
    def speed(self) -> float:
        """Its ratio to the float model's speed; 0 where it is not known."""
        return self.ratio.ratio if self.ratio else 0.0

    @property
    def may_reach(self) -> float:
        """The upper end of that ratio's interval: on a busy machine a glance says little."""
        return self.ratio.high if self.ratio else 0.0

    @property
    def is_as_fast(self) -> bool:
        """Whether its speed cannot be told from the float model's, by the rule of a cell's verdict."""
        return self.ratio is not None and self.speed >= AS_FAST and not self.ratio.is_slower

    def as_json(self) -> dict[str, Any]:
        """Return what is worth keeping of it."""
        found: dict[str, Any] = {"name": self.name, "scheme": self.scheme, "holds": self.holds}
        if self.problem:
            return {**found, "problem": self.problem, "seconds": round(self.seconds, 2)}
        found |= {"kept": len(self.kept), "kept_as": self.kept_as, "parity": self.parity.as_json()}
        found |= {"fails": list(self.fails), "bytes": self.bytes, "seconds": round(self.seconds, 2)}
        if self.ratio is not None:
            found |= {name: round(getattr(self.ratio, name), 3) for name in ("ratio", "low", "high")}
        if self.loading is not None:
            found["loading"] = {name: round(getattr(self.loading, name), 3) for name in ("ratio", "low", "high")}
        return found


@dataclass(frozen=True)
class Ranking:
    """Groups of nodes, the noisiest first, with the noise that each adds by itself."""

    groups: tuple[tuple[str, ...], ...]
    noise: tuple[float, ...]

    def kept(self, count: int) -> tuple[str, ...]:
        """Return the nodes of the first ``count`` groups."""
        return tuple(name for group in self.groups[:count] for name in group)

    def as_json(self, most: int = 40) -> list[dict[str, Any]]:
        """Return the noisiest groups with their share of all noise."""
        total = sum(self.noise) or 1.0
        rows = zip(self.groups[:most], self.noise[:most], strict=True)
        return [{"nodes": list(group), "noise": float(f"{n:.4g}"), "share": round(n / total, 4)} for group, n in rows]


def shortest_prefix(count: int, excess: Callable[[int], float], limit: float) -> int:
    """Return the smallest number of groups to keep for which ``excess`` is at most ``limit``, by bisection.

    ``excess(n)`` is taken to fall as n grows; ``count`` when nothing but all of them is enough.
    """
    low, high = -1, count  # low is too few, high is enough
    while high - low > 1:
        middle = (low + high) // 2
        if excess(middle) <= limit:
            high = middle
        else:
            low = middle
    return high


def finalists(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return what is worth timing once more: the fastest that hold, and what gains in size or in loading.

    Of the small ones that is the smallest which seems as fast as float, and the smallest which may be: by the upper
    end, since a glance on a busy machine says little, and the final looks longer. What loads faster comes last.
    """
    able = sorted((c for c in candidates if c.holds), key=lambda c: -c.speed)
    found = [c for c in able[:FINALISTS] if c.may_reach > 1.0]
    for least in (AS_FAST, MAYBE_AS_FAST):
        small = min((c for c in able if c.may_reach >= least), key=lambda c: c.bytes, default=None)
        found += [small] if small is not None and small not in found else []
    return found + [c for c in able if c.loads_faster and c.may_reach >= MAYBE_AS_FAST and c not in found]


def ships(timed: Sequence[Candidate], float_bytes: int) -> Candidate | None:
    """Return which of the finalists ships, or ``None``: the float model does.

    The fastest wins; what cannot be told from it in speed and is smaller wins over it. When nothing is faster than the
    float model, a model that is smaller and not slower does; when there is none either, one that loads in less time.
    What may be slower after all ships only where nothing else does.
    """
    faster = [c for c in timed if c.ratio is not None and c.ratio.is_faster]
    if faster:
        quickest = max(faster, key=lambda c: c.speed)
        near = [c for c in faster if c.speed >= quickest.speed / (1.0 + pair_timing.FLOOR)]
        return min(near, key=lambda c: c.bytes)
    for least in (SAFELY_AS_FAST, AS_FAST):
        able = [c for c in timed if c.is_as_fast and c.speed >= least]
        smaller = [c for c in able if c.bytes < SMALLER * float_bytes]
        if smaller:
            return min(smaller, key=lambda c: c.bytes)
        quicker = [(c.loading.ratio, c) for c in able if c.loading is not None and c.loading.ratio > QUICKER_LOAD]
        if quicker:
            return max(quicker, key=lambda each: each[0])[1]
    return None
