"""Is the store healthy? It holds every finished result."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from ortforge.api import Check, CheckContext, CheckOutcome

_ELSEWHERE = "Give ortforge a folder that it may write: --store DIR, or ORTFORGE_STORE=DIR."


def ortforge_checks() -> Iterable[Check]:
    """Give the check."""
    yield Check(name="store", summary="the store can be written, and its ledger is whole", run=check, fix=fix)


def check(context: CheckContext) -> CheckOutcome:
    """Look whether the folder can be written and whether SQLite finds the ledger whole."""
    store = context.store
    if store.exists() and not store.is_dir():
        return CheckOutcome("problem", f"{store} is a file, and no folder.", _ELSEWHERE)
    above = next(path for path in (store, *store.parents) if path.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        return CheckOutcome("problem", f"{above} may not be written.", _ELSEWHERE)
    if not store.is_dir():
        return CheckOutcome("ok", f"{store} is not there yet: the first run makes it.")
    ledger = store / "ledger.sqlite3"
    if not ledger.exists():
        return CheckOutcome("ok", f"{store} is empty.")
    complaint, runs = _examine(ledger)
    if complaint:
        return CheckOutcome(
            "problem",
            f"The ledger {ledger} is damaged: {complaint}.",
            "'ortforge doctor --fix' moves it aside: objects and environments are kept, results are made anew.",
        )
    return CheckOutcome("ok", f"{store} is whole, with {runs} run{'' if runs == 1 else 's'}.")


def fix(context: CheckContext) -> None:
    """Move a damaged ledger aside; nothing is removed."""
    ledger = context.store / "ledger.sqlite3"
    if not ledger.is_file() or not _examine(ledger)[0]:
        return
    number = next(n for n in range(1, 10_000) if not ledger.with_name(f"damaged-{n}-{ledger.name}").exists())
    for part in sorted(context.store.glob(f"{ledger.name}*")):
        part.rename(part.with_name(f"damaged-{number}-{part.name}"))


def _examine(ledger: Path) -> tuple[str, int]:
    """Return what SQLite finds wrong with a ledger, or ``""``; and the number of runs in it."""
    try:
        with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=rw", uri=True, timeout=2.0)) as connection:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                return str(said), 0
            return "", int(connection.execute("SELECT count(*) FROM runs").fetchone()[0])
    except sqlite3.OperationalError as error:
        if "locked" in str(error):  # somebody is writing it: it works
            return "", 0
        return str(error), 0
    except sqlite3.DatabaseError as error:
        return str(error), 0
