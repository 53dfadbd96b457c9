"""From everything known of a cell to its verdict: one status, and every reason in a plain sentence.

All rules are here. Each looks at the facts alone and gives findings; the worst finding's status is the cell's, and the
reasons of all findings are listed, worst first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ortforge.portable.statuses import STATUSES
from ortforge.verdict.ratios import MINIMUM_FLOOR
from ortforge.verdict.tolerance import Tolerance, exceeded, metric_errors

__all__ = ["STATUSES", "Facts", "Goal", "Verdict", "judge", "worst"]

Goal = Literal["latency", "load", "size", "any"]


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything known of a cell.

    :param status: what became of running the model: ``ok``, or one of ``crashed``, ``out-of-memory``, ``timeout``,
        ``failed``, ``blocked``, ``unsupported``; ``reason`` says why.
    :param parity: result of :func:`ortforge.verdict.parity.compare`.
    :param placement: the worker's placement (``docs/formats.md``), or ``None`` when it is not known.
    :param ep_name: ORT's name of the EP that the cell wants, or ``""`` for ORT's own CPU EP.
    :param timing: the report's ``timing`` (``docs/formats.md``), or ``None`` when it was not timed; ``untimed`` says
        why not, where that is known.
    :param is_baseline: the cell is what others are compared with.
    :param no_op: the recipe changed nothing.
    :param quantized_static: the model was quantized with calibration data.
    :param goal: what the recipe is for. ``latency``: faster than the baseline; ``load``: loads in less time,
        ``size``: fewer bytes, both without being slower; ``any``: one of these three.
    :param bytes: of the artefact, beside its baseline's.
    :param warnings: sentences of passes and lints, which become notes; ``notes`` are sentences of the run, such as
        what had to be tried twice.
    """

    status: str = "ok"
    reason: str = ""
    parity: Mapping[str, Any] | None = None
    placement: Mapping[str, Any] | None = None
    ep_name: str = ""
    timing: Mapping[str, Any] | None = None
    untimed: str = ""
    is_baseline: bool = False
    no_op: bool = False
    quantized_static: bool = False
    random_validation: bool = False
    random_calibration: bool = False
    goal: Goal = "latency"
    bytes: int | None = None
    baseline_bytes: int | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_cpu(self) -> bool:
        """Whether it wants no more than ORT's own CPU EP."""
        return self.ep_name in ("", "CPUExecutionProvider")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ortforge says of a cell.

    ``reasons`` say why it has its status (for ``pass``: what was found good); ``notes`` are worth knowing and change
    nothing.
    """

    status: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Speed:
    """An answer to "did it reach its goal?": ``better``, ``worse``, ``same``, or ``unknown`` (not measured)."""

    answer: str
    sentence: str


Finding = tuple[str, str]


def worst(statuses: Iterable[str]) -> str:
    """Return the worst of some statuses, ``pass`` for none.

    :raises ValueError: one of them is not in :data:`STATUSES`.
    """
    return max(statuses, key=STATUSES.index, default="pass")


def judge(facts: Facts) -> Verdict:
    """Return a cell's verdict."""
    notes = list(_notes(facts))
    if facts.status != "ok":
        status = facts.status if facts.status in STATUSES[STATUSES.index("inaccurate") :] else "failed"
        reason = facts.reason or f"The cell ended as {facts.status!r} without a reason."
        return Verdict(status, (reason,), tuple(dict.fromkeys(notes)))
    speed = None if facts.is_baseline or facts.no_op else _goal(facts)
    findings = [*_accuracy(facts), *_random_data(facts), *_placement(facts), *_speed(facts, speed)]
    if speed is not None and not any(status == "slower" for status, _ in findings) and speed.answer != "better":
        notes.append(speed.sentence)
    if findings:
        findings.sort(key=lambda finding: -STATUSES.index(finding[0]))
        return Verdict(findings[0][0], tuple(reason for _, reason in findings), tuple(dict.fromkeys(notes)))
    good = [_accurate(facts)]
    good += [speed.sentence] if speed is not None and speed.answer == "better" else []
    return Verdict("pass", tuple(good), tuple(dict.fromkeys(notes)))


# Accuracy


def _accuracy(facts: Facts) -> Iterator[Finding]:
    if facts.parity is None:
        yield "blocked", "Its outputs were not compared with the reference, so nothing is known of its accuracy."
        return
    for sentence in (*facts.parity["problems"], *exceeded(facts.parity, facts.tolerance)):
        yield "inaccurate", sentence
    needed, _ = metric_errors(facts.parity, facts.tolerance)
    for sentence in needed:
        yield "failed", sentence


def _accurate(facts: Facts) -> str:
    parity = facts.parity or {}
    of = f"over {parity.get('samples', 0)} samples"
    if parity.get("identical"):
        return f"Bitwise the same as the reference {of}."
    words = {"cosine": "cosine", "max_rel_range": "error as a share of the range", "agreement": "agreement"}
    known = [
        f"{word} {parity['worst'][key]:.4g}" for key, word in words.items() if parity["worst"].get(key) is not None
    ]
    drops = [f"{name} {entry['candidate']:.4g}" for name, entry in parity["tasks"].items() if entry["drop"] is not None]
    return f"Correct {of}" + (": worst " + ", ".join(known + drops) if known or drops else "") + "."


def _random_data(facts: Facts) -> Iterator[Finding]:
    if not facts.quantized_static or not (facts.random_validation or facts.random_calibration):
        return
    random = {"calibration": facts.random_calibration, "validation": facts.random_validation}
    which = " and ".join(name for name, is_random in random.items() if is_random)
    yield (
        "inaccurate",
        f"The {which} data are random, which proves nothing of a statically quantized model: its ranges fit the data "
        f"it was given. Give the model real {which} samples.",
    )


# Placement


def _placement(facts: Facts) -> Iterator[Finding]:
    if facts.is_cpu:
        return
    placement = facts.placement
    if not placement or not placement.get("sources"):
        yield "misplaced", f"It is not known which nodes ran on {facts.ep_name}: the runtime gave no placement."
        return
    nodes = placement["nodes"]
    total, taken = sum(nodes.values()), nodes.get(facts.ep_name, 0)
    if not taken:
        others = ", ".join(f"{count} on {ep}" for ep, count in sorted(nodes.items()) if count)
        yield "misplaced", f"No node ran on {facts.ep_name}" + (f" ({others})." if others else ".")
    elif placement.get("agree") is False:
        why = f": {placement['note']}" if placement.get("note") else ""
        sources = " and ".join(placement["sources"])
        yield "misplaced", f"The sources of placement ({sources}) disagree about {facts.ep_name}{why}".rstrip(".") + "."
    elif (
        facts.tolerance.placement is not None
        and (share := _share(facts.ep_name, placement)) < facts.tolerance.placement
    ):
        yield (
            "misplaced",
            f"{facts.ep_name} took {taken} of {total} nodes and a share of {share:.1%}, "
            f"less than the {facts.tolerance.placement:.1%} that count as used.",
        )


def _share(ep: str, placement: Mapping[str, Any]) -> float:
    """Return the EP's largest share of nodes, of operators or of time.

    A fused subgraph is one node to the profiler, however much of the model it holds, so the node count alone would call
    an EP that took everything but the ends misplaced.
    """
    ops = {name: sum(counts.values()) for name, counts in (placement.get("ops") or {}).items()}
    shares = [counts.get(ep, 0) / sum(counts.values()) for counts in (placement["nodes"], ops) if sum(counts.values())]
    time = (placement.get("time_share") or {}).get(ep) or 0.0
    return max(float(share) for share in (*shares, time))


# Speed, load time, size


def _speed(facts: Facts, speed: _Speed | None) -> Iterator[Finding]:
    if facts.no_op:
        yield "slower", "The recipe changed nothing, so the unoptimized model is what ships."
    elif speed is not None and (
        (speed.answer == "worse" and facts.tolerance.speed != "any")
        or (speed.answer == "same" and facts.tolerance.speed == "faster")
    ):
        yield "slower", speed.sentence


def _goal(facts: Facts) -> _Speed:
    if facts.goal == "latency":
        return _latency(facts)
    if facts.goal == "load":
        return _load(facts)
    if facts.goal == "size":
        return _size(facts)
    latency = _latency(facts)
    if latency.answer == "worse":  # neither a quick start nor a small file makes up for it
        return latency
    return next((answer for answer in (latency, _load(facts), _size(facts)) if answer.answer == "better"), latency)


def _latency(facts: Facts) -> _Speed:
    timing = facts.timing
    if timing is None or timing.get("ratio") is None:
        return _Speed("unknown", _untimed(facts))
    floor = timing.get("noise") or MINIMUM_FLOOR
    numbers = (
        f"{timing['ratio']:.3g} times its baseline's speed (95 % interval {timing['low']:.3g} to {timing['high']:.3g})"
    )
    if timing["outcome"] == "faster":
        return _Speed("better", f"It runs at {numbers}.")
    if timing["outcome"] == "slower":
        return _Speed("worse", f"It runs at {numbers}: slower than its baseline.")
    return _Speed("same", f"It runs at {numbers}: no difference that can be told from the noise of {floor:.1%}.")


def _untimed(facts: Facts) -> str:
    return f"It was not timed: {facts.untimed}" if facts.untimed else "It was not timed."


def _load(facts: Facts) -> _Speed:
    """Compare loads as runs are compared: by the pairs' ratio, its interval and the noise floor."""
    load = (facts.timing or {}).get("load")
    if load is None:
        return _Speed("unknown", "Its load time was not compared with its baseline's.")
    numbers = (
        f"Loaded in turns, it takes {load['p50_s'] * 1e3:.1f} ms and its baseline {load['baseline_p50_s'] * 1e3:.1f}, "
        f"{load['ratio']:.3g} times as quick (95 % interval {load['low']:.3g} to {load['high']:.3g})"
    )
    if load["outcome"] == "faster":
        return _unless_slower(facts, numbers, "quicker to load")
    return _Speed("worse" if load["outcome"] == "slower" else "same", numbers + ": not shorter beyond the noise.")


def _size(facts: Facts) -> _Speed:
    mine, base = facts.bytes, facts.baseline_bytes
    if mine is None or base is None:
        return _Speed("unknown", "Its size was not compared with its baseline's.")
    numbers = f"It has {mine:,} bytes, its baseline {base:,}"
    if mine >= base:
        return _Speed("worse" if mine > base else "same", numbers + ": not smaller.")
    return _unless_slower(facts, numbers, "smaller")


def _unless_slower(facts: Facts, numbers: str, gain: str) -> _Speed:
    """Call a gain in load time or size one only where it does not cost speed."""
    latency = _latency(facts)
    if latency.answer == "worse":
        return _Speed("worse", f"{numbers}: {gain}. But {latency.sentence[0].lower()}{latency.sentence[1:]}")
    return _Speed("better", numbers + ".")


# Notes


def _notes(facts: Facts) -> Iterator[str]:
    yield from facts.warnings
    yield from facts.notes
    if facts.status == "failed" and facts.random_validation:
        yield (
            "Its inputs are made up from the model's input shapes, and may be what it fails on: give real data, or "
            "shapes that fit in the options of random:."
        )
    if facts.status != "ok":
        return
    if facts.parity is not None:
        yield from facts.parity["notes"]
        yield from metric_errors(facts.parity, facts.tolerance)[1]
    if facts.random_validation and not facts.quantized_static:
        yield "The validation data are random: what real inputs would give is not known."
    timing = facts.timing
    if timing is None and not facts.is_baseline and facts.goal != "latency":
        yield _untimed(facts)
    if timing is not None and timing.get("trust") in ("noisy", "contended"):
        why = f": {timing['trust_reason']}" if timing.get("trust_reason") else ""
        yield f"The timing is {timing['trust']}{why}."
    if not facts.is_baseline and facts.tolerance.speed == "any" and _latency(facts).answer == "worse":
        yield _latency(facts).sentence
    placement = facts.placement
    if not facts.is_cpu and placement and len(placement.get("sources") or ()) == 1:
        yield f"Placement comes from one source alone ({placement['sources'][0]})."
