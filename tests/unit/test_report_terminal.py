"""The table, the explanation of one cell and the progress, as a terminal or a pipe gets them."""

from __future__ import annotations

import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ortforge.api.wording import TIMES
from ortforge.report.progress import LineProgress, LiveProgress, Progress, SilentProgress, make_progress
from ortforge.report.table import show, show_cell, show_plugins

from .report_sample import cell, sample_cells, sample_report


def terminal(width: int, **more: Any) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, highlight=False, **more)


def pipe(encoding: str = "utf-8") -> Console:
    return Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n"), highlight=False, width=80)


def said(console: Console) -> str:
    if isinstance(console.file, io.StringIO):
        return Text.from_ansi(console.file.getvalue()).plain
    console.file.flush()
    return console.file.buffer.getvalue().decode(console.encoding)  # type: ignore[attr-defined]


def test_a_pipe_gets_everything_uncoloured_and_uncut() -> None:
    long = cell("m" * 90, "r" * 40, "stock", "pass", error=0.0, speed=1.0)
    console = pipe()
    show(sample_report([*sample_cells(), long]), [Path("out/report.html")], console)
    text = said(console)
    assert "\x1b" not in text
    assert "m" * 90 in text
    for word in (
        "Placement",
        "Peak RSS",
        f"1.83{TIMES} [1.8",
        "same (±",
        "contended",
        "random data",
        "no-op",
    ):
        assert word in text
    assert str(Path("out/report.html")) in text


@pytest.mark.parametrize("width", [80, 100, 160, 220])
def test_the_table_fits_the_terminal_and_names_every_cell(width: int) -> None:
    console = terminal(width)
    show(sample_report(), [], console)
    lines = [line.rstrip() for line in said(console).splitlines()]
    assert max(cell_len(line) for line in lines) <= width
    table = "\n".join(lines[: lines.index("Why not pass")])
    for entry in sample_cells():
        assert entry["recipe"] in table
        assert entry["status"] in table
    assert table.count("minilm") >= 1
    assert ("Placement" in table.splitlines()[0]) == (width >= 220)


def test_a_terminal_says_what_it_left_out() -> None:
    console = terminal(80)
    show(sample_report(), [], console)
    assert "Left out at this width: Peak RSS, Load" in said(console)


def test_every_reason_is_given_once_with_its_cells() -> None:
    cells = [cell("m", f"r{number}", "gpu", "unsupported", reasons=("No GPU here.",)) for number in range(5)]
    console = pipe()
    show(sample_report(cells), [], console)
    below = said(console).partition("Why not pass")[2].partition("What ships")[0]
    assert below.count("No GPU here.") == 1
    assert all(entry["id"] in below for entry in cells)


def test_what_a_guard_caught_stands_with_the_reason() -> None:
    reason = ('Output "y": cosine 0.67 is below 0.99.',)
    constant = "CONSTANT CALIBRATION DATA: every value of x is 0 in all 16 samples. Give real inputs."
    ranges = f"RUINED RANGES: {'tensor (-3.4e+38 to 8); ' * 40}. Set fix = true."
    cells = [
        cell("m", "a", "cpu", "inaccurate", reasons=reason, notes=("The timing is contended: x.", constant, ranges)),
        cell("m", "b", "cpu", "inaccurate", reasons=reason, notes=(ranges,)),
        cell("m", "c", "cpu", "inaccurate", reasons=reason, notes=("The timing is contended: x.", "It ran on GPU 1.")),
        cell("m", "d", "cpu", "pass", notes=(constant,)),
    ]
    console = pipe()
    show(sample_report(cells), [], console)
    below = said(console).partition("Why not pass")[2].partition("What ships")[0]
    a, b, c = below.split("  inaccurate")[1:]
    assert constant in a and "RUINED" not in a and "contended" not in a
    assert "RUINED RANGES: tensor (-3.4e+38 to 8)" in b and "… Set fix = true." in b and len(b) < 400
    assert "GPU" not in c and "contended" not in c
    assert "m/d" not in below


def test_the_summary_counts_cells_and_steps() -> None:
    console = pipe()
    show(sample_report(), [], console)
    assert "14 cells: 4 pass, 2 slower, 1 inaccurate" in said(console)
    assert "steps: 41 run, 30 cached, 5 failed" in said(console)


def test_names_are_no_markup_and_no_escape_sequences() -> None:
    evil = cell("[red]x[/red]\x1b[2J", "none", "stock", "failed", reasons=("[bold]bad\x1b]0;title\x07 end",))
    console = terminal(200)
    show(sample_report([evil]), [], console)
    assert "[red]x[/red]" in said(console)
    raw = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[2J" not in raw
    assert "\x1b]0;" not in raw


def test_an_output_without_unicode_is_served_too() -> None:
    console = pipe("ascii")
    show(sample_report([*sample_cells(), cell("modèle", "none", "stock", "pass", error=0.0)]), [], console)
    assert "1.83x [" in said(console)


def test_a_report_without_cells_is_no_error() -> None:
    console = pipe()
    show(sample_report([]), [], console)
    assert "0 cells" in said(console)


def test_one_cell_is_explained_in_full() -> None:
    report = sample_report()
    console = pipe()
    show_cell(report["cells"][1], report, console)
    text = said(console)
    for word in (f"1.83{TIMES}", "against minilm/none@stock:cpu/here", "logits", "p99 -", "sha256:", "ortforge repro"):
        assert word in text
    console = pipe()
    show_cell(report["cells"][6], report, console)
    assert "dynamic rank is not supported" in said(console)


def test_a_broken_plugin_is_a_row_with_its_error() -> None:
    rows = [
        SimpleNamespace(
            name="good", distribution="d", version="1", hooks=("ortforge_passes",), status="loaded", error=""
        ),
        SimpleNamespace(name="bad", distribution="d", version="1", hooks=(), status="failed", error="ImportError: x"),
    ]
    console = pipe()
    show_plugins(rows, console)
    assert "passes" in said(console)
    assert "bad: ImportError: x" in said(console)


# Progress


def play(progress: Progress, report: dict[str, Any]) -> None:
    with progress:
        progress.run_started(6, len(report["cells"]))
        progress.step_finished("fetch:a", "fetch", "ok", 0.0, cached=True, reason="")
        progress.step_started("check:b", "check", "b")
        progress.step_finished("check:b", "check", "ok", 1.5, cached=False, reason="")
        progress.step_started("check:c", "check", "c")
        progress.step_finished("check:c", "check", "crashed", 0.2, cached=False, reason="It died of SIGSEGV.\nmore")
        for entry in report["cells"]:
            progress.cell_judged(entry)
        progress.run_finished(report)


def test_plain_lines_list_what_ran_and_count_what_was_known() -> None:
    console = pipe()
    report = sample_report()
    report["cells"][0]["cached"] = True
    play(make_progress(console=console), report)
    lines = said(console).splitlines()
    assert "[2/6] check:b  ok  1.5 s" in lines
    assert "[3/6] check:c  crashed  0.2 s: It died of SIGSEGV." in lines
    assert not any("fetch:a" in line for line in lines)
    verdicts = [line for line in lines if line.startswith("verdict ")]
    assert len(verdicts) == len(report["cells"]) - 1
    assert f"1.83{TIMES} [1.8" in verdicts[0]
    assert lines[-1].startswith("1 steps were known, 2 ran")


def test_a_finished_matrix_prints_three_lines_at_most() -> None:
    console = pipe()
    with make_progress(console=console) as progress:
        progress.run_started(500, 100)
        for number in range(500):
            progress.step_finished(f"s{number}", "check", "ok", 0.0, cached=True, reason="")
        for entry in sample_cells():
            progress.cell_judged({**entry, "cached": True})
        progress.run_finished({})
    assert len(said(console).splitlines()) <= 3


def test_live_progress_shows_what_runs_and_leaves_verdicts_behind() -> None:
    console = terminal(100)
    progress = make_progress(console=console)
    assert isinstance(progress, LiveProgress)
    with progress:
        progress.run_started(10, 2)
        progress.step_started("time:x", "time", "x@stock")
        drawn = Console(file=io.StringIO(), width=100)
        drawn.print(progress.render())
        assert "time x@stock" in drawn.file.getvalue()  # type: ignore[attr-defined]
        assert "0/10 steps" in drawn.file.getvalue()  # type: ignore[attr-defined]
        progress.cell_judged(sample_cells()[1])
        progress.run_finished({})
    assert "verdict minilm/int8@stock:cpu/here  pass" in said(console)


def test_live_progress_costs_next_to_nothing() -> None:
    console = terminal(100)
    with LiveProgress(console) as progress:
        progress.run_started(10, 2)
        for number in range(8):
            progress.step_started(f"time:{number}", "time", f"cell {number}")
        before, began = time.process_time(), time.monotonic()
        time.sleep(1.5)
        share = (time.process_time() - before) / (time.monotonic() - began)
    assert share < 0.05


def test_progress_leaves_the_terminal_as_it_was_when_the_run_is_interrupted() -> None:
    console = terminal(100)
    with pytest.raises(KeyboardInterrupt), make_progress(console=console) as progress:
        progress.run_started(10, 2)
        raise KeyboardInterrupt
    assert console.file.getvalue().rstrip().count("\x1b[?25h") == 1  # type: ignore[attr-defined]  # the cursor is back


def test_machines_get_no_progress() -> None:
    assert isinstance(make_progress(quiet=True), SilentProgress)
    assert isinstance(make_progress(console=pipe()), LineProgress)
