"""What ships, and whether a run ended as expected, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ortforge.api.wording import best_text, combination_text
from ortforge.report.screen import Screen
from ortforge.report.ships import best_per_model, what_ships

__all__ = ["show_expectations", "show_ships"]

Facts = Mapping[str, Any]

MAX_NAMES: Final = 20
"""Cells that are named in a list; the JSON report has them all."""


def show_ships(screen: Screen, report: Facts) -> None:
    """Print the best combination of each model and device, and below it the details per runtime and EP."""
    cells = {cell["id"]: cell for cell in report["cells"]}
    screen.line()
    screen.line("What ships", style="bold")
    ships = report.get("ships") or what_ships(report)
    best = report.get("best") or best_per_model({**report, "ships": ships})
    for model, entries in ships.items():
        for answer in best[model]:
            _show_answer(screen, model, answer, cells, several_devices=len(best[model]) > 1)
            rows = [entry for entry in entries if entry["device"] == answer["device"]]
            for entry in rows if len(rows) > 1 else ():
                cell = cells.get(entry["cell"])
                what = cell["recipe"] if cell else "nothing"
                place = f"{entry['target']}:{entry['ep']}"
                screen.line(place, "  ", screen.text(what, "green" if cell else "red"), f": {entry['why']}", indent=4)
            if len(rows) == 1 and answer["cell"]:
                screen.line(rows[0]["why"], indent=4)


def _show_answer(screen: Screen, model: str, answer: Facts, cells: Facts, *, several_devices: bool) -> None:
    name = f"{model} ({answer['device']})" if several_devices else model
    what = screen.text(combination_text(answer), "bold green" if answer["cell"] else "bold red")
    numbers = best_text(answer, cells.get(answer["cell"]))
    screen.line("  ", screen.text(name, "bold"), "  ", what, f"  {numbers}" if numbers else "")
    screen.line(answer["why"], indent=4)


def show_expectations(screen: Screen, report: Facts) -> None:
    """Print which verdicts are not as expected, which are better, and which cells have no expectation."""
    found = report.get("expectations")
    if not found:
        return
    problems: Sequence[Facts] = found["problems"]
    if problems:
        screen.line()
        screen.line(f"Not as expected ({len(problems)})", style="bold")
        for problem in problems[:MAX_NAMES]:
            screen.line(problem["cell"], indent=2)
            screen.line(problem["what"], indent=4)
        if len(problems) > MAX_NAMES:
            screen.line(f"… and {len(problems) - MAX_NAMES} more; the report files have them all.", indent=2)
    for title, names in (("Better than expected", found["better"]), ("Another status than expected", found["changed"])):
        if names:
            screen.line()
            screen.line(f"{title} ({len(names)})", style="bold")
            for line in _moves(report, names):
                screen.line(line, indent=2)
    if found["files"] and found["without"]:
        screen.line()
        names = ", ".join(found["without"][:MAX_NAMES]) + (", …" if len(found["without"]) > MAX_NAMES else "")
        screen.line(f"Without an expectation ({len(found['without'])}): {names}.")
        screen.line("'ortforge run --accept' writes the verdicts of a run down as expected.")


def _moves(report: Facts, names: Sequence[str]) -> Iterator[str]:
    cells = {cell["id"]: cell for cell in report["cells"]}
    for name in names[:MAX_NAMES]:
        cell = cells[name]
        allowed = " or ".join(cell["expectation"]["status"])
        yield f"{name}: {cell['status']} ({cell['expectation']['source']} expects {allowed})"
    if len(names) > MAX_NAMES:
        yield f"… and {len(names) - MAX_NAMES} more; the report files have them all."
