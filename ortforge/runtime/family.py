"""A worker process and what it started, for reading their memory and for leaving none behind."""

from __future__ import annotations

import contextlib
from typing import Final

import psutil

__all__ = ["Family"]

FAMILY_LOOK_S: Final = 2.0
"""Finding a process's children reads all of /proc, so it is done less often than reading their memory."""


class Family:
    """A process and what it started, for reading their memory."""

    def __init__(self, pid: int) -> None:
        self._members: list[psutil.Process] = []
        self._next_search = 0.0
        with contextlib.suppress(psutil.Error):
            self._members.append(psutil.Process(pid))

    def rss(self, now: float) -> int:
        """Return the resident bytes of all members together; pages that forks share count once for each."""
        if now >= self._next_search:
            self._next_search = now + FAMILY_LOOK_S
            self.search()
        total = 0
        for member in self._members:
            with contextlib.suppress(psutil.Error):
                total += member.memory_info().rss
        return total

    def search(self) -> None:
        """Find what the process has started until now."""
        if not self._members:
            return
        known = {member.pid for member in self._members}
        with contextlib.suppress(psutil.Error):
            found = self._members[0].children(recursive=True)
            self._members.extend(child for child in found if child.pid not in known)

    def kill_strays(self) -> None:
        """Kill members that left the process group; psutil knows when a number has become another process's."""
        for member in self._members[1:]:
            with contextlib.suppress(psutil.Error):
                member.kill()
