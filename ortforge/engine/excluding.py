"""Which nodes to keep in float so that a quantized model holds its tolerance: a bisection over places ranked by noise.

Pure: what quantizes and measures is handed in. A ranking proposes, a measurement decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

__all__ = ["MOST", "Budget", "Measured", "alternatives", "lists_by_length", "search", "verdict_on"]

MOST: Final = 0.5
"""The longest list that is tried, as a share of the quantized nodes: with more the model is hardly quantized."""

FINENESS: Final = 8
"""The bisection ends when a list that holds is longer than one that does not by less than one node in so many."""

LISTS: Final = 0.7
"""Share of the budget for lists; the rest is for other changes of the recipe, where no list holds."""

WEIGHT_MARGIN_DB: Final = 10.0
"""Weights whose SQNR is less than this above the threshold count as noisy: several of them together reach it."""

Place = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a model that was quantized again is worth, on the cell's own validation samples.

    :param breaks: one sentence for each limit of the tolerance that it breaks.
    :param problem: why there are no numbers: it could not be made, or did not run.
    """

    cosine: float | None = None
    sqnr_db: float | None = None
    max_rel_range: float | None = None
    breaks: tuple[str, ...] = ()
    problem: str = ""
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether it is within the model's tolerance."""
        return not self.breaks and not self.problem

    def facts(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "breaks": list(self.breaks), "holds": self.holds}


@dataclass(slots=True)
class Budget:
    """Seconds that may be spent. The first trial is always made; a further one if as long a one as the last fits.

    :param clock: gives seconds.
    """

    seconds: float
    clock: Callable[[], float]
    started: float = 0.0
    lapped: float = 0.0
    last: float = 0.0

    def __post_init__(self) -> None:
        self.started = self.lapped = self.clock()

    @property
    def spent(self) -> float:
        """Seconds since it was opened."""
        return self.clock() - self.started

    def lap(self) -> None:
        """Note that a trial has ended: it began, with what it needed, when the one before ended."""
        now = self.clock()
        self.last, self.lapped = now - self.lapped, now

    def allows_another(self, share: float = 1.0) -> bool:
        """Whether a trial that takes as long as the last one ends within a share of the time."""
        return self.spent + self.last <= share * self.seconds


@dataclass(frozen=True, slots=True)
class _List:
    """The nodes of the first places of a ranking, the worst first, and what share of the noise is put down to them."""

    nodes: tuple[str, ...]
    share: float


def lists_by_length(ranking: Sequence[Place], most: int, kept: Sequence[str] = ()) -> list[_List]:
    """Return the lists of at most ``most`` nodes that a ranking gives, each longer than the one before.

    The first list is there however long it is, unless some nodes are ``kept`` already: those begin every list.
    """
    found: list[_List] = []
    chosen, share = dict.fromkeys(kept), 0.0
    for place in ranking:
        more = chosen | dict.fromkeys(place["nodes"])
        if len(more) > most and (found or kept):
            break
        share += place["share"]
        if len(more) == len(chosen):
            if found:
                found[-1] = _List(found[-1].nodes, min(1.0, share))  # the same nodes, of which more is known
            continue
        chosen = more
        found.append(_List(tuple(chosen), min(1.0, share)))
    return found


def predicted_db(before: float | None, share: float) -> float | None:
    """Return the SQNR that is left when a share of the noise is gone, if noises of different places just add up."""
    if before is None or share >= 1.0 - 1e-9:
        return None
    return before - 10.0 * math.log10(1.0 - share)


@dataclass(slots=True)
class _Search:
    """Lists that were tried, and the shortest that holds."""

    measure: Callable[[Sequence[str]], Measured]
    budget: Budget
    rows: list[dict[str, Any]] = field(default_factory=list)
    shortest: _List | None = None

    def attempt(self, wanted: _List, before: Measured) -> Measured:
        """Quantize again; ``before`` is what the share of noise is a share of."""
        measured = self.measure(wanted.nodes)
        self.budget.lap()
        predicted = predicted_db(before.sqnr_db, wanted.share)
        named = {"nodes": len(wanted.nodes), "share": wanted.share, "predicted_db": predicted}
        self.rows.append({**named, **measured.facts()})
        if measured.holds and (self.shortest is None or len(wanted.nodes) < len(self.shortest.nodes)):
            self.shortest = wanted
        return measured

    def shorten(self, lists: Sequence[_List], low: int, high: int, failed: int, before: Measured) -> None:
        """Halve between a list that holds (``high``) and a shorter one that does not, which has ``failed`` nodes."""
        while high - low > 1 and self.budget.allows_another(LISTS):
            longest = len(lists[high].nodes)
            if longest - failed <= max(1, longest // FINENESS):
                return
            middle = (low + high) // 2
            if self.attempt(lists[middle], before).holds:
                high = middle
            else:
                low, failed = middle, len(lists[middle].nodes)


def search(
    ranking: Sequence[Place],
    first: Sequence[str],
    before: Measured,
    most: int,
    measure: Callable[[Sequence[str]], Measured],
    rank: Callable[[], Sequence[Place]],
    budget: Budget,
) -> dict[str, Any]:
    """Find a short list of nodes with which the model holds its tolerance.

    The list grows to twice its length each time, by what adds most noise to the model that was just tried, until one
    holds or as many nodes as may be are left out. Then the shorter ones in between are tried. That a list holds is
    measured; that no shorter one does is known of those that were tried alone.

    :param first: the list to begin with. :param before: what the model is worth without any; if that holds already,
        the first list alone is measured. :param rank: gives the ranking for the model that was measured last.
    :returns: ``tried`` (in order), ``nodes_to_exclude`` (of the shortest list that holds, or none) and ``ended``:
        ``holds``, ``length`` (the longest list was not enough) or ``budget``.
    """
    state = _Search(measure, budget)
    lists, worth = lists_by_length(ranking, most), before
    kept: tuple[str, ...] = ()
    number = next((n for n, one in enumerate(lists) if set(first) <= set(one.nodes)), 0)
    ended = "length"
    while lists:
        measured = state.attempt(lists[number], worth)
        if measured.holds:
            ended = "holds"
            if not before.holds:
                state.shorten(lists, -1, number, len(kept), worth)
            break
        if before.holds or len(lists[number].nodes) >= most:
            break
        if not budget.allows_another(LISTS):
            ended = "budget"
            break
        kept, worth = lists[number].nodes, measured if not measured.problem else worth
        lists = lists_by_length(ranking if measured.problem else rank(), most, kept)
        number = next((n for n, one in enumerate(lists) if len(one.nodes) >= 2 * len(kept)), len(lists) - 1)
    return {
        "tried": state.rows,
        "nodes_to_exclude": list(state.shortest.nodes) if state.shortest else [],
        "ended": ended,
    }


def alternatives(given: Mapping[str, Any], differences: Mapping[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Return changes of the quantizing pass that the numbers point to, each with why; what is set already is left out.

    :param given: all parameters of the pass. :param differences: what the ``differences`` step found.
    """
    found: list[tuple[dict[str, Any], str]] = []
    threshold = float(differences["threshold_db"])
    noisy = [one for one in differences["weights"] if (one["sqnr_db"] or 0.0) < threshold + WEIGHT_MARGIN_DB]
    if noisy and given.get("per_channel") is False:
        worst = noisy[0]
        said = f"{worst['weight']} has {worst['sqnr_db']:.1f} dB" if worst["sqnr_db"] is not None else worst["weight"]
        count = "a weight is" if len(noisy) == 1 else f"{len(noisy)} weights are"
        found.append(({"per_channel": True}, f"{count} noisy with one scale for all channels ({said})"))
    if given.get("activation_type") in ("QUInt8", "QInt8") and given.get("format") == "QDQ":
        weights_too = {"per_channel": True} if found else {}
        why = "8 bits are too coarse for the activations of more nodes than a list should name"
        found.append(({"activation_type": "QUInt16", **weights_too}, why))
    return found


def verdict_on(found: Mapping[str, Any]) -> str:
    """Say in one sentence what the search came to."""
    quantized, most = found["quantized_nodes"], found["most_nodes"]
    if found["before"]["holds"]:
        if (found.get("mixed") or {}).get("before"):
            return "The tolerance holds for the outputs as a whole, while slices of them are ruined (see above)."
        return "The tolerance holds as it is: no node has to be left out."
    if names := found["nodes_to_exclude"]:
        return f"With these {len(names)} of {quantized} nodes in float the tolerance holds: measured, not estimated."
    good = next((one for one in found["alternatives"] if one["holds"]), None)
    if found["ended"] == "budget":
        longest = max(row["nodes"] for row in found["tried"])
        text = f"No list of up to {longest} nodes holds; longer ones did not fit into {found['budget_s']:.0f} s."
    else:
        text = f"No list of at most {most} of {quantized} quantized nodes holds the tolerance."
    if good:
        return f"{text} The recipe is what to change: {good['line']} holds it."
    kinds = ", ".join(f"{op} {share:.0%}" for op, share in list(found["noise_by_op"].items())[:3])
    ran = [row for row in (*found["tried"], *found["alternatives"]) if row["sqnr_db"] is not None]
    if best := max(ran, key=lambda row: row["sqnr_db"], default=None):
        what = best.get("line") or f"{best['nodes']} nodes in float"
        text = f"{text} Closest is {what}: {best['breaks'][0]}"
    return f"{text} Noise begins at {kinds}: 16 bits, weights alone or the search of quantize-auto may do better."
