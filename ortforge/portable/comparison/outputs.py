"""What is kept of one output while samples stream by, and its summary after the last: numbers, not tensors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .decisions import Decisions
from .measures import (
    Difference,
    cosine,
    difference,
    finite,
    is_bitwise_same,
    kind_of,
    matching,
    sqnr_db,
)
from .recognition import Recognized, recognize
from .sentinels import find_sentinels
from .slices import PROBABILITY_FLOOR, SliceSums, summarize_slices

__all__ = ["Output", "Problems"]

Array = NDArray[Any]

QUIET: Final = 1e-3
"""A sample is quiet below this share of the output's largest magnitude: cosine is not asked of it."""
ROUNDING: Final = 1e-5
"""A range below this share of the magnitude is rounding (about 100 float32 ulps), not signal."""
VARIETY: Final = 1 << 14
"""Elements of an output that are looked at for what it is."""
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
class Seen:
    """What the reference's answers show of the output: the evidence that comparing it can give."""

    samples: int = 0
    empty: int = 0
    elements: int = 0
    finite_elements: int = 0
    sentinels: int = 0
    varies_in_sample: bool = False
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    digests: set[bytes] = field(default_factory=set)

    def add(self, reference: Array) -> None:
        """Take one sample of the reference."""
        self.samples += 1
        self.empty += reference.size == 0
        self.elements += int(reference.size)
        self.shapes.add(reference.shape)
        if reference.dtype.kind in "fc":
            self.finite_elements += int(np.count_nonzero(np.isfinite(reference)))
        else:
            self.finite_elements += int(reference.size)
        self.digests.add(_digest(reference))
        if not self.varies_in_sample and reference.size > 1:
            flat = reference.reshape(-1)
            self.varies_in_sample = bool(np.any(flat[1:] != flat[:-1]))

    def facts(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "samples": self.samples,
            "empty_samples": self.empty,
            "elements": self.elements,
            "finite_elements": self.finite_elements,
            "sentinels": self.sentinels,
            "distinct_answers": len(self.digests),
            "varies_in_sample": self.varies_in_sample,
            "shapes": len(self.shapes),
        }


def _digest(array: Array) -> bytes:
    if kind_of(array) == "string":
        content: Any = "\0".join(str(item) for item in array.reshape(-1).tolist()).encode("utf-8", "surrogatepass")
    else:
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return hashlib.blake2b(content, digest_size=16).digest() + str(array.shape).encode()


@dataclass(slots=True)
class Output:
    """What is kept of one output while samples stream by: numbers, never tensors (but see ``Decisions``)."""

    name: str
    kind: str
    dtype: str
    candidate_dtype: str
    shape: list[int]
    role: str = ""
    examples: Sequence[Mapping[str, Array]] = ()
    identical: bool = True
    finite: bool = True
    reference_nonfinite: int = 0
    new_nan: int = 0
    new_inf: int = 0
    lost_nan: int = 0
    lost_inf: int = 0
    mismatched: int = 0
    low: float = math.inf
    high: float = -math.inf
    rows: list[Row] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    slices: SliceSums = field(default_factory=SliceSums)
    recognized: Recognized = field(default_factory=lambda: Recognized("values", "it is empty"))
    decisions: Decisions = field(default_factory=lambda: Decisions(Recognized("values", "it is empty")))

    def add(self, sample: int, reference: Mapping[str, Array], candidate: Array, problems: Problems) -> None:
        """Take one sample, and note what is wrong with it beyond numbers.

        :param reference: all outputs of the reference's sample; :param candidate: the candidate's output of this name.
        """
        own = reference[self.name]
        self.seen.add(own)
        if own.size and self.recognized.why == "it is empty":
            self.recognized = recognize(self.name, self._telling(reference), self.role)
            self.decisions = Decisions(self.recognized, counts=[(0, 0)] * len(self.rows))
        self.identical = self.identical and is_bitwise_same(own, candidate)
        strings = kind_of(own) == kind_of(candidate) == "string"
        if own.dtype != candidate.dtype and not strings:
            self.candidate_dtype = str(candidate.dtype)
            text = f'Output "{self.name}" is {candidate.dtype} where the reference is {own.dtype}'
            problems.add("dtype", self.name, text, sample)
        if own.shape != candidate.shape:
            self.mismatched += 1
            text = f'Output "{self.name}" has shape {list(candidate.shape)} instead of {list(own.shape)}'
            problems.add("shape", self.name, text, sample)
            return
        is_string = "string" in (kind_of(own), kind_of(candidate))
        if not is_string and self.is_measured:
            self._measure(sample, own, candidate, problems)
        else:
            number = None if is_string else difference(own, candidate)
            self.rows.append(Row(sample, own.size, matching(own, candidate), number))
            self._count(number, sample, problems)
        if not is_string:
            self.decisions.add(own, candidate, reference.get(self.recognized.partner))

    def _telling(self, sample: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the sample that shows most of what the output is: the first one may be a blank picture."""

        def variety(one: Mapping[str, Array]) -> int:
            array = one.get(self.name)
            if array is None or array.dtype.kind not in "fiub":
                return 0
            return int(np.unique(array.reshape(-1)[:VARIETY]).size)

        return max((sample, *self.examples), key=variety)

    @property
    def is_measured(self) -> bool:
        """Whether how far two elements are apart means anything: floats, and the pixels of pictures."""
        if self.recognized.role in ("labels", "indices", "counts"):
            return False
        return self.kind == "float" or self.recognized.role in ("image", "embedding")

    def _measure(self, sample: int, own: Array, candidate: Array, problems: Problems) -> None:
        sentinels = find_sentinels(own)
        left, right = own, candidate
        if sentinels is not None:
            self.seen.sentinels += int(np.count_nonzero(sentinels.places))
            if wrong := sentinels.mismatches(own, candidate):
                name = self.name.replace("{", "{{").replace("}", "}}")
                text = f'Output "{name}" has another value in {{}} places where the reference has {sentinels.value:g}'
                problems.add("sentinel", self.name, text, sample, (wrong,))
            left, right = own[~sentinels.places], candidate[~sentinels.places]
        number = difference(left, right)
        self.rows.append(Row(sample, left.size, None, number))
        self._count(number, sample, problems)
        if own.dtype.kind != "c" and candidate.dtype.kind != "c":
            usable = None if sentinels is None else ~sentinels.places
            if number.reference_nonfinite or number.new_nan or number.new_inf:
                both = np.isfinite(own) & np.isfinite(candidate)
                usable = both if usable is None else usable & both
            self.slices.add(own, candidate, usable)

    def _count(self, number: Difference | None, sample: int, problems: Problems) -> None:
        if number is None:
            return
        self.reference_nonfinite += number.reference_nonfinite
        self.new_nan += number.new_nan
        self.new_inf += number.new_inf
        self.lost_nan += number.lost_nan
        self.lost_inf += number.lost_inf
        if number.low is not None and number.high is not None:
            self.low, self.high = min(self.low, number.low), max(self.high, number.high)
        name = self.name.replace("{", "{{").replace("}", "}}")
        if number.new_nan or number.new_inf:
            self.finite = False
            text = f'Output "{name}" has {{}} NaN and {{}} infinite values where the reference has others'
            problems.add("nonfinite", self.name, text, sample, (number.new_nan, number.new_inf))
        if number.lost_nan or number.lost_inf:
            text = (
                f'Output "{name}" has numbers in {{}} places where the reference has NaN and in {{}} where it has Inf'
            )
            problems.add("vanished", self.name, text, sample, (number.lost_nan, number.lost_inf))

    # After the last sample

    @property
    def peak(self) -> float:
        """Largest magnitude in the reference, over all samples."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def scale(self) -> float:
        """S in the formulas of :mod:`ortforge.portable.comparison.parity`."""
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
        entry |= {"cosine": None, "sqnr_db": None, "agreement": self.decisions.of_sample(position)}
        if row.same is not None and entry["agreement"] is None:
            entry["agreement"] = row.same / row.elements if row.elements else None
        number = row.difference
        if number is None or number.low is None:
            return entry | {"exact": row.elements == 0 or bool(entry["exact"])}
        entry |= {"max_abs": number.max_abs, "max_rel_range": finite(number.max_abs / self.scale)}
        if row.same is None:
            changed = number.new_nan or number.new_inf or number.lost_nan or number.lost_inf
            entry["exact"] = number.error_energy == 0.0 and not changed
            if row.elements > 1 and not self._is_quiet(number):
                entry["cosine"] = _cosine([number])
                entry["sqnr_db"] = finite(_sqnr([number]))
        return entry

    def _is_quiet(self, number: Difference) -> bool:
        """Return whether a sample carries so little that cosine and SQNR would measure noise."""
        if 0.0 < self.peak * QUIET > number.peak:
            return True
        in_unit = self.low >= -1e-6 and self.high <= 1.0 + 1e-6
        return in_unit and self.recognized.role == "mask" and number.peak < PROBABILITY_FLOOR

    def summary(self) -> dict[str, Any]:
        """Return the output's entry in the result."""
        rows = [self.row(position) for position in range(len(self.rows))]
        numbers = [row.difference for row in self.rows if row.difference is not None and row.difference.low is not None]
        result: dict[str, Any] = {
            "kind": self.kind,
            "role": self.recognized.role,
            "recognized_by": self.recognized.why,
            "dtype": self.dtype,
            "candidate_dtype": self.candidate_dtype,
            "shape": self.shape,
            "samples": len(self.rows) + self.mismatched,
            "shape_mismatches": self.mismatched,
            "identical": self.identical and bool(self.rows),
            "new_nan": self.new_nan,
            "new_inf": self.new_inf,
            "lost_nan": self.lost_nan,
            "lost_inf": self.lost_inf,
            "reference_nonfinite": self.reference_nonfinite,
            "range": finite(self.high - self.low) if numbers else None,
            "scale": self.scale if numbers else None,
            "evidence": self.seen.facts(),
        }
        result |= _worst(rows, "max_abs", max) | _worst(rows, "max_rel_range", max)
        result |= self._measured_summary(rows, numbers) if self.is_measured else {}
        result |= self._decision_summary(rows)
        result["slices"] = summarize_slices(self.slices) if self.is_measured else None
        result["worst_samples"] = sorted(rows, key=_badness)[:WORST_SAMPLES]
        return result

    def _measured_summary(self, rows: list[dict[str, Any]], numbers: list[Difference]) -> dict[str, Any]:
        result = _worst(rows, "cosine", min) | _worst(rows, "sqnr_db", min)
        pooled = all(number.scale == 1.0 for number in numbers) and bool(sum(number.elements for number in numbers))
        result["cosine_overall"] = _cosine(numbers) if pooled else None
        noise = _sqnr(numbers) if pooled else math.nan
        result["sqnr_db_overall"] = finite(noise)
        if not (numbers and all(self._is_quiet(number) for number in numbers)):
            # Outputs of one element have an angle over all samples together only.
            result["cosine"] = result["cosine_overall"] if result["cosine"] is None else result["cosine"]
            result["sqnr_db"] = finite(noise) if result["sqnr_db"] is None else result["sqnr_db"]
        result["sqnr_infinite"] = result["sqnr_db"] is None and bool(rows) and all(row["exact"] for row in rows)
        result["sqnr_no_signal"] = result["sqnr_db"] is None and noise == -math.inf
        return result

    def _decision_summary(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        kind, agreeing, of = self.decisions.agreement()
        if not kind and not self.is_measured:  # booleans and strings without a role of their own
            agreeing, of = sum(row.same or 0 for row in self.rows), sum(row.elements for row in self.rows)
            kind = "exact" if of else ""
        worst = _worst(rows, "agreement", min)
        return {
            "agreement_kind": kind or None,
            "agreement": agreeing / of if of else None,
            "agreeing": agreeing if of else None,
            "agreement_of": of or None,
            "agreement_worst_sample": worst["agreement_sample"] if of else None,
            "lost_labels": self.decisions.lost_labels(),
            "lost_places": self.decisions.lost_places(),
            "psnr_db": self.decisions.psnr_db,
        }


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
