"""What the store holds, by kind, and making room in it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from ortforge.errors import UsageError, nearest
from ortforge.store.atomic import disk_errors, remove
from ortforge.store.ledger import Ledger
from ortforge.store.store import RUN_LOCK, Store

__all__ = ["ENVIRONMENT", "UNREFERENCED", "UsageRow", "clean", "usage"]

ENVIRONMENT: Final = "environment"
"""Kind of the folders below ``envs``, which ``provision`` steps make."""

UNREFERENCED: Final = "unreferenced"
"""Kind of objects that no recorded result needs: left by a killed run, or by results that were forgotten."""

LEDGER: Final = "ledger"
"""Kind of the row that tells the size of the database."""

_PROVISION: Final = "provision"
_GRACE: Final = timedelta(hours=1)
"""An object is recorded a moment after it was made: younger ones that nothing refers to are left alone."""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What the store holds of one kind, or what cleaning freed of it.

    :param objects: objects, or environments; :param results: rows of the ledger; :param bytes: of the objects
        (an environment's files may share their space with the package installer's cache).
    :param last_used: when the latest of them was used or made, ISO 8601 in UTC, ``""`` when that is not known.
    """

    kind: str
    objects: int
    bytes: int
    last_used: str
    results: int = 0


@dataclass(frozen=True, slots=True)
class _Item:
    """One object or environment: ``kinds`` of all steps that made it, ``used`` in seconds since the epoch."""

    name: str
    kinds: tuple[str, ...]
    bytes: int
    used: float


@dataclass(slots=True)
class _Sum:
    objects: int = 0
    bytes: int = 0
    used: float = 0.0
    latest: str = ""
    results: int = 0

    def add(self, item: _Item) -> None:
        self.objects += 1
        self.bytes += item.bytes
        self.used = max(self.used, item.used)

    def row(self, kind: str) -> UsageRow:
        used = datetime.fromtimestamp(self.used, UTC).isoformat(timespec="seconds") if self.used else ""
        return UsageRow(kind, self.objects, self.bytes, max(used, self.latest), self.results)


def usage(store: Store) -> list[UsageRow]:
    """Return what the store holds: a row per kind of object, per kind of step, for environments and the ledger.

    An object that several kinds of steps made is counted once, under the first.
    """
    sums: dict[str, _Sum] = defaultdict(_Sum)
    for item in (*_objects(store), *_environments(store)):
        sums[item.kinds[0]].add(item)
    for kind in store.ledger.kinds():
        sums[kind.kind].results = kind.attempts
        sums[kind.kind].latest = kind.latest
    rows = [found.row(kind) for kind, found in sums.items()]
    size = sum(path.stat().st_size for path in store.root.glob(store.ledger.path.name + "*"))
    return [*sorted(rows, key=lambda row: (-row.bytes, row.kind)), UsageRow(LEDGER, 0, size, "")]


def clean(
    store: Store,
    *,
    older_than: timedelta | None = None,
    kinds: Collection[str] | None = None,
    everything: bool = False,
    dry_run: bool = False,
) -> list[UsageRow]:
    """Remove what is asked for; return what was freed, a row per kind. Reports of runs are always kept.

    Asked for nothing, it removes the objects that no recorded result needs. What is removed is forgotten by the
    ledger too, so that it is made again when it is needed.

    :param older_than: what was last used longer ago than this.
    :param kinds: kinds of steps, ``environment`` or ``unreferenced``. An object goes only when all kinds of steps that
        made it are named. With ``older_than``: what both ask for.
    :param everything: all objects, environments and results of steps.
    :param dry_run: remove nothing; say what would go.
    :raises UsageError: a kind that does not exist.
    :raises StoreError: a run is using the store.
    """
    held = {kind.kind: kind for kind in store.ledger.kinds()}
    chosen = _check_kinds(kinds, held) if kinds is not None else None
    if dry_run:
        return _clean(store, older_than, chosen, everything, dry_run=True)
    with store.lock(RUN_LOCK, wait=False):
        return _clean(store, older_than, chosen, everything, dry_run=False)


def _clean(
    store: Store, older_than: timedelta | None, kinds: frozenset[str] | None, everything: bool, *, dry_run: bool
) -> list[UsageRow]:
    now = datetime.now(UTC)
    sums: dict[str, _Sum] = defaultdict(_Sum)

    def wanted(item: _Item) -> bool:
        if everything:
            return True
        age = timedelta(seconds=now.timestamp() - item.used)
        if kinds is None and older_than is None:
            return item.kinds == (UNREFERENCED,) and age > _GRACE
        return (kinds is None or kinds.issuperset(item.kinds)) and (older_than is None or age > older_than)

    stored = list(_objects(store))
    objects = [item for item in stored if wanted(item)]
    environments = [item for item in _environments(store) if wanted(item)]
    # Results that are objects go by the objects' last use, of which an attempt's own age says nothing.
    aging = {kind for item in stored for kind in item.kinds} if older_than is not None else set()
    kinds_too = {kind.kind for kind in store.ledger.kinds() if everything or (kinds and kind.kind in kinds - aging)}
    if environments:
        kinds_too.add(_PROVISION)
    before = None if everything or older_than is None else now - older_than
    with store.ledger.rehearsal() if dry_run else nullcontext():
        # Forgotten before they are removed: killed in between, objects are left over, which the next cleaning finds.
        for kind, number in _forget(store.ledger, [item.name for item in objects], kinds_too, before).items():
            sums[kind].results = number
    for item in objects:
        if dry_run or store.objects.drop(item.name):
            sums[item.kinds[0]].add(item)
    for item in environments:
        if dry_run or _remove_environment(store, item.name):
            sums[ENVIRONMENT].add(item)
    if not dry_run:
        store.objects.sweep()
        if any(found.results for found in sums.values()):
            store.ledger.shrink()
    return [found.row(kind) for kind, found in sorted(sums.items()) if found.objects or found.results]


def _forget(ledger: Ledger, identities: list[str], kinds: set[str], before: datetime | None) -> dict[str, int]:
    """Forget attempts that made these, and those of these kinds; return how many of each kind."""
    earlier = {kind.kind: kind.attempts for kind in ledger.kinds()}
    ledger.forget(identities=identities)
    for kind in kinds:
        ledger.forget(kind=kind, before=None if kind == _PROVISION else before)
    later = {kind.kind: kind.attempts for kind in ledger.kinds()}
    return {kind: number - later.get(kind, 0) for kind, number in earlier.items() if number != later.get(kind, 0)}


def _objects(store: Store) -> Iterator[_Item]:
    makers = store.ledger.makers()
    for digest in store.objects:
        used = store.objects.last_used(digest)
        yield _Item(digest, tuple(makers.get(digest, (UNREFERENCED,))), store.objects.bytes(digest), used)


def _environments(store: Store) -> Iterator[_Item]:
    for folder in store.envs.iterdir():
        if folder.is_dir() and not folder.is_symlink():
            used = [folder.stat().st_mtime]
            # Its records are read whenever it is used: their access times tell, where the filesystem keeps them.
            for path in folder.iterdir():
                with suppress(OSError):
                    used.append(max(path.lstat().st_mtime, path.lstat().st_atime if path.is_file() else 0.0))
            yield _Item(folder.name, (ENVIRONMENT,), _size(folder), max(used))


def _size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(f"{place}/{name}").st_size
    return total


def _remove_environment(store: Store, name: str) -> bool:
    """Remove an environment, moved aside first so that a half-removed one is never found; ``False``: it was gone."""
    with store.objects.scratch() as scratch, disk_errors(store.envs / name), suppress(FileNotFoundError):
        (store.envs / name).rename(scratch / "environment")
        remove(scratch / "environment")
        return True
    return False


def _check_kinds(kinds: Collection[str], held: Collection[str]) -> frozenset[str]:
    known = {*held, ENVIRONMENT, UNREFERENCED}
    for kind in kinds:
        if kind not in known:
            close = nearest(kind, known)
            raise UsageError(
                f"The store holds nothing of kind {kind!r}.",
                meant=f"Perhaps you meant {close!r}." if close else "",
                todo=f"It holds: {', '.join(sorted(known))}.",
            )
    return frozenset(kinds)
