"""Reads the values of weights that :mod:`ortforge.report.onnx_reading` found, however the file holds them.

The same values may be raw bytes, lists of numbers, or bytes in another file. Here they become one thing, the bytes that
``raw_data`` would hold, and of those a digest; nothing is read before somebody asks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from ortforge.api.externaldata import locate_external
from ortforge.errors import FetchError
from ortforge.report.onnx_reading import DATA_TYPES, Model, Tensor

__all__ = ["Contents", "external_sizes"]

_BLOCK: Final = 1 << 20
_RAW: Final = frozenset({4, 9, 10})
"""Fields whose bytes are the values: floats, raw data and doubles (protobuf packs numbers as little-endian)."""

_STRINGS: Final = 6


class Contents:
    """Digests of a model's weights, each computed once.

    :raises FetchError: from :meth:`digest`, when external data is missing, too short or outside the model's folder.
    """

    def __init__(self, model: Model) -> None:
        self._path = model.path
        self._known: dict[Tensor, str] = {}

    def digest(self, tensor: Tensor) -> str:
        """Return a digest of a weight's values; equal values have equal ones, wherever they lie.

        :raises FetchError: the external data is not to be had.
        :raises OSError: a file cannot be read.
        """
        key = replace(tensor, name="")
        if key not in self._known:
            digest = hashlib.blake2b(digest_size=32)
            for block in _without_padding(self._blocks(tensor), tensor):
                digest.update(block)
            self._known[key] = digest.hexdigest()
        return self._known[key]

    def _blocks(self, tensor: Tensor) -> Iterator[bytes]:
        if tensor.external is not None:
            yield from self._outside(tensor)
        elif tensor.field in _RAW:
            for begin, end in tensor.spans:
                yield from _read(self._path, begin, end)
        elif tensor.field == _STRINGS:
            for begin, end in tensor.spans:
                yield (end - begin).to_bytes(8, "little")
                yield from _read(self._path, begin, end)
        else:
            for begin, end in tensor.spans:
                yield _plain(b"".join(_read(self._path, begin, end)), tensor)

    def _outside(self, tensor: Tensor) -> Iterator[bytes]:
        location, offset, length = tensor.external or ("", 0, 0)
        path = locate_external(self._path, self._path.parent, location)
        size = path.stat().st_size
        end = offset + (length if length >= 0 else tensor.bytes)
        if end > size:
            raise FetchError(
                f"the external data of {tensor.name!r} is bytes {offset} to {end} of {location}, which has only {size}."
            )
        yield from _read(path, offset, end)


def _without_padding(blocks: Iterator[bytes], tensor: Tensor) -> Iterator[bytes]:
    """Clear the bits behind the last element: those of 4-bit and 2-bit types may be anything."""
    bits = DATA_TYPES.get(tensor.data_type, ("", 0))[1]
    used = max(0, math.prod(tensor.dims)) * bits % 8 if 0 < bits < 8 else 0
    last = b""
    for block in filter(None, blocks):
        if last:
            yield last
        last = block
    yield last[:-1] + bytes([last[-1] & ((1 << used) - 1)]) if last and used else last


def external_sizes(model: Model) -> tuple[dict[str, int], list[str]]:
    """Return the bytes of each external file of a model, and a sentence for each that is not to be had."""
    sizes: dict[str, int] = {}
    problems = []
    for location in dict.fromkeys(tensor.external[0] for tensor in model.weights if tensor.external):
        try:
            sizes[location] = locate_external(model.path, model.path.parent, location).stat().st_size
        except FetchError as error:
            problems.append(error.what)
    return sizes, problems


def _read(path: Path, begin: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(begin)
        left = end - begin
        while left > 0 and (block := file.read(min(_BLOCK, left))):
            yield block
            left -= len(block)


def _plain(packed: bytes, tensor: Tensor) -> bytes:
    """Turn packed variable-length numbers into the bytes that ``raw_data`` would hold.

    Types below 32 bits lie in ``int32_data``, one number for each element; those of 4 bits and less one for each byte.
    """
    import numpy as np

    data = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(data < 0x80)
    if not len(ends):
        return b""
    data = data[: ends[-1] + 1]
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    parts = (data & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    values = np.bitwise_or.reduceat(parts, starts)
    width = max(1, DATA_TYPES.get(tensor.data_type, ("", 64))[1] // 8)
    return values.astype({1: "<u1", 2: "<u2", 4: "<u4"}.get(width, "<u8")).tobytes()
