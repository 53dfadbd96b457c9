"""The statuses of a cell, and what each group of them means. This is their only home."""

from __future__ import annotations

from typing import Final

__all__ = ["BROKEN", "CORRECT", "NOT_RUN", "STATUSES", "is_correct", "rank"]

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
"""Every status that a cell can have, best to worst.

``pass``
    correct on sufficient evidence, and it gains what its recipe is for.
``no-gain``
    correct; the difference to its baseline is shown to lie within the margin, or the recipe changed nothing.
``undecided``
    correct; this machine could not tell its speed.
``slower``
    correct, and shown to be slower than its baseline.
``unproven``
    nothing wrong was seen, and too little was compared to say that it is correct.
``inaccurate``
    it gives other answers than the reference.
``misplaced``
    the EP did not take enough of the model.
``unsupported``
    this device, EP or runtime cannot run it; known without a fault of the model.
``incompatible``
    the versions of EP, runtime and model do not go together.
``damaged``
    no runtime can read the model file.
``crashed``, ``out-of-memory``, ``timeout``, ``failed``
    what became of a process or a step.
``blocked``
    a step that the cell needs did not succeed.
"""

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
