"""Chooses nodes and operators by names and globs, and says which names there are where one is wrong.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["chosen", "is_operator"]


def chosen(
    wanted: Iterable[str], known: Sequence[str], refusal: str, *, absent: Callable[[str], bool] | None = None
) -> list[str]:
    """Return the known names that names and globs choose.

    :param refusal: what is said of one that chooses nothing, with a place for it.
    :param absent: which names that are no globs may be unknown; none without it.
    :raises ValueError: one chooses nothing; the message gives the nearest names.
    """
    found_all: dict[str, None] = {}
    for text in wanted:
        is_glob = any(mark in text for mark in "*?[")
        # What looks like a glob ("Conv[0]") may be a name, and is one first.
        if text in known or (absent is not None and not is_glob and absent(text)):
            found = [text]
        else:
            found = [name for name in known if is_glob and fnmatchcase(name, text)]
        # A star alone is the same as nothing given, also where there is nothing to choose from.
        if not found and text.strip("*"):
            bare = text.translate(dict.fromkeys(map(ord, "*?[]")))
            near = get_close_matches(bare, known, n=3 if is_glob else 1, cutoff=0.5)
            guess = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(refusal.format(text) + guess)
        found_all |= dict.fromkeys(found)
    return list(found_all)


def is_operator(name: str) -> bool:
    """Whether ONNX or the installed ONNX Runtime has an operator of that name; one that cannot be asked has any."""
    return name in _operators() or not _operators()


@cache
def _operators() -> frozenset[str]:
    import onnx
    from onnxruntime.capi import _pybind_state

    # Published wheels tell their own operators; a build without that would make "FusedConv" look like a mistake.
    listed = getattr(_pybind_state, "get_all_operator_schema", None)
    if listed is None:
        return frozenset()
    return frozenset({one.name for one in listed()} | {one.name for one in onnx.defs.get_all_schemas()})
