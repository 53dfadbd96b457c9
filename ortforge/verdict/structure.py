"""Exact comparison of what answers are made of: types, lengths of sequences, keys of maps, absent optionals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["structure_problems"]

MAX_KEYS = 5
"""Maximum number of keys that a sentence lists."""


def structure_problems(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each difference in structure, at most one for each output.

    :param reference: the structure of the reference's answers and :param candidate: of the cell's, each as
        :attr:`ortforge.worker.samples.Samples.structure` gives it: ``{output: {"type": "seq(tensor(float32))",
        "samples": [SHAPE, …]}}``. Answers that were kept before types were recorded have no entries; these are not
        compared.
    """
    if not reference or not candidate:
        return []
    problems = [f'Output "{name}" is missing.' for name in reference if name not in candidate]
    problems += [
        f'Output "{name}" is additional: the reference does not have it.' for name in candidate.keys() - reference
    ]
    for name in reference:
        if name in candidate and (problem := _difference(name, reference[name], candidate[name])):
            problems.append(problem)
    return problems


def _difference(name: str, reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> str:
    if reference["type"] != candidate["type"]:
        return f'Output "{name}" has type {candidate["type"]} instead of {reference["type"]}.'
    pairs = list(zip(reference.get("samples", ()), candidate.get("samples", ()), strict=False))
    different = [number for number, (left, right) in enumerate(pairs) if left != right]
    if not different:
        return ""
    first = different[0]
    left, right = pairs[first]
    return (
        f'Output "{name}" has another structure in {len(different)} of {len(pairs)} samples: in sample {first} it is '
        f"{_described(right, left)} instead of {_described(left, right)}."
    )


def _described(shape: Any, other: Any) -> str:
    """Describe a structure in words; keys only where the lengths are equal, since the lengths say enough."""
    if shape is None:
        return "absent"
    if shape == "tensor":
        return "a tensor"
    if "length" not in shape:
        return f"a map with {len(shape['keys'])} keys{_keys(shape['keys'])}"
    same_length = isinstance(other, Mapping) and other.get("length") == shape["length"]
    if same_length and "keys" in shape:
        others = other.get("keys") or [[]] * shape["length"]
        pairs = zip(shape["keys"], others, strict=True)
        keys: Sequence[Any] = next((own for own, expected in pairs if own != expected), [])
        return f"a sequence with a map of {len(keys)} keys{_keys(keys)}"
    return f"a sequence of {shape['length']} elements"


def _keys(keys: Sequence[Any]) -> str:
    if not keys:
        return ""
    more = ", …" if len(keys) > MAX_KEYS else ""
    return f" ({', '.join(map(str, keys[:MAX_KEYS]))}{more})"
