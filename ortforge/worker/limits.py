"""What a worker does to itself before anything else: limits, and dying with its supervisor.

A parent could do this between fork and exec, but not safely while it runs threads, nor through ``docker exec``.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
from pathlib import Path

__all__ = ["cpu_seconds", "limit_address_space", "peak_rss", "settle"]

_PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""

SLACK_PER_CPU = 72 << 20
"""Address space that each thread may map without using it: 8 MiB of stack and a 64 MiB arena of glibc's malloc."""

SLACK = 1 << 30
"""Address space for code: the libraries of a large runtime (OpenVINO, CUDA stubs) map up to about 0.7 GiB."""


MEMORY: list[int] = []
"""What the job's processes may use together, in bytes, once it is known (the last entry counts)."""


def settle() -> None:
    """Die with the supervisor, leave no core file, and say where in Python a crash happened.

    The kernel's signal ends this process even while C code hangs with the interpreter's lock held (ORT loads models
    that way). It does not reach children: those go with the group when the channel sees its end of input first.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # It raises the signal again after writing, so that the supervisor still sees which one it was.
    faulthandler.enable(all_threads=False)


def limit_address_space(memory: int) -> None:
    """Limit what this process may map, so that memory for ``memory`` bytes of data is surely there.

    Resident memory is what the supervisor limits exactly, but only by looking now and then. This one acts at once, on
    the single huge allocation that would take the machine down in between, and as an error that can be reported.
    What the interpreter has mapped already, code, stacks and malloc's arenas do not count as the job's.
    """
    mapped = 0
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = mapped + memory + SLACK + SLACK_PER_CPU * (os.cpu_count() or 1)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def peak_rss() -> int:
    """Return the most resident memory this process has had, in bytes.

    ``ru_maxrss`` is not asked on Linux: a process started by vfork inherits its parent's.
    """
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def cpu_seconds() -> float:
    """Return the processor time that this process has used, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
