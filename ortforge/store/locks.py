"""Locks between processes, as files. The kernel lets go of a lock when its process dies, so none is ever stale.

A lock's file says who took it last, for the message to whoever waits. The file stays when the lock is free:
removing it could let two processes hold "the same" lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ortforge.errors import StoreError
from ortforge.store.atomic import disk_errors

__all__ = ["hold"]


@contextmanager
def hold(
    path: Path, *, shared: bool = False, wait: bool = True, waiting: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold a lock, among threads and processes alike. A thread must not take one that it holds.

    :param shared: any number may hold it so at once, but not beside one that holds it alone.
    :param wait: wait for it; otherwise it is an error that somebody holds it.
    :param waiting: told once, before waiting, who holds it.
    :raises StoreError: it is held and ``wait`` is false, or the file cannot be written.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            if not wait:
                raise StoreError(
                    f"The store is in use: {path.name} is held by {holder}.",
                    todo="Wait until that has finished, or end it, and try again.",
                ) from None
            if waiting is not None:
                waiting(holder)
            fcntl.flock(descriptor, how)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be locked: {error.strerror}.",
                meant="Some network filesystems have no locks.",
                todo="Give ortforge a folder on a local disk: --store DIR, or ORTFORGE_STORE=DIR.",
            ) from error
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    argv = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv and sys.argv[0] else ["python"]
    fact = {
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "command": " ".join(argv)[:200],
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with disk_errors("the lock file"):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(fact).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        fact = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {fact['pid']} on {fact['host']} ({fact['command']}), since {fact['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
