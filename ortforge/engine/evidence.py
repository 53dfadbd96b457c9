"""What a cell's verdict rests on besides the compared numbers: its inputs, the branches taken, a stable reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ortforge.engine.walk import Settled
from ortforge.plan.graph import Cell
from ortforge.portable.comparison.evidence import summarize_evidence

__all__ = ["branch_notes", "evidence_of", "instability"]

MIN_DIFFERENCE: Final = 1e-4
"""A model that differs from itself by less, as a share of an output's range, adds up floats in another order."""
MAX_NAMED: Final = 3
"""Nodes that one sentence names."""


def instability(reference: Mapping[str, Any], inspected: Mapping[str, Any]) -> str:
    """Return how the model's answers differ from run to run, as sentences, or ``""``.

    :param reference: result of the ``reference`` step; :param inspected: of the ``inspect`` step.
    """
    unstable = (reference.get("self_difference") or {}).get("unstable") or {}
    real = {
        name: entry["largest"]
        for name, entry in unstable.items()
        if entry["largest"] is None or entry["largest"] > MIN_DIFFERENCE
    }
    if not real:
        return ""
    name, largest = max(real.items(), key=lambda item: float("inf") if item[1] is None else item[1])
    how = "in shape or type" if largest is None else f"by up to {largest:.2g} of its range"
    sentence = f'The model\'s answers differ from run to run: output "{name}" changes {how} when a sample is repeated.'
    if random := inspected.get("random_ops") or ():
        named = _listed([" ".join(filter(None, (one["op"], one["name"]))) for one in random])
        sentence += f" It has random operators: {named}."
    return (
        f"{sentence} So nothing shows what a recipe changes. Take the random operators out, set their seed, or switch "
        "training mode off."
    )


def branch_notes(reference: Mapping[str, Any]) -> list[str]:
    """Return what the samples leave unseen of a model with branches."""
    branches = reference.get("branches") or {}
    notes = []
    if one_sided := branches.get("one_sided"):
        named = _listed([f"{one['node'] or 'an If'} ({one['taken']})" for one in one_sided])
        notes.append(
            f"{len(one_sided)} of {branches['conditions']} If nodes take one branch only in these samples: {named}. "
            "What the other branches answer is not known."
        )
    return notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")


def evidence_of(cell: Cell, parity: Mapping[str, Any] | None, steps: Mapping[str, Settled]) -> dict[str, Any] | None:
    """Return what the verdict rests on, for the report, or ``None`` where nothing was compared."""
    if parity is None:
        return None
    reference = steps["reference"].result if "reference" in steps else {}
    branches = reference.get("branches")
    inputs = (steps["dataset"].result.get("inputs") or {}) if "dataset" in steps else {}
    return {
        **summarize_evidence(parity),
        "inputs": "generated" if cell.facts.get("random_validation") else "real",
        "input_shapes": {name: entry.get("shapes") for name, entry in inputs.items()},
        "branches": branches,
        "stable_reference": not (reference.get("self_difference") or {}).get("unstable"),
        "missing": list(parity["missing"]),
    }
