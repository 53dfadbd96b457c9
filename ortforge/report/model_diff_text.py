"""The differences of two models on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ortforge.api.wording import percent, size
from ortforge.report.screen import Screen

__all__ = ["show"]

SHOWN: Final = 8
"""Names that are listed of each kind, unless all are asked for."""

Found = Mapping[str, Any]


def show(found: Found, console: Console | None = None, *, everything: bool = False) -> None:
    """Print what :func:`ortforge.report.model_diff.compare` found; ``everything``: every name, not the first few."""
    screen = Screen(console)
    most = 10**9 if everything else SHOWN
    for name, side in (("before", found["a"]), ("after ", found["b"])):
        screen.line(screen.text(f"{name} ", "bold"), _headline(side))
    for note in found["notes"]:
        screen.line(screen.text(note, "yellow"))
    listed = _has_details(found)
    if found["same"]:
        screen.line()
        what_differs = "only parts that do not change what is computed differ" if listed else "only their files differ"
        sentence = "The files are identical." if found["identical"] else f"The models are equal: {what_differs}."
        screen.line(screen.text(sentence, "bold"))
        if not listed:
            return
    elif not listed:
        screen.line()
        screen.line("The models differ in values that are not listed, such as a tensor inside an attribute.")
    _summary(screen, found)
    _operators(screen, found["operators"])
    _initializers(screen, found["initializers"])
    _interface(screen, found)
    _weights(screen, found["weights"], most)
    _nodes(screen, found["nodes"], most)
    _pairs(screen, "Metadata", found["metadata"], most)
    _list(
        screen, "Other parts that differ", [f"~ {name}{_presence(pair)}" for name, pair in found["other"].items()], most
    )


def _has_details(found: Found) -> bool:
    """Return whether any part lists a difference."""
    interface = ("inputs", "outputs", "overridable_inputs", "functions")
    return any(
        (
            *(found[part] for part in ("header", "opsets", "operators", "metadata", "other")),
            *(found[part][kind] for part in interface for kind in found[part]),
            *(found["weights"][kind] for kind in found["weights"] if kind != "equal"),
            *(found["nodes"][kind] for kind in ("added", "removed", "changed")),
        )
    )


def _presence(pair: list[Any]) -> str:
    return ": added" if pair[0] is None else ": removed" if pair[1] is None else ""


def _headline(side: Found) -> str:
    opsets = ", ".join(f"{domain} {version}" for domain, version in side["opsets"].items())
    producer = f", {side['producer']}" if side["producer"] else ""
    outside = f" (of which {size(side['external_bytes'])} outside)" if side["external_bytes"] else ""
    return (
        f"{side['path']}  {size(side['bytes'])}{outside}, {side['nodes']} nodes, {side['weights']} weights, "
        f"IR {side['ir_version']}, {opsets}{producer}"
    )


def _title(screen: Screen, text: str) -> None:
    screen.line()
    screen.line(screen.text(text, "bold"))


def _summary(screen: Screen, found: Found) -> None:
    lines = [*_fusions(found["fusions"]), *_quantized(found["quantization"])]
    if found["opsets"]:
        changes = (f"{domain} {_or_none(a)} → {_or_none(b)}" for domain, (a, b) in found["opsets"].items())
        lines.append(f"opsets: {', '.join(changes)}")
    lines += [f"{name.replace('_', ' ')}: {a or 'none'} → {b or 'none'}" for name, (a, b) in found["header"].items()]
    if lines:
        screen.line()
    for line in lines:
        screen.line(line)


def _or_none(value: Any) -> str:
    return "none" if value is None else str(value)


def _fusions(fusions: Found) -> list[str]:
    if not fusions["gained"]:
        return []
    lost = {op: count for op, count in fusions["instead_of"].items() if op != "Constant"}
    return [f"fused: {_counts(fusions['gained'])}, instead of {_counts(lost)}"]


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{count} {op.rpartition(':')[2]}" for op, count in list(counts.items())[:SHOWN]]
    if left := list(counts.values())[SHOWN:]:
        shown.append(f"{sum(left)} others")
    return " + ".join(shown)


def _quantized(quantization: Found) -> list[str]:
    before, after = quantization["a"], quantization["b"]
    kept = ("operators", "of", "low_bit_bytes", "bytes")
    if not (before["operators"] or after["operators"] or before["low_bit_bytes"] != after["low_bit_bytes"]):
        return []
    if all(before[key] == after[key] for key in kept):
        return [f"quantized: {_share(after)}, as before"]
    return [f"quantized: {_share(before)} → {_share(after)}"]


def _share(side: Found) -> str:
    if not side["operators"] and not side["low_bit_bytes"]:
        return "nothing"
    forms = f" ({', '.join(f'{count} {form}' for form, count in side['forms'].items())})" if side["forms"] else ""
    share = percent(side["low_bit_bytes"] / side["bytes"]) if side["bytes"] else "0%"
    return f"{side['operators']} of {side['of']} heavy operators{forms}, {share} of the weights' bytes"


def _table(screen: Screen, *columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(screen.text(column), overflow="fold", justify="right" if number else "left")
    return table


def _change(screen: Screen, before: int, after: int, said: str = "") -> Any:
    style = "green" if after < before else "yellow"
    return screen.text(said or f"{after - before:+,}", style if before != after else "")


def _operators(screen: Screen, operators: Mapping[str, list[int]]) -> None:
    if not operators:
        return
    screen.line()
    table = _table(screen, "Operator", "Before", "After", "Change")
    for op, (a, b) in sorted(operators.items(), key=lambda pair: (pair[1][1] - pair[1][0], pair[0])):
        table.add_row(screen.text(op), screen.text(a), screen.text(b), _change(screen, a, b))
    screen.table(table)


def _initializers(screen: Screen, initializers: Found) -> None:
    before, after = initializers["a"], initializers["b"]
    if before == after:
        return
    screen.line()
    table = _table(screen, "Weights by type", "Before", "After", "Change")
    nothing = {"count": 0, "bytes": 0}
    for dtype in dict.fromkeys((*before, *after)):
        a, b = before.get(dtype, nothing), after.get(dtype, nothing)
        sides = [screen.text(f"{side['count']:,}: {size(side['bytes'])}" if side["count"] else "") for side in (a, b)]
        change = ("+" if b["bytes"] > a["bytes"] else "-") + size(abs(b["bytes"] - a["bytes"]))
        same = a["bytes"] == b["bytes"]
        table.add_row(screen.text(dtype), *sides, _change(screen, a["bytes"], b["bytes"], "" if same else change))
    screen.table(table)


def _interface(screen: Screen, found: Found) -> None:
    for kind in ("inputs", "outputs", "overridable_inputs"):
        changes = found[kind]
        lines = [f"- {name}: {type_}" for name, type_ in changes["removed"].items()]
        lines += [f"+ {name}: {type_}" for name, type_ in changes["added"].items()]
        lines += [f"~ {name}: {a} → {b}" for name, (a, b) in changes["changed"].items()]
        if changes["order"]:
            lines.append(f"in another order: {' → '.join(', '.join(names) for names in changes['order'])}")
        _list(screen, f"{kind.replace('_', ' ').capitalize()} changed", lines, len(lines))
    for kind, mark in (("added", "+"), ("removed", "-")):
        names = found["functions"][kind]
        _list(screen, f"Functions {kind}", [f"{mark} {name}" for name in names], SHOWN)
    changed = found["functions"]["changed"].items()
    _list(screen, "Functions changed", [f"~ {name}: {a} ⇒ {b}" for name, (a, b) in changed], SHOWN)


def _weights(screen: Screen, weights: Found, most: int) -> None:
    parts = [f"{weights['equal']} equal"]
    for kind, said in (
        ("changed", "with other values"),
        ("retyped", "of another type or shape"),
        ("quantized", "quantized"),
        ("renamed", "renamed"),
        ("added", "added"),
        ("removed", "removed"),
        ("not_compared", "not compared"),
    ):
        if weights[kind]:
            parts.append(f"{len(weights[kind])} {said}")
    if scales := weights["scales"]:
        parts.append(f"{len(scales)} scales and zero points added")
    _title(screen, f"Weights: {', '.join(parts)}")
    _list(screen, "", [f"~ {name}: other values" for name in weights["changed"]], most)
    _list(screen, "", [f"~ {name}: {a} → {b}" for name, (a, b) in weights["retyped"].items()], most)
    _list(screen, "", [f"~ {name}: {a} → {b}" for name, (a, b) in weights["quantized"].items()], most)
    _list(screen, "", [f"= {a} → {b}" for a, b in weights["renamed"].items()], most)
    _list(screen, "", [f"- {name}: {told}" for name, told in weights["removed"].items()], most)
    _list(screen, "", [f"+ {name}: {told}" for name, told in weights["added"].items()], most)


def _nodes(screen: Screen, nodes: Found, most: int) -> None:
    counts = ", ".join(f"{len(nodes[kind])} {kind}" for kind in ("changed", "added", "removed") if nodes[kind])
    _title(screen, f"Nodes by name: {nodes['kept']} as they were{', ' if counts else ''}{counts}")
    _list(screen, "", [f"~ {name} ({_node(change)})" for name, change in nodes["changed"].items()], most)
    _list(screen, "", [f"- {name} ({op})" for name, op in nodes["removed"].items()], most)
    _list(screen, "", [f"+ {name} ({op})" for name, op in nodes["added"].items()], most)


def _node(change: Found) -> str:
    parts = [f"{change['was']} → {change['operator']}" if "was" in change else change["operator"]]
    for name, (a, b) in change.get("attributes", {}).items():
        sides = ("not set" if value is None else _short(value) for value in (a, b))
        parts.append(f"{name}: {' → '.join(sides)}")
    parts += [f"other {kind}" for kind in ("inputs", "outputs") if kind in change]
    if "place" in change:
        parts.append("moved: " + " → ".join(place or "main graph" for place in change["place"]))
    return ", ".join(parts)


def _pairs(screen: Screen, title: str, changes: Mapping[str, list[Any]], most: int) -> None:
    lines = [f"{name}: {_short(a)} → {_short(b)}" for name, (a, b) in changes.items()]
    _list(screen, title, lines, most)


def _short(value: Any) -> str:
    text = _or_none(value).replace("\n", " ")
    return text if len(text) <= 80 else f"{text[:79]}…"


def _list(screen: Screen, title: str, lines: Iterable[str], most: int) -> None:
    shown = list(lines)
    if not shown:
        return
    if title:
        _title(screen, title)
    for line in shown[:most]:
        screen.line(line, indent=2)
    if len(shown) > most:
        screen.line(f"… and {len(shown) - most} more (--all lists them)", style="bright_black", indent=2)
