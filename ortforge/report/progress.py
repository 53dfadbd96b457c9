"""What a run shows while it goes: a live area on a terminal, one plain line per event elsewhere.

Cached steps and cells are counted, not listed: a second run of a finished matrix prints next to nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ortforge.api.wording import STATUSES, duration, marks, parity_text, speed, telling_reasons
from ortforge.report.screen import Screen

__all__ = ["LineProgress", "LiveProgress", "Progress", "SilentProgress", "make_progress"]

REFRESHES_PER_SECOND: Final = 2
"""Cells that are being timed own their cores: drawing must cost next to nothing."""

LINES_EVERY_S: Final = 15.0
"""How often a long step may add a line to a log."""

MOST_RUNNING: Final = 5
"""Running steps that are shown; more would push the screen up and down."""


class Progress(Protocol):
    """Is told what happens in a run: from one thread but for ``step_said``, between entering and leaving."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run_started(self, total_steps: int, cells: int) -> None:
        """Be told how much there is."""

    def step_started(self, step_id: str, kind: str, text: str) -> None:
        """Be told that a step began."""

    def step_said(self, step_id: str, text: str) -> None:
        """Be told how far a long step is; called from the step's own thread."""

    def step_finished(
        self, step_id: str, kind: str, status: str, seconds: float, *, cached: bool = False, reason: str = ""
    ) -> None:
        """Be told that a step ended, or that its result was known (``cached``)."""

    def cell_judged(self, cell: Mapping[str, Any]) -> None:
        """Be told a verdict: a cell of the JSON report."""

    def run_finished(self, report: Mapping[str, Any]) -> None:
        """Be told that it is over."""


def make_progress(*, quiet: bool = False, console: Console | None = None) -> Progress:
    """Return what fits the console (standard error when not given): live, lines, or nothing when ``quiet``."""
    if quiet:
        return SilentProgress()
    console = console or Console(file=sys.stderr, highlight=False)
    return LiveProgress(console) if console.is_terminal and not console.is_dumb_terminal else LineProgress(console)


class SilentProgress:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to clean up."""

    def run_started(self, total_steps: int, cells: int) -> None:
        """Be told how much there is."""

    def step_started(self, step_id: str, kind: str, text: str) -> None:
        """Be told that a step began."""

    def step_said(self, step_id: str, text: str) -> None:
        """Be told how far a long step is; called from the step's own thread."""

    def step_finished(
        self, step_id: str, kind: str, status: str, seconds: float, *, cached: bool = False, reason: str = ""
    ) -> None:
        """Be told that a step ended."""

    def cell_judged(self, cell: Mapping[str, Any]) -> None:
        """Be told a verdict."""

    def run_finished(self, report: Mapping[str, Any]) -> None:
        """Be told that it is over."""


@dataclass(slots=True)
class _Count:
    """How far a run is."""

    steps: int = 0
    cells: int = 0
    done: int = 0
    cached: int = 0
    judged: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    @property
    def tally(self) -> str:
        return ", ".join(f"{self.judged[status]} {status}" for status in STATUSES if self.judged[status])


class LineProgress(SilentProgress):
    """One line for each step that really ran and each new verdict; fit for logs, without cursor movements."""

    def __init__(self, console: Console) -> None:
        self.screen = Screen(console)
        self.count = _Count()
        self.said: dict[str, float] = {}

    def run_started(self, total_steps: int, cells: int) -> None:
        """Say how much there is."""
        self.count = _Count(total_steps, cells)
        self.screen.line(f"{cells} cells, {total_steps} steps")

    def step_said(self, step_id: str, text: str) -> None:
        """Print how far a long step is, now and then."""
        now = time.monotonic()
        if now - self.said.get(step_id, -LINES_EVERY_S) >= LINES_EVERY_S:
            self.said[step_id] = now
            self.screen.line(step_id, "  ", text)

    def step_finished(
        self, step_id: str, kind: str, status: str, seconds: float, *, cached: bool = False, reason: str = ""
    ) -> None:
        """Print a line, unless the result was known."""
        self.count.done += 1
        self.count.cached += cached
        if not cached:
            self.screen.line(self.place(), *_step_line(self.screen, step_id, status, seconds, reason))

    def cell_judged(self, cell: Mapping[str, Any]) -> None:
        """Print the verdict, unless it was known."""
        self.count.judged[cell["status"]] += 1
        if not cell.get("cached"):
            self.screen.line(*_cell_line(self.screen, cell))

    def run_finished(self, report: Mapping[str, Any]) -> None:
        """Say what was not listed, and the tally."""
        count = self.count
        known = f"{count.cached} steps were known, " if count.cached else ""
        took = duration(time.monotonic() - count.started)
        self.screen.line(f"{known}{count.done - count.cached} ran in {took}. {count.tally or 'No cells'}.")

    def place(self) -> str:
        """Return ``[ 7/120]``, all of one width."""
        total = str(self.count.steps)
        return f"[{self.count.done:>{len(total)}}/{total}] "


def _step_line(screen: Screen, step_id: str, status: str, seconds: float, reason: str) -> tuple[object, ...]:
    said = screen.text(status, "green") if status == "ok" else screen.status(status)
    # A reason may have many lines; the first says what happened and the log has the rest.
    why = f": {reason.strip().splitlines()[0]}" if reason.strip() and status != "ok" else ""
    return step_id, "  ", said, f"  {duration(seconds)}", why


def _cell_line(screen: Screen, cell: Mapping[str, Any]) -> tuple[object, ...]:
    reasons = [reason.strip().partition("\n")[0].rstrip(".") for reason in telling_reasons(cell)[:1]]
    found = reasons if cell["status"] != "pass" else [speed(cell.get("timing")), parity_text(cell.get("parity"))]
    parts = [part for part in (*found, *marks(cell)) if part]
    return screen.text("verdict ", "bold"), cell["id"], "  ", screen.status(cell["status"]), "  ", "; ".join(parts)


class LiveProgress(LineProgress):
    """The verdicts scroll by, and below them stand a bar, what is running and the tally."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.running: dict[str, tuple[str, float]] = {}
        self.telling: dict[str, str] = {}
        # Events come from the run's thread, drawing happens in rich's.
        self.lock = threading.Lock()
        self.live = Live(
            get_renderable=self.render,
            console=console,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the live area away; what scrolled by stays."""
        self.live.stop()

    def run_started(self, total_steps: int, cells: int) -> None:
        """Start the bar."""
        with self.lock:
            self.count = _Count(total_steps, cells)

    def step_started(self, step_id: str, kind: str, text: str) -> None:
        """Show the step among the running ones."""
        with self.lock:
            self.running[step_id] = (f"{kind} {text}", time.monotonic())

    def step_said(self, step_id: str, text: str) -> None:
        """Show it beside the step."""
        with self.lock:
            if step_id in self.running:
                self.telling[step_id] = text

    def step_finished(
        self, step_id: str, kind: str, status: str, seconds: float, *, cached: bool = False, reason: str = ""
    ) -> None:
        """Take the step away; only a failure leaves a line."""
        with self.lock:
            self.running.pop(step_id, None)
            self.telling.pop(step_id, None)
            self.count.done += 1
            self.count.cached += cached
        if status != "ok" and not cached:
            self.screen.line(*_step_line(self.screen, step_id, status, seconds, reason))

    def cell_judged(self, cell: Mapping[str, Any]) -> None:
        """Let a new verdict scroll by."""
        with self.lock:
            self.count.judged[cell["status"]] += 1
        if not cell.get("cached"):
            self.screen.line(*_cell_line(self.screen, cell))

    def run_finished(self, report: Mapping[str, Any]) -> None:
        """Nothing is running any more; the table that follows says the rest."""
        with self.lock:
            self.running.clear()

    def render(self) -> RenderableType:
        """Draw the live area."""
        with self.lock:
            count = self.count
            running = [
                (f"{text}  {self.telling.get(step, '')}".rstrip(), at) for step, (text, at) in self.running.items()
            ]
            judged, tally = sum(count.judged.values()), count.tally
        now = time.monotonic()
        bar = Table.grid(padding=(0, 1))
        cached = f", {count.cached} known" if count.cached else ""
        said = (
            f"{count.done}/{count.steps} steps{cached}; {judged}/{count.cells} cells; {duration(now - count.started)}"
        )
        bar.add_row(ProgressBar(total=max(1, count.steps), completed=count.done, width=24), self.screen.text(said))
        lines: list[RenderableType] = [bar]
        if tally:
            lines.append(self.clipped(tally, "bold"))
        lines += [self.clipped(f"  {text}  {duration(now - began)}", "cyan") for text, began in running[:MOST_RUNNING]]
        if len(running) > MOST_RUNNING:
            lines.append(self.clipped(f"  and {len(running) - MOST_RUNNING} more", "cyan"))
        return Group(*lines)

    def clipped(self, text: str, style: str) -> Text:
        """Return one line that never wraps: the area must keep its height."""
        line = self.screen.text(text, style)
        line.no_wrap, line.overflow = True, "ellipsis"
        return line
