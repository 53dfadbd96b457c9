"""Everything known of one cell, for ``ortforge explain``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ortforge.api.explained import SEARCH, outline
from ortforge.api.wording import (
    TUNING,
    cosine,
    evidence_lines,
    expectation_text,
    latency,
    marks,
    percent,
    placement_text,
    size,
    speed,
    spread,
    task_drop,
    tuning_facts,
)
from ortforge.report.differences import show_differences, show_search, show_table
from ortforge.report.screen import Screen

__all__ = ["show_cell"]

Facts = Mapping[str, Any]


def show_cell(cell: Facts, report: Facts, console: Console | None = None) -> None:
    """Print a cell's verdict with its reasons, parity per output, placement, timing, runtime, log and command."""
    screen = Screen(console)
    marked = marks(cell)
    screen.line(
        screen.text(cell["id"], "bold"),
        "  ",
        screen.status(cell["status"]),
        f"  ({', '.join(marked)})" if marked else "",
    )
    for reason in cell.get("reasons", ()):
        screen.line(reason, indent=2)
    for note in cell.get("notes", ()):
        screen.line(screen.text(f"Note: {note}", "yellow"), indent=2)
    facts = [*_timing(cell), *_artefact(cell), *_runtime(cell, report)]
    if placed := placement_text(cell.get("placement")):
        facts.append(("placement", placed))
    facts.append(("expected", expectation_text(cell)))
    run = report.get("run") or {}
    facts.append(("run", " of ".join(str(run[name]) for name in ("id", "matrix") if run.get(name))))
    facts.append(("to repeat", cell.get("command") or ""))
    width = max(len(name) for name, _ in facts)
    screen.line()
    for name, said in facts:
        if said:
            screen.line(screen.text(name.ljust(width), "bright_black"), "  ", said, indent=2)
    changed = (cell.get("artefact") or {}).get("changed") or {}
    _show_tuning(screen, changed.get(TUNING) or {})
    _show_parity(screen, cell.get("parity") or {})
    for name, said in evidence_lines(cell):
        screen.line(screen.text(name.ljust(width), "bright_black"), "  ", said, indent=2)
    show_search(screen, changed.get(SEARCH) or {})
    show_differences(screen, cell.get("differences") or {})
    if cell.get("log"):
        screen.line()
        screen.line("Log (its end)", style="bold")
        screen.line(cell["log"])


def _timing(cell: Facts) -> Iterator[tuple[str, str]]:
    timing = cell.get("timing") or {}
    if timing:
        against = f" against {timing['baseline']}" if timing.get("baseline") else ""
        yield "speed", speed(timing) + against
        figures = [f"p{share} {latency(timing.get(f'p{share}_s')) or '-'}" for share in (50, 90, 99)]
        yield "latency", ", ".join(figures) + f"; {timing.get('pairs')} pairs in {timing.get('rounds')} rounds"
        why = f": {timing['trust_reason']}" if timing.get("trust_reason") else ""
        yield "trust", f"{timing.get('trust')}{why}; noise floor {spread(timing.get('noise'))}"
    overall = cell.get("overall") or {}
    if overall.get("ratio") is not None:
        yield "overall", f"{speed(overall)} against the matrix's baseline"
    starts = ", ".join(filter(None, (latency(cell.get("load_s")), latency(cell.get("first_run_s")))))
    base = [latency(timing.get(f"baseline_{name}")) for name in ("load_s", "first_run_s")]
    yield "load, first run", f"{starts} (its baseline: {', '.join(base)})" if all(base) else starts
    if load := timing.get("load"):
        compared = speed({**load, "noise": timing.get("noise")})
        took = f"{latency(load['p50_s'])} in turns (its baseline: {latency(load['baseline_p50_s'])})"
        yield "loading", f"{compared} against its baseline; {took}; {load['pairs']} pairs in {load['rounds']} rounds"
    yield "peak RSS", size(cell.get("peak_rss"))
    if held := cell.get("device_memory"):
        growth = "" if held["source"] == "process" else " (growth of what is used on the whole GPU)"
        yield "GPU memory", size(held["bytes"]) + growth


def _artefact(cell: Facts) -> Iterator[tuple[str, str]]:
    artefact = cell.get("artefact") or {}
    if artefact:
        yield "model", f"{size(artefact.get('bytes'))}, {artefact.get('digest')}"
        yield "file", artefact.get("path") or ""
        changed = artefact.get("changed") or {}
        for name, said in outline({name: facts for name, facts in changed.items() if name not in (TUNING, SEARCH)}):
            yield name, said or "done"
        yield "stamp", ", ".join(f"{name}: {value}" for name, value in (artefact.get("stamp") or {}).items())
        yield from (fact for fact in tuning_facts(artefact) if fact[0] != "tried")


def _runtime(cell: Facts, report: Facts) -> Iterator[tuple[str, str]]:
    runtime = (report.get("runtimes") or {}).get(cell["target"]) or {}
    if runtime:
        yield (
            "runtime",
            f"ONNX Runtime {runtime.get('ort_version')}, Python {runtime.get('python')}, {runtime.get('hash')}",
        )
        yield "in a container of", runtime.get("container") or ""
        for package in runtime.get("packages") or ():
            digest = f"sha256:{package['sha256']}" if package.get("sha256") else "from a file that is no longer there"
            yield "", f"{package.get('name')} {package.get('version')} {digest}"


def _show_tuning(screen: Screen, tuned: Facts) -> None:
    rows = [
        (
            str(row.get("setting")),
            str(row.get("against") or ""),
            speed(row) if row.get("ratio") is not None else "",
            str(row.get("problem") or row.get("outcome") or ""),
        )
        for row in tuned.get("tried") or ()
    ]
    show_table(screen, ("Session settings tried", "Against", "Speed", "Outcome"), rows, right=(2,))


def _show_parity(screen: Screen, parity: Facts) -> None:
    outputs: Facts = parity.get("outputs") or {}
    if not outputs:
        return
    screen.line()
    screen.line(f"Parity over {parity.get('samples')} samples", style="bold")
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for title in ("Output", "Taken for", "Cosine", "SQNR", "Max error", "Agreement", "Worst sample"):
        table.add_column(title, overflow="fold", justify="left" if title in ("Output", "Taken for") else "right")
    for name, entry in outputs.items():
        sqnr = entry.get("sqnr_db")
        numbers = (
            entry.get("role") or "",
            "identical" if entry.get("identical") else cosine(entry.get("cosine")),
            "" if sqnr is None else f"{sqnr:.1f} dB",
            percent(entry.get("max_rel_range")),
            percent(entry.get("agreement")),
            str(entry["max_rel_range_sample"]) if entry.get("max_rel_range_sample") is not None else "",
        )
        table.add_row(screen.text(name), *map(screen.text, numbers))
    screen.table(table)
    for name, entry in (parity.get("tasks") or {}).items():
        if entry.get("drop") is not None:
            screen.line(f"{task_drop({'tasks': {name: entry}})}: {entry['reference']:.4g} to {entry['candidate']:.4g}")
