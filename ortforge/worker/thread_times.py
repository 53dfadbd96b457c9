"""How many threads of this process compute: from the CPU time of each, which Linux gives below /proc."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["COMPUTES", "computing_threads", "cpu_times"]

COMPUTES = 0.1
"""A thread computes when it uses at least this share of the busiest thread's CPU time.

Threads of an execution provider that only wait use less than 1 %; those of a model whose parallel operators are a small
part of it were seen at 20 % and more.
"""

_TASKS = "/proc/self/task"


def cpu_times() -> dict[int, int]:
    """Return the CPU time of each thread, in ns; empty where the system does not tell.

    ``schedstat`` counts nanoseconds. Kernels without it give ``stat``, which counts clock ticks (10 ms).
    """
    found = {}
    try:
        threads = os.listdir(_TASKS)  # noqa: PTH208 - one call for each turn of a measurement
    except OSError:
        return {}
    for thread in threads:
        try:
            found[int(thread)] = _cpu_time(thread)
        except (OSError, ValueError, IndexError):  # a thread that ended meanwhile
            continue
    return found


def _cpu_time(thread: str) -> int:
    try:
        with open(f"{_TASKS}/{thread}/schedstat") as file:  # noqa: PTH123
            return int(file.read().split()[0])
    except FileNotFoundError:
        with open(f"{_TASKS}/{thread}/stat") as file:  # noqa: PTH123
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def computing_threads(before: Mapping[int, int], after: Mapping[int, int]) -> int | None:
    """Return the number of threads that used CPU time between two calls of :func:`cpu_times`; ``None`` if unknown.

    >>> computing_threads({1: 0, 2: 0, 3: 0}, {1: 900, 2: 800, 3: 5})
    2
    """
    used = [time - before.get(thread, 0) for thread, time in after.items()]
    busiest = max(used, default=0)
    return sum(time >= COMPUTES * busiest for time in used) if busiest > 0 else None
