"""Finds the files that an ONNX model keeps beside it, without onnx: planning must not need it.

An ONNX file may hold its tensors in other files, named in ``TensorProto.external_data``. What such a name may
be is a matter of safety (a model is data from elsewhere), so the rules live here once: relative, without ``..``, and
inside the allowed folder also after following symbolic links. Field numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from ortforge.errors import DamagedModelError, FetchError, nearest

__all__ = ["ExternalFile", "external_files", "locate_external"]

_TENSOR: Final = "tensor"
_PARTS: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
}
"""Which fields of which message lead to tensors."""

_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_IS_EXTERNAL: Final = 1


@dataclass(frozen=True, slots=True)
class ExternalFile:
    """A file that a model names: ``location`` as it stands in the model, ``end`` the bytes it must at least hold."""

    location: str
    end: int


def external_files(model: Path) -> tuple[ExternalFile, ...]:
    """Return the external data files of an ONNX model, each once, ordered by name.

    :raises ValueError: the file is no protocol buffer message, or ends in the middle of one.
    :raises OSError: it cannot be read.
    """
    ends: dict[str, int] = {}
    with model.open("rb", buffering=0) as file:
        data = _Blocks(file)
        if data.size == 0:
            raise ValueError("the file is empty")
        for location, end in _external_tensors(data):
            ends[location] = max(end, ends.get(location, 0))
    return tuple(ExternalFile(location, ends[location]) for location in sorted(ends))


def locate_external(model: Path, root: Path, location: str) -> Path:
    """Return where an external data file lies: beside the model, and inside ``root``.

    :raises FetchError: the location is absolute, leads out of the folder, or names no regular file.
    """
    parts = PurePosixPath(location).parts
    absolute = location.startswith(("/", "\\")) or PureWindowsPath(location).drive != ""
    if not parts or absolute or ".." in parts or ".." in PureWindowsPath(location).parts or "\0" in location:
        raise FetchError(
            f"{model.name} names external data at {location!r}, which is refused: "
            "a model may only use files inside its own folder.",
            todo="Save the model again with its data beside it (onnx.save_model(…, save_as_external_data=True)).",
        )
    path = model.parent / location
    if not path.resolve().is_relative_to(root.resolve()):
        raise FetchError(
            f"{model.name} names external data at {location!r}, which is refused: "
            "it is a link that leads out of the model's folder.",
            todo="Put a copy of the file itself beside the model.",
        )
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError:
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(path.name, beside)
        raise DamagedModelError(
            f"{model.name} needs the external data file {location!r}, and it is not there.",
            meant=f"Perhaps {close!r} was renamed: the name inside the model must stay the same." if close else "",
            todo="Bring the file beside the model; it is part of it.",
        ) from None
    if not regular:
        raise FetchError(f"{model.name} names external data at {location!r}, which is not a regular file.")
    return path


class _Blocks:
    """Random access to a file, one block at a time: most of a model is weights, which are skipped.

    Not a memory map: that kills the process when the file is cut short meanwhile.
    """

    _SIZE: Final = 1 << 14

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._start = 0
        self._block = b""
        self.size = file.seek(0, 2)

    def byte(self, at: int) -> int:
        if not 0 <= at - self._start < len(self._block):
            self._start, self._block = at, self.read(at, min(at + self._SIZE, self.size))
        return self._block[at - self._start]

    def read(self, begin: int, end: int) -> bytes:
        self._file.seek(begin)
        data = self._file.read(end - begin) or b""
        if len(data) < end - begin:
            raise ValueError("it became shorter while it was read")
        return data


def _external_tensors(data: _Blocks) -> Iterator[tuple[str, int]]:
    """Walk all tensors, with a stack of our own: subgraphs may be nested deeper than Python recurses."""
    stack = [("model", 0, data.size)]
    while stack:
        kind, start, end = stack.pop()
        if kind == _TENSOR:
            found = _external_of_tensor(data, start, end)
            if found is not None:
                yield found
            continue
        parts = _PARTS[kind]
        for number, begin, stop, _ in _fields(data, start, end):
            if number in parts and begin >= 0:
                stack.append((parts[number], begin, stop))


def _external_of_tensor(data: _Blocks, start: int, end: int) -> tuple[str, int] | None:
    entries: dict[str, str] = {}
    external = False
    for number, begin, stop, value in _fields(data, start, end):
        if number == _DATA_LOCATION:
            external = value == _IS_EXTERNAL
        elif number == _EXTERNAL_DATA and begin >= 0:
            pair = {
                field: data.read(first, last).decode("utf-8", "replace")
                for field, first, last, _ in _fields(data, begin, stop)
                if first >= 0
            }
            entries[pair.get(1, "")] = pair.get(2, "")
    if not external:
        return None
    return entries.get("location", ""), _number(entries, "offset") + _number(entries, "length")


def _number(entries: Mapping[str, str], name: str) -> int:
    text = entries.get(name, "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


def _fields(data: _Blocks, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield ``(field number, begin, stop, value)``: a range for length-delimited fields (else ``begin`` is -1)."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError(f"there is no field number 0 (near byte {at})")
        if wire == 0:
            value, at = _varint(data, at, end)
            yield number, -1, -1, value
        elif wire == 2:
            length, at = _varint(data, at, end)
            if length > end - at:
                raise ValueError(f"it ends too early: {length - (end - at)} bytes are missing (near byte {at})")
            yield number, at, at + length, 0
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
            if at > end:
                raise ValueError(f"it ends too early (near byte {end})")
            yield number, -1, -1, 0
        else:
            raise ValueError(f"unknown wire type {wire} (near byte {at})")


def _varint(data: _Blocks, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data.byte(at)
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"it ends too early, or a number is too long (near byte {at})")
