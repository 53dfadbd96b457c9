"""What a comparison rests on, and what is missing before anybody may call a model correct.

``pass`` needs answers to compare: outputs that are not empty, that are not all NaN, and that differ from sample to
sample, so that a model that ignores its input is not taken for one that answers rightly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["missing_evidence", "summarize_evidence"]

DERIVED: Final = frozenset({"labels", "indices", "counts"})
"""Roles of integers that are made from other outputs: where those differ from sample to sample, these need not."""

EXEMPT: Final = frozenset({"constant", "ignored"})
"""Roles by which the matrix says that an output needs no evidence."""

_OVERRIDE: Final = 'If the output does not depend on the input, write outputs = {{ "{0}" = "constant" }} for the model.'


def missing_evidence(samples: int, outputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return one sentence for each thing that the samples could not show.

    :param samples: number of samples that both sides answered.
    :param outputs: the ``outputs`` of :func:`ortforge.portable.comparison.parity.compare`.
    """
    if samples == 0:
        return ["There are no samples, so nothing was compared."]
    if not outputs:
        return [
            "No output was compared: the reference gives none for these samples, or the matrix ignores all of them."
        ]
    missing: list[str] = []
    varying = any(entry["evidence"]["distinct_answers"] > 1 for entry in outputs.values())
    for name, entry in outputs.items():
        if entry["role"] not in EXEMPT:
            missing += _of_output(name, entry, samples, varying)
        elif entry["evidence"]["distinct_answers"] > 1:
            missing.append(
                f'Output "{name}" is called constant in the matrix, and it differs between samples. Give it its role, '
                "or none."
            )
    return missing


def _of_output(name: str, entry: Mapping[str, Any], samples: int, varying: bool) -> Iterator[str]:
    seen = entry["evidence"]
    if seen["empty_samples"] == seen["samples"]:
        yield (
            f'Output "{name}" is empty in all {seen["samples"]} samples, so nothing of it was compared. Give samples '
            "for which it is not, such as pictures that show what the model looks for."
        )
        return
    if seen["finite_elements"] == 0:
        yield (
            f'Output "{name}" of the reference has no finite value in any sample, so nothing of it was compared. '
            "Give inputs that the model has answers for."
        )
        return
    if seen["sentinels"] >= seen["finite_elements"]:
        yield f'Output "{name}" holds masked places only, so nothing of it was compared.'
    if seen["samples"] > 1 and seen["distinct_answers"] == 1 and not (entry["role"] in DERIVED and varying):
        yield (
            f'Output "{name}" is the same in all {seen["samples"]} samples, so a model that ignores its input would '
            f"pass as well. Give samples that differ in it. {_OVERRIDE.format(name)}"
        )
    elif samples == 1 and not seen["varies_in_sample"]:
        yield f'Output "{name}" holds one value only, and there is one sample. Give more samples.'
    if entry["role"] == "detector" and entry["agreement_of"] is None:
        yield (
            f'Output "{name}" was taken for a detector\'s ({entry["recognized_by"]}), and no sample has a score above '
            "0.01: no detection was compared. Give pictures that show what the model looks for, or another role."
        )


def summarize_evidence(parity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a comparison rests on, for the report::

    {"samples", "outputs": number of them, "varying_outputs": that differ between samples or positions,
     "finite_outputs", "nonempty_outputs", "slices": number compared, "decisions": number compared,
     "roles": {output: role}}
    """
    outputs = parity["outputs"]
    seen = [entry["evidence"] for entry in outputs.values()]
    return {
        "samples": parity["samples"],
        "outputs": len(outputs),
        "varying_outputs": sum(one["distinct_answers"] > 1 or one["varies_in_sample"] for one in seen),
        "finite_outputs": sum(0 < one["elements"] == one["finite_elements"] for one in seen),
        "nonempty_outputs": sum(one["elements"] > 0 for one in seen),
        "slices": sum(entry["slices"]["judged"] for entry in outputs.values() if entry["slices"]),
        "decisions": sum(entry["agreement_of"] or 0 for entry in outputs.values()),
        "roles": {name: entry["role"] for name, entry in outputs.items()},
    }
