"""Content-addressed objects and the ledger: what ortforge has made, and what became of every step."""

from ortforge.store.store import RUN_LOCK, Store, default_root, open_store

__all__ = ["RUN_LOCK", "Store", "default_root", "open_store"]
