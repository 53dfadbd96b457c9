"""``random:`` datasets: generated inputs of the right shapes, for a first look and for stress, not for accuracy.

Reproducible by ``seed``. A symbolic dimension has one size wherever it occurs: the one given in ``options.sizes``, else
one by its name, else one by its place; a decoder's lengths fit together (``_generated_sizes.py``). Token ids lie within
the vocabulary where the model shows how large it is, masks are 0 or 1, positions count up. (This file is not called
``random.py``: its folder may be on a worker's path, where libraries want the standard library's.) Options, all
optional::

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

from ._generated_sizes import Sizes

if TYPE_CHECKING:
    from ortforge.api import DatasetSource

_NARROW_INTEGERS = {"uint4": (0, 15), "int4": (-8, 7), "uint2": (0, 3), "int2": (-2, 1)}
_NARROW_FLOATS = ("bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float4e2m1")
"""Types that numpy lacks. The integers are drawn as int8 or uint8, the floats as float32; what writes the samples
rounds them to the nearest values of the type."""

SEQUENCE_LENGTH = 3
"""Elements of a generated sequence."""


def ortforge_datasets() -> list[DatasetSource]:
    """Give ``random:``."""
    from ortforge.api import DatasetSource

    return [
        DatasetSource(
            scheme="random",
            summary="generated inputs by a seed; never enough for a pass on a statically quantized model",
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
    """Write ``job.limit`` generated samples (16 without a limit).

    :raises ValueError: an option names no input or does not fit, or an input cannot be generated.
    """
    import numpy as np

    options = job.options
    _check(options, job.inputs)
    # Calibration draws other numbers than validation. numpy's Generator draws the same ones on every platform.
    generator = np.random.default_rng([int(options.get("seed") or 0), options.get("split") == "calibration"])
    given = {str(name): int(size) for name, size in (options.get("sizes") or {}).items()}
    sizes = Sizes(job.inputs, given, options.get("shapes") or {})
    ranges = options.get("ranges") or {}
    shapes = {entry["name"]: sizes.shape(_element(entry)) for entry in job.inputs}
    for _ in range(job.limit or 16):
        job.write(
            {
                entry["name"]: _value(generator, entry, shapes[entry["name"]], ranges.get(entry["name"]), sizes)
                for entry in job.inputs
            }
        )
    return {"random": True, "shapes": {name: list(shape) for name, shape in shapes.items()}, "sizes": sizes.sizes}


def _element(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input of tensors, for sequences and optionals: what they hold.

    :raises ValueError: it is a map.
    """
    kind = str(entry["dtype"])
    if "map(" in kind:
        raise ValueError(
            f"{entry['name']} is {kind}: the keys that the model knows cannot be generated. Give real data with "
            "python: or path:"
        )
    nested = re.sub(r"^(?:optional\(|seq\()+tensor\((\w+)\)+$", r"\1", kind)
    return dict(entry) if nested == kind else {**entry, "dtype": nested, "shape": entry.get("element_shape")}


def _value(
    generator: Any, entry: Mapping[str, Any], shape: tuple[int, ...], limits: Sequence[float] | None, sizes: Sizes
) -> Any:
    """Draw an input: an array, or a list of arrays for a sequence. An optional input is always present."""
    element = _element(entry)
    if "seq(" in str(entry["dtype"]):
        return [_draw(generator, element, shape, limits) for _ in range(SEQUENCE_LENGTH)]
    if limits is None and (made := _by_meaning(generator, element, shape, sizes)) is not None:
        return made
    return _draw(generator, element, shape, limits)


def _by_meaning(generator: Any, entry: Mapping[str, Any], shape: tuple[int, ...], sizes: Sizes) -> Any:
    """Return masks, positions and lengths, which have no meaning as random numbers; ``None`` for other inputs."""
    import numpy as np

    name, kind = str(entry["name"]).lower(), str(entry["dtype"])
    if kind not in ("float32", "float16", "float64", "int32", "int64", "bool"):
        return None
    dtype = np.dtype(kind)
    if "mask" in name and shape:
        mask = np.ones(shape, dtype)
        if not sizes.sequence and len(shape) == 2 and shape[1] > 1:  # padding at the end, at least half is kept
            for row in mask:
                row[int(generator.integers((shape[1] + 1) // 2, shape[1], endpoint=True)) :] = 0
        return mask
    if dtype.kind not in "ib":
        return None
    if "use_cache" in name and kind == "bool":
        return np.full(shape, sizes.past > 0)
    if not sizes.sequence:
        return None
    if re.search(r"position_ids$|cache_position$|^positions?$", name) and shape:
        return np.broadcast_to(sizes.past + np.arange(shape[-1], dtype=dtype), shape).copy()
    if "seqlens_k" in name:
        return np.full(shape, sizes.total - 1, dtype)
    if re.search(r"total_seq", name):
        return np.full(shape, sizes.total, dtype)
    if re.search(r"past_seq", name):
        return np.full(shape, sizes.past, dtype)
    return None


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
    declared = [entry.get("shape") or entry.get("element_shape") or () for entry in inputs]
    symbols = {size for shape in declared for size in shape if isinstance(size, str)}
    symbols |= {name for size in symbols for name in re.findall(r"[A-Za-z_]\w*", size)}
    for name in options.get("sizes") or {}:
        if name not in symbols:
            raise ValueError(f"sizes names {name}, which is no dimension of the model ({', '.join(sorted(symbols))})")


def _draw(generator: Any, entry: Mapping[str, Any], shape: tuple[int, ...], limits: Sequence[float] | None) -> Any:
    """Draw an array: standard normal floats, whole ranges of 8-bit integers, 0 or 1 for wider ones, coins, short words.

    Wider integers are mostly ids: within the vocabulary where the model shows it, else 0 and 1.
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
    if kind in _NARROW_FLOATS:
        low, high = limits or (-1.0, 1.0)
        return generator.uniform(low, high, shape).astype(np.float32)
    if kind == "float8e8m0":  # powers of two
        low, high = limits or (0.125, 8.0)
        return np.exp2(np.rint(generator.uniform(math.log2(low), math.log2(high), shape))).astype(np.float32)
    if kind in _NARROW_INTEGERS:
        lowest, highest = _NARROW_INTEGERS[kind]
        low, high = limits or (lowest, highest)
        if not lowest <= low <= high <= highest:
            raise ValueError(f"the range [{low}, {high}] of {entry['name']} does not fit {kind}")
        holder = np.uint8 if kind.startswith("u") else np.int8
        return generator.integers(int(low), int(high), size=shape, dtype=holder, endpoint=True)
    try:
        dtype = np.dtype(kind)
    except TypeError:
        raise ValueError(f"{entry['name']} is {kind}, which cannot be generated") from None
    if dtype.kind == "f":
        if limits is None:
            return generator.standard_normal(shape).astype(dtype)
        low, high = limits
        return generator.uniform(low, high, shape).astype(dtype)
    if dtype.kind not in "iu":
        raise ValueError(f"{entry['name']} is {kind}, which cannot be generated")
    bounds = np.iinfo(dtype)
    rows = entry.get("rows")
    wide = (0, min(rows - 1, bounds.max)) if rows else (0, 1)
    low, high = limits or ((bounds.min, bounds.max) if dtype.itemsize == 1 and not rows else wide)
    if not bounds.min <= low <= high <= bounds.max:
        raise ValueError(f"the range [{low}, {high}] of {entry['name']} does not fit {kind}")
    return generator.integers(int(low), int(high), size=shape, dtype=dtype, endpoint=True)
