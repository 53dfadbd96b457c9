"""How far a candidate's answers are from the float model's, and whether a tolerance holds, for passes that search.

Runs inside a runtime, which does not have ortforge's own verdict; the measures are that one's (``docs/formats.md``,
"parity"), reduced to what a search decides by, and a test holds the two against each other. What is added here is a
look ahead: a search sees few samples, and the verdict is the worst of many others.

- ``cosine``, ``sqnr_db``, ``max_rel_range``: worst sample over all outputs
- ``agreement``: share of equal decisions (top-1, nearest neighbour, or equal elements), worst output
- ``noise``: mean over samples and outputs of sum (r - c)² / sum r². It adds up over nodes that are quantized
  independently of each other, which is what makes a ranking by it useful
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Answers = Sequence[Mapping[str, Any]]

__all__ = ["Parity", "compare", "excess", "violations"]

QUIET: Final = 1e-3
"""A sample is quiet below this share of the output's largest magnitude: cosine is not asked of it."""
ROUNDING: Final = 1e-5
"""A range below this share of the magnitude is rounding, not signal."""

SCORE_NAME: Final = re.compile(r"logit|prob|score|softmax|class", re.IGNORECASE)
EMBEDDING_NAME: Final = re.compile(r"embed|feature|pool|hidden|state", re.IGNORECASE)
EMBEDDING_WIDTH: Final = range(16, 8193)
NEAREST_SLACK: Final = 0.05

UNSEEN: Final = 100
"""Samples of a verdict: the look ahead is to the worst of so many."""
HEAVY: Final = 4.0
"""Measured: a byte classifier's static int8 was 1.3 to 6 times as far off on 48 files as on 16 others."""
FEWEST_TO_LOOK_AHEAD: Final = 6
"""Samples from which a tail can be told at all."""


@dataclass(frozen=True)
class Parity:
    """What was measured. ``expected`` holds the look ahead: for a measure, what unseen samples may come to.

    :param problems: sentences about what no number says: other shapes, NaN, a missing output.
    """

    cosine: float | None = None
    sqnr_db: float | None = None
    max_rel_range: float | None = None
    agreement: float | None = None
    is_choice: bool = False
    noise: float = 0.0
    expected: Mapping[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the numbers, rounded for a report."""
        numbers = {name: getattr(self, name) for name in ("cosine", "sqnr_db", "max_rel_range", "agreement", "noise")}
        result: dict[str, Any] = {name: _rounded(value) for name, value in numbers.items() if value is not None}
        result["expected"] = {name: _rounded(value) for name, value in self.expected.items()}
        return {**result, "problems": list(self.problems)}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def compare(reference: Answers, candidate: Answers) -> Parity:
    """Compare answers to the same samples; both are sequences of dicts from output name to array."""
    import numpy as np

    problems: list[str] = []
    parts: list[Parity] = []
    for name in reference[0] if reference else ():
        if any(name not in answer for answer in candidate):
            problems.append(f'output "{name}" is missing')
            continue
        left = [np.asarray(answer[name]) for answer in reference]
        right = [np.asarray(answer[name]) for answer in candidate]
        if problem := _misfit(name, left, right):
            problems.append(problem)
        elif left[0].dtype.kind == "f":
            parts.append(_floats(name, left, right))
        else:
            same = sum(int(np.count_nonzero(a == b)) for a, b in zip(left, right, strict=True))
            of = sum(a.size for a in left)
            parts.append(Parity(agreement=same / of if of else None, noise=1.0 - same / of if of else 0.0))
    return _joined(parts, problems)


def _misfit(name: str, left: list[Array], right: list[Array]) -> str:
    import numpy as np

    for number, (a, b) in enumerate(zip(left, right, strict=True)):
        if a.shape != b.shape:
            return f'output "{name}" has shape {list(b.shape)} instead of {list(a.shape)} in sample {number}'
        if a.dtype != b.dtype and not a.dtype.kind == b.dtype.kind == "U":
            return f'output "{name}" is {b.dtype} instead of {a.dtype}'
        if a.dtype.kind == "f" and bool(np.any(np.isfinite(a) & ~np.isfinite(b))):
            return f'output "{name}" has NaN or infinite values in sample {number}'
    return ""


def _joined(parts: Sequence[Parity], problems: Sequence[str]) -> Parity:
    def worst(name: str, pick: Any) -> float | None:
        known = [value for part in parts if (value := getattr(part, name)) is not None]
        return pick(known) if known else None

    expected: dict[str, float] = {}
    for name, pick in (("cosine", min), ("sqnr_db", min), ("max_rel_range", max)):
        known = [part.expected[name] for part in parts if name in part.expected]
        if known:
            expected[name] = pick(known)
    agreements = [part for part in parts if part.agreement is not None]
    least = min(agreements, key=lambda part: part.agreement or 0.0) if agreements else None
    return Parity(
        worst("cosine", min),
        worst("sqnr_db", min),
        worst("max_rel_range", max),
        least.agreement if least else None,
        least.is_choice if least else False,
        sum(part.noise for part in parts) / len(parts) if parts else 0.0,
        expected,
        tuple(problems),
    )


def _floats(name: str, left: list[Array], right: list[Array]) -> Parity:
    """Measure one float output. Samples are rows; places where the reference is not finite count for nothing."""
    import numpy as np

    rows = []
    for a, b in zip(left, right, strict=True):
        good = np.isfinite(a)
        rows.append((a[good].astype(np.float64), b[good].astype(np.float64)))
    low = min((float(a.min()) for a, _ in rows if a.size), default=0.0)
    high = max((float(a.max()) for a, _ in rows if a.size), default=0.0)
    peak = max(abs(low), abs(high))
    scale = high - low if high - low > ROUNDING * peak else peak or 1.0
    relative = [float(np.max(np.abs(a - b), initial=0.0)) / scale for a, b in rows]
    loud = [(a, b) for a, b in rows if a.size > 1 and not 0.0 < peak * QUIET > float(np.max(np.abs(a), initial=0.0))]
    if not loud and rows:  # outputs of one element: all samples together
        loud = [(np.concatenate([a for a, _ in rows]), np.concatenate([b for _, b in rows]))]
    energies = [(float(a @ a), float(b @ b), float((a - b) @ (a - b)), float(a @ b)) for a, b in loud]
    angles = [_angle(*energy) for energy in energies]
    shares = [error / signal if signal else float(error > 0.0) for signal, _, error, _ in energies]
    kind, agreement = _agreement(name, left, right)
    expected = {"max_rel_range": _ahead(relative)}
    if angles:
        expected |= {"cosine": 1.0 - _ahead(angles), "sqnr_db": _decibels(_ahead(shares))}
    return Parity(
        cosine=1.0 - max(angles) if angles else None,
        sqnr_db=_decibels(max(shares)) if shares else None,
        max_rel_range=max(relative, default=0.0),
        agreement=agreement,
        is_choice=kind == "top-1",
        noise=sum(shares) / len(shares) if shares else 0.0,
        expected=expected,
    )


def _angle(signal: float, other: float, error: float, dot: float) -> float:
    """Return one minus the cosine; exactly zero where there is no error."""
    if error == 0.0:
        return 0.0
    if signal == 0.0 or other == 0.0:
        return 1.0
    return max(0.0, 1.0 - dot / (math.sqrt(signal) * math.sqrt(other)))


def _decibels(share: float) -> float:
    return 300.0 if share <= 1e-30 else -10.0 * math.log10(share)


def _ahead(errors: Sequence[float]) -> float:
    """Return what the worst of :data:`UNSEEN` unseen samples may come to, from the errors of a few.

    The worst of an exponential tail grows with the logarithm of how many are looked at, by the tail's mean excess
    (peaks over threshold with shape 0: Coles 2001, section 4.3); the threshold is the median. Where the errors span
    decades (Hill's index, 1975, above 1: a tail without a mean, as of a classifier that is sure of most inputs) no
    number of few samples foretells the next: the worst is taken :data:`HEAVY` times.
    """
    ordered = sorted(errors)
    count = len(ordered)
    if count < FEWEST_TO_LOOK_AHEAD:
        return ordered[-1] if ordered else 0.0
    worst, median, tail = ordered[-1], ordered[(count - 1) // 2], ordered[count // 2 :]
    if median <= 0.0 or sum(math.log(error / median) for error in tail) > len(tail):
        return HEAVY * worst
    return worst + max(0.0, math.log(UNSEEN / count)) * (sum(tail) / len(tail) - median)


def _agreement(name: str, left: list[Array], right: list[Array]) -> tuple[str, float | None]:
    """Return which decision the output stands for (``top-1``, ``nearest`` or none) and the share that agree."""
    import numpy as np

    first = left[0]
    widths = {a.shape[-1] if a.ndim else 0 for a in left}
    if len(widths) != 1 or next(iter(widths)) < 2 or any(not a.size for a in left):
        return "", None
    width, axes = widths.pop(), first.ndim
    table = [(a.reshape(-1, width).astype(np.float64), b.reshape(-1, width).astype(np.float64))
             for a, b in zip(left, right, strict=True)]  # fmt: skip
    unit = all(bool(np.all(np.abs((a * a).sum(axis=1) - 1.0) <= 0.02)) for a, _ in table)
    distribution = all(bool(a.min() >= -1e-6 and np.all(np.abs(a.sum(axis=1) - 1.0) <= 0.01)) for a, _ in table)
    named = unit or axes == 3 or EMBEDDING_NAME.search(name)
    if not (distribution or SCORE_NAME.search(name)) and width in EMBEDDING_WIDTH and axes <= 3 and named:
        pooled = [np.stack([side[which].mean(axis=0) for side in table]) for which in (0, 1)]
        return "nearest", _nearest(*pooled)
    if distribution or SCORE_NAME.search(name) or axes <= 2:
        agree = [a[np.arange(len(a)), b.argmax(axis=1)] == a.max(axis=1) for a, b in table]
        return "top-1", float(np.concatenate(agree).mean())
    return "", None


def _nearest(reference: Array, candidate: Array) -> float | None:
    import numpy as np

    count = len(reference)
    if count < 3:
        return None
    similar, other = _similarity(reference), _similarity(candidate)
    best = similar.max(axis=1)
    median = np.median(similar[~np.eye(count, dtype=bool)].reshape(count, count - 1), axis=1)
    picked = similar[np.arange(count), other.argmax(axis=1)]
    return float((picked >= best - NEAREST_SLACK * (best - median) - 1e-6).mean())


def _similarity(vectors: Array) -> Array:
    import numpy as np

    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(length > 0.0, length, 1.0)
    similar: Array = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    return similar


def _limits(parity: Parity, tolerance: Mapping[str, Any], margin: float) -> Iterator[tuple[str, float, float, float]]:
    """Yield (measure, value, limit, excess) for each limit that is on and can be asked.

    The excess is the error over the error allowed, as noise power: 1 is just allowed, and half the noise gives half of
    it. ``margin`` is the share of the allowed error that is left unused.
    """
    unused = 1.0 - margin
    limit = tolerance.get("cosine")
    if limit is not None and parity.cosine is not None:
        value = parity.expected.get("cosine", parity.cosine)
        yield "cosine", value, limit, (1.0 - value) / (max(1e-12, 1.0 - limit) * unused)
    limit = tolerance.get("sqnr_db")
    if limit is not None and parity.sqnr_db is not None:
        value = parity.expected.get("sqnr_db", parity.sqnr_db)
        yield "sqnr_db", value, limit, 10.0 ** ((limit - value) / 10.0) / unused
    limit = tolerance.get("max_rel_range")
    if limit is not None and parity.max_rel_range is not None:
        value = parity.expected.get("max_rel_range", parity.max_rel_range)
        share = value / limit if limit > 0.0 else math.inf if value > 0.0 else 0.0
        yield "max_rel_range", value, limit, share**2 / unused
    limit = tolerance.get("agreement")
    if limit is not None and parity.agreement is not None:
        drop = tolerance.get("task_drop")
        if parity.is_choice and drop is not None:
            limit = max(limit, 1.0 - drop)  # a choice that does not change cannot cost a task anything
        if parity.agreement < limit:
            # How many choices flip says little of how much noise is too much: half of it is tried.
            yield "agreement", parity.agreement, limit, 2.0
        else:
            yield "agreement", parity.agreement, limit, 0.0


def excess(parity: Parity, tolerance: Mapping[str, Any], margin: float) -> float:
    """Return how many times the allowed noise there is, by the strictest limit; infinite where a number is missing."""
    if parity.problems:
        return math.inf
    return max((ratio for *_, ratio in _limits(parity, tolerance, margin)), default=0.0)


def violations(parity: Parity, tolerance: Mapping[str, Any], margin: float) -> list[str]:
    """Return one sentence for each limit that does not hold with the margin, by what unseen samples may come to."""
    found = list(parity.problems)
    for name, value, limit, ratio in _limits(parity, tolerance, margin):
        if ratio > 1.0:
            seen = getattr(parity, name)
            # A forecast is of the noise, and knows no bounds.
            likely = max(value, -1.0) if name == "cosine" else value
            ahead = f" (perhaps {likely:.4g} on other samples)" if abs(seen - value) > 1e-9 else ""
            found.append(f"{name} {seen:.4g}{ahead} against {limit:g}")
    return found
