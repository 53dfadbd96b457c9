"""What the kernel accounts of a container: CPU time, and processes that it killed for want of memory.

The engine's own figures take it a second, so they are read where the kernel has them: on this machine when the engine
runs here, and else inside of the container.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["INSIDE", "Usage", "outside", "read_usage"]

INSIDE: Final = (
    "/sys/fs/cgroup/cpu.stat",
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/cpuacct/cpuacct.usage",
    "/sys/fs/cgroup/memory/memory.oom_control",
)
"""The files as a container sees them: two of control groups version 2, and two of version 1 (Linux's documentation,
``admin-guide/cgroup-v2.rst``, ``cgroup-v1/cpuacct.rst`` and ``cgroup-v1/memory.rst``)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since the container started, and processes killed for want of memory."""

    cpu_s: float = 0.0
    kills: int = 0


def outside(container: str, pid: int, proc: Path = Path("/proc"), mount: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    """Return the same files as this machine sees them, none when the engine runs elsewhere.

    :param container: its id. :param pid: of its first process, on the engine's machine.
    """
    try:
        lines = (proc / str(pid) / "cgroup").read_text("utf-8").splitlines()
    except OSError:
        return []
    places = dict(line.split(":", 2)[1:] for line in lines if line.count(":") >= 2)
    if not any(container in place for place in places.values()):
        return []
    found: list[Path] = []
    for controllers, place in places.items():
        names = controllers.split(",")
        folder = mount / place.lstrip("/")
        if not controllers:
            found += [folder / "cpu.stat", folder / "memory.events"]
        if "cpuacct" in names:
            found.append(mount / "cpuacct" / place.lstrip("/") / "cpuacct.usage")
        if "memory" in names:
            found.append(mount / "memory" / place.lstrip("/") / "memory.oom_control")
    return [path for path in found if path.is_file()]


def read_usage(texts: Sequence[str]) -> Usage:
    r"""Read the content of such files, in any order.

    >>> read_usage(["usage_usec 1500000\nuser_usec 1\n", "oom 1\noom_kill 2\n"])
    Usage(cpu_s=1.5, kills=2)
    >>> read_usage(["1500000000\n", "under_oom 0\noom_kill 1\n"])
    Usage(cpu_s=1.5, kills=1)
    """
    text = "\n".join(texts)
    kills = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    if usec := re.search(r"^usage_usec (\d+)$", text, re.MULTILINE):
        cpu_s = int(usec[1]) / 1e6
    else:
        nsec = re.search(r"^(\d+)$", text, re.MULTILINE)
        cpu_s = int(nsec[1]) / 1e9 if nsec else 0.0
    return Usage(cpu_s, int(kills[1]) if kills else 0)
