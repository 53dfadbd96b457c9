"""Parity: what compare says of two sets of outputs, and what a tolerance makes of it."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ortforge.api import Metric
from ortforge.errors import ConfigurationError
from ortforge.portable.comparison.limits import exceeded, metric_errors
from ortforge.portable.comparison.parity import compare
from ortforge.verdict.tolerance import Tolerance

Sample = dict[str, Any]


def one(*arrays: Any, name: str = "y") -> list[Sample]:
    return [{name: array} for array in arrays]


def noisy(samples: list[Sample], share: float, seed: int = 1) -> list[Sample]:
    random = np.random.default_rng(seed)
    return [
        {name: value + (share * random.normal(size=value.shape)).astype(value.dtype) for name, value in sample.items()}
        for sample in samples
    ]


@pytest.fixture
def images() -> list[Sample]:
    random = np.random.default_rng(7)
    return one(*(random.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(6)))


def test_the_same_outputs_are_identical_and_within_every_limit(images: list[Sample]) -> None:
    found = compare(images, [dict(sample) for sample in images])
    assert found["identical"]
    assert found["finite"]
    assert found["problems"] == []
    assert found["worst"]["cosine"] == 1.0
    assert found["worst"]["max_rel_range"] == 0.0
    assert found["outputs"]["y"]["sqnr_infinite"]
    assert exceeded(found, Tolerance()) == []


def test_bitwise_is_stricter_than_equal() -> None:
    found = compare(one(np.array([0.0, 1.0])), one(np.array([-0.0, 1.0])))
    assert not found["identical"]
    assert found["worst"]["max_rel_range"] == 0.0


def test_measures_are_those_of_their_formulas() -> None:
    reference, candidate = np.array([3.0, -1.0, 2.0]), np.array([3.0, -1.5, 2.5])
    entry = compare(one(reference), one(candidate))["outputs"]["y"]
    assert entry["max_abs"] == 0.5
    assert entry["max_rel_range"] == pytest.approx(0.5 / 4.0)
    expected = float(reference @ candidate / (np.linalg.norm(reference) * np.linalg.norm(candidate)))
    assert entry["cosine"] == pytest.approx(expected)
    assert entry["sqnr_db"] == pytest.approx(10 * math.log10(14.0 / 0.5))


def test_the_range_is_that_of_all_samples() -> None:
    found = compare(one(np.array([0.0, 1.0]), np.array([0.0, 10.0])), one(np.array([0.0, 1.5]), np.array([0.0, 10.0])))
    assert found["outputs"]["y"]["range"] == 10.0
    assert found["worst"]["max_rel_range"] == pytest.approx(0.05)


def test_the_worst_sample_comes_first_and_is_named(images: list[Sample]) -> None:
    candidate = noisy(images, 0.01)
    candidate[4]["y"] = candidate[4]["y"] + np.float32(2.0)
    off = Tolerance(slice_error=None)
    found = compare(images, candidate)
    assert found["outputs"]["y"]["worst_samples"][0]["sample"] == 4
    assert (found["worst"]["output"], found["worst"]["sample"]) == ("y", 4)
    assert all('Output "y", sample 4' in sentence for sentence in exceeded(found, off))


def test_a_lost_box_shows_in_the_largest_error_where_cosine_is_blind() -> None:
    reference = np.full((1, 1, 200, 200), 0.5, dtype=np.float32)
    reference[0, 0, :100] = 0.0
    candidate = reference.copy()
    candidate[0, 0, 150, 150:160] = 0.0
    found = compare(one(reference), one(candidate))
    assert found["worst"]["cosine"] > 0.999
    whole, row = exceeded(found, Tolerance())
    assert "the largest error is 1 of the output's range" in whole
    assert "slice 150 of axis 2 (of 200)" in row


def test_new_nan_and_infinities_are_a_problem_and_never_a_float() -> None:
    reference, candidate = np.ones((1, 4)), np.array([[1.0, np.nan, np.inf, 1.0]])
    found = compare(one(reference, reference), one(reference, candidate))
    assert not found["finite"]
    assert found["outputs"]["y"]["new_nan"] == found["outputs"]["y"]["new_inf"] == 1
    (problem,) = found["problems"]
    assert "1 NaN and 1 infinite" in problem
    assert "in 1 of 2 samples, first in sample 1" in problem
    json.dumps(found, allow_nan=False)


def test_a_mask_of_minus_infinity_in_the_reference_is_no_problem_when_kept() -> None:
    logits = np.array([[1.0, -np.inf, 3.0]])
    found = compare(one(logits), one(logits))
    assert found["identical"]
    assert found["finite"]
    assert "The reference itself has 1 NaN or infinite values" in found["notes"][0]
    flipped = compare(one(logits), one(-logits))
    assert flipped["outputs"]["y"]["new_inf"] == 1


@pytest.mark.parametrize(("odd", "count"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
def test_nan_and_infinities_that_vanish_are_a_problem(odd: float, count: str) -> None:
    reference = np.array([[1.0, odd, 3.0, odd]])
    found = compare(one(reference), one(np.array([[1.0, 2.0, 3.0, 0.0]])))
    lost = {"NaN": found["outputs"]["y"]["lost_nan"], "Inf": found["outputs"]["y"]["lost_inf"]}
    assert lost == {"NaN": 2, "Inf": 0} if count == "NaN" else {"NaN": 0, "Inf": 2}
    assert "has numbers in" in found["problems"][0]
    assert not found["identical"]


def test_a_reference_without_a_finite_element_proves_nothing() -> None:
    found = compare(one(np.full(3, np.nan)), one(np.full(3, np.nan)))
    assert "no finite value in any sample" in found["missing"][0]


def test_shape_type_and_missing_outputs_are_problems() -> None:
    reference = [{"a": np.zeros((1, 4)), "b": np.zeros(2, np.float32), "c": np.zeros(1)}] * 3
    candidate = [{"a": np.zeros((1, 5)), "b": np.zeros(2, np.float16), "d": np.zeros(1)}] * 3
    found = compare(reference, candidate)
    shape, dtype, missing, extra = found["problems"]
    assert shape == 'Output "a" has shape [1, 5] instead of [1, 4], in 3 of 3 samples, first in sample 0.'
    assert 'Output "b" is float16 where the reference is float32' in dtype
    assert 'Output "c" is missing' in missing
    assert found["outputs"]["b"]["max_abs"] == 0.0
    assert found["outputs"]["a"]["cosine"] is None
    assert 'gives 1 output or element that the reference does not give ("d")' in extra


def test_output_names_may_hold_anything() -> None:
    found = compare(one(np.ones(2), name="{0}"), one(np.array([1.0, np.nan]), name="{0}"))
    assert 'Output "{0}" has 1 NaN' in found["problems"][0]


@pytest.mark.parametrize(("reference", "candidate"), [(3, 2), (2, 3), (0, 1)])
def test_another_number_of_samples_is_a_problem(reference: int, candidate: int) -> None:
    found = compare(one(*[np.ones(2)] * reference), one(*[np.ones(2)] * candidate))
    assert any(f"gave {candidate} samples where the reference has {reference}" in text for text in found["problems"])
    assert found["samples"] == min(reference, candidate)


def test_no_samples_are_no_agreement() -> None:
    found = compare([], [])
    assert not found["identical"]
    assert found["missing"] == ["There are no samples, so nothing was compared."]
    assert found["worst"]["cosine"] is None


@pytest.mark.parametrize(
    ("reference", "candidate", "cosine", "rel"),
    [
        (np.zeros(4), np.zeros(4), 1.0, 0.0),
        (np.zeros(4), np.full(4, 0.25), 0.0, 0.25),
        (np.full(4, 2.0), np.full(4, 2.0), 1.0, 0.0),
        (np.full(4, 2.0), np.full(4, 2.2), 1.0, 0.1),
        (np.float32(2.0), np.float32(1.0), 1.0, 0.5),
        (np.zeros((0, 4)), np.zeros((0, 4)), None, None),
        (np.array([1e300, -1e300]), np.array([1e300, -1e300]) * 0.5, 1.0, 0.25),
        (np.array([1e-200, 2e-200]), np.array([2e-200, 1e-200]), 0.8, 1.0),
        (np.array([1 + 2j, 3 + 0j]), np.array([1 + 2j, 3 + 0j]), 1.0, 0.0),
    ],
    ids=["zeros", "from-zero", "constant", "constant-moved", "scalar", "empty", "huge", "tiny", "complex"],
)
def test_edges_of_the_measures(reference: Any, candidate: Any, cosine: float | None, rel: float | None) -> None:
    entry = compare(one(reference), one(candidate))["outputs"]["y"]
    assert entry["cosine"] == (None if cosine is None else pytest.approx(cosine))
    assert entry["max_rel_range"] == (None if rel is None else pytest.approx(rel))
    json.dumps(entry, allow_nan=False)


def test_float16_is_measured_in_wider_numbers() -> None:
    values = np.full((1, 1000), 200.0, dtype=np.float16)
    entry = compare(one(values), one(values - np.float16(1.0)))["outputs"]["y"]
    assert entry["cosine"] == pytest.approx(1.0)
    assert entry["sqnr_db"] == pytest.approx(20 * math.log10(200.0))


def test_a_silent_sample_is_not_asked_for_its_cosine_but_for_its_error() -> None:
    loud, silent = np.array([0.0, 0.9, 0.8]), np.array([1e-6, 3e-6, 2e-6])
    found = compare(one(loud, silent), one(loud, silent[::-1]))
    assert found["worst"]["cosine"] == 1.0
    assert exceeded(found, Tolerance()) == []
    woken = compare(one(loud, silent), one(loud, loud[::-1]))
    assert "sample 1: the largest error" in exceeded(woken, Tolerance())[0]


def test_single_scores_are_taken_together_since_the_cosine_of_one_number_is_its_sign() -> None:
    scores = one(*np.array([[-0.001], [0.9], [0.8]]))
    entry = compare(scores, one(*np.array([[0.001], [0.9], [0.79]])))["outputs"]["y"]
    assert entry["cosine"] > 0.999
    assert entry["cosine_sample"] is None
    assert entry["agreement_kind"] is None


def test_classes_agree_when_the_highest_score_does() -> None:
    reference = one(*np.eye(10, dtype=np.float32)[:, None])
    candidate = [dict(sample) for sample in reference]
    candidate[3] = {"y": np.eye(10, dtype=np.float32)[4][None]}
    found = compare(reference, candidate)
    entry = found["outputs"]["y"]
    assert (entry["agreement_kind"], entry["agreeing"], entry["agreement_of"]) == ("top-1", 9, 10)
    assert 'Output "y": 9 of 10 top-1 choices agree (0.9), below 0.95; worst in sample 3.' in exceeded(
        found, Tolerance()
    )


def test_tied_classes_agree_with_either() -> None:
    entry = compare(one(np.array([[0.5, 0.5, 0.0]])), one(np.array([[0.4, 0.6, 0.0]])))["outputs"]["y"]
    assert entry["agreement"] == 1.0


def test_every_step_of_a_sequence_of_distributions_counts() -> None:
    steps = np.eye(8, dtype=np.float32)[np.arange(40) % 8][None]
    candidate = steps.copy()
    candidate[0, :10] = np.roll(candidate[0, :10], 1, axis=-1)
    entry = compare(one(steps), one(candidate))["outputs"]["y"]
    assert (entry["agreement_kind"], entry["agreement"]) == ("top-1", 0.75)


def test_embeddings_agree_when_the_nearest_sample_does() -> None:
    random = np.random.default_rng(3)
    topics = random.normal(size=(6, 32))
    vectors = [topic + 0.1 * random.normal(size=32) for topic in topics for _ in range(2)]
    reference = one(*(vector[None].astype(np.float32) for vector in vectors), name="sentence_embedding")
    kept = compare(reference, noisy(reference, 0.02))["outputs"]["sentence_embedding"]
    assert (kept["agreement_kind"], kept["agreement"]) == ("nearest", 1.0)
    shuffled = compare(reference, reference[1:] + reference[:1])["outputs"]["sentence_embedding"]
    assert shuffled["agreement"] < 0.5


def test_nearest_neighbours_need_three_samples() -> None:
    hidden = one(*np.random.default_rng(0).normal(size=(2, 1, 5, 64)), name="last_hidden_state")
    assert compare(hidden, hidden)["outputs"]["last_hidden_state"]["agreement"] is None
    assert compare(hidden * 2, hidden * 2)["outputs"]["last_hidden_state"]["agreement_kind"] == "nearest"


@pytest.mark.parametrize(
    ("reference", "candidate", "share"),
    [
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0.75),
        (np.array([True, False]), np.array([True, True]), 0.5),
        (np.array(["cat", "dog"]), np.array(["cat", "mouse"]), 0.5),
        (np.array(["cat"], dtype=object), np.array(["cat"]), 1.0),
    ],
    ids=["integers", "booleans", "strings", "objects"],
)
def test_what_is_no_float_is_compared_exactly(reference: Any, candidate: Any, share: float) -> None:
    found = compare(one(reference), one(candidate))
    assert found["outputs"]["y"]["agreement_kind"] == ("overlap" if reference.dtype == bool else "exact")
    assert found["worst"]["agreement"] == share
    assert found["problems"] == []
    assert bool(exceeded(found, Tolerance())) == (share < 0.95)


def test_large_outputs_are_streamed() -> None:
    def stream(share: float) -> Iterator[Sample]:
        for seed in range(12):
            values = np.random.default_rng(seed).normal(size=(1, 4, 512, 512)).astype(np.float32)
            yield {"y": values * np.float32(share)}

    tracemalloc.start()
    found = compare(stream(1.0), stream(0.999))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["samples"] == 12
    assert peak < 12 * 4 * 512 * 512 * 4 * 2, "all samples were held at once"


def test_task_metrics_give_the_drop_between_both_sides() -> None:
    def positive(reference: Any, candidate: Any, labels: Any) -> float:
        return float(np.mean([(sample["y"] > 0) == label for sample, label in zip(candidate, labels, strict=True)]))

    metric = Metric("sign", "", positive, needs_labels=True)
    reference, candidate = one(*np.array([1.0, -1.0, 1.0, 1.0])), one(*np.array([1.0, -1.0, -1.0, 1.0]))
    found = compare(iter(reference), iter(candidate), labels=[True, False, True, True], metrics={"sign": metric})
    entry = found["tasks"]["sign"]
    assert (entry["reference"], entry["candidate"], entry["drop"]) == (1.0, 0.75, 0.25)
    loose = Tolerance(cosine=None, max_rel_range=None, slice_error=None)
    (sentence,) = exceeded(found, loose)
    assert sentence == 'The metric "sign" got worse from 1 to 0.75: a drop of 0.25, the limit is 0.01.'


def test_a_metric_without_labels_is_limited_like_agreement() -> None:
    overlap = Metric("overlap", "", lambda reference, candidate, labels: 1.0 if reference is candidate else 0.96)
    found = compare(one(np.ones(3)), one(np.ones(3)), metrics={"overlap": overlap})
    assert found["tasks"]["overlap"]["drop"] == pytest.approx(0.04)
    assert exceeded(found, Tolerance()) == []
    assert len(exceeded(found, Tolerance(agreement=0.97))) == 1


def test_an_error_rate_gets_worse_upwards() -> None:
    metric = Metric("error", "", lambda r, c, labels: float(c[0]["y"][0]), higher_is_better=False, needs_labels=True)
    found = compare(one(np.array([0.1])), one(np.array([0.3])), labels=[0], metrics={"error": metric})
    assert found["tasks"]["error"]["drop"] == pytest.approx(0.2)


def test_a_metric_without_an_answer_is_a_problem_and_no_exception() -> None:
    metrics = {
        "silent": Metric("silent", "", lambda r, c, labels: None),
        "nan": Metric("nan", "", lambda r, c, labels: math.nan if c is not r else 1.0),
        "labelled": Metric("labelled", "", lambda r, c, labels: 1.0, needs_labels=True),
    }
    found = compare(one(np.ones(2)), one(np.ones(2)), metrics=metrics)
    assert [text.split('"')[1] for text in found["problems"]] == ["silent", "nan", "labelled"]
    assert "needs labels" in found["problems"][2]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("labelled", [False, True])
def test_what_a_metric_raises_is_its_plugins_error_and_no_finding_about_the_model(labelled: bool) -> None:
    def broken(reference: Any, candidate: Any, labels: Any) -> float:
        raise KeyError("logits")

    metrics = {"broken": Metric("broken", "", broken, needs_labels=labelled)}
    owners = {"broken": "plugin shapes (ortforge-shapes 0.3)"}
    found = compare(one(np.ones(2)), one(np.ones(2)), labels=[1], metrics=metrics, owners=owners)
    assert found["problems"] == []
    assert found["identical"]
    assert exceeded(found, Tolerance()) == []
    told = "The metric \"broken\" of plugin shapes (ortforge-shapes 0.3) failed: KeyError: 'logits'"
    assert found["tasks"]["broken"]["error"] == told
    needed, others = metric_errors(found, Tolerance())
    limit = "task_drop" if labelled else "agreement"
    assert needed == [f"{told}. The limit {limit} needs its number: mend the metric, or turn the limit off."]
    assert others == []
    off = Tolerance(task_drop=None) if labelled else Tolerance(agreement=None)
    assert metric_errors(found, off) == ([], [told])
    json.dumps(found, allow_nan=False)


def test_a_limit_of_none_is_off(images: list[Sample]) -> None:
    found = compare(images, one(*(-sample["y"] for sample in images)))
    off = Tolerance(cosine=None, sqnr_db=None, max_rel_range=None, slice_error=None, agreement=None, task_drop=None)
    assert len(exceeded(found, Tolerance())) >= 2
    assert exceeded(found, off) == []


def test_the_default_limits_say_the_same_of_well_behaved_noise() -> None:
    values = np.random.default_rng(5).normal(size=(1, 1, 250, 400)).clip(-3, 3)
    reference = one(values)
    within, beyond = compare(reference, noisy(reference, 0.12)), compare(reference, noisy(reference, 0.17))
    assert exceeded(within, Tolerance()) == []
    assert len(exceeded(beyond, Tolerance(sqnr_db=17.0))) == 3


@pytest.mark.parametrize("wrong", [{"speed": "fastest"}, {"cosine": "high"}, {"agreement": math.nan}])
def test_a_tolerance_refuses_what_it_cannot_mean(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="tolerance"):
        Tolerance(**wrong)


anything = hnp.arrays(
    dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64, np.bool_, np.dtype("U3")]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@given(st.lists(st.tuples(anything, anything), max_size=4))
def test_any_two_arrays_give_json_and_sentences(pairs: list[tuple[Any, Any]]) -> None:
    found = compare(one(*(left for left, _ in pairs)), one(*(right for _, right in pairs)))
    json.dumps(found, allow_nan=False)
    assert all(isinstance(sentence, str) for sentence in exceeded(found, Tolerance(sqnr_db=10.0)))


@given(st.lists(anything, min_size=1, max_size=4))
def test_anything_agrees_with_itself(arrays: list[Any]) -> None:
    found = compare(one(*arrays), one(*arrays))
    assert found["outputs"]["y"]["identical"]
    assert found["finite"]
    assert exceeded(found, Tolerance()) == []
