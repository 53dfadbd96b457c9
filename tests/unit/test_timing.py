"""Timing: from rounds of pairs to a ratio, an interval and an honest answer."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.verdict.ratios import MINIMUM_FLOOR, compose, outcome
from ortforge.verdict.timing import minimum_sample, noise_floor, paired, percentiles, stable, trust

Rounds = list[list[tuple[float, float]]]


def measured(
    random: np.random.Generator,
    ratio: float,
    *,
    rounds: int,
    pairs: int = 20,
    noise: float = 0.03,
    layout: float = 0.01,
) -> Rounds:
    """Times as a shared machine gives them: noise on each turn, an offset per process, one turn in twenty a spike."""
    found = []
    for _ in range(rounds):
        offsets = random.normal(0.0, layout / math.sqrt(2), size=2)
        logs = random.normal(0.0, noise / math.sqrt(2), size=(pairs, 2)) + offsets + [math.log(ratio), 0.0]
        logs += (random.random((pairs, 2)) < 0.05) * random.uniform(0.2, 1.5, size=(pairs, 2))
        found.append([(float(first), float(second)) for first, second in 5e6 * np.exp(logs)])
    return found


def test_the_ratio_is_the_median_of_pair_ratios_and_above_one_is_faster() -> None:
    found = paired([[(200, 100), (300, 100), (900, 100)], [(310, 100), (290, 100)]])
    assert found["ratio"] == pytest.approx(3.0)
    assert (found["pairs"], found["rounds"]) == (5, 2)
    assert found["round_ratios"] == pytest.approx([3.0, math.sqrt(3.1 * 2.9)])


def test_the_same_data_give_the_same_interval() -> None:
    rounds = measured(np.random.default_rng(0), 1.1, rounds=3)
    assert paired(rounds) == paired([[tuple(pair) for pair in pairs] for pairs in rounds])


@pytest.mark.parametrize(("rounds", "layout"), [(3, 0.0), (3, 0.02), (5, 0.01), (5, 0.02)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(rounds: int, layout: float) -> None:
    random = np.random.default_rng(rounds * 1000 + round(layout * 1000))
    trials = [paired(measured(random, 1.0, rounds=rounds, layout=layout)) for _ in range(150)]
    covered = sum(trial["low"] <= 1.0 <= trial["high"] for trial in trials)
    assert covered >= 0.92 * len(trials)


@pytest.mark.parametrize(("noise", "layout"), [(0.01, 0.0), (0.03, 0.01), (0.05, 0.03)])
def test_a_thing_against_itself_is_hardly_ever_called_faster_or_slower(noise: float, layout: float) -> None:
    random = np.random.default_rng(11)
    answers = []
    for _ in range(150):
        floor = noise_floor(measured(random, 1.0, rounds=3, noise=noise, layout=layout))["floor"]
        answers.append(outcome(paired(measured(random, 1.0, rounds=3, noise=noise, layout=layout)), floor))
    assert answers.count("can't tell") >= 0.98 * len(answers)


@pytest.mark.parametrize(("ratio", "answer"), [(1.10, "faster"), (1 / 1.10, "slower")])
def test_a_true_tenth_is_found(ratio: float, answer: str) -> None:
    random = np.random.default_rng(12)
    trials = [paired(measured(random, ratio, rounds=3)) for _ in range(100)]
    assert sum(outcome(trial, MINIMUM_FLOOR) == answer for trial in trials) >= 90
    assert np.median([trial["ratio"] for trial in trials]) == pytest.approx(ratio, rel=0.01)


def test_rounds_that_differ_widen_the_interval_however_many_pairs_there_are() -> None:
    quiet = [[(1.0 + 0.001 * (n % 3), 1.0) for n in range(50)]] * 3
    moved = [
        [(base * factor, other) for base, other in pairs] for pairs, factor in zip(quiet, (1, 1.1, 0.9), strict=True)
    ]
    narrow, wide = paired(quiet), paired(moved)
    assert narrow["high"] / narrow["low"] < 1.01
    assert wide["low"] < 0.85
    assert wide["high"] > 1.15


def test_one_round_says_nothing_of_its_processes_luck() -> None:
    found = paired([[(1.02, 1.0)] * 30])
    assert found["low"] == pytest.approx(1.02 / 1.03)
    assert outcome(found, 0.0) == "can't tell"


def test_nothing_measured_is_no_number() -> None:
    found = paired([[], []])
    assert (found["ratio"], found["low"], found["high"], found["pairs"]) == (None, None, None, 0)
    assert outcome(found, MINIMUM_FLOOR) == "can't tell"
    assert noise_floor([])["floor"] == MINIMUM_FLOOR


@pytest.mark.parametrize("pair", [(0, 1), (1, -1), (math.nan, 1)])
def test_an_impossible_time_is_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        paired([[pair]])


def test_the_bootstrap_is_quick() -> None:
    rounds = measured(np.random.default_rng(1), 1.0, rounds=5, pairs=100)
    paired(rounds)
    best = math.inf
    for _ in range(5):
        start = time.process_time()
        paired(rounds)
        best = min(best, time.process_time() - start)
    assert best < 0.1  # about 0.01 s; the margin is for a slower processor


def test_the_floor_is_the_worst_round_of_the_measurement_against_itself() -> None:
    assert noise_floor([[(101, 100)] * 5, [(99, 100)] * 5])["floor"] == MINIMUM_FLOOR
    assert noise_floor([[(101, 100)] * 5, [(100, 107)] * 5])["floor"] == pytest.approx(0.07)


@pytest.mark.parametrize(
    ("ratio", "low", "high", "answer"),
    [
        (1.5, 1.4, 1.6, "faster"),
        (1.5, 0.9, 2.5, "can't tell"),
        (1.02, 1.01, 1.03, "can't tell"),
        (0.98, 0.97, 0.99, "can't tell"),
        (0.6, 0.5, 0.7, "slower"),
    ],
)
def test_an_answer_needs_interval_and_floor(ratio: float, low: float, high: float, answer: str) -> None:
    assert outcome({"ratio": ratio, "low": low, "high": high}, 0.03) == answer


def test_percentiles_are_stated_where_the_sample_supports_them() -> None:
    def stated(count: int) -> list[str]:
        return [name for name, value in percentiles(range(1, count + 1)).items() if value is not None]

    assert stated(0) == []
    assert stated(1) == stated(63) == ["p50_s"]
    assert stated(64) == stated(661) == ["p50_s", "p90_s"]
    assert stated(662) == ["p50_s", "p90_s", "p99_s"]
    assert percentiles([2e9, 4e9])["p50_s"] == 3.0


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_the_least_sample_has_two_beyond_the_percentile_99_times_in_100(share: float) -> None:
    random = np.random.default_rng(2)
    size = minimum_sample(share)
    beyond = random.binomial(size, 1.0 - share, size=200_000)
    assert np.mean(beyond >= 2) == pytest.approx(0.99, abs=0.005)
    assert np.mean(beyond >= 2) >= 0.989


@pytest.mark.parametrize(
    ("turns", "settled"),
    [
        ([], False),
        ([100] * 5, False),
        ([100] * 6, True),
        ([200, 150, 120, 110, 105, 102], False),
        ([200, 150, 120, 101, 100, 99, 100, 101, 100], True),
        ([100, 120, 90, 110, 95, 115], True),
        ([100, 101, 102, 110, 111, 112], False),
    ],
    ids=["none", "few", "flat", "warming", "warm", "noisy", "throttling"],
)
def test_warm_up_ends_when_the_drift_does(turns: list[float], settled: bool) -> None:
    assert stable(turns) is settled


def test_trust_names_what_disturbs() -> None:
    quiet = np.random.default_rng(0).normal(1e6, 1e4, size=200)
    assert trust(quiet, 0.01) == ("stable", "")
    assert trust(quiet, None) == ("stable", "")
    label, why = trust(quiet, 0.4)
    assert label == "contended"
    assert "40%" in why
    assert trust(quiet[:5], 0.0) == ("noisy", "only 5 samples")
    assert trust(quiet * np.random.default_rng(1).uniform(0.7, 1.3, size=200), 0.0)[0] == "noisy"
    assert "moved by" in trust(np.concatenate([quiet, quiet * 1.08]), 0.0)[1]
    assert "±" in trust(quiet, 0.0, interval={"ratio": 1.0, "low": 0.8, "high": 1.2})[1]


def test_inputs_of_several_sizes_are_no_noise() -> None:
    """Sentences of 16 to 128 tokens take one to eight times as long, on both sides alike."""
    random = np.random.default_rng(2)
    lengths = random.integers(1, 9, size=300) * 1e6
    baseline = lengths * random.normal(1.0, 0.01, size=300)
    candidate = 0.5 * lengths * random.normal(1.0, 0.01, size=300)
    assert trust(candidate, 0.0)[0] == "noisy"  # nothing says what the spread comes from
    assert trust(candidate, 0.0, baseline_ns=baseline) == ("stable", "")
    shaken = candidate * random.uniform(0.7, 1.3, size=300)
    label, why = trust(shaken, 0.0, baseline_ns=baseline)
    assert label == "noisy"
    assert "spreads over" in why


def test_ratios_multiply_and_so_do_their_doubts() -> None:
    first, second = {"ratio": 2.0, "low": 1.8, "high": 2.2}, {"ratio": 0.5, "low": 0.45, "high": 0.6}
    both = compose(first, second)
    assert both["ratio"] == 1.0
    assert both["low"] == pytest.approx(math.exp(-math.hypot(math.log(2 / 1.8), math.log(0.5 / 0.45))))
    assert both["high"] == pytest.approx(math.exp(math.hypot(math.log(1.1), math.log(1.2))))
    assert compose(first, {"ratio": 1.0, "low": 1.0, "high": 1.0}) == pytest.approx(first)
    assert compose(first, {"ratio": None, "low": None, "high": None})["ratio"] is None


times = st.floats(min_value=1e3, max_value=1e10)


@given(st.lists(st.lists(st.tuples(times, times), max_size=8), max_size=4))
def test_any_rounds_give_an_interval_around_the_ratio(rounds: Rounds) -> None:
    found = paired(rounds)
    if found["ratio"] is not None:
        ordered = (found["low"], found["ratio"], found["high"])
        assert all(left <= right * (1 + 1e-9) for left, right in pairwise(ordered))
        assert found["low"] > 0.0
        assert math.isfinite(found["high"])


@given(st.lists(st.tuples(times, times), min_size=1, max_size=8))
def test_swapping_the_sides_inverts_the_ratio(pairs: list[tuple[float, float]]) -> None:
    there, back = paired([pairs]), paired([[(second, first) for first, second in pairs]])
    assert there["ratio"] == pytest.approx(1.0 / back["ratio"])
