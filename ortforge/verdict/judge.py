"""From everything known of a cell to its verdict: one status, and every reason in a plain sentence.

All rules are here. Each looks at the facts alone and gives findings; the worst finding's status is the cell's, and the
reasons of all findings are listed, worst first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from ortforge.portable.comparison.limits import exceeded, metric_errors
from ortforge.portable.statuses import STATUSES, is_correct
from ortforge.verdict.ratios import MINIMUM_FLOOR
from ortforge.verdict.tolerance import Tolerance

__all__ = ["STATUSES", "Facts", "Goal", "Verdict", "judge", "worst"]

Goal = Literal["latency", "load", "size", "any"]


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything known of a cell.

    :param status: what became of running the model: ``ok``, or one of ``crashed``, ``out-of-memory``, ``timeout``,
        ``failed``, ``blocked``, ``unsupported``; ``reason`` says why.
    :param parity: result of :func:`ortforge.portable.comparison.parity.compare`.
    :param placement: the worker's placement (``docs/formats.md``), or ``None`` when it is not known.
    :param ep_name: ORT's name of the EP that the cell wants, or ``""`` for ORT's own CPU EP.
    :param timing: the report's ``timing`` (``docs/formats.md``), or ``None`` when it was not timed; ``untimed`` says
        why not, where that is known.
    :param is_baseline: the cell is what others are compared with.
    :param is_plain: the model as it came: there is no recipe that has to gain anything.
    :param no_op: the recipe changed nothing.
    :param lossy: the recipe changes numbers: it quantizes, or converts to another precision.
    :param quantized_static: the model was quantized with calibration data.
    :param unstable: why the reference's answers differ from run to run, as a sentence, or ``""``.
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
    is_plain: bool = False
    no_op: bool = False
    lossy: bool = False
    quantized_static: bool = False
    unstable: str = ""
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
    """Whether the cell gains what its recipe is for: ``pass``, ``no-gain``, ``slower`` or ``undecided``."""

    answer: str
    sentence: str


Finding = tuple[str, str]

MIN_SIZE_GAIN: Final = 0.01
"""Share of the bytes that a recipe for size must save: less is what metadata and names take."""


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
    findings = [*_accuracy(facts), *_missing(facts), *_placement(facts), *_speed(facts, speed)]
    if speed is not None and speed.answer != "pass" and speed.sentence not in {reason for _, reason in findings}:
        notes.append(speed.sentence)
    if findings:
        findings.sort(key=lambda finding: -STATUSES.index(finding[0]))
        if is_correct(findings[0][0]):
            reasons = [_accurate(facts), *(reason for _, reason in findings)]
        else:
            # How fast an answer comes matters only where it is right.
            reasons = [reason for status, reason in findings if not is_correct(status)]
            notes = [note for note in notes if speed is None or note != speed.sentence]
        return Verdict(findings[0][0], tuple(dict.fromkeys(reasons)), tuple(dict.fromkeys(notes)))
    good = [_accurate(facts)]
    good += [speed.sentence] if speed is not None and speed.answer == "pass" else []
    return Verdict("pass", tuple(good), tuple(dict.fromkeys(notes)))


# Accuracy


def _accuracy(facts: Facts) -> Iterator[Finding]:
    if facts.parity is None:
        yield "blocked", "Its outputs were not compared with the reference, so nothing is known of its accuracy."
        return
    # Two runs of a random model differ by more than any tolerance allows: that is no fault of the recipe.
    broken = () if facts.unstable else (*facts.parity["problems"], *exceeded(facts.parity, facts.tolerance))
    for sentence in broken:
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


# Evidence


def _missing(facts: Facts) -> Iterator[Finding]:
    """Give what would have to be compared before the cell may be called correct."""
    if facts.parity is None:
        return
    if facts.unstable:
        yield "unproven", facts.unstable
    for sentence in facts.parity["missing"]:
        yield "unproven", sentence
    if facts.quantized_static and (facts.random_validation or facts.random_calibration):
        random = {"calibration": facts.random_calibration, "validation": facts.random_validation}
        which = " and ".join(name for name, is_random in random.items() if is_random)
        yield (
            "unproven",
            f"The {which} data are random, which proves nothing of a statically quantized model: its ranges fit the "
            f"data it was given. Give the model real {which} samples.",
        )
    elif facts.lossy and facts.random_validation and not facts.no_op:
        yield (
            "unproven",
            "The validation data are random, and the recipe changes the model's numbers: how it answers real inputs is "
            "not known. Give the model real validation samples.",
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
        yield "no-gain", "The recipe changed nothing: the artifact is the model as it came."
    elif speed is None or speed.answer == "pass" or facts.tolerance.speed == "any":
        return
    elif speed.answer == "slower":
        yield "slower", speed.sentence
    elif facts.is_plain or (speed.answer == "no-gain" and facts.tolerance.speed == "not-slower"):
        return  # nothing had to be gained
    else:
        yield speed.answer, speed.sentence


def _goal(facts: Facts) -> _Speed:
    if facts.goal == "latency":
        return _latency(facts)
    if facts.goal == "load":
        return _load(facts)
    if facts.goal == "size":
        return _size(facts)
    latency = _latency(facts)
    if latency.answer == "slower":  # neither a quick start nor a small file makes up for it
        return latency
    answers = (latency, _load(facts), _size(facts))
    for status in ("pass", "undecided"):
        if found := next((answer for answer in answers if answer.answer == status), None):
            return found
    return latency


def _latency(facts: Facts) -> _Speed:
    timing = facts.timing
    if timing is None:
        return _Speed("undecided", _untimed(facts))
    if timing.get("ratio") is None:
        why = timing.get("undecided_why") or "Its speed is not measurable on this machine."
        return _Speed("undecided", why)
    numbers = (
        f"{timing['ratio']:.3g} times its baseline's speed (95 % interval {timing['low']:.3g} to {timing['high']:.3g})"
    )
    outcome = timing["outcome"]
    if timing.get("trust") == "contended" and outcome != "baseline":
        return _Speed(
            "undecided",
            f"It ran at {numbers} while something else used this machine, which decides nothing. Measure it again on a "
            "quiet machine: ortforge run --retime.",
        )
    floor = timing.get("noise") or MINIMUM_FLOOR
    if outcome == "faster":
        return _Speed("pass", f"It runs at {numbers}.")
    if outcome == "slower":
        return _Speed("slower", f"It runs at {numbers}: slower than its baseline.")
    if outcome == "same":
        return _Speed(
            "no-gain", f"It runs at {numbers}: the difference is shown to lie within the margin of {floor:.1%}."
        )
    why = timing.get("undecided_why") or (
        f"It runs at {numbers}: this machine could not tell whether that exceeds the margin of {floor:.1%}. "
        "More rounds (limits.rounds) or a quieter machine would decide it."
    )
    return _Speed("undecided", why)


def _untimed(facts: Facts) -> str:
    return f"It was not timed: {facts.untimed}" if facts.untimed else "It was not timed."


def _load(facts: Facts) -> _Speed:
    """Compare loads as runs are compared: by the pairs' ratio, its interval and the noise floor."""
    load = (facts.timing or {}).get("load")
    if load is None or load.get("ratio") is None:
        return _Speed("undecided", "Its load time was not compared with its baseline's.")
    numbers = (
        f"Loaded in turns, it takes {load['p50_s'] * 1e3:.1f} ms and its baseline {load['baseline_p50_s'] * 1e3:.1f}, "
        f"{load['ratio']:.3g} times as quick (95 % interval {load['low']:.3g} to {load['high']:.3g})"
    )
    outcome = load["outcome"]
    if (facts.timing or {}).get("trust") == "contended":
        return _Speed("undecided", f"{numbers}, while something else used this machine, which decides nothing.")
    if outcome == "faster":
        return _unless_slower(facts, numbers, "quicker to load")
    if outcome == "slower":
        return _Speed("slower", f"{numbers}: slower to load than its baseline.")
    if outcome == "same":
        return _Speed("no-gain", f"{numbers}: the difference is shown to lie within the margin.")
    return _Speed("undecided", f"{numbers}: this machine could not tell whether it loads in less time.")


def _size(facts: Facts) -> _Speed:
    mine, base = facts.bytes, facts.baseline_bytes
    if mine is None or base is None:
        return _Speed("undecided", "Its size was not compared with its baseline's.")
    numbers = f"It has {mine:,} bytes, its baseline {base:,}"
    if mine >= base:
        return _Speed("no-gain", numbers + ": not smaller.")
    if mine > (1.0 - MIN_SIZE_GAIN) * base:
        return _Speed("no-gain", f"{numbers}: not smaller by {MIN_SIZE_GAIN:.0%}.")
    return _unless_slower(facts, numbers, "smaller")


def _unless_slower(facts: Facts, numbers: str, gain: str) -> _Speed:
    """Call a gain in load time or size one only where it does not cost speed."""
    latency = _latency(facts)
    if latency.answer == "slower":
        return _Speed("slower", f"{numbers}: {gain}. But {latency.sentence[0].lower()}{latency.sentence[1:]}")
    return _Speed("pass", numbers + ".")


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
    if facts.random_validation and not facts.lossy:
        yield "The validation data are random: what real inputs would give is not known."
    timing = facts.timing
    if timing is None and not facts.is_baseline and facts.goal != "latency":
        yield _untimed(facts)
    if timing is not None and timing.get("trust") in ("noisy", "contended"):
        why = f": {timing['trust_reason']}" if timing.get("trust_reason") else ""
        yield f"The timing is {timing['trust']}{why}."
    if not facts.is_baseline and facts.tolerance.speed == "any" and _latency(facts).answer == "slower":
        yield _latency(facts).sentence
    placement = facts.placement
    if not facts.is_cpu and placement and len(placement.get("sources") or ()) == 1:
        yield f"Placement comes from one source alone ({placement['sources'][0]})."
