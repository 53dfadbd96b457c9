"""The step graph: what a run is made of, as plain data.

A step's key is made from everything that can change its result: its kind and that kind's version, its
parameters, and the identities of its inputs. Identities are digests of content, so a key exists only once
all inputs are known; until then a step is "not known yet", never "the same as last time".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from ortforge.store.hashing import digest_json

__all__ = ["KIND_VERSIONS", "OBJECT_KINDS", "Cell", "Kind", "Plan", "Step", "VersionConflict", "key_of", "levels"]

Kind = Literal[
    "source",
    "image",
    "operators",
    "compile",
    "package",
    "prove",
    "fetch",
    "provision",
    "inspect",
    "dataset",
    "reference",
    "transform",
    "check",
    "compare",
    "noise",
    "time",
    "differences",
    "exclusion",
    "tiers",
]

KIND_VERSIONS: Final[Mapping[str, int]] = {
    "source": 1,
    "image": 2,
    "operators": 1,
    "compile": 1,
    "package": 1,
    "prove": 3,
    "fetch": 2,
    "provision": 1,
    "inspect": 2,
    "dataset": 5,
    "reference": 3,
    "transform": 4,
    "check": 2,
    "compare": 3,
    "noise": 5,
    "time": 6,
    "differences": 3,
    "exclusion": 2,
    "tiers": 1,
}
"""Raised when a kind's code changes what it finds, so that older results are not taken for new ones."""

OBJECT_KINDS: Final = frozenset({"source", "compile", "package", "fetch", "dataset", "reference", "transform", "check"})
"""Kinds whose identity is the digest of an object in the store."""

GREEDY_KINDS: Final = frozenset({"compile"})
"""Kinds that use all cores for a long time: nothing shares the machine with them."""

EXCLUSIVE_KINDS: Final = frozenset({"noise", "time"})
"""Kinds that own the device's cores while they run."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the plan.

    :param id: unique in the plan, readable (``transform:vad/int8@stock``).
    :param parameters: JSON; everything that can change the result and is known before the run.
    :param inputs: ids of steps whose results it uses: their identities are part of its key.
    :param after: ids of steps that must have succeeded, without being part of the key.
    :param context: where to find things (folders, paths): what can change without changing the result.
    """

    id: str
    kind: Kind
    parameters: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exclusive(self) -> bool:
        """Whether nothing else of ours may run beside it."""
        return self.kind in EXCLUSIVE_KINDS or "measures" in self.parameters

    @property
    def cores(self) -> int:
        """How many cores it may use; more than there are means all."""
        return 1 << 16 if self.kind in GREEDY_KINDS else 1


class VersionConflict(str):
    """Why a cell cannot run anywhere with these versions: its status is ``incompatible``, not ``unsupported``."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One (runtime, EP + options, session options, device, model, recipe): the unit that gets a verdict.

    :param baseline: id of the cell it takes turns with, or ``""`` for the matrix's own baseline.
    :param unsupported: why it cannot run here, known before anything is installed; such a cell has no steps. It is a
        :class:`VersionConflict` where versions do not go together.
    :param steps: role to step id; the roles are the kinds, and ``transform`` is the last pass of the recipe.
    :param transforms: all passes of the recipe, in order.
    :param facts: what the judge needs besides results: goal, tolerance, kinds of passes, random data.
    """

    id: str
    model: str
    recipe: str
    target: str
    ep: str
    device: str
    baseline: str = ""
    unsupported: str = ""
    steps: Mapping[str, str] = field(default_factory=dict)
    transforms: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, inputs before their users, and all cells in the matrix's order."""

    steps: Mapping[str, Step]
    cells: tuple[Cell, ...]
    matrix_digest: str = ""
    notes: tuple[str, ...] = ()

    def needed_by(self, cells: Iterable[Cell]) -> Plan:
        """Return the plan for some of the cells alone."""
        chosen = tuple(cells)
        wanted: set[str] = set()
        stack = [step for cell in chosen for step in cell.steps.values()]
        while stack:
            name = stack.pop()
            if name not in wanted:
                wanted.add(name)
                stack.extend(self.steps[name].inputs)
                stack.extend(self.steps[name].after)
        steps = {name: step for name, step in self.steps.items() if name in wanted}
        return Plan(steps, chosen, self.matrix_digest, self.notes)


def key_of(step: Step, identities: Iterable[str]) -> str:
    """Return the content key of a step, given its inputs' identities in the order of ``step.inputs``.

    The step's id is not part of it: two steps that would do the same share one result.
    """
    return digest_json([step.kind, KIND_VERSIONS[step.kind], step.parameters, list(identities)])


def levels(steps: Mapping[str, Step]) -> list[list[Step]]:
    """Group steps so that each one's inputs and predecessors lie in earlier groups.

    :raises ValueError: the graph has a cycle or names a step that is not there.
    """
    depth: dict[str, int] = {}
    for step in steps.values():
        try:
            depth[step.id] = 1 + max((depth[name] for name in (*step.inputs, *step.after)), default=-1)
        except KeyError as missing:
            raise ValueError(f"step {step.id} comes before {missing.args[0]}, which it needs") from None
    groups: list[list[Step]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for step in steps.values():
        groups[depth[step.id]].append(step)
    return groups
