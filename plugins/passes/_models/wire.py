"""The fields of a protocol buffer, found without reading what they hold.

The encoding is that of https://protobuf.dev/programming-guides/encoding/. Runs inside a runtime beside the passes that
import it; only the standard library is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Field", "fields", "head"]

_FIXED = {1: 8, 5: 4}
"""Bytes of the values of wire types that have a fixed size."""

_BYTES = 2
"""The wire type of texts, bytes and messages."""


class Field(NamedTuple):
    """One field: its number, where it starts, where its value does, and where both end."""

    number: int
    start: int
    body: int
    end: int
    is_bytes: bool


def fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message that lies between two places.

    :raises ValueError: there is no message, or it is cut off.
    """
    at = start
    while at < end:
        tag, body = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            _, after = _varint(data, body, end)
        elif wire == _BYTES:
            length, body = _varint(data, body, end)
            after = body + length
        elif wire in _FIXED:
            after = body + _FIXED[wire]
        else:
            raise ValueError(f"a field of wire type {wire} at byte {at}")
        if after > end or not number:
            raise ValueError(f"the field at byte {at} goes beyond its message")
        yield Field(number, at, body, after, wire == _BYTES)
        at = after


def head(number: int, length: int) -> bytes:
    """Return what stands before the bytes of a field.

    >>> head(7, 300).hex()
    '3aac02'
    """
    return _encoded(number << 3 | _BYTES) + _encoded(length)


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"a number at byte {at} has no end")


def _encoded(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
