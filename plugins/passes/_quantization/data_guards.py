"""What calibration data themselves give away: too few, all the same, constant, or random numbers.

Such data make ranges that fit no real input, and nothing fails. Each sample is looked at once, while it is read for
calibration; what is kept is sums.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DataWatch", "declared_random"]

FEW_SAMPLES: Final = 8
"""Below this, ranges depend on which samples happened to be taken."""

LEAST_VALUES: Final = 512
"""Values of an input below which no statement about their distribution is made."""

CHANCE: Final = 4.0
"""Standard errors within which a correlation counts as none (one in 16,000 for independent numbers)."""

SPREAD: Final = (0.5, 2.0)
"""A variance as a share of what independent numbers have: within, nothing speaks against them."""

INTEGER_BINS: Final = 16
KEPT_INTEGERS: Final = 20_000


@dataclass
class _Floats:
    """Sums over the samples of one input."""

    lowest: float = float("inf")
    highest: float = float("-inf")
    count: int = 0
    means: list[tuple[float, float, int]] = field(default_factory=list)
    """Per sample: mean, variance and number of values."""

    products: dict[int, list[float]] = field(default_factory=dict)
    """Per axis: covariance of neighbours and variance, summed over samples, and the number of pairs."""

    position_sums: Any = None
    same_shape: bool = True


class DataWatch:
    """Looks at calibration samples as they pass by (:meth:`see`) and says what is wrong with them."""

    def __init__(self) -> None:
        self._samples = 0
        self._digests: set[bytes] = set()
        self._floats: dict[str, _Floats] = {}
        self._integers: dict[str, list[Any]] = {}

    def see(self, feed: Mapping[str, Any]) -> None:
        """Take note of one sample."""
        self._samples += 1
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(feed):
            value = feed[name]
            digest.update(name.encode() + value.tobytes())
            if value.dtype.kind == "f" and value.size:
                _add(self._floats.setdefault(name, _Floats()), value)
            elif value.dtype.kind in "iu":
                kept = self._integers.setdefault(name, [])
                if sum(part.size for part in kept) < KEPT_INTEGERS:
                    kept.append(value.ravel())
        self._digests.add(digest.digest())

    def complaints(self) -> list[str]:
        """Say what is wrong with the data as calibration data, worst first."""
        found = []
        if constant := self._constant():
            found.append(
                f"CONSTANT CALIBRATION DATA: {constant} in all {self._samples} samples, so every range is that of one "
                "value. Check what makes the data, and give real inputs."
            )
        if random := self._random():
            found.append(
                f"RANDOM CALIBRATION DATA: {random}: ranges that such data give fit no real input. "
                "Give real inputs, or do not trust this cell."
            )
        if self._samples > 1 and len(self._digests) == 1:
            found.append(
                f"All {self._samples} calibration samples are identical, so the ranges are those of one input."
            )
        elif self._samples < FEW_SAMPLES:
            found.append(
                f"Only {self._samples} calibration samples: ranges depend on which they are. "
                f"Give {FEW_SAMPLES} or more."
            )
        return found

    def _constant(self) -> str:
        """Name the float inputs if none of them varies; integers may well be constant (masks, token types)."""
        import numpy as np

        held = {name: one.lowest for name, one in self._floats.items() if one.lowest == one.highest and one.count > 1}
        if held and len(held) == len(self._floats):
            return " and ".join(f"every value of {name} is {value:g}" for name, value in held.items())
        if self._floats or not self._integers:
            return ""
        values = {name: np.concatenate(parts) for name, parts in self._integers.items()}
        if all(one.size > 1 and one.min() == one.max() for one in values.values()):
            return " and ".join(f"every value of {name} is {one[0]}" for name, one in values.items())
        return ""

    def _random(self) -> str:
        """Name the inputs that look like independent random numbers, if there are any."""
        looks = [
            f"the values of {name} look like independent random numbers (neighbours uncorrelated, all samples alike)"
            for name, one in self._floats.items()
            if _is_noise(one)
        ]
        looks += [
            f"the values of {name} are spread evenly from {low} to {high}, as random numbers are"
            for name, parts in self._integers.items()
            for low, high in [_even_span(parts)]
            if high > low
        ]
        return " and ".join(looks)


def _add(one: _Floats, value: Any) -> None:
    import numpy as np

    wide = value.astype(np.float64)
    one.lowest, one.highest = min(one.lowest, float(wide.min())), max(one.highest, float(wide.max()))
    one.count += wide.size
    one.means.append((float(wide.mean()), float(wide.var()), wide.size))
    centred = wide - wide.mean()
    for axis, length in enumerate(wide.shape):
        if length >= 4:
            left, right = centred.take(range(length - 1), axis), centred.take(range(1, length), axis)
            sums = one.products.setdefault(axis, [0.0, 0.0, 0.0])
            sums[0] += float((left * right).sum())
            sums[1] += float((left * left).sum() + (right * right).sum()) / 2
            sums[2] += left.size
    if one.position_sums is None:
        one.position_sums = wide.copy()
    elif one.position_sums.shape == wide.shape:
        one.position_sums += wide
    else:
        one.same_shape = False


def _is_noise(one: _Floats) -> bool:
    """Whether nothing tells an input from independent draws of one distribution.

    Real inputs fail at least one of: neighbours are uncorrelated along every axis; the samples' means differ as little
    as those of independent draws; and so do the means over samples at each position.
    """
    import numpy as np

    if one.count < LEAST_VALUES or one.lowest == one.highest or not one.products or len(one.means) < 4:
        return False
    for covariance, variance, pairs in one.products.values():
        if abs(covariance) > CHANCE / pairs**0.5 * variance:
            return False
    means, variances, sizes = (np.array(column) for column in zip(*one.means, strict=True))
    if means.var(ddof=1) > SPREAD[1] * 2 * float(np.mean(variances / sizes)):
        return False
    if not one.same_shape or one.position_sums.size < 64:
        return True
    positions = one.position_sums / len(means)
    expected = float(variances.mean()) / len(means)
    return bool(SPREAD[0] * expected < positions.var() < SPREAD[1] * expected)


def _even_span(parts: Sequence[Any]) -> tuple[int, int]:
    """Return the span of integers if they are spread evenly over it (chi-square), and an empty one if not."""
    import numpy as np

    values = np.concatenate(list(parts))
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if values.size < LEAST_VALUES or high - low < INTEGER_BINS:
        return 0, 0
    counts, _ = np.histogram(values, INTEGER_BINS, range=(low, high + 1))
    expected = values.size / INTEGER_BINS
    per_freedom = float(np.square(counts - expected).sum()) / expected / (INTEGER_BINS - 1)
    return (low, high) if per_freedom < 2 * SPREAD[1] else (0, 0)


def declared_random(samples: Sequence[Path]) -> str:
    """Return a sentence if the samples' index says that their source made them up (``random:``)."""
    try:
        index = json.loads((Path(samples[0]).parent / "index.json").read_text("utf-8"))
    except (OSError, ValueError, IndexError):
        return ""
    if not (isinstance(index, dict) and index.get("random")):
        return ""
    return (
        "RANDOM CALIBRATION DATA: they come from a source of random numbers "
        f"({index.get('source') or 'random:'}): ranges that such data give fit no real input. "
        "Give the model a calibration dataset with real inputs."
    )
