"""First-party metrics, as the plugin loader meets them, on outputs whose right answer is plain."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from ortforge.api import Metric
from ortforge.portable.comparison.limits import exceeded
from ortforge.portable.comparison.parity import compare
from ortforge.verdict.tolerance import Tolerance

METRICS: dict[str, Metric] = {
    metric.name: metric
    for module in ("top1_accuracy", "binary", "mask_iou")
    for metric in importlib.import_module(f"ortforge.plugins.metrics.{module}").ortforge_metrics()
}


def value(name: str, candidate: Any, labels: Any = None, reference: Any = None) -> float | None:
    return METRICS[name].compute(candidate if reference is None else reference, candidate, labels)


def scores(*rows: list[float]) -> list[dict[str, Any]]:
    return [{"probabilities": np.array([row], dtype=np.float32)} for row in rows]


def masks(*rows: list[float]) -> list[dict[str, Any]]:
    return [{"maps": np.array(row, dtype=np.float32).reshape(1, 1, 2, 2)} for row in rows]


def test_top1_accuracy_counts_the_highest_score() -> None:
    outputs = scores([0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.4, 0.5, 0.1], [0.3, 0.3, 0.4])
    assert value("top1-accuracy", outputs, [0, 2, 0, 2]) == 0.75


def test_top1_accuracy_takes_the_output_that_holds_scores() -> None:
    outputs = [{"label": np.array([1]), "scores": np.array([[0.2, 0.8], [0.9, 0.1]], dtype=np.float32)}]
    assert value("top1-accuracy", outputs, [[1, 1]]) == 0.5


def test_nan_scores_are_wrong() -> None:
    assert value("top1-accuracy", scores([float("nan"), 0.1]), [0]) == 0.0
    assert value("binary-accuracy", [{"p": np.array([[float("nan")]])}] * 2, [0, 1]) == 0.0


@pytest.mark.parametrize("labels", [None, ["cat"], [0.5], [[0, 1]]])
def test_top1_accuracy_needs_class_numbers(labels: Any) -> None:
    assert value("top1-accuracy", scores([0.7, 0.3]), labels) is None


def speech(*values: float) -> list[dict[str, Any]]:
    return [{"stateN": np.zeros((2, 1, 8), np.float32), "output": np.array([[v]], np.float32)} for v in values]


def test_binary_metrics_read_one_score_per_sample() -> None:
    outputs, labels = speech(0.9, 0.6, 0.4, 0.1), [True, False, True, False]
    assert value("binary-accuracy", outputs, labels) == 0.5
    assert value("binary-auc", outputs, labels) == 0.75


def test_auc_counts_ties_half_and_needs_both_kinds() -> None:
    assert value("binary-auc", speech(0.5, 0.5), [1, 0]) == 0.5
    assert value("binary-auc", speech(0.5, 0.6), [1, 1]) is None


def test_auc_is_the_share_of_ordered_pairs() -> None:
    random = np.random.default_rng(4)
    labels = random.random(60) < 0.4
    values = np.round(random.random(60) + 0.3 * labels, 1)
    pairs = [(a > b) + 0.5 * (a == b) for a in values[labels] for b in values[~labels]]
    assert value("binary-auc", speech(*values), labels.tolist()) == pytest.approx(np.mean(pairs))


def test_mask_iou_sees_only_what_crosses_the_threshold() -> None:
    reference = masks([0.9, 0.8, 0.1, 0.0], [0.0, 0.1, 0.0, 0.0])
    assert value("mask-iou", masks([0.5, 0.4, 0.2, 0.2], [0.2, 0.0, 0.0, 0.0]), reference=reference) == 1.0
    assert value("mask-iou", masks([0.9, 0.2, 0.1, 0.0], [0.0, 0.1, 0.0, 0.0]), reference=reference) == 0.75


def test_mask_iou_needs_a_map() -> None:
    assert value("mask-iou", scores([0.2, 0.8])) is None
    assert value("mask-iou", [{"maps": np.full((1, 4, 4), 7.0)}]) is None


def test_a_lost_box_fails_a_detector_that_every_wide_limit_lets_through() -> None:
    reference = masks([0.9, 0.9, 0.35, 0.0])
    candidate = masks([0.9, 0.9, 0.25, 0.0])
    wide = Tolerance(max_rel_range=0.5)
    plain = compare(reference, candidate)
    judged = compare(reference, candidate, metrics={"mask-iou": METRICS["mask-iou"]})
    assert exceeded(plain, wide) == []
    (sentence,) = exceeded(judged, wide)
    assert "a drop of 0.3333, the limit is 0.05" in sentence


def test_a_classifier_that_lost_accuracy_fails_by_its_task() -> None:
    reference = scores([0.6, 0.4], [0.4, 0.6], [0.55, 0.45])
    candidate = scores([0.6, 0.4], [0.4, 0.6], [0.45, 0.55])
    found = compare(reference, candidate, labels=[0, 1, 0], metrics={"top1-accuracy": METRICS["top1-accuracy"]})
    assert found["tasks"]["top1-accuracy"]["drop"] == pytest.approx(1 / 3)
    assert any("top1-accuracy" in sentence for sentence in exceeded(found, Tolerance()))
