"""How far a candidate's outputs are from the reference's, worst sample first.

Let ``r`` be the reference and ``c`` the candidate, one output of one sample, over the places where both are finite:

- ``max_abs`` = max |r - c|
- ``max_rel_range`` = max_abs / S. S is the output's range over all samples, ``max r - min r``; where that is nothing but
  rounding (below 1e-5 of the largest |r|) it is the largest |r|, and 1 for an output that is zero everywhere
- ``cosine`` = r·c / (|r| |c|); two zero vectors give 1, one gives 0
- ``sqnr_db`` = 10 log10(sum r² / sum (r - c)²)
- ``agreement``: share of equal decisions (:mod:`ortforge.verdict.agreement`), or of equal elements for integers, booleans
  and strings

Cosine alone is blind: it is the angle of the whole tensor, so a detector can keep 0.999 while its one box is gone. The largest
error relative to the range sees that, and a task metric sees whether it matters.

Cosine and SQNR of a sample are left out where they would only measure noise: a sample whose largest |r| is below
1e-3 of the output's (silence, a blank page; ``max_rel_range`` still sees a candidate that speaks up there), and
samples of one element, for which both are taken over all samples together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ortforge.verdict.agreement import Decisions
from ortforge.verdict.measures import (
    Difference,
    cosine,
    difference,
    finite,
    is_bitwise_same,
    kind_of,
    matching,
    sqnr_db,
)

__all__ = ["MetricLike", "compare"]

Array = NDArray[Any]
Sample = Mapping[str, Any]

QUIET: Final = 1e-3
"""A sample is quiet below this share of the output's largest magnitude: cosine is not asked of it."""
ROUNDING: Final = 1e-5
"""A range below this share of the magnitude is rounding (about 100 float32 ulps), not signal."""
WORST_SAMPLES: Final = 8
"""Samples listed per output, worst first."""


class MetricLike(Protocol):
    """What :func:`compare` uses of a metric plugin."""

    @property
    def compute(self) -> Any:
        """``(reference outputs, candidate outputs, labels) -> value or None``."""

    @property
    def higher_is_better(self) -> bool:
        """Say which way is better."""

    @property
    def needs_labels(self) -> bool:
        """Say whether it is a task metric, computed for each side alone."""


@dataclass(slots=True)
class _Problems:
    """One sentence per kind of problem and output, however many samples have it."""

    found: dict[tuple[str, str], tuple[str, list[int], list[int]]] = field(default_factory=dict)

    def add(self, kind: str, output: str, text: str, sample: int, counts: Sequence[int] = ()) -> None:
        if (kind, output) not in self.found:
            self.found[kind, output] = (text, [], [0] * len(counts))
        _, samples, totals = self.found[kind, output]
        samples.append(sample)
        totals[:] = [total + count for total, count in zip(totals, counts, strict=True)]

    def sentences(self, samples: int) -> list[str]:
        return [
            f"{text.format(*totals)}, in {len(where)} of {samples} samples, first in sample {where[0]}."
            for text, where, totals in self.found.values()
        ]


@dataclass(slots=True)
class _Row:
    """One sample of one output. ``difference`` is ``None`` where elements are only equal or not."""

    sample: int
    elements: int
    same: int | None
    difference: Difference | None


@dataclass(slots=True)
class _Output:
    """What is kept of one output while samples stream by: numbers, never tensors (but see ``Decisions``)."""

    name: str
    kind: str
    dtype: str
    candidate_dtype: str
    shape: list[int]
    identical: bool = True
    finite: bool = True
    reference_nonfinite: int = 0
    new_nan: int = 0
    new_inf: int = 0
    mismatched: int = 0
    low: float = math.inf
    high: float = -math.inf
    rows: list[_Row] = field(default_factory=list)
    decisions: Decisions = field(default_factory=lambda: Decisions(""))

    def add(self, sample: int, reference: Array, candidate: Array, problems: _Problems) -> None:
        """Take one sample, and note what is wrong with it beyond numbers."""
        self.identical = self.identical and is_bitwise_same(reference, candidate)
        strings = kind_of(reference) == kind_of(candidate) == "string"
        if reference.dtype != candidate.dtype and not strings:
            self.candidate_dtype = str(candidate.dtype)
            text = f'Output "{self.name}" is {candidate.dtype} where the reference is {reference.dtype}'
            problems.add("dtype", self.name, text, sample)
        if reference.shape != candidate.shape:
            self.mismatched += 1
            text = f'Output "{self.name}" has shape {list(candidate.shape)} instead of {list(reference.shape)}'
            problems.add("shape", self.name, text, sample)
            return
        if "string" in (kind_of(reference), kind_of(candidate)) or self.kind != "float":
            number = None if "string" in (kind_of(reference), kind_of(candidate)) else difference(reference, candidate)
            self.rows.append(_Row(sample, reference.size, matching(reference, candidate), number))
        else:
            number = difference(reference, candidate)
            self.decisions.add(reference, candidate)
            self.rows.append(_Row(sample, reference.size, None, number))
        if number is not None:
            self._count(number, sample, problems)

    def _count(self, number: Difference, sample: int, problems: _Problems) -> None:
        self.reference_nonfinite += number.reference_nonfinite
        self.new_nan += number.new_nan
        self.new_inf += number.new_inf
        if number.low is not None and number.high is not None:
            self.low, self.high = min(self.low, number.low), max(self.high, number.high)
        elif number.elements:
            text = f'Output "{self.name}": the reference has no finite element, so nothing can be compared'
            problems.add("empty", self.name, text, sample)
        if number.new_nan or number.new_inf:
            self.finite = False
            text = f'Output "{self.name}" has {{}} NaN and {{}} infinite values where the reference has none'
            problems.add("nonfinite", self.name, text, sample, (number.new_nan, number.new_inf))

    # After the last sample

    @property
    def peak(self) -> float:
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def scale(self) -> float:
        """S of this module's formulas."""
        span = self.high - self.low if self.low <= self.high else 0.0
        return span if span > ROUNDING * self.peak and math.isfinite(span) else self.peak or 1.0

    def row(self, position: int) -> dict[str, Any]:
        """Return one sample's measures."""
        row = self.rows[position]
        entry: dict[str, Any] = {
            "sample": row.sample,
            "max_abs": None,
            "max_rel_range": None,
            "exact": row.same == row.elements,
        }
        entry |= {"cosine": None, "sqnr_db": None, "agreement": None}
        if row.same is not None:
            entry["agreement"] = row.same / row.elements if row.elements else None
        number = row.difference
        if number is None or number.low is None:
            return entry
        entry |= {"max_abs": number.max_abs, "max_rel_range": finite(number.max_abs / self.scale)}
        if row.same is None:
            entry["agreement"] = self.decisions.of_sample(position)
            entry["exact"] = number.error_energy == 0.0 and not (number.new_nan or number.new_inf)
            if row.elements > 1 and not 0.0 < self.peak * QUIET > number.peak:
                entry["cosine"] = _cosine([number])
                entry["sqnr_db"] = finite(_sqnr([number]))
        return entry

    def summary(self) -> dict[str, Any]:
        """Return the output's entry in the result."""
        rows = [self.row(position) for position in range(len(self.rows))]
        numbers = [row.difference for row in self.rows if row.difference is not None and row.difference.low is not None]
        result: dict[str, Any] = {
            "kind": self.kind,
            "dtype": self.dtype,
            "candidate_dtype": self.candidate_dtype,
            "shape": self.shape,
            "samples": len(self.rows) + self.mismatched,
            "shape_mismatches": self.mismatched,
            "identical": self.identical and bool(self.rows),
            "new_nan": self.new_nan,
            "new_inf": self.new_inf,
            "reference_nonfinite": self.reference_nonfinite,
            "range": finite(self.high - self.low) if numbers else None,
            "scale": self.scale if numbers else None,
        }
        result |= _worst(rows, "max_abs", max) | _worst(rows, "max_rel_range", max)
        result |= self._float_summary(rows, numbers) if self.kind == "float" else _exact_summary(self.rows, rows)
        result["worst_samples"] = sorted(rows, key=_badness)[:WORST_SAMPLES]
        return result

    def _float_summary(self, rows: list[dict[str, Any]], numbers: list[Difference]) -> dict[str, Any]:
        result = _worst(rows, "cosine", min) | _worst(rows, "sqnr_db", min)
        pooled = all(number.scale == 1.0 for number in numbers) and bool(sum(number.elements for number in numbers))
        result["cosine_overall"] = _cosine(numbers) if pooled else None
        noise = _sqnr(numbers) if pooled else math.nan
        result["sqnr_db_overall"] = finite(noise)
        if result["cosine"] is None:
            result["cosine"] = result["cosine_overall"]
        if result["sqnr_db"] is None:
            result["sqnr_db"] = finite(noise)
        result["sqnr_infinite"] = result["sqnr_db"] is None and bool(rows) and all(row["exact"] for row in rows)
        result["sqnr_no_signal"] = result["sqnr_db"] is None and noise == -math.inf
        kind, agreeing, of = self.decisions.agreement()
        result |= {"agreement_kind": kind or None, "agreement": agreeing / of if of else None}
        return result | {"agreeing": agreeing if of else None, "agreement_of": of or None}


def _cosine(numbers: Iterable[Difference]) -> float:
    numbers = list(numbers)
    if all(number.error_energy == 0.0 for number in numbers):
        return 1.0
    return cosine(
        *(math.fsum(getattr(n, key) for n in numbers) for key in ("dot", "reference_energy", "candidate_energy"))
    )


def _sqnr(numbers: Iterable[Difference]) -> float:
    numbers = list(numbers)
    return sqnr_db(*(math.fsum(getattr(n, key) for n in numbers) for key in ("reference_energy", "error_energy")))


def _exact_summary(kept: list[_Row], rows: list[dict[str, Any]]) -> dict[str, Any]:
    same, of = sum(row.same or 0 for row in kept), sum(row.elements for row in kept)
    result: dict[str, Any] = {"agreement_kind": "exact" if of else None, "agreement": same / of if of else None}
    result |= {"agreeing": same if of else None, "agreement_of": of or None}
    worst = _worst(rows, "agreement", min)
    return result | {"agreement_worst_sample": worst["agreement_sample"]}


def _worst(rows: list[dict[str, Any]], key: str, pick: Any) -> dict[str, Any]:
    """Return the worst value of a measure and the sample that has it, as ``key`` and ``key_sample``."""
    known = [row for row in rows if row[key] is not None]
    worst = pick(known, key=lambda row: row[key]) if known else {key: None, "sample": None}
    return {key: worst[key], f"{key}_sample": worst["sample"]}


def _badness(row: dict[str, Any]) -> tuple[float, float, float, int]:
    def known(key: str, otherwise: float) -> float:
        value = row[key]
        return otherwise if value is None else float(value)

    return (-known("max_rel_range", 0.0), known("agreement", 1.0), known("cosine", 1.0), row["sample"])


class _Pairing:
    """Streams sample pairs into outputs; keeps the samples themselves only when a metric needs them."""

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.kept: tuple[list[Sample], list[Sample]] = ([], [])
        self.counts = [0, 0]
        self.outputs: dict[str, _Output] = {}
        self.problems = _Problems()
        self.notes: list[str] = []

    def take(self, reference: Iterable[Sample], candidate: Iterable[Sample]) -> None:
        for sample, (left, right) in enumerate(zip_longest(reference, candidate)):
            self.counts = [self.counts[0] + (left is not None), self.counts[1] + (right is not None)]
            if left is not None and right is not None:
                self.pair(sample, left, right)

    def pair(self, sample: int, left: Sample, right: Sample) -> None:
        for name in left:
            if name not in right:
                self.problems.add("missing", name, f'Output "{name}" is missing', sample)
                continue
            reference, candidate = np.asarray(left[name]), np.asarray(right[name])
            if name not in self.outputs:
                self.outputs[name] = _Output(
                    name=name,
                    kind=kind_of(reference),
                    dtype=_dtype(reference),
                    candidate_dtype=_dtype(candidate),
                    shape=list(reference.shape),
                    decisions=Decisions(name),
                )
            self.outputs[name].add(sample, reference, candidate, self.problems)
        for name in right:
            note = f'Output "{name}" is not among the reference\'s outputs; it was not compared.'
            if name not in left and note not in self.notes:
                self.notes.append(note)
        if self.keep:
            self.kept[0].append(left)
            self.kept[1].append(right)


def _dtype(array: Array) -> str:
    return "string" if kind_of(array) == "string" else str(array.dtype)


def compare(
    reference: Iterable[Sample],
    candidate: Iterable[Sample],
    *,
    labels: Sequence[Any] | None = None,
    metrics: Mapping[str, MetricLike] | None = None,
) -> dict[str, Any]:
    """Compare outputs sample by sample; the formulas are this module's.

    :param reference: per sample a mapping from output name to array. Iterators are read once, in step with ``candidate``, and
        one sample of each is held at a time, unless there are ``metrics``: those see all samples together.
    :param labels: one JSON value per sample, handed to the metrics.
    :param metrics: task and parity metrics by name. One that needs labels is computed for each side alone; another
        compares the candidate (and, for its best value, the reference) with the reference.
    :returns: JSON (NaN and infinities are ``None`` beside a flag)::

        {"samples", "identical", "finite",
         "outputs": {name: {"kind", "dtype", "candidate_dtype", "shape", "samples", "shape_mismatches", "identical",
                            "new_nan", "new_inf", "reference_nonfinite", "range", "scale",
                            "max_abs", "max_rel_range", "cosine", "sqnr_db": worst, each with "…_sample",
                            "cosine_overall", "sqnr_db_overall": over all samples together,
                            "sqnr_infinite": no error anywhere, "sqnr_no_signal": error on an all-zero reference,
                            "agreement_kind": "top-1" | "nearest" | "exact" | None, "agreement", "agreeing", "agreement_of",
                            "worst_samples": [{"sample", "max_abs", "max_rel_range", "cosine", "sqnr_db", "agreement",
                                               "exact"}, … worst first]}},
         "worst": {"cosine", "sqnr_db", "max_rel_range", "agreement": worst over outputs, "output", "sample": where
                   max_rel_range is largest (or else what is worst), "where": {measure: [output, sample]}},
         "problems": [sentences], "notes": [sentences],
         "tasks": {metric: {"reference", "candidate", "drop", "higher_is_better", "needs_labels"}}}

    ``drop`` is positive when the candidate is worse. ``identical`` means bitwise the same everywhere, and is false for
    no samples at all.
    """
    metrics = metrics or {}
    pairing = _Pairing(keep=bool(metrics))
    pairing.take(reference, candidate)
    samples = min(pairing.counts)
    problems = pairing.problems.sentences(samples)
    if pairing.counts[0] != pairing.counts[1]:
        problems.append(f"The candidate gave {pairing.counts[1]} samples where the reference has {pairing.counts[0]}.")
    if samples == 0:
        problems.append("There are no samples, so nothing was compared.")
    outputs = {name: output.summary() for name, output in pairing.outputs.items()}
    for name, output in pairing.outputs.items():
        if output.reference_nonfinite:
            count = output.reference_nonfinite
            pairing.notes.append(f'The reference itself has {count} NaN or infinite values in output "{name}".')
    tasks: dict[str, dict[str, Any]] = {}
    for name, metric in metrics.items() if samples else ():
        tasks[name], problem = _task(name, metric, pairing.kept, labels)
        problems += [problem] if problem else []
    return {
        "samples": samples,
        "identical": not problems and bool(outputs) and all(entry["identical"] for entry in outputs.values()),
        "finite": all(output.finite for output in pairing.outputs.values()),
        "outputs": outputs,
        "worst": _worst_of(outputs),
        "problems": problems,
        "notes": pairing.notes,
        "tasks": tasks,
    }


def _worst_of(outputs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    where: dict[str, list[Any]] = {}
    worst: dict[str, Any] = {}
    for key, pick in (("max_rel_range", max), ("agreement", min), ("cosine", min), ("sqnr_db", min)):
        known = {name: entry[key] for name, entry in outputs.items() if entry.get(key) is not None}
        worst[key] = pick(known.values()) if known else None
        if known:
            name = pick(known, key=lambda output: known[output])
            sample = outputs[name].get(f"{key}_sample")
            where[key] = [name, outputs[name]["worst_samples"][0]["sample"] if sample is None else sample]
    place = next(iter(where.values()), [None, None])
    return worst | {"output": place[0], "sample": place[1], "where": where}


def _task(
    name: str, metric: MetricLike, kept: tuple[list[Sample], list[Sample]], labels: Sequence[Any] | None
) -> tuple[dict[str, Any], str]:
    """Return the metric's entry, and a sentence when it has no answer: what was asked for must not pass unanswered."""
    entry: dict[str, Any] = {"reference": None, "candidate": None, "drop": None}
    entry |= {"higher_is_better": metric.higher_is_better, "needs_labels": metric.needs_labels}
    reference, candidate = kept
    if metric.needs_labels and labels is None:
        return entry, f'The metric "{name}" needs labels, and the validation data have none.'
    if metric.needs_labels and labels is not None and len(labels) != len(reference):
        return entry, f'The metric "{name}" has {len(labels)} labels for {len(reference)} samples.'
    try:
        first = metric.compute(reference, reference, labels)
        second = metric.compute(candidate if metric.needs_labels else reference, candidate, labels)
        values = [None if value is None else finite(float(value)) for value in (first, second)]
    except Exception as error:  # a plugin's failure is a finding of this cell, never the end of the run
        return entry, f'The metric "{name}" failed: {type(error).__name__}: {error}'
    entry |= {"reference": values[0], "candidate": values[1]}
    if values[0] is None or values[1] is None:
        sides = " and ".join(
            side for side, value in zip(("reference", "candidate"), values, strict=True) if value is None
        )
        return entry, f'The metric "{name}" gives no number for the {sides}; does it fit these outputs and labels?'
    entry["drop"] = (values[0] - values[1]) if metric.higher_is_better else (values[1] - values[0])
    return entry, ""
