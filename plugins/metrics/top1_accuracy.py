"""The share of samples whose highest score is the label's: the task metric of every classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ortforge.api import Metric

__all__ = ["ortforge_metrics"]


def compute(
    reference: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]], labels: Sequence[Any] | None
) -> float | None:
    """Return the accuracy of ``candidate``, or ``None`` where outputs or labels are not a classifier's.

    The scores are the first output whose last axis holds two or more numbers; ``argmax`` over that axis is the answer.
    A label is the index of the right class, or a list of them when a sample is a batch. NaN scores are wrong answers.
    """
    import numpy as np

    if labels is None:
        return None
    right = total = 0
    for outputs, label in zip(candidate, labels, strict=True):
        wanted = np.asarray(label)
        scores = _scores(outputs)
        if scores is None or wanted.dtype.kind not in "iu":
            return None
        rows = scores.reshape(-1, scores.shape[-1])
        if wanted.size != len(rows):
            return None
        hit = (rows.argmax(axis=1) == wanted.reshape(-1)) & ~np.isnan(rows).any(axis=1)
        right, total = right + int(np.count_nonzero(hit)), total + len(rows)
    return right / total if total else None


def _scores(outputs: Mapping[str, Any]) -> Any:
    import numpy as np

    arrays = (np.asarray(value) for value in outputs.values())
    return next((array for array in arrays if array.dtype.kind == "f" and array.ndim and array.shape[-1] > 1), None)


def ortforge_metrics() -> list[Metric]:
    """Give top1-accuracy."""
    return [Metric("top1-accuracy", "share of samples whose highest score is the label's", compute, needs_labels=True)]
