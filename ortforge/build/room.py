"""A build container at work: every line of a command is kept, and a failure is named by its cause."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from ortforge.build import layout
from ortforge.container import Container, Ran
from ortforge.errors import BuildError, EnvironmentLacksError, OrtforgeError

__all__ = ["Attempt", "Room", "disk_is_full", "stopping"]

_LAST_LINES: Final = 15
_MOST_READ: Final = 8 << 20
_FULL: Final = re.compile(r"^.*(?:No space left on device|Disk quota exceeded).*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A long command that ended. :param text: all that it printed, or the last 8 MiB of it."""

    ran: Ran
    text: str


def disk_is_full(text: str) -> EnvironmentLacksError | None:
    """Return the error for output that says that a disk is full (ENOSPC, EDQUOT as the C library words them)."""
    found = _FULL.search(text)
    if found is None:
        return None
    return EnvironmentLacksError(
        f"The Docker engine's disk is full: {found[0].strip()}",
        meant="A build tree takes some 2 GB, the compiler cache up to 5 GB.",
        todo="Free space: 'docker system df' shows what takes it; 'ortforge cache clean' removes build trees. Then run "
        "again: it goes on from what is done.",
    )


@contextmanager
def stopping(container: Container, cancel: threading.Event) -> Iterator[None]:
    """Stop the container when the run is interrupted; what runs in it then ends with ContainerLostError."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.3):
            if cancel.is_set():
                container.kill()  # again and again: one without network may just be taking its place

    watcher = threading.Thread(target=watch, name="container-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@dataclass(slots=True)
class Room:
    """A running build container.

    :param target: named in messages. :param log: the open log, :param path: and where it lies. :param say: is told how
        far it is. :param phases: seconds, CPU seconds and attempts of every long command. :param argv: the long
        commands by name, as they were last called.
    """

    container: Container
    target: str
    log: IO[str]
    path: Path
    say: Callable[[str], None]
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    argv: dict[str, list[str]] = field(default_factory=dict)

    def phase(self, name: str, argv: Sequence[str]) -> None:
        """Run a long command.

        :raises OrtforgeError: it failed, see :meth:`failure`.
        """
        done = self.attempt(name, argv)
        if done.ran.code != 0:
            raise self.failure(name, done)

    def attempt(self, name: str, argv: Sequence[str], show: Callable[[str], str] = lambda line: "") -> Attempt:
        """Run a long command: every line goes to the log, what ``show`` makes of it to whoever watches."""
        self.argv[name] = list(argv)
        self.note(f"$ {shlex.join(argv)}")
        self.say(name)
        began = self.path.stat().st_size

        def on_line(line: str) -> None:
            self.log.write(line + "\n")
            if shown := show(line):
                self.say(shown)

        done = self.container.run(argv, workdir=layout.WORK, on_line=on_line)
        self.log.flush()
        spent = self.phases.setdefault(name, {"seconds": 0.0, "cpu_s": 0.0, "attempts": 0})
        spent["seconds"] += done.seconds
        spent["cpu_s"] += done.cpu_s
        spent["attempts"] += 1
        return Attempt(done, self._since(began))

    def quick(self, argv: Sequence[str], what: str, *, meant: str = "") -> None:
        """Run a short command; the log has it only if it fails.

        :raises BuildError: it failed; ``what`` says what that means. :raises EnvironmentLacksError: the disk is full.
        """
        done = self.container.run(argv)
        if done.code == 0:
            return
        self.note("\n".join([f"$ {shlex.join(argv)}", *done.tail]))
        full = disk_is_full("\n".join(done.tail))
        if full is not None:
            raise full
        last = "\n".join(done.tail[-_LAST_LINES:])
        raise BuildError(f"target {self.target}: {what}:\n{last}", meant=meant, todo=f"The whole log: {self.path}")

    def lines(self, argv: Sequence[str]) -> list[str] | None:
        """Return all lines that a short command prints, ``None`` when it fails."""
        found: list[str] = []
        return found if self.container.run(argv, on_line=found.append).code == 0 else None

    def read(self, path: str) -> str:
        """Return a small file's text, ``""`` where there is none."""
        return "\n".join(self.lines(["cat", path]) or []).strip()

    def write(self, path: str, text: str) -> None:
        """Write a small file."""
        parent, _, name = path.rpartition("/")
        self.container.put_files({name: text.encode()}, parent)

    def note(self, text: str) -> None:
        """Write something of ours into the log."""
        self.log.write(f"\n{text}\n")
        self.log.flush()

    def failure(self, phase: str, done: Attempt) -> OrtforgeError:
        """Return the error for a long command that failed, with the cause where its output shows one."""
        from ortforge.build.diagnose import diagnose

        full = disk_is_full(done.text)
        if full is not None:
            return full
        title = f"target {self.target}: {phase} failed (exit {done.ran.code})"
        whole = f"The whole log: {self.path}"
        causes = diagnose(done.text)
        if causes:
            first = causes[0]
            return BuildError(
                f"{title}: {first.title}\n{first.evidence}", meant=first.cause, todo=f"{first.remedy}\n{whole}"
            )
        last = [line for line in done.text.splitlines() if line.strip()][-_LAST_LINES:]
        return BuildError("\n".join([f"{title}.", *last]), meant="ortforge does not know this failure.", todo=whole)

    def _since(self, began: int) -> str:
        """Return what the log got since it had a size."""
        with self.path.open("rb") as file:
            file.seek(max(began, self.path.stat().st_size - _MOST_READ))
            return file.read().decode(errors="replace")
