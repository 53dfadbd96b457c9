"""Where a cell's tensors leave those of the model before its recipe, and what helps, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ortforge.api.explained import (
    TRIAL_COLUMNS,
    VARIANT_COLUMNS,
    badness,
    compact_list,
    exclude_line,
    first_sentence,
    mixed_sentences,
    search_sentences,
    sqnr,
    trial_rows,
    variant_rows,
)
from ortforge.api.wording import cosine, percent
from ortforge.report.screen import Screen

__all__ = ["show_differences", "show_search"]

SHOWN: Final = 10
"""How many of the worst tensors, weights and places are printed; JSON has all."""

Facts = Mapping[str, Any]


def show_differences(screen: Screen, found: Facts) -> None:
    """Print the first diverging node, what leaving nodes out gave, and the worst tensors and weights."""
    if not found:
        return
    screen.line()
    screen.line(f"Tensors against the model before the recipe, over {found['samples']} samples", style="bold")
    screen.line(first_sentence(found), indent=2)
    if missing := found.get("unmatched"):
        screen.line(f"{missing} tensors have no counterpart: they were fused or taken out.", indent=2)
    for sentence in mixed_sentences(found):
        screen.line(sentence, indent=2)
    _show_exclusion(screen, found)
    tensors = [(entry["tensor"], entry["op"], entry) for entry in sorted(found["tensors"], key=badness)[:SHOWN]]
    _errors(screen, "Worst tensors", tensors)
    _errors(screen, "Worst weights", [(one["weight"], str(one["shape"]), one) for one in found["weights"][:SHOWN]])
    places = [
        ("weight " * place["is_weight"] + place["tensor"], place["op"], percent(place["share"]), *_nodes(place))
        for place in (found.get("ranking") or ())[:SHOWN]
    ]
    show_table(screen, ("Where the outputs' noise comes from", "", "Share", "Nodes to leave out"), places, right=(2,))


def _nodes(place: Facts) -> tuple[str]:
    return (compact_list(place["nodes"], most=3),)


def _show_exclusion(screen: Screen, found: Facts) -> None:
    if exclusion := found.get("exclusion"):
        screen.line()
        spent = f"over {exclusion['samples']} samples, in {exclusion['spent_s']:.0f} s"
        screen.line(f"Quantized again with nodes left in float, {spent}", style="bold")
        screen.line(exclusion["verdict"], indent=2)
        rows = list(trial_rows(exclusion))
        show_table(screen, TRIAL_COLUMNS, rows, right=(1, 2, 3, 4, 6))
        if names := exclusion["nodes_to_exclude"]:
            optional = "If you want them, put" if exclusion["before"]["holds"] else "Put"
            screen.line(f"{optional} into {exclusion['pass']}, and run it for its speed:", indent=2)
            screen.line(exclude_line(names), indent=2)
        return
    if why := found.get("unproved"):
        screen.line(f"No list of nodes was tried: {why}.".replace("..", "."), indent=2)
    if names := found.get("nodes_to_exclude"):
        screen.line("A guess from the ranking below, which nobody has tried:", indent=2)
        screen.line(exclude_line(names), indent=2)
    elif found.get("unnamed_nodes") and found.get("ranking"):
        screen.line("Nodes without names cannot be excluded: name them with the pass preprocess first.", indent=2)


def show_search(screen: Screen, search: Facts) -> None:
    """Print what a search over variants came to: one line for each."""
    if not search:
        return
    screen.line()
    screen.line("Variants that were tried", style="bold")
    for sentence in search_sentences(search):
        screen.line(sentence, indent=2)
    show_table(screen, VARIANT_COLUMNS, list(variant_rows(search)), right=(2, 3, 4, 5))


def show_table(
    screen: Screen, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """Print a table, if it has rows; ``right`` names the columns of numbers."""
    if not rows:
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for place, name in enumerate(columns):
        table.add_column(screen.text(name), overflow="fold", justify="right" if place in right else "left")
    for row in rows:
        table.add_row(*map(screen.text, row))
    screen.line()
    screen.table(table)


def _errors(screen: Screen, title: str, rows: Sequence[tuple[str, str, Facts]]) -> None:
    said = [
        (
            name,
            kind,
            sqnr(entry),
            cosine(entry["cosine"]),
            "" if entry["max_abs"] is None else f"{entry['max_abs']:.3g}",
        )
        for name, kind, entry in rows
    ]
    show_table(screen, (title, "", "SQNR", "Cosine", "Max abs"), said, right=(2, 3, 4))
