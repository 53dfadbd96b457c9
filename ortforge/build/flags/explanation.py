"""Answers what became of a flag: since and until when it exists, what replaced it, what it takes and where it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ortforge.build.flags.flag import Flag, canonical
from ortforge.build.flags.knowledge import NEEDS, REMOVED, Removed, effect_of, parser_has_it_on
from ortforge.build.flags.versions import Moment, Span, flags_of, known_versions, moment, table
from ortforge.errors import nearest

__all__ = ["SYSTEM_NAMES", "Explanation", "beyond_note", "explain", "span_text", "takes", "text_of"]

SYSTEM_NAMES = {
    "android": "Android",
    "linux": "Linux",
    "macos": "macOS",
    "webassembly": "WebAssembly",
    "windows": "Windows",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of a flag in a version.

    :param exists: whether that version's build.py has it. :param since: first version that had it, ``None`` for a flag
        that never was. :param until: last version that had it; the table's last one for a flag that is still there.
    :param spans: runs of versions that had it. :param replaced_by: the flag that does it now. :param instead: what else
        to do. :param certain: false for a version that is newer than the table.
    :param takes: what it takes, said in words. :param values: those that it takes. :param nargs: as argparse has it.
    :param platforms: systems it is for, none for all.
    :param effect: why it has no effect in this version, on Linux. :param nearest: the flag that may have been meant.
    """

    name: str
    version: str
    exists: bool
    since: str | None
    until: str | None
    spans: tuple[tuple[str, str], ...] = ()
    replaced_by: str | None = None
    instead: str = ""
    action: str | None = None
    nargs: str | None = None
    takes: str = ""
    values: tuple[str, ...] = ()
    default: str | None = None
    const: str | None = None
    type: str | None = None
    platforms: tuple[str, ...] = ()
    effect: str = ""
    note: str = ""
    nearest: str | None = None
    certain: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the explanation as JSON values."""
        from dataclasses import asdict

        return asdict(self)


def explain(name: str, version: str) -> Explanation:
    """Explain a flag, with or without dashes, as of a version.

    :raises UsageError: there is no such version.
    """
    when = moment(version)
    plain = canonical(name)
    spans = table().get(plain)
    notes = [beyond_note(when)] if when.beyond else []
    if spans is None:
        close = nearest(plain, table())
        return Explanation(
            plain, version, False, None, None, note=" ".join(notes), nearest=close or None, certain=not when.beyond
        )
    have = flags_of(version)
    flag = have.get(plain)
    gone = _instead(plain, have) if flag is None and when.index > spans[-1].last else None
    if note := NEEDS.get(plain, ""):
        notes.append(note)
    if flag is not None and (only := parser_has_it_on(plain, when.version)):
        notes.append(f"Only on {_systems(only)} does the parser have it: elsewhere it is refused as unknown.")
    return Explanation(
        plain,
        version,
        flag is not None,
        spans[0].since,
        spans[-1].until,
        spans=_runs(spans),
        replaced_by=(gone.by or None) if gone else None,
        instead=gone.instead if gone else "",
        action=flag.action if flag else None,
        nargs=(flag.nargs or None) if flag else None,
        takes=takes(flag) if flag else "",
        values=_values(flag) if flag else (),
        default=flag.default if flag else None,
        const=flag.const if flag else None,
        type=(flag.type or None) if flag else None,
        platforms=tuple(sorted(flag.platforms)) if flag else (),
        effect=effect_of(plain, when.version, "linux") if flag else "",
        note=" ".join(notes),
        certain=not when.beyond,
    )


def _instead(name: str, have: Mapping[str, Flag]) -> Removed | None:
    """Return what to do instead of a flag that is gone; what replaced it may be gone in its turn."""
    gone = REMOVED.get(name)
    while gone is not None and gone.by and gone.by not in have:
        gone = REMOVED.get(gone.by)
    return gone


def beyond_note(when: Moment) -> str:
    """Say that a version is newer than the table."""
    return (
        f"The table of flags ends at {when.version}; for {when.asked} the source tree's own parser decides, and this "
        f"is what {when.version} had."
    )


def _values(flag: Flag) -> tuple[str, ...]:
    return flag.choices or (flag.accepted.said() if flag.accepted else ())


def _runs(spans: tuple[Span, ...]) -> tuple[tuple[str, str], ...]:
    """Join spans that differ in shape alone."""
    runs: list[tuple[str, str]] = []
    last = -2
    for span in spans:
        if span.first == last + 1:
            runs[-1] = (runs[-1][0], span.until)
        else:
            runs.append((span.since, span.until))
        last = span.last
    return tuple(runs)


def span_text(runs: tuple[tuple[str, str], ...]) -> str:
    """Say in which versions a flag exists or existed.

    >>> span_text((("0.1.4", "1.4.0"), ("1.11.0", "1.20"))), span_text((("1.29", "1.30dev"),))
    ('existed in 0.1.4 to 1.4.0 and in 1.11.0 to 1.20', 'exists since 1.29')
    """
    newest = known_versions()[-1]
    verb = "exists" if runs[-1][1] == newest else "existed"
    return f"{verb} " + " and ".join(
        f"since {since}" if until == newest else f"in {since} only" if since == until else f"in {since} to {until}"
        for since, until in runs
    )


def _systems(names: frozenset[str]) -> str:
    return " and ".join(SYSTEM_NAMES[name] for name in sorted(names))


def text_of(told: Explanation) -> str:
    """Say an explanation for a person, a line for each fact."""
    lines = []
    if told.since is None:
        lines.append(f"--{told.name}: no version of build.py ever had it.")
        lines += [f"Perhaps you meant {told.nearest}."] if told.nearest else []
        return "\n".join([*lines, told.note]).strip()
    state = "exists" if told.exists else "does not exist"
    lines.append(f"--{told.name} {state} in {told.version}: it {span_text(told.spans)}.")
    if told.replaced_by:
        lines.append(f"Now: {told.replaced_by}. {told.instead}".strip())
    elif told.instead:
        lines.append(f"Instead: {told.instead}")
    if told.exists:
        lines.append(f"Takes: {told.takes}")
        if told.platforms:
            lines.append(f"Only for: {_systems(frozenset(told.platforms))}")
        lines += [f"It {told.effect}"] if told.effect else []
    return "\n".join([*lines, *([told.note] if told.note else [])])


def takes(flag: Flag) -> str:
    """Say what a flag takes."""
    if flag.is_switch:
        return "nothing: it is a switch"
    count = {"?": "nothing or one value", "*": "any number of values", "+": "one or more values"}
    taken = "one or more values, and may be repeated" if flag.is_repeated else count.get(flag.nargs, "one value")
    kind = {"int": " (a whole number)", "_str_to_bool": " (true or false)"}.get(flag.type, "")
    listed = ", ".join(value or '""' for value in _values(flag))
    bare = f"; {flag.const} when none is given" if flag.const and flag.nargs == "?" else ""
    return f"{taken}{kind}{f': {listed}' if listed else ''}{bare}"
