"""Where a cell's tensors leave those of the model before its recipe, on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ortforge.api.wording import cosine
from ortforge.report.screen import Screen

__all__ = ["badness", "exclude_line", "show_differences"]

SHOWN: Final = 10
"""How many of the worst tensors and weights are printed; JSON and HTML have all."""


def badness(entry: Mapping[str, Any]) -> float:
    """Return what worst-first lists are sorted by: the SQNR, with no signal at the front and no error at the end."""
    if entry["sqnr_db"] is None:
        return float("inf") if entry["exact"] else float("-inf")
    return float(entry["sqnr_db"])


def exclude_line(names: Sequence[str]) -> str:
    """Return the line to paste into a recipe's pass (a JSON list of strings is a TOML one)."""
    return f"nodes_to_exclude = {json.dumps(list(names), ensure_ascii=False)}"


def show_differences(screen: Screen, found: Mapping[str, Any]) -> None:
    """Print the worst tensors and weights, the first diverging node and the list of nodes to exclude."""
    if not found:
        return
    limit = f"{found['threshold_db']:.1f} dB"
    screen.line()
    screen.line(f"Tensors against the model before the recipe, over {found['samples']} samples", style="bold")
    if first := found.get("first_diverging"):
        node = f"{first['node'] or 'a node without a name'} ({first['op']})"
        screen.line(f"First to diverge: {node}, whose output {first['tensor']} is below {limit}", indent=2)
    else:
        screen.line(f"No node diverges: all tensors have at least {limit}, or only the inputs do not", indent=2)
    if missing := found.get("unmatched"):
        screen.line(f"{missing} tensors have no counterpart: they were fused or taken out.", indent=2)
    tensors = [(entry["tensor"], entry["op"], entry) for entry in sorted(found["tensors"], key=badness)[:SHOWN]]
    _table(screen, "Worst tensors", tensors)
    _table(screen, "Worst weights", [(one["weight"], str(one["shape"]), one) for one in found["weights"][:SHOWN]])
    if names := found.get("nodes_to_exclude"):
        screen.line("To keep the nodes that add most noise in float, put into the quantizing pass:", indent=2)
        screen.line(exclude_line(names), indent=2)
    elif found.get("unnamed_nodes"):
        screen.line("Nodes without names cannot be excluded: name them with the pass preprocess first.", indent=2)


def _table(screen: Screen, title: str, rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> None:
    if not rows:
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in (title, "", "SQNR", "Cosine", "Max abs"):
        table.add_column(name, overflow="fold", justify="left" if name in (title, "") else "right")
    for name, kind, entry in rows:
        sqnr = "no error" if entry["exact"] else "no signal"
        numbers = (
            kind,
            sqnr if entry["sqnr_db"] is None else f"{entry['sqnr_db']:.1f} dB",
            cosine(entry["cosine"]),
            "" if entry["max_abs"] is None else f"{entry['max_abs']:.3g}",
        )
        table.add_row(screen.text(name), *map(screen.text, numbers))
    screen.table(table)
