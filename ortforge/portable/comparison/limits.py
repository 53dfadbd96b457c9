"""Which limits a comparison breaks, each as a sentence with output, sample, value and limit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

__all__ = ["GivenLimits", "Limits", "exceeded", "metric_errors"]

_DECISIONS: Final = {
    "top-1": "top-1 choices",
    "nearest": "nearest neighbors",
    "boxes": "detections",
    "overlap": "places of the mask",
    "exact": "elements",
}
"""What is counted by each kind of agreement."""

_ELEMENT: Final = re.compile(r"\[\d+\]")
"""The place of an element in a sequence, in the name of what the sequence is flattened to."""

MAX_NAMED: Final = 4
"""Slices of one axis, and labels, that one sentence names."""


class Limits(Protocol):
    """The limits that are asked of a comparison; ``None`` switches one off (:class:`ortforge.verdict.Tolerance`)."""

    @property
    def cosine(self) -> float | None:
        """Minimum cosine of any sample's output."""

    @property
    def sqnr_db(self) -> float | None:
        """Minimum SQNR in dB."""

    @property
    def max_rel_range(self) -> float | None:
        """Maximum error of any element, as a share of the output's range."""

    @property
    def slice_error(self) -> float | None:
        """Maximum error of any slice, as a share of the energy of its own variation."""

    @property
    def agreement(self) -> float | None:
        """Minimum share of equal decisions."""

    @property
    def task_drop(self) -> float | None:
        """Maximum drop of a labeled metric."""


class GivenLimits:
    """Limits by name, as a worker's job gives them; one that is not given is off."""

    def __init__(self, limits: Mapping[str, Any]) -> None:
        self.cosine: float | None = limits.get("cosine")
        self.sqnr_db: float | None = limits.get("sqnr_db")
        self.max_rel_range: float | None = limits.get("max_rel_range")
        self.slice_error: float | None = limits.get("slice_error")
        self.agreement: float | None = limits.get("agreement")
        self.task_drop: float | None = limits.get("task_drop")


def exceeded(parity: Mapping[str, Any], tolerance: Limits) -> list[str]:
    """Return one sentence for each limit that a parity result breaks, naming output, sample, value and limit."""
    sentences = [sentence for name, entry in parity["outputs"].items() for sentence in _output(name, entry, tolerance)]
    if tolerance.agreement is not None:
        for name, entry in _pooled(parity["outputs"]).items():
            sentences += _decisions(name, entry, tolerance.agreement)
    return sentences + list(_tasks(parity["tasks"], tolerance))


def _lost_places(name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    for lost in entry["lost_places"][:MAX_NAMED]:
        yield (
            f'Output "{name}": index {lost["index"]} of axis {lost["axis"]} (of {lost["size"]}) differs in '
            f"{lost['of'] - lost['agreeing']:,} of {lost['of']:,} elements"
            + (f" that are {lost['answer']}." if lost["answer"] else ".")
        )


def _pooled(outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the decisions of each output; those of a sequence's elements are counted together, as of one output."""
    groups: dict[tuple[str, Any], list[tuple[str, Mapping[str, Any]]]] = {}
    for name, entry in outputs.items():
        if entry.get("agreement") is not None:
            groups.setdefault((_ELEMENT.sub("[]", name), entry["agreement_kind"]), []).append((name, entry))
    pooled: dict[str, Mapping[str, Any]] = {}
    for members in groups.values():
        name, entry = min(members, key=lambda member: float(member[1]["agreement"]))
        agreeing = sum(member["agreeing"] for _, member in members)
        of = sum(member["agreement_of"] for _, member in members)
        pooled[name] = {**entry, "agreement": agreeing / of, "agreeing": agreeing, "agreement_of": of}
    return pooled


def metric_errors(parity: Mapping[str, Any], tolerance: Limits) -> tuple[list[str], list[str]]:
    """Return one sentence for each metric that raised: first those whose number a limit needs, then the others."""
    needed, others = list[str](), list[str]()
    for entry in parity["tasks"].values():
        if error := entry.get("error"):
            limit, name = _limit(entry, tolerance)
            if limit is None:
                others.append(error)
            else:
                needed.append(
                    f"{error.rstrip('.')}. The limit {name} needs its number: mend the metric, or turn the limit off."
                )
    return needed, others


def _output(name: str, entry: Mapping[str, Any], tolerance: Limits) -> Iterator[str]:
    def at(key: str) -> str:
        sample = entry.get(f"{key}_sample")
        return f'Output "{name}", ' + ("all samples together" if sample is None else f"sample {sample}")

    floor = tolerance.cosine
    if floor is not None and (value := entry.get("cosine")) is not None and value < floor:
        yield f"{at('cosine')}: cosine {value:.4g} is below {floor:g}."
    floor = tolerance.sqnr_db
    if floor is not None and (value := entry.get("sqnr_db")) is not None and value < floor:
        yield f"{at('sqnr_db')}: SQNR {value:.1f} dB is below {floor:g} dB."
    if floor is not None and entry.get("sqnr_no_signal"):
        yield f'Output "{name}": SQNR has no value, the reference is zero everywhere and the candidate is not.'
    limit = tolerance.max_rel_range
    if (
        limit is not None
        and entry["slices"] is not None
        and (value := entry.get("max_rel_range")) is not None
        and value > limit
    ):
        yield (
            f"{at('max_rel_range')}: the largest error is {value:.3g} of the output's range "
            f"({entry['max_abs']:.3g} of {entry['scale']:.3g}), the limit is {limit:g}."
        )
    if tolerance.slice_error is not None:
        yield from _slices(name, entry, tolerance.slice_error)
    # Which class is chosen from scores is a decision. Of labels that are outputs themselves it is all there is.
    if tolerance.agreement is not None or (tolerance.slice_error is not None and entry["slices"] is None):
        yield from _lost(name, entry)
        yield from _lost_places(name, entry)


def _slices(name: str, entry: Mapping[str, Any], limit: float) -> Iterator[str]:
    if entry["slices"] is None:
        return
    whole = False
    for axis in entry["slices"]["axes"]:
        ruined = [one for one in axis["worst"] if one["constant"] or one["error_share"] > limit * one["allowance"]]
        if not ruined:
            continue
        number = axis["axis"]
        whole = whole or number is None
        if number is None:
            what, shown = "the output as a whole", ruined
        elif whole and len(ruined) >= min(len(axis["worst"]), axis["size"] // 2 + 1):
            continue  # most slices are as bad as the whole, which has been said
        else:
            ruined = sorted(ruined, key=lambda one: int(one["index"]))
            shown = ruined[:MAX_NAMED]
            indices = ", ".join(str(one["index"]) for one in shown) + (" and others" if len(ruined) > MAX_NAMED else "")
            what = f"slice {indices}" if len(ruined) == 1 else f"slices {indices}"
            what += f" of axis {number} (of {axis['size']})"
        yield f'Output "{name}": {what} ' + _ruin(shown[0], limit, is_one=len(ruined) == 1)


def _ruin(first: Mapping[str, Any], limit: float, *, is_one: bool) -> str:
    """Say what became of slices, with the figures of the worst one."""
    if first["constant"]:
        return (
            f"became constant: the standard deviation is {first['reference_std']:.3g} in the reference and "
            f"{first['candidate_std']:.3g} here."
        )
    verb, whose = ("differs", "its") if is_one else ("differ", "their")
    return (
        f"{verb} by {first['error_share']:.3g} of {whose} own variation (standard deviation "
        f"{first['reference_std']:.3g} in the reference, {first['candidate_std']:.3g} here), the limit is "
        f"{limit * first['allowance']:.3g}."
    )


def _lost(name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    for lost in entry["lost_labels"][:MAX_NAMED]:
        yield (
            f'Output "{name}": class {lost["label"]} is lost: the reference chooses it {lost["of"]:,} times, and '
            f"the candidate agrees in {lost['agreeing']:,} of them."
        )


def _decisions(name: str, entry: Mapping[str, Any], floor: float) -> Iterator[str]:
    value, kind = entry.get("agreement"), entry.get("agreement_kind")
    if value is None:
        return
    if kind == "overlap":
        floor = floor / (2.0 - floor)
    if value < floor:
        of = f"{entry['agreeing']:,} of {entry['agreement_of']:,} {_DECISIONS[str(kind)]} agree"
        worst = entry.get("agreement_worst_sample")
        yield f'Output "{name}": {of} ({value:.4g}), below {floor:.4g}' + (
            f"; worst in sample {worst}." if worst is not None else "."
        )


def _limit(entry: Mapping[str, Any], tolerance: Limits) -> tuple[float | None, str]:
    """Return how far a metric may drop, ``None`` for as far as it likes, and the limit that says so."""
    if entry.get("needs_labels", True):
        return tolerance.task_drop, "task_drop"
    return (None if tolerance.agreement is None else 1.0 - tolerance.agreement), "agreement"


def _tasks(tasks: Mapping[str, Mapping[str, Any]], tolerance: Limits) -> Iterator[str]:
    for name, entry in tasks.items():
        drop = entry["drop"]
        limit, _ = _limit(entry, tolerance)
        if drop is not None and limit is not None and drop > limit + 1e-12:
            values = f"{entry['reference']:.4g} to {entry['candidate']:.4g}"
            yield f'The metric "{name}" got worse from {values}: a drop of {drop:.4g}, the limit is {limit:.3g}.'
