"""What the cells of one model say together, once all of them are judged.

A cell is judged by what became of it. Some reasons show only beside others: that no runtime reads the file, and that
the model was wrong at a place before any recipe changed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ortforge.portable.statuses import BROKEN, NOT_RUN, is_correct

__all__ = ["LoadAttempt", "damage", "reconsidered"]

WRONG: Final = {
    "inaccurate": "is already inaccurate",
    "crashed": "already crashes",
    "out-of-memory": "already runs out of memory",
    "timeout": "already exceeds its time limit",
    "failed": "already fails",
}
"""Statuses of a plain model that its recipes inherit, and how that is said."""

_NOT_LOADED: Final = frozenset({"crashed", "failed", "timeout", "out-of-memory"})

Cell = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LoadAttempt:
    """How a runtime took the model file as it came.

    :param place: the cell's runtime and EP. :param status: of the cell's check. :param kind: the worker's kind of an
        error (``model``, ``input`` …), or ``""``. :param reason: the runtime's own words.
    """

    place: str
    status: str
    kind: str = ""
    reason: str = ""

    def is_refusal(self, *, unread: bool) -> bool:
        """Return whether the runtime did not read the file.

        :param unread: onnx could not read it, either: then a death while loading counts, too.
        """
        return self.kind == "model" or (unread and self.status in _NOT_LOADED and self.kind != "input")


def damage(unread: str, unloaded: str, attempts: Sequence[LoadAttempt]) -> str:
    """Return why a model file is damaged, or ``""``: no runtime that tried reads it.

    :param unread: why onnx could not read it, or ``""``. :param unloaded: why the reference runtime could not, where
        it was asked. :param attempts: those of cells whose check was run on the model as it came.
    """
    if not attempts and not (unread and unloaded):
        return ""
    if not all(attempt.is_refusal(unread=bool(unread)) for attempt in attempts):
        return ""
    by_reason: dict[str, list[str]] = {}
    if unread:
        by_reason.setdefault(unread.rstrip("."), []).append("onnx")
    if unloaded:
        by_reason.setdefault(unloaded.rstrip("."), []).append("the reference runtime")
    for attempt in attempts:
        by_reason.setdefault(attempt.reason.rstrip("."), []).append(attempt.place)
    said = "; ".join(f"{', '.join(places)}: {reason}" for reason, places in by_reason.items())
    return f"The model file is damaged: no runtime can read it ({said}). Fetch or export the model again."


def reconsidered(
    cells: Sequence[Cell], damaged: Mapping[str, str], unread: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return the cells that get another verdict beside the others of their model.

    :param cells: entries of the report. :param damaged: sentences by model (see :func:`damage`).
    :param unread: why onnx could not read a model that a runtime reads, by model.
    """
    plain = {_place(cell): cell for cell in cells if cell["recipe"] == "none"}
    changed = []
    for cell in cells:
        if cell["model"] in damaged:
            if cell["status"] not in NOT_RUN:
                changed.append({**cell, "status": "damaged", "reasons": [damaged[cell["model"]]], "notes": []})
            continue
        entry = dict(cell)
        why = (unread or {}).get(cell["model"])
        if why and cell["status"] not in BROKEN | NOT_RUN:
            text = f"onnx cannot read the model file, and ONNX Runtime does: {why}"
            entry["notes"] = list(dict.fromkeys([*entry["notes"], text]))
        base = plain.get(_place(cell))
        if base is not None and base is not cell and base["status"] in WRONG:
            entry |= _inherited(cell, base)
        if entry != cell:
            changed.append(entry)
    return changed


def _inherited(cell: Cell, base: Cell) -> dict[str, Any]:
    """Say first that the model without the recipe is wrong here; of a cell that is right, only in its notes."""
    reason = str((base["reasons"] or ["no reason is known"])[0]).strip().splitlines()[0]
    text = f"Without a recipe, the model {WRONG[base['status']]} on {base['target']}:{base['ep']}: {reason}"
    where = "notes" if is_correct(cell["status"]) or cell["status"] in NOT_RUN else "reasons"
    return {where: list(dict.fromkeys([text, *cell[where]]))}


def _place(cell: Cell) -> tuple[str, str, str, str]:
    return cell["model"], cell["target"], cell["ep"], cell["device"]
