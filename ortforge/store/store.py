"""The store: where everything that ortforge makes is kept, in one folder.

::

    ROOT/objects/ab/cdef…     content-addressed results
    ROOT/ledger.sqlite3       attempts at steps, verdicts, runs
    ROOT/envs/                environments of runtimes
    ROOT/locks/               locks between processes
    ROOT/tmp/                 what is being made
    ROOT/CACHEDIR.TAG         tells backups, and ortforge itself, what this folder is
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from ortforge.errors import StoreError
from ortforge.store.atomic import disk_errors
from ortforge.store.locks import hold
from ortforge.store.objects import ObjectStore

if TYPE_CHECKING:
    from ortforge.store.ledger import Ledger

__all__ = ["RUN_LOCK", "Store", "default_root", "open_store"]

RUN_LOCK: Final = "run"
"""The lock that runs share and cleaning takes alone, so that nothing is removed under a run's feet."""

_VARIABLE: Final = "ORTFORGE_STORE"
_MARKER: Final = "CACHEDIR.TAG"
_TAG: Final = b"""Signature: 8a477f597d28d172789f06886806bc55
# This folder is a store of ortforge: it can be made again. About this file: https://bford.info/cachedir/
"""


class Store:
    """The store in folder ``root``, which is made when it is not there. Opening it takes a few milliseconds.

    :raises StoreError: the folder cannot be written, or is somebody else's.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.envs = self.root / "envs"
        self._locks = self.root / "locks"
        self._ledger: Ledger | None = None
        self._opening = threading.Lock()
        self._make_folders()
        self.objects = ObjectStore(self.root)

    @property
    def ledger(self) -> Ledger:
        """The ledger; opened when it is first asked for.

        :raises StoreError: it is damaged, or was written by a newer ortforge.
        """
        with self._opening:
            if self._ledger is None:
                from ortforge.store.ledger import Ledger  # SQLite is not needed by what only hashes

                self._ledger = Ledger(self.root / "ledger.sqlite3")
            return self._ledger

    def lock(
        self,
        name: str,
        *,
        shared: bool = False,
        wait: bool = True,
        waiting: Callable[[str], None] | None = None,
    ) -> AbstractContextManager[None]:
        """Hold a lock among all processes that use this store; see :func:`ortforge.store.locks.hold`.

        :param name: any file name.
        :param waiting: told once, in words, who holds it, before waiting for it.
        """
        return hold(self._locks / name, shared=shared, wait=wait, waiting=waiting)

    def close(self) -> None:
        """Close the ledger, if it was opened."""
        with self._opening:
            if self._ledger is not None:
                self._ledger.close()
                self._ledger = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_folders(self) -> None:
        marker = self.root / _MARKER
        with disk_errors(self.root):
            if not marker.exists():
                self._refuse_strangers()
                self.root.mkdir(parents=True, exist_ok=True)
                marker.write_bytes(_TAG)
            for folder in (self.envs, self._locks):
                folder.mkdir(exist_ok=True)
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise _unwritable(self.root, "it may not be written")

    def _refuse_strangers(self) -> None:
        """Cleaning a store removes ``objects`` and ``envs``: those must be our own."""
        for name in ("objects", "envs"):
            found = next((self.root / name).glob("*"), None)
            if found is not None and not (self.root / _MARKER).exists():  # another process may make the store just now
                raise StoreError(
                    f"{self.root} has a folder {name!r} and is not a store of ortforge ({_MARKER} is not there).",
                    meant="A new or an empty folder was probably meant.",
                    todo="Give another one: --store DIR.",
                )


def default_root() -> Path:
    """Return where the store is when nobody says: ``ORTFORGE_STORE``, else the user's cache folder."""
    given = os.environ.get(_VARIABLE)
    if given:
        return Path(given)
    from platformdirs import user_cache_path

    return user_cache_path("ortforge")


def open_store(root: Path | None = None) -> Store:
    """Open the store in a folder, by default :func:`default_root`, and make it when it is not there.

    :raises StoreError: the folder cannot be made or written, or is somebody else's.
    """
    folder = root if root is not None else default_root()
    try:
        return Store(folder)
    except FileExistsError:
        raise _unwritable(folder, "a file of that name is in the way", named=root is not None) from None
    except StoreError as error:
        if isinstance(error.__cause__, OSError):
            reason = os.strerror(error.__cause__.errno or 0).lower()
            full = error.what if error.what.startswith("The disk is full") else ""
            raise _unwritable(folder, full or reason, named=root is not None) from error
        raise


def _unwritable(folder: Path, reason: str, *, named: bool = True) -> StoreError:
    """Say that a store cannot be used. :param named: whether its user named it."""
    meant = ""
    if os.environ.get(_VARIABLE) and Path(os.environ[_VARIABLE]) == folder:
        meant = f"{_VARIABLE} names this folder."
    elif not named:
        meant = "The home folder may be read-only or missing, as in some containers."
    return StoreError(
        f"The store {folder} cannot be used: {reason}.",
        meant=meant,
        todo="Give ortforge a folder that it may write: --store DIR, or ORTFORGE_STORE=DIR.",
    )
