"""What is kept of one output while samples stream by, and its summary after the last: numbers, not tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

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

__all__ = ["Output", "Problems"]

Array = NDArray[Any]

QUIET: Final = 1e-3
"""A sample is quiet below this share of the output's largest magnitude: cosine is not asked of it."""
ROUNDING: Final = 1e-5
"""A range below this share of the magnitude is rounding (about 100 float32 ulps), not signal."""
WORST_SAMPLES: Final = 8
"""Samples listed per output, worst first."""


@dataclass(slots=True)
class Problems:
    """One sentence per kind of problem and output, however many samples have it."""

    found: dict[tuple[str, str], tuple[str, list[int], list[int]]] = field(default_factory=dict)

    def add(self, kind: str, output: str, text: str, sample: int, counts: Sequence[int] = ()) -> None:
        """Note a problem of one sample; ``counts`` fill the braces of ``text``, summed over samples."""
        if (kind, output) not in self.found:
            self.found[kind, output] = (text, [], [0] * len(counts))
        _, samples, totals = self.found[kind, output]
        samples.append(sample)
        totals[:] = [total + count for total, count in zip(totals, counts, strict=True)]

    def sentences(self, samples: int) -> list[str]:
        """Return one sentence per problem, in the order they were met."""
        found = []
        for text, where, totals in self.found.values():
            what = text.format(*totals) if totals else text
            found.append(f"{what}, in {len(where)} of {samples} samples, first in sample {where[0]}.")
        return found


@dataclass(slots=True)
class Row:
    """One sample of one output. ``difference`` is ``None`` where elements are only equal or not."""

    sample: int
    elements: int
    same: int | None
    difference: Difference | None


@dataclass(slots=True)
class Output:
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
    rows: list[Row] = field(default_factory=list)
    decisions: Decisions = field(default_factory=lambda: Decisions(""))

    def add(self, sample: int, reference: Array, candidate: Array, problems: Problems) -> None:
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
            self.rows.append(Row(sample, reference.size, matching(reference, candidate), number))
        else:
            number = difference(reference, candidate)
            self.decisions.add(reference, candidate)
            self.rows.append(Row(sample, reference.size, None, number))
        if number is not None:
            self._count(number, sample, problems)

    def _count(self, number: Difference, sample: int, problems: Problems) -> None:
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
            name = self.name.replace("{", "{{").replace("}", "}}")
            text = f'Output "{name}" has {{}} NaN and {{}} infinite values where the reference has none'
            problems.add("nonfinite", self.name, text, sample, (number.new_nan, number.new_inf))

    # After the last sample

    @property
    def peak(self) -> float:
        """Largest magnitude in the reference, over all samples."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def scale(self) -> float:
        """S in the formulas of :mod:`ortforge.verdict.parity`."""
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
            return entry | {"exact": row.elements == 0 or bool(entry["exact"])}
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


def _exact_summary(kept: list[Row], rows: list[dict[str, Any]]) -> dict[str, Any]:
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
