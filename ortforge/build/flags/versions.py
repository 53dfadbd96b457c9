"""The version table: every flag of build.py since 0.1.4, as spans of versions in which it has one shape.

The table lies beside this file (``ort-build-flags.json``) and was read from each version's own parser. It speaks for
minor versions: patch releases do not change flags.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from packaging.version import InvalidVersion, Version

from ortforge.build.flags.flag import Flag, canonical
from ortforge.build.flags.knowledge import accepted_by, platforms_of
from ortforge.errors import UsageError, nearest

__all__ = ["Moment", "Span", "flags_of", "known_versions", "moment", "table"]


@dataclass(frozen=True, slots=True)
class Span:
    """Versions, both ends included, in which a flag has one shape."""

    since: str
    until: str
    first: int
    last: int
    option: str
    shape: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Moment:
    """A version's place in the table.

    :param asked: the version as it was asked for. :param version: the table's entry that speaks for it.
    :param index: its position. :param beyond: newer than the table: the entry is the last one, and only a hint.
    """

    asked: str
    version: str
    index: int
    beyond: bool


@functools.cache
def _raw() -> dict[str, Any]:
    text = (files("ortforge.build.flags") / "ort-build-flags.json").read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    return read


@functools.cache
def known_versions() -> tuple[str, ...]:
    """Return the table's versions, oldest first."""
    return tuple(_raw()["versions"])


@functools.cache
def table() -> Mapping[str, tuple[Span, ...]]:
    """Return every flag that ever was, by its name without dashes, with its spans, oldest first."""
    place = {version: index for index, version in enumerate(known_versions())}
    return {
        canonical(option): tuple(
            Span(span["since"], span["until"], place[span["since"]], place[span["until"]], option, span["shape"])
            for span in spans
        )
        for option, spans in sorted(_raw()["flags"].items())
    }


@functools.cache
def moment(version: str) -> Moment:
    """Return a version's place in the table; patch releases and pre-releases count as their minor version.

    :raises UsageError: it is no version, or one that ORT never had.
    """
    rows = [(Version(known).release[:2], known) for known in known_versions()]
    try:
        release = (*Version(version).release, 0)[:2]
    except InvalidVersion:
        release = ()
    for index, (known, name) in enumerate(rows):
        if known == release:
            return Moment(version, name, index, beyond=False)
    if release and release > rows[-1][0]:
        return Moment(version, rows[-1][1], len(rows) - 1, beyond=True)
    older = [name for known, name in rows if known < release]
    close = (older or [rows[0][1]])[-1] if release else nearest(version.lstrip("vV"), known_versions())
    raise UsageError(
        f"there is no version {version!r} of ONNX Runtime" + (" in the table of flags." if release else "."),
        meant=f"Perhaps you meant {close}." if close else "",
        todo=f"The table goes from {rows[0][1]} to {rows[-1][1]}; a version is written like 1.21.0 or 1.21.",
    )


def flags_of(version: str) -> dict[str, Flag]:
    """Return every flag that a version's build.py has, by name.

    :raises UsageError: there is no such version.
    """
    return dict(_flags_at(moment(version).index))


@functools.cache
def _flags_at(index: int) -> dict[str, Flag]:
    version = known_versions()[index]
    return {
        name: Flag.of_shape(
            span.option,
            span.shape,
            platforms=platforms_of(name, version),
            accepted=accepted_by(name, version),
        )
        for name, spans in table().items()
        for span in spans
        if span.first <= index <= span.last
    }
