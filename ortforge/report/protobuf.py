"""Reads protocol buffers out of a file through a window, without their compiler: fields and where they lie.

Large fields are given by their place and never read, so that the size of a file hardly matters. No memory map: that
kills the process when the file is cut short meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import FileIO
from typing import Final, NamedTuple

__all__ = ["LONGEST_VALUE", "Field", "Window", "packed_numbers", "signed"]

_WINDOW: Final = 1 << 18

LONGEST_VALUE: Final = 1 << 16
"""Bytes of a text up to which it is read at all."""


class Field(NamedTuple):
    """One field: ``begin`` to ``end`` is its content; ``value`` is set for numbers (wire type 0).

    A number has ``begin`` equal to ``end``; its bytes are those from ``start`` to ``end``.
    """

    number: int
    begin: int
    end: int
    value: int
    start: int = 0


class Window:
    """Random access to a file through one window; the parts that a structure is made of lie close together."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._start = 0
        self._data = b""
        self.size = file.seek(0, 2)

    def get(self, begin: int, end: int) -> bytes:
        """Return a range of the file.

        :raises ValueError: the file has become shorter.
        """
        offset = begin - self._start
        if offset >= 0 and end - self._start <= len(self._data):
            return self._data[offset : end - self._start]
        if end - begin > _WINDOW:
            return self._load(begin, end)
        self._start, self._data = begin, self._load(begin, min(begin + _WINDOW, self.size))
        return self._data[: end - begin]

    def text(self, part: Field) -> str:
        """Return a field's text, at most 64 KiB of it."""
        return self.get(part.begin, min(part.end, part.begin + LONGEST_VALUE)).decode("utf-8", "replace")

    def _load(self, begin: int, end: int) -> bytes:
        self._file.seek(begin)
        parts, left = [], end - begin
        while left > 0 and (block := self._file.read(left)):
            parts.append(block)
            left -= len(block)
        if left > 0:
            raise ValueError("it became shorter while it was read")
        return b"".join(parts)

    def fields(self, begin: int, end: int) -> Iterator[Field]:
        """Yield the fields of the message in a range.

        :raises ValueError: the range holds no message.
        """
        at = begin
        while at < end:
            head = self.get(at, min(at + 20, end))  # two numbers of at most ten bytes
            tag, used = _varint(head, 0)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise ValueError(f"there is no field number 0 (near byte {at})")
            if wire == 0:
                value, length = _varint(head, used)
                yield Field(number, at + length, at + length, value, at + used)
                at += length
                continue
            if wire == 2:
                length, used = _varint(head, used)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise ValueError(f"unknown wire type {wire} (near byte {at})")
            at += used
            if at + length > end:
                raise ValueError(f"it ends too early: {at + length - end} bytes are missing (near byte {at})")
            yield Field(number, at, at + length, 0, at)
            at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    for byte in data[at : at + 10]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("it ends too early, or a number is too long")


def signed(value: int) -> int:
    """Return a number as ``int64`` has it."""
    return value - (1 << 64) if value >= 1 << 63 else value


def packed_numbers(data: bytes) -> list[int]:
    """Read packed numbers."""
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(signed(value))
    return found
