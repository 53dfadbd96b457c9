"""The statuses of a cell, and what each group of them means. This is their only home."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["BROKEN", "CORRECT", "MEANINGS", "NOT_RUN", "STATUSES", "is_correct", "rank"]

STATUSES: Final = (
    "pass",
    "no-gain",
    "undecided",
    "slower",
    "unproven",
    "inaccurate",
    "misplaced",
    "unsupported",
    "incompatible",
    "damaged",
    "crashed",
    "out-of-memory",
    "timeout",
    "failed",
    "blocked",
)
"""Every status that a cell can have, best to worst."""

MEANINGS: Final[Mapping[str, str]] = {
    "pass": "correct on sufficient evidence, and it gains what its recipe is for",
    "no-gain": "correct; shown to differ from its baseline by less than the margin, or the recipe changed nothing",
    "undecided": "correct; this machine could not tell its speed. The reason says what would decide it",
    "slower": "correct, and shown to be slower than its baseline",
    "unproven": "nothing wrong was seen, and too little was compared. The reasons list what is missing",
    "inaccurate": "it gives other answers than the reference",
    "misplaced": "the EP did not take enough of the model",
    "unsupported": "this device, EP or runtime cannot run it",
    "incompatible": "the versions of EP, runtime and model do not go together",
    "damaged": "no runtime can read the model file",
    "crashed": "the process ended by a signal, which is named",
    "out-of-memory": "the process needed more memory than it may use",
    "timeout": "a phase took longer than its limit",
    "failed": "a step failed, for the reason that is given",
    "blocked": "a step that the cell needs did not succeed",
}
"""What each status means, as a phrase."""

CORRECT: Final = frozenset({"pass", "no-gain", "undecided", "slower"})
"""Statuses of cells whose answers were compared on sufficient evidence and are right."""

NOT_RUN: Final = frozenset({"unsupported", "incompatible"})
"""Statuses of cells that cannot run in this combination, through no fault of the model."""

BROKEN: Final = frozenset({"damaged", "crashed", "out-of-memory", "timeout", "failed", "blocked"})
"""Statuses of cells that gave no answers although they should have."""


def is_correct(status: str) -> bool:
    """Return whether a cell with this status gives the right answers, whatever its speed."""
    return status in CORRECT


def rank(status: str) -> int:
    """Return the position of a status, 0 being the best.

    :raises ValueError: it is not in :data:`STATUSES`.
    """
    return STATUSES.index(status)
