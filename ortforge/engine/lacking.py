"""Recognizes that a step failed because the environment lacks something: disk space, the network, a tool.

Whoever noticed it: ortforge, SQLite, uv, git or a worker. A model file that is not there, or a package that does not
exist, is not the environment's fault.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from ortforge.api import TaskOutcome
from ortforge.errors import EnvironmentLacksError, ExitCode, FetchError, ProvisionError

__all__ = ["FULL_DISK", "LACKS", "full_disk_text", "is_full_disk", "lacks_something", "marked"]

LACKS: Final = "environment_lacks"
"""Key in the result of a step that failed because the environment lacks something."""

FULL_DISK: Final = "full_disk"
"""Key in the result of a step that failed because a disk is full."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_WORDS: Final = ("no space left on device", "disk quota exceeded", "the disk is full", "database or disk is full")
"""How operating systems, SQLite and ortforge name a full disk; compared in lower case."""

_LACKING: Final = ("there is no network", "could not be reached", "the server was silent", "uv was not found")
"""What messages about a fetch or an installation say when the environment is the cause; compared in lower case."""

_ALMOST_NOTHING: Final = 1 << 20
"""Bytes: with less than this a process that died without a reason is taken to have died of the full disk."""


def is_full_disk(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, says that a disk or a quota is full."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if (isinstance(cause, OSError) and cause.errno in _FULL) or full_disk_text(str(cause)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def full_disk_text(*texts: str) -> bool:
    """Return whether a reason or a log says that a disk or a quota is full.

    >>> full_disk_text("OSError: [Errno 28] No space left on device: 'x.npz'")
    True
    """
    return any(word in text.lower() for text in texts for word in _WORDS)


def has_no_space(folder: Path) -> bool:
    """Return whether next to nothing is free on the filesystem of a folder."""
    try:
        facts = os.statvfs(folder)
    except OSError:
        return False
    return facts.f_bavail * facts.f_frsize < _ALMOST_NOTHING


def lacks_something(error: BaseException | None) -> bool:
    """Return whether an error says that the environment lacks something.

    A fetch or an installation fails for many reasons, most of which are not the environment's: those are told by their
    message.
    """
    if error is None:
        return False
    if isinstance(error, FetchError | ProvisionError):
        return is_full_disk(error) or any(word in str(error).lower() for word in _LACKING)
    return isinstance(error, EnvironmentLacksError) or is_full_disk(error)


def marked(outcome: TaskOutcome, error: BaseException | None, store: Path) -> TaskOutcome:
    """Return a failed step's outcome with :data:`LACKS`, and :data:`FULL_DISK`, in its result where they apply.

    :param error: what was raised, if anything. :param store: the folder of the store.
    """
    if outcome.status == "ok":
        return outcome
    unexplained = outcome.status == "crashed" or "no result" in outcome.reason
    full = (error is not None and is_full_disk(error)) or full_disk_text(outcome.reason, outcome.log)
    if full or (unexplained and has_no_space(store)):
        reason = outcome.reason
        if "disk is full" not in reason.lower():
            reason = f"The disk is full: {store} has no space left. {reason}"
        facts = {"exit_code": int(ExitCode.ENVIRONMENT), LACKS: True, FULL_DISK: True}
        return replace(outcome, reason=reason, result={**outcome.result, **facts})
    if lacks_something(error):
        return replace(outcome, result={**outcome.result, LACKS: True})
    return outcome
