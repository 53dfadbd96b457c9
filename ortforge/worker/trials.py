"""A pass's side of trials: models that it tries out on the cell's own EP, each in a process of its own.

Used inside a worker, for passes that measure what they make (:class:`ortforge.api.Pass`, ``measures``). A candidate
that crashes, hangs or is refused raises :class:`TrialError` with the reason, and the pass goes on with the next.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["REFERENCE", "Trial", "TrialError", "TrialProcess", "job_for"]

REFERENCE: dict[str, Any] = {
    "providers": [["CPUExecutionProvider", {}]],
    "session": {"graph_optimization_level": "disable"},
}
"""How the session that says what is right is made: ORT's CPU EP, without graph optimizations."""

_LAST_WORDS = 300
"""Characters of a dead trial's standard error that its reason quotes."""


class TrialError(RuntimeError):
    """A trial's process crashed, hung, or refused the model; the text says which."""


class TrialProcess:
    """A process that waits for its trial, and imports ONNX Runtime meanwhile.

    :param folder: made here, for the process's files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.log = folder / "log"
        self.answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        with self.log.open("wb") as log:
            # The process group is the worker's: what ends that ends its trials.
            self.process = subprocess.Popen(
                [sys.executable, "-m", str(__package__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                text=True,
                encoding="utf-8",
            )
        threading.Thread(target=self._listen, name="ortforge-trial", daemon=True).start()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):  # it is gone: the trial says how
                self.process.stdin.write(json.dumps({"op": "prepare"}) + "\n")
                self.process.stdin.flush()

    def close(self) -> None:
        """End the process and remove its files; for one that was never used."""
        _end(self.process, self.folder)

    def _listen(self) -> None:
        try:
            for line in self.process.stdout or ():
                self.answers.put(line)
        except ValueError:  # closed while reading
            pass
        self.answers.put("")


def _end(process: subprocess.Popen[str], folder: Path) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # a command that it did not live to read
                stream.close()
    shutil.rmtree(folder, ignore_errors=True)


class Trial:
    """One model, loaded as the cell loads it, in a process that lives until :meth:`close`.

    :param job: the ``trial`` job, without its place. :param process: its process, which has no job yet.
    :param timeout_s: longest wait for any one answer, loading included.
    :raises TrialError: the model does not load or does not run.
    """

    def __init__(self, job: Mapping[str, Any], process: TrialProcess, timeout_s: float) -> None:
        self._folder = process.folder
        self._timeout_s = timeout_s
        self._answers = process.answers
        self._given = 0
        self._log = process.log
        self._process = process.process
        try:
            ready = self._ask({**job, "op": "trial"})
        except BaseException:
            self.close()
            raise
        self.load_s = float(ready["load_s"])
        self.first_run_s = float(ready["first_run_s"])

    def answers(self) -> list[dict[str, Any]]:
        """Run all samples once; return the outputs of each, as dicts from output name to array.

        :raises TrialError: the process is gone, or did not answer in time.
        """
        from .samples import Samples

        self._given += 1
        output = self._folder / f"answers-{self._given}"
        self._ask({"op": "answer", "output": str(output)})
        answered = list(Samples(output))
        shutil.rmtree(output)
        return answered

    def turn(self, iterations: int, start: int = 0, discard: int = 0) -> list[int]:
        """Run ``discard + iterations`` samples; return the nanoseconds of the counted ones, from sample ``start`` on.

        :raises TrialError: the process is gone, or did not answer in time.
        """
        taken = self._ask({"op": "turn", "iterations": iterations, "start": start, "discard": discard})
        return [int(ns) for ns in taken["ns"]]

    def load(self, times: int = 1, discard: int = 0) -> list[int]:
        """Drop the session and make it anew, ``discard + times`` times; return how long the counted ones took, in ns.

        No answers or turns can follow.

        :raises TrialError: the process is gone, or did not answer in time.
        """
        return [int(ns) for ns in self._ask({"op": "load", "times": times, "discard": discard})["ns"]]

    def close(self) -> None:
        """End the process, if it has not ended by itself, and remove its files."""
        _end(self._process, self._folder)

    def __enter__(self) -> Trial:
        """Return itself: leaving the context closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        try:
            stdin = self._process.stdin
            if stdin is not None:
                stdin.write(json.dumps(command) + "\n")
                stdin.flush()
        except (OSError, ValueError):
            pass  # it is gone: the answer says how
        while True:
            try:
                line = self._answers.get(timeout=self._timeout_s)
            except queue.Empty:
                self._process.kill()
                raise TrialError(f"it did not answer within {self._timeout_s:.0f} s") from None
            if not line:
                raise TrialError(self._death())
            message = json.loads(line)
            if message["type"] == "error":
                raise TrialError(str(message["message"]).strip().splitlines()[0][:400])
            if message["type"] == "reply":
                reply: dict[str, Any] = message["reply"]
                return reply

    def _death(self) -> str:
        code = self._process.wait()
        if code < 0:
            try:
                return f"it crashed ({signal.Signals(-code).name})"
            except ValueError:
                return f"it crashed (signal {-code})"
        said = self._log.read_bytes().decode("utf-8", "replace").strip()[-_LAST_WORDS:]
        return f"its process ended with exit code {code}" + (f": {said}" if said else "")


def job_for(
    model: Path,
    samples: Path,
    numbers: Sequence[int],
    providers: Sequence[Sequence[Any]],
    session: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a ``trial`` job: a model, the samples it is tried on by their numbers, and how its session is made."""
    return {
        "model": str(model),
        "samples": str(samples),
        "numbers": list(numbers),
        "providers": [[name, dict(options)] for name, options in providers],
        "session": dict(session),
    }
