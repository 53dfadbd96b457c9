"""Writes docs/planted-faults.md from the catalogue: ``python tests/faults/fault_table.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "planted-faults.md"
sys.path[:0] = [str(HERE), str(HERE.parent / "unit")]

from catalogue import FAULTS, HARMLESS, Fault  # noqa: E402
from expected_reasons import SLICES, WORDS  # noqa: E402
from subjects import MODELS  # noqa: E402

HEAD = """# Planted faults and harmless changes

A wrong `pass` is the worst that ortforge can say. So {faults} faults are planted in real models, and each must be
detected: the verdict has the status in the table, and one of its reasons names the output and, where the table says
so, the slices or the kind of the fault. {harmless} changes that keep a model's answers must not be called `inaccurate`.

All outputs come from ONNX Runtime. The reference is the model on the CPU EP with graph optimizations off; tolerances
are the defaults. The tests take about two minutes on two cores:

    .venv/bin/pytest tests/faults

This page is written by `python tests/faults/fault_table.py`; a test fails when it is not current.
"""


def page() -> str:
    """Return the text of the page."""
    return "\n".join(
        [HEAD.format(faults=len(FAULTS), harmless=len(HARMLESS)), *_models(), *_faults(), *_harmless(), ""]
    )


def _models() -> Iterator[str]:
    yield from ("## Models", "", "| Name | Model and outputs |", "| --- | --- |")
    used = {entry.subject for entry in (*FAULTS, *HARMLESS)}
    for name, description in MODELS.items():
        if name in used:
            yield f"| {name} | {description} |"


def _faults() -> Iterator[str]:
    yield from ("", "## Faults", "", "| Model | Fault | What is wrong | Family | A reason names | Status |")
    yield "| --- | --- | --- | --- | --- | --- |"
    for fault in FAULTS:
        statuses = " or ".join(sorted(fault.statuses))
        yield (
            f"| {fault.subject} | {fault.name} | {fault.description} | {fault.family} | {_named(fault)} | {statuses} |"
        )


def _named(fault: Fault) -> str:
    """Return what a reason names: the output, and the slices or the words that the fault shows by."""
    named = f"`{fault.output}`"
    if fault.id in SLICES:
        axis, indices = SLICES[fault.id]
        return f"{named}, axis {axis}: {', '.join(map(str, indices))}"
    if fault.id in WORDS:
        return f"{named}: " + " or ".join(f"“{words.strip()}”" for words in WORDS[fault.id].split("|"))
    return named


def _harmless() -> Iterator[str]:
    yield from ("", "## Harmless changes", "", "| Model | Change | What is different |", "| --- | --- | --- |")
    for change in HARMLESS:
        yield f"| {change.subject} | {change.name} | {change.description} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
