"""Finds the known causes in a log of any size: one pass, in blocks, in time that grows with the log's length alone.

Of each sign the longest fixed part is looked for in whole blocks of the log, all of them at once; only the lines
with hits are looked at in Python. Lines longer than a window are seen in pieces.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from ortforge.build.diagnose.fixed_strings import FixedStrings, found_at
from ortforge.build.diagnose.known import ELLIPSIS, NEAR, Kind, Known, Phase, url

__all__ = ["Cause", "Diagnosis", "Matcher"]

_BLOCK = 1 << 18
_WINDOW = 2000  # bytes: messages are shorter, compiler commands are not
_SUSPECTS = 6
_QUOTES = str.maketrans("\u2018\u2019", "''")

_COLOUR = re.compile(r"\x1b\[[0-9;?]{0,20}[ -/]?[@-~]|\x1b[()][A-Z0-9]|\x1b\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)")
# What others write before each line: BuildKit, hosted CI, Yocto, docker compose.
_PREFIX = re.compile(r"(?:#\d{1,4} \d{1,6}\.\d{1,4} |\d{4}-\d\d-\d\dT[0-9:.]{5,20}Z? |[\w.-]{1,40} *\| |\| )")
# What a line that tells of a failure has in it; shown when no cause is known.
_ERROR_LIKE = (
    b"error:", b"Error:", b"Error at", b"ERROR:", b"[ERROR]", b"FAILED", b"fatal:", b"fatal error", b"Exception:",
    b": cannot ", b"not found", b"Aborted",
)  # fmt: skip
_NO_ERROR = (
    "-Werror", "-Wno-error", "0 errors", "no error", "Wno-", "error_code", " - Failed", " - Success", " - not found",
    "without error",
)  # fmt: skip
# Said by whoever called what failed.
_CONSEQUENCES = (
    "ninja: build stopped", "subprocess.CalledProcessError", "subprocess-exited-with-error", "gmake[", "make[",
    "make: ***", "Configuring incomplete, errors occurred", "Traceback (most recent call last)", "metadata-generation",
    "Command '[", "FAILED:", "gmake: ***", "See also \"",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cause:
    """A known cause that a log shows, with the line that shows it (``line_number`` counts from 1)."""

    id: str
    phase: Phase
    title: str
    evidence: str
    line_number: int
    cause: str
    remedy: str
    threads: tuple[str, ...]
    confidence: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a log shows: causes, the primary one first; when there is none, the first lines that look like errors."""

    causes: tuple[Cause, ...]
    suspects: tuple[tuple[int, str], ...]
    lines: int


class _Sign:
    """A sign, cut into its fixed parts."""

    __slots__ = ("at_end", "at_start", "key", "parts")

    def __init__(self, text: str) -> None:
        self.at_start, self.at_end = text.startswith("^"), text.endswith("$")
        bare = text.removeprefix("^").removesuffix("$")
        self.parts = bare.split(ELLIPSIS)
        # Quotes are not looked for: compilers print them straight or curly, as the locale has it.
        self.key = max(re.split(f"['{ELLIPSIS}]", bare), key=len).encode()

    def match(self, line: str) -> tuple[str, ...] | None:
        """Return what stands at each ``…``, or nothing when the line is another."""
        if self.at_start:
            line = _PREFIX.sub("", line, count=1)
        found = line.find(self.parts[0])
        if found < 0 or (self.at_start and found > 0):
            return None
        at, stands = found + len(self.parts[0]), []
        for part in self.parts[1:]:
            # An empty last part is a … at the end: the rest of the line.
            following = line.find(part, at) if part else len(line)
            if following < 0:
                return None
            stands.append(line[at:following].strip())
            at = following + len(part)
        return tuple(stands) if not self.at_end or at == len(line) else None


@dataclass(slots=True)
class _Seen:
    """Where a cause was seen."""

    number: int
    line: str
    stands: tuple[str, ...]


@dataclass(slots=True)
class _State:
    """What one pass over a log has found so far."""

    seen: dict[str, _Seen] = field(default_factory=dict)
    waiting: dict[str, _Seen] = field(default_factory=dict)
    context: dict[str, int] = field(default_factory=dict)  # where a cause's near sign was seen last
    errors: list[int] = field(default_factory=list)
    suspects: list[tuple[int, str]] = field(default_factory=list)


class Matcher:
    """All known causes, made ready to be looked for."""

    def __init__(self, known: Iterable[Known]) -> None:
        self.known = {each.id: each for each in known}
        self._signs: list[tuple[_Sign, Known, bool]] = []
        for each in self.known.values():
            self._signs += [(_Sign(text), each, True) for text in each.near]
            self._signs += [(_Sign(text), each, False) for text in each.signs]
        self._keys: dict[bytes, list[int]] = {}
        for index, (sign, _, _) in enumerate(self._signs):
            self._keys.setdefault(sign.key, []).append(index)
        self._strings = FixedStrings(self._keys)

    def examine(self, log: str | bytes | BinaryIO) -> Diagnosis:
        """Look through a log; a file is read in blocks and may be of any size."""
        if isinstance(log, str):
            log = log.encode("utf-8", "surrogatepass")
        stream = io.BytesIO(log) if isinstance(log, bytes) else log
        state, number = _State(), 1
        for block in _blocks(stream):
            self._block(block, number, state)
            number += block.count(b"\n")
        return Diagnosis(self._ranked(state), tuple(state.suspects), number)

    def _block(self, block: bytes, number: int, state: _State) -> None:
        """Look at the lines with hits, in the order of the log, each once."""
        pieces: dict[tuple[int, int], set[int]] = {}
        for piece, key in _pieces(block, self._strings.find(block)):
            pieces.setdefault(piece, set()).update(self._keys[key])
        for key in _ERROR_LIKE if len(state.suspects) < _SUSPECTS else ():
            for piece, _ in _pieces(block, ((at, key) for at in found_at(block, key))):
                pieces.setdefault(piece, set())
        counted = 0
        for (start, end), signs in sorted(pieces.items()):
            number += block.count(b"\n", counted, start)
            counted = start
            text = _COLOUR.sub("", block[start:end].decode("utf-8", "replace"))
            # A bare carriage return is a progress bar that is written over.
            for line in text.rstrip("\r").translate(_QUOTES).split("\r"):
                self._line(line.rstrip(), number, sorted(signs), state)

    def _line(self, line: str, number: int, signs: list[int], state: _State) -> None:
        told: list[tuple[Known, _Seen]] = []
        for sign, each, is_context in map(self._signs.__getitem__, signs):
            stands = sign.match(line)
            if stands is None:
                continue
            if is_context:
                state.context[each.id] = number
                waiting = state.waiting.get(each.id)
                if waiting and number - waiting.number <= each.within:
                    self._found(each, waiting, state)
            elif not each.near or number - state.context.get(each.id, -each.within - 1) <= each.within:
                told.append((each, _Seen(number, line, stands)))
            else:
                # The first that waits is kept while what it waits for can still come.
                waiting = state.waiting.get(each.id)
                if waiting is None or number - waiting.number > each.within:
                    state.waiting[each.id] = _Seen(number, line, stands)
        plain = any(each.kind == "error" and not each.yields for each, _ in told)
        for each, seen in told:
            if not (plain and each.yields):
                self._found(each, seen, state)
        full = len(state.suspects) >= _SUSPECTS or (state.suspects and state.suspects[-1][0] == number)
        if not told and not full and _looks_like_an_error(line):
            state.suspects.append((number, line.strip()[:300]))

    def _found(self, each: Known, seen: _Seen, state: _State) -> None:
        if each.kind == "error" and each.yields != "near" and state.errors[-1:] != [seen.number]:
            state.errors.append(seen.number)
        state.seen.setdefault(each.id, seen)

    def _ranked(self, state: _State) -> tuple[Cause, ...]:
        """Order the causes: what stopped the work first, the earliest of them at the top."""
        order = {"error": 0, "hint": 1, "harmless": 2}
        found: list[tuple[int, int, bool, int, Cause]] = []
        waited = {seen.number for name, seen in state.seen.items() if self.known[name].near}
        for name, seen in state.seen.items():
            each = self.known[name]
            if each.yields == "near" and any(abs(at - seen.number) <= NEAR for at in state.errors):
                continue
            # A cause that waited for its second line was found after the one that it says more than.
            if each.yields == "line" and seen.number in waited and not each.near:
                continue
            found.append((order[each.kind], seen.number, bool(each.yields), len(found), _cause(each, seen)))
        return tuple(entry[-1] for entry in sorted(found, key=lambda entry: entry[:-1]))


def _pieces(block: bytes, hits: Iterable[tuple[int, bytes]]) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Yield where the line of each hit begins and ends, and what was hit; ``hits`` come in order.

    Of a line that is longer than a window, the window with the hit. Windows lie at multiples of their size (and
    overlap by half of it), whatever is looked for: however many hits a line has, it is looked at in few pieces.
    """
    window, start, end = -1, 0, -1
    for at, key in hits:
        if at // _WINDOW != window or at >= end:
            window = at // _WINDOW
            low, high = max(0, window * _WINDOW - _WINDOW // 2), (window + 1) * _WINDOW + _WINDOW // 2
            start = block.rfind(b"\n", low, at) + 1 or low
            end = block.find(b"\n", at, high)
            end = min(high, len(block)) if end < 0 else end
        yield (start, end), key


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield blocks that end with a line, except within a line that is longer than a block."""
    rest = b""
    for more in _utf8(stream):
        block = rest + more if rest else more
        cut = block.rfind(b"\n") + 1 or len(block)
        yield block[:cut]
        rest = block[cut:]
    if rest:
        yield rest


def _utf8(stream: BinaryIO) -> Iterator[bytes]:
    """Yield what is read; PowerShell redirects in UTF-16, with a byte order mark at the start."""
    more = stream.read(_BLOCK)
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(more[:2])
    decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding else None
    while more:
        yield decoder.decode(more).encode() if decoder else more
        more = stream.read(_BLOCK)


def _looks_like_an_error(line: str) -> bool:
    return (
        any(text.decode() in line for text in _ERROR_LIKE)
        and not any(text in line for text in _NO_ERROR)
        and not any(text in line for text in _CONSEQUENCES)
    )


def _cause(each: Known, seen: _Seen) -> Cause:
    def filled(text: str) -> str:
        for index, stands in enumerate(seen.stands):
            text = text.replace(f"{{{index}}}", stands[:120])
        return text

    return Cause(
        id=each.id,
        phase=each.phase,
        title=filled(each.title),
        evidence="".join(sign if sign.isprintable() else " " for sign in seen.line.strip()[:400]).strip(),
        line_number=seen.number,
        cause=filled(each.cause),
        remedy=filled(each.remedy),
        threads=tuple(url(thread) for thread in each.threads),
        confidence="certain" if each.certain and each.yields != "near" else "likely",
        kind=each.kind,
    )
