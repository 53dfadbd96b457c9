"""Process 1 of a container: it starts the worker as its child, and ends the container when either side is gone.

The worker cannot be process 1 itself. The kernel drops signals that process 1 sends to itself, so that ``abort()``
would look like a segmentation fault; and while C code holds the interpreter's lock (ORT loads models that way)
nothing in the worker would notice that whoever started the container is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from pathlib import Path

__all__ = ["MEMORY_VARIABLE", "stand_aside"]

MEMORY_VARIABLE = "ORTFORGE_MEMORY"
"""Environment variable with the memory limit of the container, in bytes, for the message that tells of it."""

LOOK_MS = 500
"""Orphans of the worker are collected this often; its own end and the other side's wake this process at once."""

_OOM_KILLS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
"""Where the kernel counts the processes that it killed for this control group's memory: version 2, version 1."""


def stand_aside() -> None:
    """In process 1, go on in a child that leads a session of its own; elsewhere do nothing.

    Process 1 never returns from this: it ends with the child's exit code, or with 128 + n when signal n ended it.
    """
    if os.getpid() != 1 or sys.platform != "linux":
        return
    child = os.fork()
    if child == 0:
        os.setsid()
        return
    os._exit(_watch(child))


def _watch(child: int) -> int:
    """Wait for the worker's end, or for the end of standard input's other side; return this process's exit code."""
    poller = select.poll()
    poller.register(0, 0)  # asked for nothing, poll still tells of a hang-up; the commands are the worker's to read
    with contextlib.suppress(OSError):  # without it, the look below finds the end a moment later
        poller.register(os.pidfd_open(child), select.POLLIN)
    while True:
        ended = _collect(child)
        if ended is not None:
            return _tell(ended)
        if any(fd == 0 for fd, _ in poller.poll(LOOK_MS)):
            # Nobody is listening any more. The kernel ends all other processes of a container with its first.
            return 128 + signal.SIGKILL


def _collect(child: int) -> int | None:
    """Take over the exit status of every process that has ended; return the worker's, or ``None`` while it lives."""
    ended = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                ended = status
    return ended


def _tell(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    if code != -signal.SIGKILL or not _killed_for_memory():
        return code if code >= 0 else 128 - code
    limit = int(os.environ.get(MEMORY_VARIABLE) or 0)
    size = f" of {limit / (1 << 30):.1f} GiB" if limit >= 1 << 30 else f" of {limit >> 20} MiB" if limit else ""
    message = f"it needed more memory than its limit{size}: the kernel killed it"
    with contextlib.suppress(OSError):
        os.write(1, (json.dumps({"type": "error", "kind": "memory", "message": message}) + "\n").encode())
    return 128 - code


def _killed_for_memory() -> bool:
    for place in _OOM_KILLS:
        try:
            lines = Path(place).read_text().splitlines()
        except OSError:
            continue
        fields = dict(line.split()[:2] for line in lines if len(line.split()) >= 2)
        return int(fields.get("oom_kill", "0")) > 0
    return False
