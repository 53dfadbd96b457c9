"""The exit code of a run: as expected or not, or what kept it from being done (a build, the environment)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from ortforge.engine.lacking import FULL_DISK, LACKS
from ortforge.engine.walk import Settled
from ortforge.errors import ExitCode
from ortforge.plan.graph import Cell

__all__ = ["obstacle"]

_BUILD_KINDS: Final = frozenset({"source", "image", "operators", "compile", "package", "prove"})


def obstacle(cells: Sequence[Cell], settled: Mapping[str, Settled], unmet: Collection[str]) -> ExitCode | None:
    """Return the exit code for what kept a run from being done, or ``None`` when it is decided by the verdicts alone.

    The causes, strongest first: the environment lacks something (4), a build failed (3). A full disk always counts;
    any other cause only when a cell that depends on the step gave no answers and is not as expected.

    :param unmet: ids of cells that gave no answers and are not as expected.
    """
    codes = {name: _code(step) for name, step in settled.items() if step.status not in ("ok", "blocked")}
    if any(settled[name].result.get(FULL_DISK) for name in codes):
        return ExitCode.ENVIRONMENT
    found = 0
    for cell in cells:
        if cell.id in unmet:
            for name in (*cell.steps.values(), *cell.transforms):
                found = max(found, max((codes.get(root, 0) for root in _roots(name, settled)), default=0))
    return ExitCode(found) if found > ExitCode.VERDICT else None


def _code(step: Settled) -> int:
    if step.result.get(LACKS):
        return int(ExitCode.ENVIRONMENT)
    return int(ExitCode.BUILD if step.step.kind in _BUILD_KINDS else ExitCode.VERDICT)


def _roots(name: str, settled: Mapping[str, Settled]) -> set[str]:
    """Return a step, and when it was blocked the failed steps that it waited for in vain."""
    found: set[str] = set()
    stack = [name]
    while stack:
        current = stack.pop()
        step = settled.get(current)
        if step is None or step.ok or current in found:
            continue
        found.add(current)
        if step.status == "blocked":
            stack.extend((*step.step.inputs, *step.step.after))
    return found
