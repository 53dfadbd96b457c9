"""Where a cell's tensors leave those of the model before its recipe: a plot along the graph, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ortforge.api.explained import (
    TRIAL_COLUMNS,
    VARIANT_COLUMNS,
    badness,
    compact_list,
    exclude_line,
    first_sentence,
    largest,
    mixed_sentences,
    search_sentences,
    sqnr,
    trial_rows,
    variant_rows,
)
from ortforge.api.wording import cosine, percent

from ._markup import Markup, join, tag

__all__ = ["differences", "search"]

WIDTH: Final = 760
HEIGHT: Final = 280
LEFT: Final = 58
RIGHT: Final = 14
TOP: Final = 30
BOTTOM: Final = 48
TOP_DB: Final = 80.0
"""Upper edge of the plot; the lower one is 0 dB, where the noise is as strong as the signal."""
TICK_DB: Final = 20
SHOWN: Final = 12
LONGEST: Final = 26
"""Characters of a name in the plot."""

Facts = Mapping[str, Any]


def differences(found: Facts) -> Markup:
    """Return the plot of SQNR along the graph, what leaving nodes out gave, the worst tensors and weights."""
    if not found:
        return Markup()
    numbered = [(number, entry) for number, entry in enumerate(found["tensors"], 1)]
    ranked = sorted(numbered, key=lambda pair: badness(pair[1]))[:SHOWN]
    header = ("No.", "Tensor", "Node", "Operator", "SQNR", "Cosine", "Max error")
    every = _table(header, [_row(*pair) for pair in numbered], right=(0, 4, 5, 6))
    weights = [
        (one["weight"], str(one["shape"]), sqnr(one), cosine(one["cosine"]), largest(one)) for one in found["weights"]
    ]
    return join(
        tag("p", first_sentence(found)),
        *(tag("p", sentence) for sentence in mixed_sentences(found)),
        tag("figure", _plot(found), tag("figcaption", _caption(found))),
        _exclusion(found),
        _titled("Worst tensors", _table(header, [_row(*pair) for pair in ranked], right=(0, 4, 5, 6))),
        tag("details", tag("summary", f"All {len(numbered)} tensors, in the order of the graph"), every),
        _titled(
            "Worst weights",
            _table(("Weight", "Shape", "SQNR", "Cosine", "Max error"), weights[:SHOWN], right=(2, 3, 4)),
        ),
        _titled("Where the outputs' noise comes from", _places(found.get("ranking") or ())),
    )


def search(found: Facts) -> Markup:
    """Return what a search over variants came to, with a row for each."""
    if not found:
        return Markup()
    said = tag("ul", *(tag("li", sentence) for sentence in search_sentences(found)))
    return join(said, _table(VARIANT_COLUMNS, list(variant_rows(found)), right=(2, 3, 4, 5)))


def _row(number: int, entry: Facts) -> tuple[str, ...]:
    named = str(number), entry["tensor"], entry["node"], entry["op"]
    return *named, sqnr(entry), cosine(entry["cosine"]), largest(entry)


def _titled(title: str, content: Markup) -> Markup:
    return join(tag("h5", title), content) if content else Markup()


def _caption(found: Facts) -> str:
    missing = found.get("unmatched")
    gone = f" {missing} tensors have no counterpart: they were fused or taken out." if missing else ""
    return (
        f"Each dot is a tensor, from the model's inputs on the left to its outputs on the right, over "
        f"{found['samples']} samples. What lies below the dashed line ({found['threshold_db']:.1f} dB) has a lower "
        f"cosine than the model's tolerance asks of its outputs. The number on the axis is the tables' No.{gone}"
    )


def _exclusion(found: Facts) -> Markup:
    names = found.get("nodes_to_exclude")
    if exclusion := found.get("exclusion"):
        table = _table(TRIAL_COLUMNS, list(trial_rows(exclusion)), right=(1, 2, 3, 4, 6))
        names = exclusion["nodes_to_exclude"]
        how = "It would go" if exclusion["before"]["holds"] else "Paste it"
        hint = f"{how} into the pass {exclusion['pass']}; its speed was not measured."
        inside = join(tag("p", exclusion["verdict"]), table, _paste(names, hint))
        return _titled("Quantized again with nodes left in float", inside)
    why = f"No list of nodes was tried: {found['unproved'].rstrip('.')}." if found.get("unproved") else ""
    guess = _paste(names or (), "A guess from the ranking below, which nobody has tried.")
    return _titled("Nodes to leave out", join(tag("p", why) if why else "", guess)) if why or guess else Markup()


def _paste(names: Sequence[str], hint: str) -> Markup:
    if not names:
        return Markup()
    line = tag("div", tag("pre", tag("code", exclude_line(names))), class_="command")
    return join(tag("p", hint, class_="soft"), line)


def _places(ranking: Sequence[Facts]) -> Markup:
    rows = [
        (
            f"weight {place['tensor']}" if place["is_weight"] else place["tensor"],
            place["op"],
            percent(place["share"]),
            compact_list(place["nodes"], most=4),
        )
        for place in ranking[:SHOWN]
    ]
    return _table(("Rounded here", "Operator", "Share", "Nodes to leave out for it"), rows, right=(2,))


# The plot


def _plot(found: Facts) -> Markup:
    tensors: Sequence[Facts] = found["tensors"]
    threshold, first = float(found["threshold_db"]), found.get("first_diverging") or {}
    return tag(
        "svg",
        *_axes(len(tensors)),
        *_limit(threshold),
        *(_dot(place, entry, len(tensors), threshold) for place, entry in enumerate(tensors)),
        *_marked(tensors, first),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label="SQNR of each tensor, from the model's inputs on the left to its outputs on the right",
        class_="tensors",
    )


def _x(place: int, count: int) -> float:
    return round(LEFT + 8 + place * (WIDTH - LEFT - RIGHT - 16) / max(1, count - 1), 1)


def _y(sqnr_db: float) -> float:
    share = min(1.0, max(0.0, sqnr_db / TOP_DB))
    return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share, 1)


def _axes(count: int) -> Iterator[Markup]:
    for tick in range(0, int(TOP_DB) + 1, TICK_DB):
        y = _y(tick)
        yield tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid")
        label = "≥ 80" if tick == TOP_DB else str(tick) if tick else "≤ 0"
        yield tag("text", label, x=LEFT - 8, y=y + 4, text_anchor="end", class_="tick")
    yield tag("text", "SQNR, dB", x=4, y=14, class_="axis")
    step = max(1, next((size for size in (1, 2, 5, 10, 20, 50, 100, 200, 500) if count / size <= 8), count // 8))
    numbers = [1, *range(step, count + 1, step)] if step > 1 else list(range(1, count + 1))
    for number in numbers:
        x = _x(number - 1, count)
        yield tag("text", number, x=x, y=HEIGHT - BOTTOM + 18, text_anchor="middle", class_="tick")
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield tag(
        "text",
        "No. of the tensor, in the order of the graph",
        x=middle,
        y=HEIGHT - 8,
        text_anchor="middle",
        class_="axis",
    )


def _limit(threshold: float) -> Iterator[Markup]:
    y = _y(threshold)
    yield tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="limit")


def _dot(place: int, entry: Facts, count: int, threshold: float) -> Markup:
    value = badness(entry)
    label = f"{place + 1}: {entry['tensor']} ({entry['op']} {entry['node']}): {sqnr(entry)}"
    kind = "below" if value < threshold else "exact" if entry["exact"] else None
    return tag("circle", tag("title", label), cx=_x(place, count), cy=_y(value), r=3, class_=kind)


def _marked(tensors: Sequence[Facts], first: Facts) -> Iterator[Markup]:
    """Mark the first node to diverge with its name, and the worst tensor if that is another one."""
    if not tensors:
        return
    worst = min(range(len(tensors)), key=lambda number: badness(tensors[number]))
    place = next((number for number, entry in enumerate(tensors) if first and entry["tensor"] == first["tensor"]), None)
    if place is None:
        return
    yield from _flag(place, tensors, "first below", TOP - 12)
    if worst != place:
        yield tag("circle", cx=_x(worst, len(tensors)), cy=_y(badness(tensors[worst])), r=6, class_="ring")


def _flag(place: int, tensors: Sequence[Facts], word: str, y: float) -> Iterator[Markup]:
    entry, x = tensors[place], _x(place, len(tensors))
    name = entry["node"] or entry["tensor"]
    said = f"{word}: {name if len(name) <= LONGEST else '…' + name[1 - LONGEST :]} ({entry['op']})"
    # Whole at any width of the page, where letters are larger in relation to the plot.
    anchor = "start" if x < 0.4 * WIDTH else "end" if x > 0.6 * WIDTH else "middle"
    yield tag("line", x1=x, x2=x, y1=y + 4, y2=_y(badness(entry)) - 5, class_="leader")
    yield tag("text", said, x=x, y=y, text_anchor=anchor, class_="named")
    yield tag("circle", cx=x, cy=_y(badness(entry)), r=6, class_="ring")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> Markup:
    if not rows:
        return Markup()

    def kind(place: int, said: str = "") -> str | None:
        return "right" if place in right else "long" if len(said) > LONGEST else None

    head = tag("tr", *(tag("th", title, scope="col", class_=kind(place)) for place, title in enumerate(header)))
    body = (tag("tr", *(tag("td", said, class_=kind(place, said)) for place, said in enumerate(row))) for row in rows)
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="wide")
