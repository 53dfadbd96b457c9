"""Task metrics of models that give one score per sample, such as "is there speech?"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ortforge.api import Metric

__all__ = ["ortforge_metrics"]

Outputs = Sequence[Mapping[str, Any]]
THRESHOLD = 0.5


def accuracy(reference: Outputs, candidate: Outputs, labels: Sequence[Any] | None) -> float | None:
    """Return the share of samples on the right side of 0.5; labels are true or false (or 1 and 0)."""
    scored = _scored(candidate, labels)
    if not scored:
        return None
    # A comparison with NaN is false whichever way it is asked, so NaN is wrong for both labels.
    return sum(score >= THRESHOLD if label else score < THRESHOLD for score, label in scored) / len(scored)


def auc(reference: Outputs, candidate: Outputs, labels: Sequence[Any] | None) -> float | None:
    """Return the area under the ROC curve: the chance that a true sample scores above a false one, ties counting half.

    This is the Mann-Whitney statistic over the number of (true, false) pairs. ``None`` when one of the two is missing
    or a score is NaN, which has no rank.
    """
    import numpy as np

    scored = _scored(candidate, labels)
    true = np.array([score for score, label in scored or () if label])
    false = np.sort([score for score, label in scored or () if not label])
    if not true.size or not false.size or np.isnan(true).any() or np.isnan(false).any():
        return None
    wins = np.searchsorted(false, true, side="left") + np.searchsorted(false, true, side="right")
    return float(wins.sum()) / (2.0 * true.size * false.size)


def _scored(outputs: Outputs, labels: Sequence[Any] | None) -> list[tuple[float, bool]] | None:
    """Pair the first output that is one float with its label; ``None`` where a sample has neither."""
    import numpy as np

    if labels is None:
        return None
    pairs = []
    for sample, label in zip(outputs, labels, strict=True):
        arrays = (np.asarray(value) for value in sample.values())
        score = next((array for array in arrays if array.dtype.kind == "f" and array.size == 1), None)
        if score is None or label not in (0, 1):
            return None
        pairs.append((float(score.reshape(())), bool(label)))
    return pairs


def ortforge_metrics() -> list[Metric]:
    """Give binary-accuracy and binary-auc."""
    return [
        Metric("binary-accuracy", "share of samples on the right side of 0.5", accuracy, needs_labels=True),
        Metric("binary-auc", "area under the ROC curve of one score per sample", auc, needs_labels=True),
    ]
