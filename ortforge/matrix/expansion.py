"""From the matrix's lists and globs to cells: plain data, cheap enough for ten thousand of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ortforge.matrix.config import EntryConfig, Selection
from ortforge.matrix.matrix import Matrix
from ortforge.matrix.targets import EpUse

__all__ = ["CellSpec", "cells", "ep_names", "idle_selections", "matching"]


@dataclass(frozen=True, slots=True)
class CellSpec:
    """One combination that gets a verdict: all names, except the EP with its options."""

    model: str
    recipe: str
    target: str
    ep: EpUse
    device: str

    @property
    def id(self) -> str:
        """The cell's name in reports and on the command line."""
        return f"{self.model}/{self.recipe}@{self.target}:{self.ep.label}/{self.device}"


@dataclass(frozen=True, slots=True)
class _Block:
    """A product: every model with every recipe on every target and EP, on every device."""

    models: Sequence[str]
    recipes: Sequence[str]
    uses: Sequence[tuple[str, EpUse]]
    devices: Sequence[str]

    def __iter__(self) -> Iterator[CellSpec]:
        for model in self.models:
            for recipe in self.recipes:
                for target, ep in self.uses:
                    for device in self.devices:
                        yield CellSpec(model, recipe, target, ep, device)

    def empty(self) -> bool:
        return not (self.models and self.recipes and self.uses and self.devices)


@dataclass(frozen=True, slots=True)
class _Filter:
    """A selection with its globs resolved: ``None`` stands for "any"."""

    models: frozenset[str] | None
    recipes: frozenset[str] | None
    uses: frozenset[tuple[str, str]] | None
    devices: frozenset[str] | None

    def takes(self, spec: CellSpec) -> bool:
        return (
            (self.models is None or spec.model in self.models)
            and (self.recipes is None or spec.recipe in self.recipes)
            and (self.uses is None or (spec.target, spec.ep.label) in self.uses)
            and (self.devices is None or spec.device in self.devices)
        )

    def meets(self, block: _Block) -> bool:
        """Say whether it takes any cell of a block, without walking the block."""
        return (
            (self.models is None or not self.models.isdisjoint(block.models))
            and (self.recipes is None or not self.recipes.isdisjoint(block.recipes))
            and (self.uses is None or any((target, ep.label) in self.uses for target, ep in block.uses))
            and (self.devices is None or not self.devices.isdisjoint(block.devices))
            and not block.empty()
        )


def cells(matrix: Matrix) -> Iterator[CellSpec]:
    """Yield every cell once, in the order of the file: entry, model, recipe, target, EP, device.

    An entry's cells are the product of its lists, less what ``exclude`` takes, plus what ``include`` adds.
    """
    seen: set[tuple[str, str, str, str, str]] = set()
    for entry in matrix.entries:
        for spec in _of_entry(matrix, entry):
            key = (spec.model, spec.recipe, spec.target, spec.ep.label, spec.device)
            if key not in seen:
                seen.add(key)
                yield spec


def _of_entry(matrix: Matrix, entry: EntryConfig) -> Iterator[CellSpec]:
    excluded = [_filter(matrix, selection) for selection in entry.exclude]
    for spec in _block(matrix, entry, None):
        if not any(rule.takes(spec) for rule in excluded):
            yield spec
    for selection in entry.include:
        yield from _block(matrix, entry, selection)


def idle_selections(matrix: Matrix) -> Iterator[tuple[int, str, int]]:
    """Yield (entry number, ``exclude`` or ``include``, number) of each selection that selects no cell."""
    for number, entry in enumerate(matrix.entries):
        block = _block(matrix, entry, None)
        for position, selection in enumerate(entry.exclude):
            if not _filter(matrix, selection).meets(block):
                yield number, "exclude", position
        for position, selection in enumerate(entry.include):
            if _block(matrix, entry, selection).empty():
                yield number, "include", position


def matching(names: Iterable[str], globs: Collection[str]) -> list[str]:
    """Return the names that any of the globs matches, in their own order."""
    if "*" in globs:
        return list(names)
    return [name for name in names if any(fnmatchcase(name, glob) for glob in globs)]


def ep_names(ep: EpUse) -> tuple[str, str]:
    """Return what a use of an EP can be called by: its label, and the EP's name, which stands for all of its uses."""
    return ep.label, ep.name


def _uses(matrix: Matrix, targets: Collection[str], eps: Collection[str]) -> list[tuple[str, EpUse]]:
    return [
        (target, ep)
        for target in matching(matrix.targets, targets)
        for ep in matrix.targets[target].ep_uses
        if matching(ep_names(ep), eps)
    ]


def _block(matrix: Matrix, entry: EntryConfig, selection: Selection | None) -> _Block:
    """Return an entry's product, with a selection's lists in place of the entry's where it has them."""
    chosen = selection or Selection.model_construct()
    return _Block(
        matching(matrix.models, chosen.model or entry.models),
        matching(matrix.recipes, chosen.recipe or entry.recipes),
        _uses(matrix, chosen.target or entry.targets, chosen.ep or entry.eps),
        matching(matrix.devices, chosen.device or entry.devices),
    )


def _filter(matrix: Matrix, selection: Selection) -> _Filter:
    uses = None
    if selection.target or selection.ep:
        found = _uses(matrix, selection.target or ("*",), selection.ep or ("*",))
        uses = frozenset((target, ep.label) for target, ep in found)
    return _Filter(
        frozenset(matching(matrix.models, selection.model)) if selection.model else None,
        frozenset(matching(matrix.recipes, selection.recipe)) if selection.recipe else None,
        uses,
        frozenset(matching(matrix.devices, selection.device)) if selection.device else None,
    )
