"""``random:`` datasets: made-up inputs of the right shapes, for a first look and for stress, not for accuracy.

Reproducible by ``seed``. A symbolic dimension has one size wherever it occurs: the one given in ``options.sizes``, else
one by its name, else one by its place. (This file is not called ``random.py``: its folder may be on a worker's path,
where libraries want the standard library's.) Options, all optional::

    sizes = { batch = 1, sequence = 64 }                 # by symbol
    shapes = { pixel_values = [1, 3, 224, 224] }         # by input, whole
    ranges = { input_ids = [0, 30521] }                  # by input: both ends are possible values of integers
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ortforge.api import DatasetSource

# Size of a dimension by its symbol, first match: a batch of one, a sentence's tokens, a picture, a second of audio.
_BY_NAME = (
    (r"batch|^n$|^b$|^bs$", 1),
    (r"seq|len|token|time|frame|^t$|^s$|^l$", 32),
    (r"height|width|^h$|^w$|size", 224),
    (r"chan|^c$", 3),
    (r"sample|audio", 16000),
    (r"past|cache", 0),
)
_OTHER_SIZE = 8


def ortforge_datasets() -> list[DatasetSource]:
    """Give ``random:``."""
    from ortforge.api import DatasetSource

    return [
        DatasetSource(
            scheme="random",
            summary="made-up inputs by a seed; never enough for a pass on a statically quantized model",
            example="random:",
            module=__file__,
            fingerprint=fingerprint,
            random=True,
        )
    ]


def fingerprint(reference: str, base: Path) -> str:
    """Return the same for all: options, seed and the model's inputs say what is made.

    :raises FetchError: something stands after ``random:``.
    """
    from ortforge.api import FetchError

    if reference:
        raise FetchError(
            f"random:{reference} is not known: nothing follows random:.",
            todo='Give sizes and ranges as options: { source = "random:", options = { sizes = { batch = 1 } } }.',
        )
    return "random"


# In a tools environment: numpy is there, ortforge is not.


def materialize(job: Any) -> dict[str, Any]:
    """Write ``job.limit`` made-up samples (16 without a limit).

    :raises ValueError: an option names no input or does not fit, or an input cannot be made up.
    """
    import numpy as np

    options = job.options
    _check(options, job.inputs)
    # Calibration draws other numbers than validation. numpy's Generator draws the same ones on every platform.
    generator = np.random.default_rng([int(options.get("seed") or 0), options.get("split") == "calibration"])
    sizes: dict[str, int] = {str(name): int(size) for name, size in (options.get("sizes") or {}).items()}
    shapes = {entry["name"]: _shape(entry, options, sizes) for entry in job.inputs}
    for _ in range(job.limit or 16):
        job.write(
            {
                entry["name"]: _draw(
                    generator, entry, shapes[entry["name"]], (options.get("ranges") or {}).get(entry["name"])
                )
                for entry in job.inputs
            }
        )
    return {"random": True, "shapes": {name: list(shape) for name, shape in shapes.items()}, "sizes": sizes}


def _check(options: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]]) -> None:
    known = {"seed", "split", "sizes", "shapes", "ranges"}
    strange = [name for name in options if name not in known]
    if strange:
        raise ValueError(f"random: has no option {strange[0]}; there are sizes, shapes and ranges")
    names = [entry["name"] for entry in inputs]
    for option in ("shapes", "ranges"):
        for name in options.get(option) or {}:
            if name not in names:
                raise ValueError(f"{option} names {name}, which is no input of the model ({', '.join(names)})")
    symbols = {str(size) for entry in inputs for size in entry.get("shape") or () if isinstance(size, str)}
    for name in options.get("sizes") or {}:
        if name not in symbols:
            raise ValueError(f"sizes names {name}, which is no dimension of the model ({', '.join(sorted(symbols))})")


def _shape(entry: Mapping[str, Any], options: Mapping[str, Any], sizes: dict[str, int]) -> tuple[int, ...]:
    """Return an input's shape; sizes chosen for symbols are kept in ``sizes``, so that they are the same everywhere."""
    given = (options.get("shapes") or {}).get(entry["name"])
    if given is not None:
        return tuple(int(size) for size in given)
    if entry.get("shape") is None:
        raise ValueError(f"the shape of {entry['name']} is not known: give it in options.shapes")
    shape = []
    for place, size in enumerate(entry["shape"]):
        if isinstance(size, str) and size:
            shape.append(sizes.setdefault(size, _default(size, place)))
        else:
            shape.append(size if isinstance(size, int) and size >= 0 else _default("", place))
    return tuple(shape)


def _default(symbol: str, place: int) -> int:
    for pattern, size in _BY_NAME:
        if re.search(pattern, symbol.lower()):
            return size
    return 1 if place == 0 else _OTHER_SIZE


def _draw(generator: Any, entry: Mapping[str, Any], shape: tuple[int, ...], limits: Sequence[float] | None) -> Any:
    """Draw an array: standard normal floats, whole ranges of 8-bit integers, 0 or 1 for wider ones, coins, short words.

    Wider integers are mostly ids and masks: 0 and 1 are valid for both.
    """
    import numpy as np

    kind = str(entry["dtype"]).removeprefix("tensor(").rstrip(")")
    kind = {"float": "float32", "double": "float64"}.get(kind, kind)
    if kind in ("str", "string"):
        count = math.prod(shape)
        letters = generator.integers(ord("a"), ord("z") + 1, size=(count, 6), dtype=np.uint32)
        return np.array(["".join(map(chr, word)) for word in letters], dtype="U6").reshape(shape)
    if kind in ("bool", "bool_"):
        return generator.integers(0, 2, size=shape).astype(bool)
    try:
        dtype = np.dtype(kind)
    except TypeError:
        raise ValueError(f"{entry['name']} is {kind}, which cannot be made up") from None
    if dtype.kind == "f":
        if limits is None:
            return generator.standard_normal(shape).astype(dtype)
        low, high = limits
        return generator.uniform(low, high, shape).astype(dtype)
    if dtype.kind not in "iu":
        raise ValueError(f"{entry['name']} is {kind}, which cannot be made up")
    bounds = np.iinfo(dtype)
    low, high = limits or ((bounds.min, bounds.max) if dtype.itemsize == 1 else (0, 1))
    if not bounds.min <= low <= high <= bounds.max:
        raise ValueError(f"the range [{low}, {high}] of {entry['name']} does not fit {kind}")
    return generator.integers(int(low), int(high), size=shape, dtype=dtype, endpoint=True)
