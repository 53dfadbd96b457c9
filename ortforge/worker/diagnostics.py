"""Lets a diagnostic fail without failing the job that it is about: what went wrong becomes a remark."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType

from .classify import short

__all__ = ["Remarks"]


class Remarks(list[str]):
    """Sentences about a job, among them those about diagnostics that failed."""

    def instead_of_failing(self, what: str) -> _Guard:
        """Return a context in which an exception becomes a remark; the traceback goes to the job's log.

        :param what: what is unknown because of it, as the beginning of a sentence.
        """
        return _Guard(self, what)


class _Guard:
    def __init__(self, remarks: Remarks, what: str) -> None:
        self._remarks, self._what = remarks, what

    def __enter__(self) -> None:
        """Begin; the context has no value."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        traceback.print_exception(error)
        sys.stderr.flush()
        self._remarks.append(f"{self._what}: {type(error).__name__}: {short(str(error)).rstrip('.')}.")
        return True
