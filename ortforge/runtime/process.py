"""One worker process: started in a session of its own, listened to, limited, and always gone in the end.

This is the mechanism that one-shot jobs and interactive sessions share; :mod:`ortforge.runtime.supervisor` is what the
rest of ortforge uses. Waiting is done in ``select``: a message, the end of the process or the next look at its
memory wakes it, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ortforge.runtime.family import Family
from ortforge.runtime.signals import read_death
from ortforge.runtime.spawner import SPAWNER
from ortforge.worker.protocol import MOST_SAID

__all__ = ["Ended", "Limits", "WorkerProcess", "human_bytes"]

FIRST_LOOK_S: Final = 0.1
LAST_LOOK_S: Final = 0.5
"""Memory is looked at this often: soon after the start, when most is allocated, and more seldom later."""

LOG_TAIL: Final = 4000
"""Characters of standard error that an outcome keeps."""

MOST_LOG_BYTES: Final = 16 << 20
"""A longer log is cut: a library that complains in a loop must not fill the disk."""

MOST_LINE_BYTES: Final = 64 << 20
"""A message without an end beyond this is no message."""

_TYPES: Final = frozenset({"phase", "said", "reply", "done", "error"})
_DOING: Final = {
    "import": "starting and importing",
    "load": "loading the model",
    "run": "running the model",
    "apply": "at work",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a job may use.

    :param import_s: seconds until the first import is through; :param load_s: for loading a model and making a session;
    :param run_s: for running; :param apply_s: for a pass, or for making samples. Each phase has its own clock.
    :param exit_s: seconds that a process may take to end once its result is complete.
    :param memory: bytes of resident memory, over the process and all that it starts.
    :param address_space: also limit the address space (with room for code, stacks and malloc's arenas), so that one
        huge allocation fails at once. Off for EPs that reserve huge ranges.
    """

    memory: int
    import_s: float = 60
    load_s: float = 60
    run_s: float = 120
    apply_s: float = 600
    exit_s: float = 10
    address_space: bool = True

    def of_phase(self, phase: str) -> float:
        """Return a phase's seconds."""
        by_phase = {"import": self.import_s, "load": self.load_s, "run": self.run_s, "apply": self.apply_s}
        return by_phase.get(phase, self.run_s)


class Ended(Exception):  # noqa: N818 - an end is an event, not always an error
    """The process is gone, by itself or because it was killed.

    :param status: ``crashed``, ``out-of-memory``, ``timeout`` or ``failed``. :param reason: a sentence.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class WorkerProcess:
    """A running worker. Use as a context manager: leaving it leaves no process behind.

    :param argv: what to start; :param environment: all of its variables.
    :param folder: an empty folder: the worker's current directory, with its log.
    :param hear: is told what the job says of how far it is, while :meth:`receive` waits.
    :raises OSError: it cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        limits: Limits,
        folder: Path,
        cancel: threading.Event | None = None,
        hear: Callable[[str], None] | None = None,
    ) -> None:
        self.limits = limits
        self._hear = hear
        self.phase = "import"
        self.peak_rss = 0
        self.cpu_s = 0.0
        self.returncode: int | None = None
        self._cancel = cancel
        self._log_path = folder / "stderr.log"
        self._log_kept = ""
        self._ended: Ended | None = None
        self._inbox: deque[dict[str, Any]] = deque()
        self._outbox = b""
        self._partial = b""
        self._log = os.open(self._log_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._popen = SPAWNER.start(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                cwd=folder,
                env=dict(environment),
                start_new_session=True,
                bufsize=0,
            )
        except BaseException:
            os.close(self._log)
            raise
        self.started = self._phase_began = time.monotonic()
        self.pid = self._popen.pid
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._stdin, self._stdout = self._popen.stdin, self._popen.stdout
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._pidfd = _open_pidfd(self.pid)
        if self._pidfd >= 0:
            self._selector.register(self._pidfd, selectors.EVENT_READ)
        self._family = Family(self.pid)
        self._look_every = FIRST_LOOK_S
        self._next_look = self.started + FIRST_LOOK_S

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def send(self, command: Mapping[str, Any]) -> None:
        """Send one command. It is written while :meth:`receive` waits: a worker that does not read cannot block us."""
        if not self._outbox and not self._stdin.closed:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)
        self._outbox += (json.dumps(command, allow_nan=False) + "\n").encode()

    def receive(self, timeout: float | None = None, waiting_for: str = "") -> dict[str, Any]:
        """Wait for the next reply, ``done`` or ``error``; phases are noted, how far it is is passed on.

        :param timeout: seconds, in place of the phase's limit; :param waiting_for: what the time-out's reason names.
        :raises Ended: the process is gone; its reason says why.
        """
        asked = time.monotonic()
        while True:
            while self._inbox:
                message = self._inbox.popleft()
                if message["type"] == "garbage":
                    self._end("failed", message["reason"])
                if message["type"] == "said":
                    if self._hear is not None:
                        self._hear(str(message.get("text", ""))[:MOST_SAID])
                    continue
                if message["type"] != "phase":
                    return message
                self.phase = str(message.get("phase", "run"))
                self._phase_began = time.monotonic()
            if self.returncode is not None:
                raise self._ended or self._death()
            now = time.monotonic()
            limit = self.limits.of_phase(self.phase) if timeout is None else timeout
            deadline = (self._phase_began if timeout is None else asked) + limit
            if now >= deadline:
                doing = waiting_for or _DOING.get(self.phase, self.phase)
                self._end("timeout", f"still {doing} after {limit:g} s, its limit: it was killed")
            if now >= self._next_look:
                self._look(now)
            self._wait(min(deadline, self._next_look) - now)

    def log(self) -> str:
        """Return the end of what it wrote to standard error (and to standard output, which leads there)."""
        with self._log_path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4 * LOG_TAIL))  # a character has four bytes at most
            text = file.read().decode("utf-8", "replace")
        return (self._log_kept + text)[-LOG_TAIL:]

    def finish(self, seconds: float) -> str:
        """Let it end by itself after its last message; return a note when it did not end well, else ``""``."""
        try:
            self._look(time.monotonic())
            self._close_stdin()
            deadline = time.monotonic() + seconds
            while self.returncode is None and (left := deadline - time.monotonic()) > 0:
                self._wait(min(left, LAST_LOOK_S))
        except Ended as end:  # too much memory or an interruption: too late to matter
            return f"after its result was complete: {end.reason}"
        if self.returncode is None:
            self.kill()
            return f"it did not end within {seconds:g} s after its result was complete, and was killed"
        self.kill()
        if self.returncode < 0:
            return f"crashed at exit with {_signal(self.returncode)} after its result was complete"
        if self.returncode:
            return f"ended with exit code {self.returncode} after its result was complete"
        late = next((message for message in self._inbox if message["type"] == "garbage"), None)
        return f"after its result was complete {late['reason']}" if late else ""

    def kill(self) -> None:
        """End it and everything it started, wait for it, and free what it held here. Can be called twice."""
        if self._log < 0:
            return
        # Before it is waited for: until then its number, and its group's, cannot be another's.
        if self.returncode is None:
            self._family.search()
            self._kill_group()
            self._await_end()
        self._family.kill_strays()
        self._close_stdin()
        self._selector.close()
        self._stdout.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        os.close(self._log)
        self._log = -1

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _await_end(self) -> None:
        """Wait for a process that has been killed; one stuck in the kernel is given up after a while."""
        deadline = time.monotonic() + 10
        pause = 0.001
        while not self._reap() and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(0.05, pause * 2)

    def _end(self, status: str, reason: str) -> None:
        self._ended = Ended(status, reason)
        self.kill()
        raise self._ended

    def _death(self) -> Ended:
        assert self.returncode is not None
        log = self.log()
        self.kill()
        death = read_death(self.returncode, self.phase, log)
        return Ended(death.status, death.reason)

    def _wait(self, seconds: float) -> None:
        """Wait for anything to happen, at most so long; messages that came are in the inbox afterwards."""
        if self._pidfd < 0:  # no way to be woken by a process's end: look often
            seconds = min(seconds, 0.05)
        events = self._selector.select(max(0.0, seconds))
        if self._cancel is not None and self._cancel.is_set():
            self._end("failed", "the run was interrupted, and this job with it")
        for key, _ in events:
            if key.fileobj is self._stdin:
                self._write()
            elif key.fileobj is self._stdout:
                self._read()
        if self._has_ended():
            self._kill_group()
            self._read()
            self._reap()

    def _write(self) -> None:
        try:
            self._outbox = self._outbox[os.write(self._stdin.fileno(), self._outbox) :]
        except BlockingIOError:
            return
        except OSError:  # it is gone, which its end will tell
            self._outbox = b""
        if not self._outbox:
            self._selector.unregister(self._stdin)

    def _read(self) -> None:
        """Read what is there; complete lines become messages."""
        while True:
            try:
                block = os.read(self._stdout.fileno(), 1 << 16)
            except BlockingIOError:
                break
            if not block:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(self._stdout)
                break
            *lines, self._partial = (self._partial + block).split(b"\n")
            for line in lines:
                self._inbox.append(_message(line))
            if len(self._partial) > MOST_LINE_BYTES:
                self._inbox.append(_message(self._partial))
                self._partial = b""

    def _look(self, now: float) -> None:
        """Look at its memory and at the length of its log."""
        self._next_look = now + self._look_every
        self._look_every = min(LAST_LOOK_S, self._look_every * 1.25)
        if os.fstat(self._log).st_size > MOST_LOG_BYTES:
            self._log_kept = self.log()
            os.ftruncate(self._log, 0)  # it writes with O_APPEND, so it goes on at the new end
        rss = self._family.rss(now)
        self.peak_rss = max(self.peak_rss, rss)
        if rss > self.limits.memory:
            used, limit = human_bytes(rss), human_bytes(self.limits.memory)
            doing = _DOING.get(self.phase, self.phase)
            self._end(
                "out-of-memory", f"it used {used} of memory while {doing}, and its limit is {limit}: it was killed"
            )

    def _has_ended(self) -> bool:
        """Say whether it is dead, leaving it unreaped so that its number stays its own."""
        if self.returncode is not None:
            return False
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _reap(self) -> bool:
        if self.returncode is not None:
            return True
        try:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:  # whoever started us ignores SIGCHLD: how it ended is not known
            self.returncode = self._popen.returncode = 0
            return True
        if pid == 0:
            return False
        self.returncode = self._popen.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_s = usage.ru_utime + usage.ru_stime
        return True

    def _close_stdin(self) -> None:
        if not self._stdin.closed:
            if self._outbox:
                self._outbox = b""
                self._selector.unregister(self._stdin)
            self._stdin.close()


def _message(line: bytes) -> dict[str, Any]:
    """Read one line. What is no message becomes one of type ``garbage``, in its place among the others."""
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if isinstance(message, dict) and message.get("type") in _TYPES:
        return message
    shown = line[:80].decode("utf-8", "backslashreplace")
    reason = f"it answered with something that is no message of a worker, beginning with {shown!r}"
    return {"type": "garbage", "reason": reason}


def _open_pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or older than 5.3
        return -1


def _signal(returncode: int) -> str:
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def human_bytes(number: float) -> str:
    """Return a size as people read it.

    >>> human_bytes(3 << 29)
    '1.5 GiB'
    """
    for unit in ("bytes", "KiB", "MiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
