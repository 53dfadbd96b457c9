"""How a worker talks: one JSON object per line, on a descriptor that no library knows of.

Whatever onnxruntime, a pass or a C library prints would otherwise end up between the answers, so the first thing
a worker does is to keep standard output for itself and to point descriptor 1 at standard error. The messages are
described in docs/formats.md.
"""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Channel", "JobError", "plain"]

MOST_SAID = 200
"""Characters of a line that tells how far a job is."""


class JobError(Exception):
    """A failure in words.

    :param kind: ``memory``, ``unsupported``, ``incompatible``, ``input``, ``model`` or ``failed``.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Channel:
    """The worker's end of the conversation.

    :param result: where ``result.json`` goes; set once the job is known.
    """

    current: Channel | None = None
    """The worker's own channel, for code that is called without it."""

    def __init__(self, answers: int, commands: int) -> None:
        self._answers = answers
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._open = True
        self.phase_name = "import"
        self.result: Path | None = None
        threading.Thread(target=self._listen, args=(commands,), name="ortforge-commands", daemon=True).start()

    @classmethod
    def open(cls) -> Channel:
        """Take over standard input and output. Must run before anything that could print is imported."""
        answers = os.dup(1)
        os.dup2(2, 1)
        # Children that a pass starts must not eat the commands: they get /dev/null as standard input.
        commands = os.dup(0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        sys.stdout = sys.stderr
        cls.current = cls(answers, commands)
        return cls.current

    def _listen(self, commands: int) -> None:
        # Plain reads: a buffered reader's lock, held by a daemon thread, can abort the interpreter when it ends.
        pending = b""
        while block := os.read(commands, 1 << 16):
            *lines, pending = (pending + block).split(b"\n")
            for line in lines:
                self._commands.put(line.decode("utf-8", "replace"))
        # The supervisor is gone. PR_SET_PDEATHSIG acts on that too, but not on children, nor inside a container.
        if self._open:
            end_group()

    def read(self) -> dict[str, Any]:
        """Wait for the next command.

        :raises JobError: it is no JSON object.
        """
        line = self._commands.get()
        try:
            command = json.loads(line)
        except ValueError as error:
            raise JobError("failed", f"the worker was told something that is not JSON: {line[:200]!r}") from error
        if not isinstance(command, dict):
            raise JobError("failed", f"the worker was told something that is not a JSON object: {line[:200]!r}")
        return command

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message."""
        data = (json.dumps(plain(message), allow_nan=False) + "\n").encode()
        while data:
            data = data[os.write(self._answers, data) :]

    def phase(self, name: str) -> None:
        """Say that a phase begins: its time limit starts now."""
        self.phase_name = name
        self.send({"type": "phase", "phase": name})

    def begin_again(self) -> None:
        """Restart the time limit of the current phase, before something that is no part of the job."""
        self.phase(self.phase_name)

    def say(self, text: str) -> None:
        """Tell whoever watches how far the job is. It means nothing to the job: nobody may be listening."""
        if self._open:
            self.send({"type": "said", "text": text[:MOST_SAID]})

    def reply(self, answer: Mapping[str, Any]) -> None:
        """Answer one command of an interactive job."""
        self.send({"type": "reply", "reply": answer})

    def error(self, kind: str, message: str) -> None:
        """Report a failure in words; the process ends after it."""
        self._open = False
        self.send({"type": "error", "kind": kind, "message": message, "phase": self.phase_name})

    def finish(self, result: Mapping[str, Any]) -> None:
        """Put ``result.json`` in place and say so.

        Called while sessions and models are still alive: some runtimes crash when they are torn down, and by then the
        result must be safe.
        """
        if self.result is None:
            raise JobError("failed", "the job names no place for its result")
        partial = self.result.with_name(self.result.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(plain(result), file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.result)
        self._open = False
        self.send({"type": "done"})

    def leave(self) -> None:
        """End an interactive job: the other side may hang up from now on."""
        self._open = False


def end_group() -> None:
    """Kill this process and, where it leads a group of its own, everything it started."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def plain(value: Any) -> Any:
    """Return ``value`` as JSON knows it: numpy scalars as numbers, NaN and infinities as ``None``, paths as strings.

    :raises JobError: it holds something else.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    as_list = getattr(value, "tolist", None)  # numpy's scalars and arrays, without importing numpy
    if as_list is not None:
        return plain(as_list())
    raise JobError("failed", f"a result holds a {type(value).__name__}, which JSON cannot express: {value!r:.200}")
