"""How far a candidate's outputs are from the reference's, worst sample first.

Let ``r`` be the reference and ``c`` the candidate, one output of one sample, over the places where both are finite:

- ``max_abs`` = max |r - c|
- ``max_rel_range`` = max_abs / S. S is the output's range over all samples, ``max r - min r``; where that is only
  rounding (below 1e-5 of the largest |r|) it is the largest |r|, and 1 for an output that is zero everywhere
- ``cosine`` = r·c / (|r| |c|); two zero vectors give 1, one gives 0
- ``sqnr_db`` = 10 log10(sum r² / sum (r - c)²)
- ``agreement``: share of equal decisions (``decisions.py``), or of equal elements for integers and strings. Which
  decision an output stands for is recognized (``recognition.py``).
- ``slices``: the error of each row of each axis against that row's own variation (``slices.py``)

Sentinels (-1e9, finfo.min) and infinities must match exactly, and take part in none of these sums.

Cosine alone is blind: it is the angle of the whole tensor, so a detector can keep 0.999 while its one box is gone. The
largest error relative to the range sees that, the slices see a row that is lost among larger ones, and a task metric
sees whether it matters.

Cosine and SQNR of a sample are left out where they would only measure noise: a sample whose largest |r| is below
1e-3 of the output's (silence, a blank page; ``max_rel_range`` still sees a candidate that speaks up there), and
samples of one element, for which both are taken over all samples together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice, zip_longest
from typing import Any, Final, Protocol

import numpy as np

from .evidence import missing_evidence
from .measures import dtype_of, finite, kind_of
from .outputs import Output, Problems

__all__ = ["MetricLike", "compare"]

Sample = Mapping[str, Any]

EXAMPLES: Final = 3
"""Samples of the reference that are held to see what its outputs are."""


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


class _Pairing:
    """Streams sample pairs into outputs; keeps the samples themselves only when a metric needs them."""

    def __init__(self, keep: bool, roles: Mapping[str, str]) -> None:
        self.keep = keep
        self.roles = roles
        self.kept: tuple[list[Sample], list[Sample]] = ([], [])
        self.counts = [0, 0]
        self.examples: list[dict[str, Any]] = []
        self.outputs: dict[str, Output] = {}
        self.problems = Problems()
        self.notes: list[str] = []

    def take(self, reference: Iterable[Sample], candidate: Iterable[Sample]) -> None:
        rest = iter(reference)
        first = list(islice(rest, EXAMPLES))
        self.examples = [{name: np.asarray(value) for name, value in one.items()} for one in first]
        for sample, (left, right) in enumerate(zip_longest(chain(first, rest), candidate)):
            self.counts = [self.counts[0] + (left is not None), self.counts[1] + (right is not None)]
            if left is not None and right is not None:
                self.pair(sample, left, right)

    def pair(self, sample: int, left: Sample, right: Sample) -> None:
        arrays = {name: np.asarray(value) for name, value in left.items()}
        for name, reference in arrays.items():
            role = self.role(name)
            if role == "ignored":
                continue
            if name not in right:
                self.problems.add("missing", name, f'Output "{name}" is missing', sample)
                continue
            candidate = np.asarray(right[name])
            if name not in self.outputs:
                self.outputs[name] = Output(
                    name=name,
                    kind=kind_of(reference),
                    dtype=dtype_of(reference),
                    candidate_dtype=dtype_of(candidate),
                    shape=list(reference.shape),
                    role=role,
                    examples=self.examples,
                )
            self.outputs[name].add(sample, arrays, candidate, self.problems)
        extra = [name for name in right if name not in left and self.role(name) != "ignored"]
        if extra:
            shown = ", ".join(f'"{name}"' for name in extra[:3]) + (" and others" if len(extra) > 3 else "")
            self.problems.add("extra", extra[0].partition("[")[0], _extra(len(extra), shown), sample)
        if self.keep:
            self.kept[0].append(left)
            self.kept[1].append(right)

    def role(self, name: str) -> str:
        """Return the role that the matrix gives an output; an element of a sequence has its sequence's."""
        return self.roles.get(name) or self.roles.get(name.partition("[")[0]) or ""


def _extra(count: int, shown: str) -> str:
    what = "output or element" if count == 1 else "outputs or elements"
    return f"The candidate gives {count} {what} that the reference does not give ({shown})"


def compare(
    reference: Iterable[Sample],
    candidate: Iterable[Sample],
    *,
    labels: Sequence[Any] | None = None,
    metrics: Mapping[str, MetricLike] | None = None,
    owners: Mapping[str, str] | None = None,
    roles: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Compare outputs sample by sample; the formulas are this module's.

    :param reference: per sample a mapping from output name to array. Iterators are read once, in step with
        ``candidate``, and one sample of each is held at a time, unless there are ``metrics``: those see all samples
        together.
    :param labels: one JSON value per sample, handed to the metrics.
    :param metrics: task and parity metrics by name. One that needs labels is computed for each side alone; another
        compares the candidate (and, for its best value, the reference) with the reference. What one raises is no
        finding about the model: it is kept as that metric's ``error``, and everything else is compared.
    :param owners: the plugins that gave the metrics, in words, for that sentence.
    :param roles: roles that the matrix gives outputs, in place of what is recognized.
    :returns: JSON (NaN and infinities are ``None`` beside a flag)::

        {"samples", "identical", "finite",
         "outputs": {name: {"kind", "role", "recognized_by", "dtype", "candidate_dtype", "shape", "samples",
                            "shape_mismatches", "identical", "new_nan", "new_inf", "lost_nan", "lost_inf",
                            "reference_nonfinite", "range", "scale",
                            "evidence": {"samples", "empty_samples", "elements", "finite_elements", "sentinels",
                                         "distinct_answers", "varies_in_sample", "shapes"},
                            "slices": as ``slices.summarize_slices`` gives them, ``None`` for what is only equal
                                      or not,
                            "max_abs", "max_rel_range", "cosine", "sqnr_db": worst, each with "…_sample",
                            "cosine_overall", "sqnr_db_overall": over all samples together,
                            "sqnr_infinite": no error anywhere, "sqnr_no_signal": error on an all-zero reference,
                            "agreement_kind": "top-1" | "nearest" | "boxes" | "overlap" | "exact" | None,
                            "agreement": share, "agreeing": count, "agreement_of": count of decisions,
                            "agreement_worst_sample", "lost_labels": [{"label", "of", "agreeing"}],
                            "lost_places": [{"axis", "size", "index", "answer", "of", "agreeing"}], "psnr_db",
                            "worst_samples": [{"sample", "max_abs", "max_rel_range", "cosine", "sqnr_db", "agreement",
                                               "exact"}, … worst first]}},
         "worst": {"cosine", "sqnr_db", "max_rel_range", "agreement": worst over outputs, "output", "sample": where
                   max_rel_range is largest (or else what is worst), "where": {measure: [output, sample]}},
         "problems": [sentences], "notes": [sentences],
         "missing": what the samples could not show, as sentences (``evidence.py``),
         "tasks": {metric: {"reference", "candidate", "drop", "higher_is_better", "needs_labels",
                            "error": sentence, only where the metric raised}}}

    ``drop`` is positive when the candidate is worse. ``identical`` means bitwise the same everywhere, and is false for
    no samples at all.
    """
    metrics, owners = metrics or {}, owners or {}
    pairing = _Pairing(bool(metrics), roles or {})
    pairing.take(reference, candidate)
    samples = min(pairing.counts)
    problems = pairing.problems.sentences(samples)
    if pairing.counts[0] != pairing.counts[1]:
        problems.append(f"The candidate gave {pairing.counts[1]} samples where the reference has {pairing.counts[0]}.")
    outputs = {name: output.summary() for name, output in pairing.outputs.items()}
    for name, output in pairing.outputs.items():
        if output.reference_nonfinite:
            count = output.reference_nonfinite
            pairing.notes.append(f'The reference itself has {count} NaN or infinite values in output "{name}".')
    tasks: dict[str, dict[str, Any]] = {}
    for name, metric in metrics.items() if samples else ():
        tasks[name], problem = _task(name, metric, pairing.kept, labels, owners.get(name, ""))
        problems += [problem] if problem else []
    return {
        "samples": samples,
        "identical": not problems and bool(outputs) and all(entry["identical"] for entry in outputs.values()),
        "finite": all(output.finite for output in pairing.outputs.values()),
        "outputs": outputs,
        "worst": _worst_of(outputs),
        "problems": problems,
        "notes": pairing.notes,
        "missing": missing_evidence(samples, outputs),
        "tasks": tasks,
    }


def _counts(entry: Mapping[str, Any], key: str) -> bool:
    """Say whether an output has this measure; how far apart two class numbers or bits are means nothing."""
    return entry.get(key) is not None and (key != "max_rel_range" or entry["slices"] is not None)


def _worst_of(outputs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    where: dict[str, list[Any]] = {}
    worst: dict[str, Any] = {}
    for key, pick in (("max_rel_range", max), ("agreement", min), ("cosine", min), ("sqnr_db", min)):
        known = {name: entry[key] for name, entry in outputs.items() if _counts(entry, key)}
        worst[key] = pick(known.values()) if known else None
        if known:
            name = pick(known, key=lambda output: known[output])
            sample = outputs[name].get(f"{key}_sample")
            where[key] = [name, outputs[name]["worst_samples"][0]["sample"] if sample is None else sample]
    place = next(iter(where.values()), [None, None])
    return worst | {"output": place[0], "sample": place[1], "where": where}


def _task(
    name: str,
    metric: MetricLike,
    kept: tuple[list[Sample], list[Sample]],
    labels: Sequence[Any] | None,
    owner: str,
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
    except Exception as error:  # a plugin's defect: it says nothing of the model, and is never the end of the run
        of = f" of {owner}" if owner else ""
        return entry | {"error": f'The metric "{name}"{of} failed: {type(error).__name__}: {error}'}, ""
    entry |= {"reference": values[0], "candidate": values[1]}
    if values[0] is None or values[1] is None:
        sides = " and ".join(
            side for side, value in zip(("reference", "candidate"), values, strict=True) if value is None
        )
        return entry, f'The metric "{name}" gives no number for the {sides}; does it fit these outputs and labels?'
    entry["drop"] = (values[0] - values[1]) if metric.higher_is_better else (values[1] - values[0])
    return entry, ""
