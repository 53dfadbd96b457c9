"""Where a cell's tensors leave those of the model before its recipe: a plot along the graph, and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ._markup import Markup, join, tag

__all__ = ["differences"]

WIDTH: Final = 640
HEIGHT: Final = 160
TOP_DB: Final = 80.0
"""Upper edge of the plot; the lower one is 0 dB, where the noise is as strong as the signal."""
SHOWN: Final = 20


def differences(found: Mapping[str, Any]) -> Markup:
    """Return the plot of SQNR along the graph, the first diverging node, the worst tensors and weights."""
    if not found:
        return Markup()
    first, names = found.get("first_diverging"), found.get("nodes_to_exclude")
    said = f"Over {found['samples']} samples; the line is at {found['threshold_db']:.1f} dB."
    if first:
        said = (
            f"First to diverge: {first['node'] or 'a node without a name'} ({first['op']}), {first['tensor']}. {said}"
        )
    ranked = sorted(found["tensors"], key=_badness)[:SHOWN]
    paste = f"nodes_to_exclude = {json.dumps(names, ensure_ascii=False)}"
    return join(
        tag("p", said, class_="soft"),
        _plot(found["tensors"], found["threshold_db"]),
        _table("Worst tensors", [(entry["tensor"], entry["op"], entry) for entry in ranked]),
        _table("Worst weights", [(one["weight"], one["shape"], one) for one in found["weights"][:SHOWN]]),
        tag("div", tag("pre", tag("code", paste)), class_="command") if names else "",
    )


def _badness(entry: Mapping[str, Any]) -> float:
    if entry["sqnr_db"] is None:
        return float("inf") if entry["exact"] else float("-inf")
    return float(entry["sqnr_db"])


def _plot(tensors: Sequence[Mapping[str, Any]], threshold: float) -> Markup:
    def height(sqnr: float) -> float:
        return round(HEIGHT - 5 - (HEIGHT - 10) * min(1.0, max(0.0, sqnr / TOP_DB)), 1)

    step = (WIDTH - 20) / max(1, len(tensors) - 1)
    dots = []
    for place, entry in enumerate(tensors):
        label = f"{entry['tensor']} ({entry['op']}): {_sqnr(entry)}"
        dots.append(tag("circle", tag("title", label), cx=round(10 + place * step, 1), cy=height(_badness(entry)), r=3))
    line = height(threshold)
    return tag(
        "svg",
        tag("line", x1=0, x2=WIDTH, y1=line, y2=line, class_="unit", stroke="currentColor", stroke_dasharray="4 4"),
        *dots,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label="SQNR of each tensor, from the model's inputs on the left to its outputs on the right",
        width="100%",
        fill="currentColor",
    )


def _sqnr(entry: Mapping[str, Any]) -> str:
    if entry["sqnr_db"] is None:
        return "no error" if entry["exact"] else "no signal"
    return f"{entry['sqnr_db']:.1f} dB"


def _table(title: str, rows: Sequence[tuple[object, object, Mapping[str, Any]]]) -> Markup:
    if not rows:
        return Markup()
    head = tag("tr", *(tag("th", name, scope="col") for name in (title, "", "SQNR", "Cosine")))
    body = (
        tag("tr", *(tag("td", said) for said in (*row[:2], _sqnr(row[2]), f"{row[2]['cosine']:.6f}"))) for row in rows
    )
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="wide")
