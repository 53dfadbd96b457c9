"""Sizes of generated inputs: the same symbol has the same size everywhere, and a decoder's lengths fit together.

A decoder with a cache gets ``past`` earlier positions and ``sequence`` new ones; masks over both have
``past + sequence`` positions, and so have caches of a fixed maximum length.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Size of a dimension by its symbol, first match: a batch of one, a sentence's tokens, a picture, a second of audio.
_BY_NAME = (
    (r"batch|^n$|^b$|^bs$", 1),
    (r"past|cache", 16),
    (r"seq|len|token|time|frame|^t$|^s$|^l$", 32),
    (r"height|width|^h$|^w$|size", 224),
    (r"chan|^c$", 3),
    (r"sample|audio", 16000),
)
_OTHER_SIZE = 8

_PAST_INPUT = re.compile(r"(^|[._/])past|cache_(k|v)|(k|v|key|value)_cache", re.IGNORECASE)
_MASK_INPUT = re.compile(r"attention_mask|attn_mask", re.IGNORECASE)


@dataclass
class Sizes:
    """Chooses and remembers a size for each symbol.

    :param inputs: the model's inputs: ``name``, ``dtype``, ``shape``.
    :param sizes: those that the user gave, by symbol. :param shapes: whole shapes that the user gave, by input.
    """

    inputs: Sequence[Mapping[str, Any]]
    sizes: dict[str, int] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    past: int = 0
    """Earlier positions of a decoder; 0 for other models."""
    sequence: int = 0
    """New positions of a decoder."""
    _given: Mapping[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._given = dict(self.sizes)
        caches = [
            entry for entry in self.inputs if _PAST_INPUT.search(entry["name"]) and len(entry.get("shape") or ()) > 2
        ]
        if not caches:
            return
        self.sequence = self._new_positions()
        self.past = self._past_positions(caches[0])

    @property
    def total(self) -> int:
        """All positions of a decoder."""
        return self.past + self.sequence

    def shape(self, entry: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the shape of one input.

        :raises ValueError: the model does not say how many dimensions it has.
        """
        name, declared = entry["name"], entry.get("shape")
        if (given := self.shapes.get(name)) is not None:
            return tuple(int(size) for size in given)
        if declared is None:
            raise ValueError(f"the shape of {name} is not known: give it in options.shapes")
        shape = [self._size(size, place) for place, size in enumerate(declared)]
        if self.sequence and _MASK_INPUT.search(name) and shape and not _is_fixed(declared[-1]):
            symbol = declared[-1]
            if not symbol or (symbol not in self._given and self._is_only_for_masks(symbol)):
                shape[-1] = self.total
                if symbol:
                    self.sizes[symbol] = self.total
        return tuple(shape)

    def _is_only_for_masks(self, symbol: str) -> bool:
        others = (entry for entry in self.inputs if not _MASK_INPUT.search(entry["name"]))
        return not any(symbol in (entry.get("shape") or ()) for entry in others)

    def _new_positions(self) -> int:
        for wanted in (r"input_ids$|^tokens?$|inputs_embeds$", r"position_ids$|cache_position$"):
            for entry in self.inputs:
                declared = entry.get("shape") or ()
                if re.search(wanted, entry["name"]) and declared:
                    if (given := self.shapes.get(entry["name"])) is not None:
                        return int(given[min(1, len(given) - 1)])
                    return self._size(declared[min(1, len(declared) - 1)], min(1, len(declared) - 1))
        return 1

    def _past_positions(self, cache: Mapping[str, Any]) -> int:
        declared, given = list(cache["shape"]), self.shapes.get(cache["name"])
        free = [place for place, size in enumerate(declared) if place and not _is_fixed(size)]
        named = [place for place in free if re.search(r"past|seq|len|cache", str(declared[place]), re.IGNORECASE)]
        place = next(iter(named or free), None)
        if place is None:  # a cache of fixed size has room for the new positions, too
            longest = max(declared[1:], default=0)
            return max(0, int(longest) - self.sequence) if isinstance(longest, int) else 0
        if given is not None:
            return int(given[place])
        symbol = declared[place]
        if isinstance(symbol, str) and re.search(r"max|total", symbol, re.IGNORECASE):
            room = self.sizes.get(symbol)
            return 16 if room is None else max(0, room - self.sequence)
        totals = [size for name, size in self._given.items() if re.search(r"total|past.*\+", name)]
        if totals and isinstance(symbol, str) and symbol not in self._given:
            self.sizes[symbol] = max(0, totals[0] - self.sequence)
        return self._size(symbol, place)

    def _size(self, size: Any, place: int) -> int:
        if isinstance(size, str) and size:
            if size not in self.sizes:
                self.sizes[size] = self._chosen(size, place)
            return self.sizes[size]
        return size if _is_fixed(size) else default_size("", place)

    def _chosen(self, symbol: str, place: int) -> int:
        value = _evaluated(symbol, lambda name: self._size(name, place))
        if value is not None:
            return value
        if self.sequence and re.search(r"total|max.*(seq|len)|kv.*(seq|len)", symbol, re.IGNORECASE):
            return self.total
        return default_size(symbol, place)


def default_size(symbol: str, place: int) -> int:
    """Return the size of a dimension by its symbol, or else by its place."""
    for pattern, size in _BY_NAME:
        if re.search(pattern, symbol.lower()):
            return size
    return 1 if place == 0 else _OTHER_SIZE


def _is_fixed(size: Any) -> bool:
    return isinstance(size, int) and size >= 0


_OPERATORS = {ast.Add: int.__add__, ast.Sub: int.__sub__, ast.Mult: int.__mul__, ast.FloorDiv: int.__floordiv__}


def _evaluated(symbol: str, size_of: Any) -> int | None:
    """Return the value of a symbol that is a sum, difference, product or quotient of others; ``None`` if it is not.

    Exporters write such symbols: ``past_sequence_length + 1``, ``2*s0``.
    """
    try:
        tree = ast.parse(symbol.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return None
    if not isinstance(tree, ast.BinOp):
        return None

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return int(_OPERATORS[type(node.op)](value(node.left), value(node.right)))
        if isinstance(node, ast.Name):
            return int(size_of(node.id))
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        raise ValueError

    try:
        return max(0, value(tree))
    except (ValueError, ZeroDivisionError):
        return None
