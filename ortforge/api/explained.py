"""How what was found out about a changed model is said: its tensors, lists of nodes, what a search tried.

The terminal and the HTML page say it with these, so that both say the same. All functions are pure and take parts of
the JSON report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ortforge.api.wording import cosine, duration, percent, size, speed

__all__ = [
    "SEARCH",
    "TRIAL_COLUMNS",
    "VARIANT_COLUMNS",
    "badness",
    "compact",
    "compact_list",
    "exclude_line",
    "first_sentence",
    "largest",
    "mixed_sentences",
    "outline",
    "search_sentences",
    "sqnr",
    "trial_rows",
    "variant_rows",
]

Facts = Mapping[str, Any]

SEARCH: Final = "quantize-auto"
"""The pass that tries variants, whose result is a table."""

TRIAL_COLUMNS: Final = ("Nodes in float", "Predicted SQNR", "SQNR", "Cosine", "Max error", "Tolerance", "Seconds")
VARIANT_COLUMNS: Final = ("Variant", "In float", "Speed", "Size", "Cosine", "Max error", "Holds")

_LONGEST: Final = 48
"""Characters of a fact that stands in a line with others."""


def badness(entry: Facts) -> float:
    """Return what worst-first lists are sorted by: the SQNR, with no signal at the front and no error at the end."""
    if entry["sqnr_db"] is None:
        return float("inf") if entry["exact"] else float("-inf")
    return float(entry["sqnr_db"])


def sqnr(entry: Facts) -> str:
    """Say a tensor's SQNR, or why it has none.

    >>> sqnr({"sqnr_db": None, "exact": False, "broken": 3})
    '3 NaN or infinite'
    """
    if entry.get("broken"):
        return f"{entry['broken']} NaN or infinite"
    if entry["sqnr_db"] is None:
        return "no error" if entry["exact"] else "no signal"
    return f"{entry['sqnr_db']:.1f} dB"


def largest(entry: Facts) -> str:
    """Say a tensor's largest error."""
    return "" if entry["max_abs"] is None else f"{entry['max_abs']:.3g}"


def exclude_line(names: Sequence[str]) -> str:
    """Return the line to paste into a recipe's pass (a JSON list of strings is a TOML one)."""
    return f"nodes_to_exclude = {json.dumps(list(names), ensure_ascii=False)}"


def first_sentence(found: Facts) -> str:
    """Say where the tensors of the float model are left first."""
    limit = f"{found['threshold_db']:.1f} dB"
    first = found.get("first_diverging")
    if not first:
        return f"No node diverges: no output falls below {limit} whose inputs are above."
    node = first["node"] or "a node without a name"
    return f"First to diverge: {node} ({first['op']}). Its output {first['tensor']} has {sqnr(first)}, below {limit}."


def mixed_sentences(found: Facts) -> Iterator[str]:
    """Yield which nodes have one scale for values of very different size, and what leaving them out gave."""
    for one in found.get("mixed") or ():
        inputs = " and ".join(f"{entry['tensor']} (up to {entry['peak']:.3g})" for entry in one.get("inputs") or ())
        merged = f" It puts together {inputs}." if inputs and one["op"] in ("Concat", "Where", "Sum") else ""
        numbers = ", ".join(map(str, one["numbers"])) + (" …" if one["ruined"] > len(one["numbers"]) else "")
        yield (
            f"{one['node'] or one['tensor']} ({one['op']}) is quantized with one scale for values of very different "
            f"size, which ruins {one['ruined']} of {one['slices']} slices of {one['tensor']} along axis {one['axis']} "
            f"({numbers}).{merged}"
        )
    tried = (found.get("exclusion") or {}).get("mixed")
    if not tried:
        return
    line = exclude_line(tried["nodes"])
    if tried["problem"]:
        yield f"{line} was tried, and {tried['problem']}."
    elif tried["after"] is None:
        yield f"{line} was tried; its outputs could not be compared by slice."
    else:
        limits = "holds" if tried["holds"] else f"does not hold: {tried['breaks'][0]}"
        yield (
            f"{line} was tried: {tried['after']} slices of the outputs are ruined with it and {tried['before']} "
            f"without it, and the tolerance {limits.rstrip('.')}."
        )


def trial_rows(exclusion: Facts) -> Iterator[tuple[str, ...]]:
    """Yield the rows of what quantizing again gave, in :data:`TRIAL_COLUMNS`: as it was, the lists, other changes."""
    yield ("none, as it is", "", *_worth(exclusion["before"]), "")
    for row in exclusion["tried"]:
        predicted = "" if row["predicted_db"] is None else f"{row['predicted_db']:.1f} dB"
        yield (f"{row['nodes']} of {exclusion['quantized_nodes']}", predicted, *_worth(row), f"{row['seconds']:.1f}")
    for row in exclusion["alternatives"]:
        yield (f"none, {row['line']}", "", *_worth(row), f"{row['seconds']:.1f}" if row["seconds"] else "")


def _worth(row: Facts) -> tuple[str, str, str, str]:
    if row["problem"]:
        return "", "", "", row["problem"]
    db = "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f} dB"
    broken = len(row["breaks"])
    says = "holds" if row["holds"] else f"{broken} limit{'s' if broken > 1 else ''} broken"
    return db, cosine(row["cosine"]), percent(row["max_rel_range"]), says


def variant_rows(search: Facts) -> Iterator[tuple[str, ...]]:
    """Yield the rows of what a search tried, in :data:`VARIANT_COLUMNS`, the fastest that holds first."""

    def order(row: Facts) -> tuple[bool, bool, float]:
        return bool(row.get("problem")), not row["holds"], -float(row.get("ratio") or 0.0)

    for row in sorted(search.get("candidates") or (), key=order):
        name = row["name"] + (" (chosen)" if row["name"] == search.get("chosen") else "")
        if row.get("problem"):
            yield name, "", "", "", "", "", compact(row["problem"])
            continue
        parity = row.get("parity") or {}
        kept = f"{row['kept']} as {row['kept_as']}" if row.get("kept") and row.get("kept_as") else str(row.get("kept"))
        worst = cosine(parity.get("cosine")), percent(parity.get("max_rel_range"))
        yield name, kept, speed(row), size(row.get("bytes")), *worst, _fails(row)


def _fails(row: Facts) -> str:
    return "yes" if row["holds"] else "no: " + ", ".join(map(str, row.get("fails") or ("its speed",)))


def search_sentences(search: Facts) -> Iterator[str]:
    """Yield what the search came to, in sentences."""
    chosen = str(search.get("chosen"))
    tried, judged = len(search.get("candidates") or ()), search.get("judged_on")
    yield f"Chosen: {chosen}. {tried} variants in {duration(search.get('seconds'))}, judged on {judged} samples."
    if search.get("kept_nodes"):
        yield f"Kept as {search.get('kept_as')}: {compact_list(search['kept_nodes'])}"
    for name, why in (search.get("skipped") or {}).items():
        yield f"Not tried: {name}: {why}"


def compact_list(names: Sequence[str], most: int = 6) -> str:
    """Say the first of many names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def outline(changed: Facts) -> Iterator[tuple[str, str]]:
    """Yield for each pass what it says of its work, short enough for a line; lists are counted, not spelt out."""
    for name, facts in changed.items():
        if isinstance(facts, Mapping):
            yield name, ", ".join(f"{key}: {said}" for key, value in facts.items() if (said := compact(value)))
        else:
            yield name, compact(facts)


def compact(value: object) -> str:
    """Say a fact in a few words.

    >>> compact({"Conv": 3, "MatMul": 1}), compact(["a" * 30, "b" * 20, "c"]), compact(0.123456)
    ('Conv 3, MatMul 1', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa and 2 more', '0.1235')
    """
    if value is None or value == "" or value == [] or value == {}:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        parts = [f"{key} {compact(item)}" for key, item in value.items() if compact(item)]
    elif isinstance(value, list | tuple):
        parts = [compact(item) for item in value]
    else:
        return str(value)
    count = len(parts)
    while count > 1 and len(", ".join(parts[:count])) > _LONGEST:
        count -= 1
    return compact_list(parts, count)
