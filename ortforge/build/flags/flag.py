"""One flag of build.py as argparse knows it, and whether a value suits it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["SWITCHES", "Accepted", "Flag", "canonical", "parts_of", "value_problem"]

SWITCHES: Final = ("store_true", "store_false", "store_const")
"""Actions that take no value."""

REPEATED: Final = ("append", "extend")
"""Actions that gather the values of every time the flag is given; the plain action keeps those of the last time."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


def canonical(name: str) -> str:
    """Return a flag's name as ``matrix.toml`` has it: no dashes in front, underscores within.

    >>> canonical("--use-jemalloc"), canonical("use_jemalloc"), canonical("--gen-api-doc")
    ('use_jemalloc', 'use_jemalloc', 'gen_api_doc')
    """
    return name.strip().lstrip("-").partition("=")[0].replace("-", "_").lower()


@dataclass(frozen=True, slots=True)
class Accepted:
    """Values that a flag's own checking function accepts, where argparse has no choices.

    :param values: whole values. :param prefixes: words before a colon, each followed by at least ``at_least`` of
        ``devices``, parted by commas (``HETERO:GPU,CPU``).
    """

    values: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    at_least: int = 2

    def accepts(self, value: str) -> bool:
        """Say whether a value is one of them."""
        if value in self.values:
            return True
        prefix, colon, rest = value.partition(":")
        listed = rest.split(",")
        return bool(
            colon
            and prefix in self.prefixes
            and len(listed) >= self.at_least
            and (not self.devices or set(listed) <= set(self.devices))
        )

    def said(self) -> tuple[str, ...]:
        """Return what may be written, prefixes with the devices that they take."""
        example = ",".join(self.devices[:2][::-1]) or "…"
        return (*self.values, *(f"{prefix}:{example}" for prefix in self.prefixes))


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of one version of build.py.

    :param name: without dashes, with underscores. :param option: as build.py spells it (``--gen-api-doc``).
    :param action: argparse's. :param nargs: ``""``, ``"?"``, ``"*"``, ``"+"`` or a number as text.
    :param default: as Python would write it, strings plain. :param type: name of the function that converts a value.
    :param platforms: systems where the parser has it (``linux``, ``macos``, ``windows``); empty for all.
    :param accepted: what the checking function accepts, where that is known. :param required: must be given.
    """

    name: str
    option: str
    action: str = "store"
    nargs: str = ""
    choices: tuple[str, ...] = ()
    default: str | None = None
    const: str | None = None
    type: str = ""
    required: bool = False
    platforms: frozenset[str] = frozenset()
    accepted: Accepted | None = None

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value."""
        return self.action in SWITCHES

    @property
    def is_repeated(self) -> bool:
        """Whether giving it again adds values."""
        return self.action in REPEATED

    @property
    def takes_several(self) -> bool:
        """Whether it takes more than one value."""
        return self.is_repeated or self.nargs in ("*", "+")

    @property
    def may_be_bare(self) -> bool:
        """Whether it may be given without a value."""
        return self.is_switch or self.nargs in ("?", "*")

    def shape(self) -> dict[str, Any]:
        """Return what argparse was told, as the version table writes it."""
        told = {
            "action": "" if self.action == "store" else self.action,
            "nargs": self.nargs,
            "const": self.const,
            "default": self.default,
            "type": self.type,
            "choices": list(self.choices),
        }
        return {key: value for key, value in told.items() if value}

    @classmethod
    def of_shape(cls, option: str, shape: Mapping[str, Any], **more: Any) -> Flag:
        """Make a flag of an entry of the version table."""

        def text(key: str) -> str | None:
            return None if shape.get(key) is None else str(shape[key])

        return cls(
            name=canonical(option),
            option=option,
            action=text("action") or "store",
            nargs=text("nargs") or "",
            choices=tuple(map(str, shape.get("choices", ()))),
            default=text("default"),
            const=text("const"),
            type=text("type") or "",
            **more,
        )


def parts_of(value: object) -> tuple[str, ...]:
    """Return a flag's values as texts; none for ``True``."""
    if value is True:
        return ()
    if isinstance(value, list | tuple):
        return tuple(_text(part) for part in value)
    return (_text(value),)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def value_problem(flag: Flag, value: object) -> str:
    """Return what is wrong with a value, as the end of a sentence that begins with the flag; ``""`` if nothing is."""
    several = isinstance(value, list | tuple)
    parts = parts_of(value)
    for part in parts:
        if problem := _text_problem(part):
            return problem
    if flag.is_switch:
        return "" if value is True else f"is a switch and takes no value: write {flag.name} = true, not {_shown(value)}"
    if value is True and not flag.may_be_bare:
        return f"needs a value{_of(flag)}"
    if several and not parts and flag.nargs != "*":
        return f"needs at least one value{_of(flag)}"
    if len(parts) > 1 and not flag.takes_several:
        return f"takes one value, not {len(parts)}: {_shown(value)}"
    return next((problem for part in parts if (problem := _part_problem(flag, part, len(parts)))), "")


def _text_problem(text: str) -> str:
    for mark in text:
        code = ord(mark)
        # C0, DEL, C1, and halves of surrogate pairs, which no argument list can carry.
        if code < 0x20 or 0x7F <= code <= 0x9F or 0xD800 <= code <= 0xDFFF:
            name = {0: "a NUL character", 10: "a line break", 13: "a line break"}.get(
                code, f"the control character U+{code:04X}"
            )
            return f"has {name} in its value {text!a}; a value is one line of printable text"
    return ""


def _part_problem(flag: Flag, part: str, count: int) -> str:
    # build.py would take it for the next flag, or (since 1.11) for a file of arguments.
    if count > 1 and not flag.is_repeated and part.startswith(("-", "@")):
        return f"has a value that begins with {part[0]!r}, which build.py reads otherwise: {part!r}"
    plain = part.lower() if flag.type == "str.lower" else part
    if flag.type == "int" and not re.fullmatch(r"[+-]?[0-9]+", part):
        return f"needs a whole number, not {part!r}"
    if flag.type == "_str_to_bool" and part.lower() not in ("true", "false"):
        return f"needs true or false, not {part!r}"
    if flag.choices and plain not in flag.choices:
        return f"cannot be {part!r}{_of(flag)}"
    if flag.accepted and not flag.accepted.accepts(plain):
        return f"cannot be {part!r}{_of(flag)}"
    return ""


def _of(flag: Flag) -> str:
    known = flag.choices or (flag.accepted.said() if flag.accepted else ())
    if known:
        return "; it takes " + ", ".join(entry or '""' for entry in known)
    return "; it takes a whole number" if flag.type == "int" else ""


def _shown(value: object) -> str:
    return ", ".join(repr(part) for part in value) if isinstance(value, list | tuple) else repr(value)
