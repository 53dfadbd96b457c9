"""From raw times to a ratio with an interval, and to "faster", "slower", "same" or "undecided".

Baseline and candidate take turns, so that whatever the machine does meets both; a pair is the median of one turn of
each. A round is a set of pairs from one pair of fresh processes: memory layout and placement are drawn once per
process, so pairs of a round share an error that no number of pairs averages out. Times are in nanoseconds, ratios are
baseline over candidate (above 1 the candidate is faster), and all arithmetic on ratios is done on their logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ortforge.verdict.ratios import MINIMUM_FLOOR, compose, outcome

__all__ = [
    "MINIMUM_FLOOR",
    "MIN_ROUNDS",
    "compose",
    "early_level",
    "is_contended",
    "is_decided",
    "minimum_sample",
    "noise_floor",
    "outcome",
    "own_noise",
    "paired",
    "percentiles",
    "stable",
    "trust",
]

Rounds = Sequence[Sequence[Sequence[float]]]
"""Rounds of pairs ``(baseline_ns, candidate_ns)``."""

REPLICATES: Final = 2000
CELLS: Final = 400_000
"""Most resampled pairs in all replicates together, which keeps the bootstrap near 10 ms."""
SEED: Final = 20_250_613
LEVEL: Final = 0.95
DRAWS: Final = 8
"""Draws of the rounds' common shift for each resampling of the pairs: the tails of early looks need many, and a draw
costs nothing beside a resampling."""

MIN_ROUNDS: Final = 2
"""Rounds before the first look: one round knows nothing of how processes differ."""
EARLY_ERROR: Final = 0.025
"""One-sided error that all looks before the last may make together; the last one has ``(1 - LEVEL) / 2`` as before."""
PRECISE: Final = 0.02
"""Largest half-width, as a share of the ratio, for which a decided comparison stops before its last round. With three
fixed rounds the default matrix on two quiet cores had half-widths of 0.7 to 10.8 %, median 3.2 %."""

TURNS: Final = 6
DRIFT: Final = 0.02
CONTENDED: Final = 0.10
"""Share of the time in which some task waits for a CPU, from which on a measurement is contended."""
SPREAD: Final = 0.10
FEW: Final = 8


def _log_ratios(rounds: Rounds) -> list[NDArray[np.float64]]:
    found = []
    for pairs in rounds:
        if len(pairs):
            times = np.asarray(pairs, dtype=np.float64).reshape(len(pairs), 2)
            if not np.all(np.isfinite(times) & (times > 0.0)):
                raise ValueError("A time is not a positive number of nanoseconds.")
            found.append(np.log(times[:, 0]) - np.log(times[:, 1]))
    return found


def paired(rounds: Rounds, level: float = LEVEL) -> dict[str, Any]:
    """Return the median pair ratio and its interval, of 95 % unless another level is given.

    The interval is a two-level bootstrap. Pairs are resampled within their rounds (percentile bootstrap of the median).
    Rounds are too few to be resampled (the bootstrap of three points never leaves their range), so their common shift
    is drawn as ``s / sqrt(K) * t`` with ``t`` from Student's distribution with K - 1 degrees of freedom and ``s`` the
    standard deviation of the K round medians. ``s`` already contains some of the noise of the pairs, so the interval
    errs to the wide side: in simulation (log-normal noise, process offsets, spikes) it covers 95 to 99 %. Two rounds
    give a very wide one, three a usable one. A single round knows nothing of its processes' luck: its interval is
    widened by :data:`MINIMUM_FLOOR`.

    :param rounds: each a list of pairs ``(baseline_ns, candidate_ns)``; empty rounds are ignored.
    :returns: ``{"ratio", "low", "high", "pairs", "rounds", "round_ratios"}``, the numbers ``None`` without pairs. The
        same input gives the same numbers.
    :raises ValueError: a time is not a positive number.
    """
    logs = _log_ratios(rounds)
    count = sum(len(values) for values in logs)
    if not count:
        return {"ratio": None, "low": None, "high": None, "pairs": 0, "rounds": 0, "round_ratios": []}
    random = np.random.default_rng(SEED)
    replicates = max(200, min(REPLICATES, CELLS // count))
    middle = float(np.median(np.concatenate(logs)))
    medians = np.array([np.median(values) for values in logs])
    resampled = np.concatenate(
        [
            (values - median)[random.integers(len(values), size=(replicates, len(values)))]
            for values, median in zip(logs, medians, strict=True)
        ],
        axis=1,
    )
    shift = np.median(resampled, axis=1)
    shift -= np.median(shift)
    if len(logs) > 1:
        shift = np.tile(shift, DRAWS)
        shift += medians.std(ddof=1) / math.sqrt(len(logs)) * random.standard_t(len(logs) - 1, shift.size)
    low, high = np.quantile(shift, [(1 - level) / 2, (1 + level) / 2])
    margin = math.log1p(MINIMUM_FLOOR) if len(logs) == 1 else 0.0
    return {
        "ratio": math.exp(middle),
        "low": math.exp(middle + min(float(low), 0.0) - margin),
        "high": math.exp(middle + max(float(high), 0.0) + margin),
        "pairs": count,
        "rounds": len(logs),
        "round_ratios": [math.exp(median) for median in medians],
    }


def noise_floor(rounds: Rounds) -> dict[str, Any]:
    """Return how far from 1 this device puts the ratio of a thing to itself.

    :param rounds: an A/A measurement, both sides of each pair being the same model on the same runtime.
    :returns: ``{"floor", "ratio", "low", "high", "pairs", "rounds"}``; the floor is the largest deviation of any
        round's median ratio from 1, at least :data:`MINIMUM_FLOOR`.
    """
    measured = paired(rounds)
    deviations = [abs(math.log(ratio)) for ratio in measured.pop("round_ratios")]
    return {"floor": max([MINIMUM_FLOOR, *(math.expm1(deviation) for deviation in deviations)]), **measured}


def own_noise(rounds: Rounds) -> float:
    """Return the noise floor that a comparison shows by itself, as a share, at least :data:`MINIMUM_FLOOR`.

    It is how far the comparison moves within its rounds: the root mean square, over rounds, of the difference between
    the median log ratios of a round's first and second half. Both halves compare the same two processes on the same
    inputs, so nothing but the machine can move them apart. The bootstrap of :func:`paired` takes pairs for independent
    and does not see such drifts. Rounds with fewer than eight pairs are ignored: their halves say nothing.
    """
    moved = [
        float(np.median(values[len(values) // 2 :]) - np.median(values[: len(values) // 2]))
        for values in _log_ratios(rounds)
        if len(values) >= FEW
    ]
    return max(MINIMUM_FLOOR, math.expm1(math.sqrt(np.mean(np.square(moved)))) if moved else 0.0)


def early_level(max_rounds: int) -> float:
    """Return the level of the interval for looks before the last, which makes up for looking more than once.

    Bonferroni's inequality: the looks after rounds 2, 3, … ``max_rounds`` - 1 share :data:`EARLY_ERROR`, so that with
    the last look's ``(1 - LEVEL) / 2`` the one-sided error of a whole comparison is at most 5 %, even for a true ratio
    that lies exactly on the margin. ``benchmarks/timing_errors.py`` shows the rates that result.

    >>> early_level(3), early_level(6)
    (0.95, 0.9875)
    """
    return 1.0 - 2.0 * EARLY_ERROR / max(1, max_rounds - MIN_ROUNDS)


def is_decided(rounds: Rounds, max_rounds: int, loads: Rounds = ()) -> bool:
    """Return whether a comparison may stop after these rounds.

    It may when the interval of :func:`early_level` lies beyond the noise floor or within the margin, and the interval
    that is reported is narrow enough (:data:`PRECISE`). Contended rounds are not for this function.

    :param max_rounds: the number of rounds after which it stops in any case.
    :param loads: pairs of load times of the same rounds, where loading is compared; it must be decided, too.
    """
    if len(rounds) >= max_rounds:
        return True
    if len(rounds) < MIN_ROUNDS:
        return False
    level = early_level(max_rounds)
    if outcome(paired(rounds, level), own_noise(rounds)) == "undecided":
        return False
    if loads and outcome(paired(loads, level), own_noise(rounds)) == "undecided":
        return False
    reported = paired(rounds)
    return bool(max(reported["high"] / reported["ratio"], reported["ratio"] / reported["low"]) <= 1.0 + PRECISE)


def is_contended(pressure_share: float | None) -> bool:
    """Return whether other work had the CPUs for so much of a measurement that it decides nothing.

    :param pressure_share: as :func:`trust` takes it; ``None``, where the system does not tell, counts as not contended.
    """
    return pressure_share is not None and pressure_share > CONTENDED


def minimum_sample(share: float, confidence: float = 0.99) -> int:
    """Return the least sample size for which a percentile may be stated.

    Asked is that, with the given confidence, at least two of n independent samples lie above the true percentile, so
    that the number is not the whim of one outlier and the second largest sample bounds it. Of n samples a binomial
    number lies above, so n is the least with ``share^n + n (1 - share) share^(n-1) <= 1 - confidence``: 64 for p90, 662
    for p99. (MLPerf LoadGen sizes its runs by the same kind of argument, also at 99 %, with a margin around the
    percentile, which takes far more.)

    >>> minimum_sample(0.90), minimum_sample(0.99)
    (64, 662)
    """
    size = 1
    while share**size + size * (1.0 - share) * share ** (size - 1) > 1.0 - confidence:
        size += 1
    return size


_P90_SAMPLES: Final = minimum_sample(0.90)
_P99_SAMPLES: Final = minimum_sample(0.99)


def percentiles(samples_ns: Sequence[float]) -> dict[str, float | None]:
    """Return ``{"p50_s", "p90_s", "p99_s"}`` in seconds, ``None`` where the sample is too small to say."""
    samples = np.asarray(samples_ns, dtype=np.float64)

    def at(share: float, least: int) -> float | None:
        return float(np.quantile(samples, share)) / 1e9 if samples.size >= least else None

    return {"p50_s": at(0.5, 1), "p90_s": at(0.9, _P90_SAMPLES), "p99_s": at(0.99, _P99_SAMPLES)}


def stable(turn_medians: Sequence[float]) -> bool:
    """Say whether the warm-up is over: the last six turns show no drift.

    They drift when the earlier three and the later three lie wholly apart and their medians differ by more than 2 %. A
    noisy machine is not kept warming up for ever: noise mixes the two halves (nine times in ten), drift parts them.
    """
    if len(turn_medians) < TURNS:
        return False
    last = [float(value) for value in turn_medians[-TURNS:]]
    earlier, later = sorted(last[: TURNS // 2]), sorted(last[TURNS // 2 :])
    apart = earlier[-1] < later[0] or later[-1] < earlier[0]
    before, after = earlier[len(earlier) // 2], later[len(later) // 2]
    return not (apart and abs(after / before - 1.0) > DRIFT)


def trust(
    samples_ns: Sequence[float],
    pressure_share: float | None,
    *,
    baseline_ns: Sequence[float] = (),
    interval: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """Return how far a timing can be trusted (``stable``, ``noisy`` or ``contended``), and why it is not stable.

    Inputs of several sizes make times spread without any noise. Where the baseline's times of the same inputs are
    given, iteration by iteration, the ratio to them tells the one from the other: unrest counts only when both show it.

    :param samples_ns: the candidate's times, in the order they were taken.
    :param pressure_share: share of the time in which some task waited for a CPU (``/proc/pressure/cpu``, growth of
        ``some total`` over the time that passed); ``None`` where it is not known. Above 0.10 something else had the
        cores.
    :param baseline_ns: the baseline's times of the same inputs, as many as the candidate's; or none.
    :param interval: what :func:`paired` gave; an interval wider than 10 % to either side is noisy.
    """
    if is_contended(pressure_share):
        return (
            "contended",
            f"tasks waited for a CPU during {pressure_share:.0%} of the time: something else was running",
        )
    samples = np.asarray(samples_ns, dtype=np.float64)
    if samples.size < FEW:
        return "noisy", f"only {samples.size} samples"
    baseline = np.asarray(baseline_ns, dtype=np.float64)
    unrest = _unrest(samples)
    if unrest and (baseline.size != samples.size or _unrest(samples / baseline)):
        return "noisy", unrest
    if interval and interval["ratio"] is not None:
        width = max(interval["high"] / interval["ratio"], interval["ratio"] / interval["low"]) - 1.0
        if width > SPREAD:
            return "noisy", f"the ratio is known to ±{width:.0%} only"
    return "stable", ""


def _unrest(values: NDArray[np.float64]) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    if (spread := float((high - low) / middle)) > SPREAD:
        return f"the middle half of the samples spreads over {spread:.0%} of their median"
    before, after = (float(np.median(half)) for half in np.array_split(values, 2))
    if abs(math.log(after / before)) > SPREAD / 2:
        return f"the median moved by {after / before - 1.0:+.0%} between the first and the second half"
    return ""
