"""One model's variants as a plot of latency against error, with size as the area of the bubbles: plain SVG.

Colour tells the runtime and is never alone: every bubble has a number, which the list beside the plot explains, and a
title for the pointer and for screen readers. Colours are Paul Tol's "bright" scheme, made to be told apart with any
colour vision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ortforge.api.wording import latency, percent, size
from ortforge.portable.statuses import CORRECT

from ._markup import Markup, join, tag

__all__ = ["Point", "front", "plot", "points_of", "runtime_of"]

WIDTH: Final = 620
HEIGHT: Final = 400
FLAT: Final = 200
"""Height of a plot in which nothing has an error."""
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 26, 52
LARGEST: Final = 21.0
"""Radius of the largest model's bubble; area goes with bytes."""
SMALLEST: Final = 4.0
NO_ERROR: Final = 1e-9
"""Errors below this are float64 rounding of the measure itself; they are drawn on the line "no error"."""
COLOURS: Final = 7

MEASURES: Final = {
    "cosine": "1 - worst cosine",
    "max_rel_range": "largest error, share of the output's range",
    "agreement": "1 - agreement",
}


@dataclass(frozen=True, slots=True)
class Point:
    """One timed variant. ``latency`` in seconds; ``error`` is 0 for an exact one; ``number`` is shown in the plot.

    :param colour: its runtime's and EP's, below :data:`COLOURS`, the same in all plots of a report.
    """

    number: int
    cell: Mapping[str, Any]
    latency: float
    error: float
    bytes: int
    noise: float
    correct: bool
    colour: int

    @property
    def label(self) -> str:
        """Which variant it is."""
        return f"{self.cell['recipe']} on {runtime_of(self.cell)}"


def runtime_of(cell: Mapping[str, Any]) -> str:
    """Return a cell's runtime and EP, which the colour tells."""
    return f"{cell['target']}:{cell['ep']}"


def points_of(cells: Sequence[Mapping[str, Any]], runtimes: Sequence[str]) -> tuple[str, list[Point]]:
    """Return the error measure that most timed cells have, and the cells that have it, fastest first.

    :param runtimes: runtimes and EPs of the whole report, each once; their order gives the colours.
    """
    timed = [
        cell for cell in cells if cell.get("parity") and cell.get("bytes") and (cell.get("timing") or {}).get("p50_s")
    ]
    if not timed:
        return "cosine", []
    measure = max(MEASURES, key=lambda name: sum(_error(cell, name) is not None for cell in timed))
    found: list[Point] = []
    for cell in sorted(timed, key=lambda cell: float(cell["timing"]["p50_s"])):
        error = _error(cell, measure)
        if error is not None:
            timing = cell["timing"]
            correct = cell["status"] in CORRECT
            noise = timing.get("noise") or 0.0
            number = len(found) + 1
            colour = runtimes.index(runtime_of(cell)) % COLOURS
            found.append(Point(number, cell, timing["p50_s"], error, cell["bytes"], noise, correct, colour))
    return measure, found


def _error(cell: Mapping[str, Any], measure: str) -> float | None:
    parity = cell["parity"]
    if parity.get("identical"):
        return 0.0
    value = (parity.get("worst") or {}).get(measure)
    if value is None:
        return None
    error = value if measure == "max_rel_range" else 1.0 - value
    return error if error > NO_ERROR else 0.0


def front(points: Sequence[Point]) -> list[Point]:
    """Return the correct variants that no other correct one beats.

    One beats another when it is at least as fast, as accurate and as small, and better in one of the three. Latencies
    that differ by no more than the noise count as equal.
    """
    correct = [point for point in points if point.correct]
    return [point for point in correct if not any(_beats(other, point) for other in correct if other is not point)]


def _beats(one: Point, other: Point) -> bool:
    margin = 1.0 + max(one.noise, other.noise)
    if one.latency > other.latency * margin or one.error > other.error or one.bytes > other.bytes:
        return False
    return one.latency * margin < other.latency or one.error < other.error or one.bytes < other.bytes


# Drawing


@dataclass(frozen=True, slots=True)
class _Axis:
    """A logarithmic axis from ``low`` to ``high``, drawn between the pixels ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def _ticks(low: float, high: float) -> list[float]:
    """Return round values between two positive numbers: 1-2-5 per decade, or evenly spaced when few would fit."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 1e3 else (1,)
    found = [step * 10.0**decade for decade in decades for step in steps]
    found = [value for value in found if low <= value <= high]
    if len(found) >= 3:
        return found
    unit = 10.0 ** math.floor(math.log10((high - low) / 2))
    for step in (5 * unit, 2 * unit, unit, unit / 2):
        found = [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
        if len(found) >= 3:
            break
    return found


def plot(model: str, measure: str, points: Sequence[Point], number: int) -> Markup:
    """Draw the plot. ``number`` makes ids unique on a page."""
    height = HEIGHT if any(point.error for point in points) else FLAT
    x = _x_axis(points)
    y, exact = _y_axis(points, height)
    places = {point.number: (x.at(point.latency), y.at(point.error) if point.error else exact) for point in points}
    radii = {point.number: _radius(point, points) for point in points}
    best = {point.number for point in front(points)}
    labels = _labels(points, places, radii, height)
    # Large bubbles first, so that small ones lie on top and stay within reach of the pointer.
    drawn = [
        _bubble(point, places[point.number], radii[point.number], point.number in best)
        for point in sorted(points, key=lambda point: -radii[point.number])
    ]
    return tag(
        "svg",
        tag("title", f"Latency, error and size of {model}", id=f"plot-{number}-title"),
        _grid(measure, points, x, y, exact, height),
        *drawn,
        tag("g", *(_number(point, places, radii, labels) for point in points), aria_hidden="true"),
        viewBox=f"0 0 {WIDTH} {height}",
        role="group",
        aria_labelledby=f"plot-{number}-title",
        class_="pareto",
    )


def _x_axis(points: Sequence[Point]) -> _Axis:
    low, high = (pick(point.latency for point in points) for pick in (min, max))
    # Room for the bubbles, and at least ±15 % around, so that a few per cent do not look like a gulf.
    spread = max(1.15, (high / low) ** 0.09)
    return _Axis(low / spread, high * spread, LEFT, WIDTH - RIGHT)


def _y_axis(points: Sequence[Point], height: int) -> tuple[_Axis, float]:
    """Return the error axis, and the height at which what has no error is drawn."""
    errors = [point.error for point in points if point.error] or [1e-4, 1e-2]
    low, high = min(errors) / 2, max(errors) * 2
    if high / low < 30:
        low, high = low / 3, high * 2
    has_exact = any(not point.error for point in points)
    bottom = height - BOTTOM - 2 * LARGEST - 8 if has_exact else height - BOTTOM - LARGEST
    return _Axis(low, high, bottom, TOP + LARGEST / 2), height - BOTTOM - LARGEST - 2


def _radius(point: Point, points: Sequence[Point]) -> float:
    return max(SMALLEST, LARGEST * math.sqrt(point.bytes / max(other.bytes for other in points)))


def _grid(measure: str, points: Sequence[Point], x: _Axis, y: _Axis, exact: float, height: int) -> Markup:
    right, bottom = WIDTH - RIGHT, height - BOTTOM
    parts = []
    for value in _ticks(x.low, x.high):
        at = round(x.at(value), 1)
        parts.append(tag("line", x1=at, x2=at, y1=TOP, y2=bottom, class_="grid"))
        parts.append(tag("text", latency(value), x=at, y=bottom + 18, text_anchor="middle", class_="tick"))
    for value in _ticks(y.low, y.high) if any(point.error for point in points) else ():
        at = round(y.at(value), 1)
        parts.append(tag("line", x1=LEFT, x2=right, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", f"{value:.3g}", x=LEFT - 8, y=at + 4, text_anchor="end", class_="tick"))
    if any(not point.error for point in points):
        parts.append(tag("line", x1=LEFT, x2=right, y1=exact, y2=exact, class_="exact"))
        parts.append(tag("text", "no error", x=LEFT - 8, y=exact + 4, text_anchor="end", class_="tick"))
    middle = (LEFT + right) / 2
    name = f"{MEASURES[measure]} (lower is better)"
    parts.append(tag("text", name, x=6, y=14, class_="axis axis-y"))
    parts.append(
        tag("text", "latency, p50 (left is better)", x=middle, y=height - 10, text_anchor="middle", class_="axis")
    )
    return tag("g", *parts, aria_hidden="true")


def _labels(
    points: Sequence[Point], places: Mapping[int, tuple[float, float]], radii: Mapping[int, float], height: int
) -> dict[int, tuple[float, float]]:
    """Place each number in its bubble when that is free-standing, and else around it where no other number is."""
    taken: list[tuple[float, float]] = []
    found = {}
    for point in points:
        x, y = places[point.number]
        radius = radii[point.number]
        crowd = (math.dist((x, y), places[other.number]) for other in points if other is not point)
        middle = [(x, y)] if radius >= 9 and all(distance > radius + 4 for distance in crowd) else []
        ring = [
            (x + (radius + far) * math.cos(angle), y - (radius + far) * math.sin(angle))
            for far in (10, 22, 34, 46)
            for angle in (math.pi / 2, math.pi / 4, 3 * math.pi / 4, 0, math.pi, -math.pi / 2)
        ]
        free = [
            (at_x, at_y)
            for at_x, at_y in (*middle, *ring)
            if LEFT < at_x < WIDTH - 8
            and 8 < at_y < height - BOTTOM
            and all(abs(at_x - other_x) > 15 or abs(at_y - other_y) > 13 for other_x, other_y in taken)
        ]
        place = free[0] if free else (x, y)
        taken.append(place)
        found[point.number] = place
    return found


def _bubble(point: Point, place: tuple[float, float], radius: float, on_front: bool) -> Markup:
    kinds = [f"colour-{point.colour}"]
    kinds += ["best"] if on_front else []
    kinds += [] if point.correct else ["wrong"]
    said = title_of(point, on_front)
    return tag(
        "g",
        tag("title", said),
        tag("circle", cx=round(place[0], 1), cy=round(place[1], 1), r=round(radius, 1)),
        tag("text", said, x=WIDTH - RIGHT, y=14, text_anchor="end", class_="tip", aria_hidden="true"),
        class_=f"point {' '.join(kinds)}",
        tabindex="0",
        role="img",
        aria_label=said,
    )


def _number(
    point: Point,
    places: Mapping[int, tuple[float, float]],
    radii: Mapping[int, float],
    labels: Mapping[int, tuple[float, float]],
) -> Markup:
    """Draw a number above all bubbles, with a line to its own where it stands outside."""
    (x, y), (at_x, at_y) = places[point.number], labels[point.number]
    x, y, at_x, at_y = (round(value, 1) for value in (x, y, at_x, at_y))
    outside = math.dist((x, y), (at_x, at_y)) > radii[point.number]
    return join(
        tag("line", x1=x, y1=y, x2=at_x, y2=at_y, class_="leader") if outside else "",
        tag("text", point.number, x=at_x, y=at_y + 4, text_anchor="middle", class_="number"),
    )


def title_of(point: Point, on_front: bool) -> str:
    """Say a point in words."""
    error = "no error" if not point.error else f"error {percent(point.error)}"
    parts = [f"{point.number}. {point.label}", latency(point.latency), error, size(point.bytes)]
    parts += [point.cell["status"]] if not point.correct else []
    return ", ".join(parts) + (" (Pareto front)" if on_front else "")
