"""Timing: from rounds of pairs to a ratio, an interval and an honest answer."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.verdict.ratios import MARGIN, MINIMUM_FLOOR, compose, decide, is_measurable, outcome
from ortforge.verdict.timing import (
    EARLY_ERROR,
    LEVEL,
    early_level,
    is_decided,
    minimum_sample,
    noise_floor,
    own_noise,
    paired,
    percentiles,
    stable,
    trust,
)

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


def stopped(random: np.random.Generator, ratio: float, *, max_rounds: int = 5, **machine: float) -> tuple[str, Rounds]:
    """Take rounds until the comparison is decided; return the answer and the rounds."""
    rounds: Rounds = []
    while not is_decided(rounds, max_rounds):
        rounds += measured(random, ratio, rounds=1, **machine)  # type: ignore[arg-type]
    return outcome(paired(rounds), own_noise(rounds)), rounds


MACHINES = [(0.01, 0.003), (0.03, 0.01), (0.05, 0.03)]


@pytest.mark.parametrize(("noise", "layout"), MACHINES)
def test_a_model_against_itself_is_hardly_ever_called_faster_or_slower(noise: float, layout: float) -> None:
    random = np.random.default_rng(11)
    answers = [stopped(random, 1.0, noise=noise, layout=layout)[0] for _ in range(150)]
    assert sum(answer in ("faster", "slower") for answer in answers) <= 0.02 * len(answers)


@pytest.mark.parametrize(("noise", "layout"), MACHINES)
@pytest.mark.parametrize("ratio", [1 + MARGIN, 1 / (1 + MARGIN)])
def test_looking_after_each_round_keeps_the_error_at_the_margin(noise: float, layout: float, ratio: float) -> None:
    """The margin itself is the worst true ratio: there every answer but undecided is an error."""
    random = np.random.default_rng(13)
    trials = 200
    answers = [stopped(random, ratio, noise=noise, layout=layout)[0] for _ in range(trials)]
    # 5 % is promised for each kind of error; 3 standard deviations of 200 trials at 5 % are another 4.6 %.
    for kind in ("same", "faster", "slower"):
        assert answers.count(kind) <= 0.096 * trials, kind


@pytest.mark.parametrize("ratio", [1.06, 1 / 1.06])
def test_a_difference_beyond_the_margin_is_hardly_ever_called_the_same(ratio: float) -> None:
    random = np.random.default_rng(14)
    answers = [stopped(random, ratio, noise=0.03, layout=0.02)[0] for _ in range(150)]
    assert answers.count("same") <= 0.02 * len(answers)


@pytest.mark.parametrize(("ratio", "answer"), [(1.10, "faster"), (1 / 1.10, "slower"), (1.0, "same")])
def test_a_true_tenth_is_found_and_so_is_no_difference(ratio: float, answer: str) -> None:
    random = np.random.default_rng(12)
    trials = [stopped(random, ratio, noise=0.02, layout=0.005) for _ in range(100)]
    assert sum(found == answer for found, _ in trials) >= 90
    assert np.median([paired(rounds)["ratio"] for _, rounds in trials]) == pytest.approx(ratio, rel=0.01)
    assert np.mean([len(rounds) for _, rounds in trials]) < 4.5


def test_a_comparison_that_stops_early_has_an_interval_as_narrow_as_three_long_rounds() -> None:
    random = np.random.default_rng(15)

    def half_width(rounds: Rounds) -> float:
        found = paired(rounds)
        return float((found["high"] - found["low"]) / found["ratio"] / 2)

    fixed = [half_width(measured(random, 1.0, rounds=3, pairs=40, layout=0.008)) for _ in range(100)]
    early = [half_width(stopped(random, 1.0, layout=0.008)[1]) for _ in range(100)]
    assert np.median(early) <= np.median(fixed)
    assert np.max(early) <= np.max(fixed)


def test_no_comparison_stops_after_one_round_or_before_its_loads_are_decided() -> None:
    quiet = [[(2.0 + 0.001 * (n % 3), 1.0) for n in range(30)]] * 5
    assert not is_decided(quiet[:1], 5)
    assert is_decided(quiet[:2], 5)
    loads = [[(1.0, 1.0)], [(1.3, 1.0)], [(0.9, 1.0)], [(1.1, 1.0)], [(1.0, 1.0)]]
    assert not is_decided(quiet[:3], 5, loads[:3])
    assert is_decided(quiet, 5, loads)
    assert is_decided(quiet[:1], 1)


@pytest.mark.parametrize("max_rounds", range(3, 12))
def test_all_looks_together_make_at_most_five_percent_of_errors_to_one_side(max_rounds: int) -> None:
    looks = max_rounds - 2
    assert looks * (1 - early_level(max_rounds)) / 2 == pytest.approx(EARLY_ERROR)
    assert pytest.approx(0.05) == EARLY_ERROR + (1 - LEVEL) / 2


def test_the_noise_of_a_comparison_is_its_own() -> None:
    """An unrest before or after it is nothing to it: a quiet comparison has the minimum floor."""
    random = np.random.default_rng(16)
    quiet = measured(random, 0.847, rounds=5, noise=0.02, layout=0.005)
    assert own_noise(quiet) == MINIMUM_FLOOR
    assert outcome(paired(quiet), own_noise(quiet)) == "slower"
    moved = [[(first * (1.2 if n >= 10 else 1.0), other) for n, (first, other) in enumerate(one)] for one in quiet]
    assert own_noise(moved) > 0.15
    assert own_noise([]) == own_noise([[(1.0, 1.0)] * 7]) == MINIMUM_FLOOR


def test_noise_never_shows_that_there_is_no_difference() -> None:
    assert outcome({"ratio": 1.5, "low": 1.3, "high": 1.7}, 1.0) == "undecided"
    found = decide({"ratio": 1.5, "low": 1.3, "high": 1.7, "rounds": 5}, 1.0)
    assert "the noise of 100.0%" in found["undecided_why"]
    assert "quieter machine" in found["decide_by"]


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_a_contended_timing_decides_nothing(ratio: float) -> None:
    narrow = {"ratio": ratio, "low": ratio * 0.995, "high": ratio * 1.005}
    assert decide(narrow, MARGIN)["outcome"] != "undecided"
    found = decide(narrow, MARGIN, contended="tasks waited for a CPU")
    assert (found["outcome"], found["measurable"]) == ("undecided", True)
    assert found["undecided_why"] == "The timing is contended: tasks waited for a CPU."


def test_what_would_decide_is_said() -> None:
    wide = decide({"ratio": 1.02, "low": 0.98, "high": 1.06, "rounds": 5}, MARGIN, rounds=5)
    assert "0.98 to 1.06" in wide["undecided_why"]
    assert "limits.rounds above 5" in wide["decide_by"]
    assert "excludes 1" in decide({"ratio": 1.03, "low": 1.01, "high": 1.05}, MARGIN)["undecided_why"]
    assert decide({"ratio": 2.0, "low": 1.9, "high": 2.1}, MARGIN)["undecided_why"] == ""


@pytest.mark.parametrize(("low", "high"), [(2.93e-14, 2.09e9), (0.02, 46.5), (0.4, 1.7), (None, None)])
def test_an_absurd_interval_is_no_measurement(low: float | None, high: float | None) -> None:
    wild = {"ratio": None if low is None else 1.0, "low": low, "high": high}
    assert not is_measurable(wild)
    found = decide(wild, MARGIN)
    assert (found["outcome"], found["measurable"]) == ("undecided", False)
    assert "not measurable on this machine" in found["undecided_why"]


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
    assert outcome(found, 0.0) == "undecided"


def test_nothing_measured_is_no_number() -> None:
    found = paired([[], []])
    assert (found["ratio"], found["low"], found["high"], found["pairs"]) == (None, None, None, 0)
    assert outcome(found, MINIMUM_FLOOR) == "undecided"
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
        (1.5, 0.9, 2.5, "undecided"),
        (1.05, 1.02, 1.08, "undecided"),
        (1.02, 1.01, 1.03, "same"),
        (0.98, 0.975, 0.99, "same"),
        (0.98, 0.96, 0.99, "undecided"),
        (0.847, 0.818, 0.869, "slower"),
        (0.6, 0.5, 0.7, "slower"),
    ],
)
def test_the_whole_interval_decides(ratio: float, low: float, high: float, answer: str) -> None:
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
