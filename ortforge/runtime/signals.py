"""What a process's end means: the signal's name, and what usually sends it."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Death", "read_death"]

_MEANINGS: Final = {
    "SIGSEGV": "it touched memory that is not its own",
    "SIGBUS": "usually a mapped file that is shorter than expected, such as truncated external data",
    "SIGFPE": "usually an integer division by zero",
    "SIGABRT": "the runtime gave up on itself",
    "SIGILL": "usually an instruction that this processor lacks",
}

_OUT_OF_MEMORY: Final = (
    "std::bad_alloc",
    "bad_array_new_length",
    "MemoryError",
    "Cannot allocate memory",
    "out of memory",
)
_NO_THREAD: Final = ("Resource temporarily unavailable", "can't start new thread", "pthread_create failed")


@dataclass(frozen=True, slots=True)
class Death:
    """How a process ended before its job was done.

    :param status: ``crashed``, ``out-of-memory`` or ``failed``. :param reason: a sentence.
    """

    status: str
    reason: str


def read_death(returncode: int, phase: str, log: str) -> Death:
    """Say what an exit without a result means.

    :param returncode: as :mod:`subprocess` has it: negative for a signal. 128 + n, as a shell or a container reports
        signal n, is understood too.
    :param phase: what the process was doing. :param log: the end of what it wrote to standard error.
    """
    name = _signal_name(returncode)
    doing = f"during {phase}"
    if name == "SIGKILL":
        return Death(
            "out-of-memory",
            f"killed with SIGKILL {doing}, and not by ortforge: most likely the kernel had no memory left for it"
            + _container_limit(),
        )
    if name == "SIGABRT" or not name:
        if any(words in log for words in _NO_THREAD):
            return Death(
                "failed", f"it could not start another thread {doing}: a limit on memory or on processes was reached"
            )
        if any(words in log for words in _OUT_OF_MEMORY):
            return Death("out-of-memory", f"it ended {doing} because an allocation failed: {_last_line(log)}")
    if name:
        meaning = f" ({_MEANINGS[name]})" if name in _MEANINGS else ""
        return Death("crashed", f"crashed with {name} {doing}{meaning}")
    last = _last_line(log)
    ending = f": {last}" if last else ", and wrote nothing to standard error"
    return Death("failed", f"it ended {doing} with exit code {returncode} and no result{ending}")


_MEMORY_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much memory a container may use: control groups of version 2, and of version 1."""

_NO_LIMIT: Final = 1 << 60
"""Version 1 writes about this much where there is no limit."""


def _container_limit(files: Sequence[str] = _MEMORY_LIMITS) -> str:
    """Return what to say of the memory that the container around ortforge allows, or ``""``."""
    for name in files:
        try:
            limit = int(Path(name).read_text("ascii"))
        except (OSError, ValueError):  # not there, or "max"
            continue
        if limit < _NO_LIMIT:
            return f" (this container may use {limit:,} bytes)"
    return ""


def _signal_name(returncode: int) -> str:
    number = -returncode if returncode < 0 else returncode - 128
    try:
        return signal.Signals(number).name if number > 0 else ""
    except ValueError:
        return f"signal {number}" if returncode < 0 else ""


def _last_line(log: str) -> str:
    return next((line.strip()[:300] for line in reversed(log.splitlines()) if line.strip()), "")
