"""Folders of samples: inputs of a model, or what it answered. Their form is fixed in docs/formats.md.

One uncompressed .npz per sample, so that they can be streamed; nothing is ever pickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .narrow_types import NARROW, narrow_name
from .protocol import JobError, plain
from .structure import Shape, base_name, flatten, flatten_all, is_plain, rebuild, shape_of

__all__ = ["SampleWriter", "Samples", "storable"]

Array = NDArray[Any]


class Samples:
    """A folder of samples, read one at a time: ``for feeds in Samples(folder)``.

    :param folder: the folder that holds ``index.json``.
    :raises JobError: kind ``input``, when it is no samples folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            index = json.loads((self.folder / "index.json").read_text("utf-8"))
            self.names: tuple[str, ...] = tuple(index["names"])
            self.count = int(index["count"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise JobError("input", f"{self.folder} is no folder of samples: {error}") from error
        self.random = bool(index.get("random", False))
        self.source = str(index.get("source", ""))
        self.widened: tuple[str, ...] = tuple(index.get("widened", ()))
        self.types: dict[str, str] = dict(index.get("types", {}))
        self._shapes: dict[str, list[Shape]] = dict(index.get("structure", {}))
        self._keys: list[list[Any]] = list(index.get("keys", ()))
        self._labels = bool(index.get("labels", False))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return (self[number] for number in range(self.count))

    def __getitem__(self, number: int) -> dict[str, Array]:
        """Read one sample.

        :raises JobError: kind ``input``, when its file is missing or damaged.
        """
        if not 0 <= number < self.count:
            raise IndexError(number)
        path = self.path(number)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {self.names[int(key)]: arrays[key] for key in arrays.files}
        except (OSError, ValueError, IndexError, KeyError, EOFError) as error:
            raise JobError("input", f"sample {number} cannot be read: {error}") from error

    def feeds(self, number: int) -> dict[str, Any]:
        """Read one sample with its sequences (lists), maps (dicts) and absent optionals (``None``) rebuilt.

        :raises JobError: kind ``input``, when its file is missing or damaged.
        """
        tensors: dict[str, Any] = self[number]
        if not self._shapes:
            return tensors
        values: dict[str, Any] = {}
        used: set[str] = set()
        for name, shapes in self._shapes.items():
            base = base_name(name, self.types)
            shape = self._with_keys(shapes[number])
            try:
                values[name] = rebuild(base, shape, tensors)
            except KeyError as error:
                raise JobError("input", f"sample {number} cannot be read: it lacks {error.args[0]!r}") from error
            used |= flatten(base, values[name]).keys()
        return {**{name: value for name, value in tensors.items() if name not in used}, **values}

    @property
    def structure(self) -> dict[str, dict[str, Any]]:
        """Each declared name's type and, if it is not a plain tensor, its structure in each sample.

        The form is ``{name: {"type", "samples": [SHAPE, …]}}`` with :data:`structure.Shape`.
        """
        found: dict[str, dict[str, Any]] = {name: {"type": kind} for name, kind in self.types.items()}
        for name, shapes in self._shapes.items():
            found[name]["samples"] = [self._with_keys(shape) for shape in shapes]
        return found

    def _with_keys(self, shape: Shape) -> Shape:
        """Replace the numbers of key lists, which many samples share, by the lists."""
        if not isinstance(shape, dict) or "keys" not in shape:
            return shape
        keys = shape["keys"]
        return {**shape, "keys": [self._keys[one] for one in keys] if "length" in shape else self._keys[keys]}

    def path(self, number: int) -> Path:
        """Return the file of one sample."""
        return self.folder / f"{number:06}.npz"

    @property
    def paths(self) -> list[Path]:
        """The files of all samples, in order."""
        return [self.path(number) for number in range(self.count)]

    @property
    def labels(self) -> list[Any] | None:
        """One JSON value per sample, or ``None`` when there are no labels."""
        if not self._labels:
            return None
        labels = json.loads((self.folder / "labels.json").read_text("utf-8"))
        return list(labels)


class SampleWriter:
    """Writes a samples folder; ``index.json`` is written last, by :meth:`close`.

    :param folder: made here; must not exist, or be empty.
    :param names: names known from the start, in order; others are added as they appear.
    :param types: the declared type of each input or output, as :func:`structure.type_name` gives it. Values of those
        that are not plain tensors are taken apart, and the index keeps their structure.
    """

    def __init__(self, folder: str | Path, names: Sequence[str] = (), types: Mapping[str, str] | None = None) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.count = 0
        self._keys = {name: str(number) for number, name in enumerate(names)}
        self._labels: list[Any] = []
        self._types = dict(types or {})
        self._shapes: dict[str, list[Shape]] = {name: [] for name, kind in self._types.items() if not is_plain(kind)}
        self._key_lists: dict[str, int] = {}

    def write(self, arrays: Mapping[str, Any], label: Any = None) -> None:
        """Keep one sample.

        :raises JobError: kind ``input``, when a value is no array of numbers or strings.
        """
        members: dict[str, Any] = {}
        for name, value in self._flat(arrays).items():
            key = self._keys.setdefault(str(name), str(len(self._keys)))
            members[key] = storable(value, f"{name!r} of sample {self.count}")
        np.savez(self.folder / f"{self.count:06}.npz", **members)
        self.count += 1
        if label is not None:
            self._labels.append(plain(label))

    def _flat(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Take apart what is not a plain tensor, and note its structure."""
        for name, shapes in self._shapes.items():
            shapes.append(self._numbered(shape_of(values.get(name))))
        return flatten_all({str(name): value for name, value in values.items()}, self._types)

    def _numbered(self, shape: Shape) -> Shape:
        """Replace lists of keys by their numbers, so that the index keeps each list once."""
        if not isinstance(shape, dict) or "keys" not in shape:
            return shape
        lists = shape["keys"] if "length" in shape else [shape["keys"]]
        numbers = [self._key_lists.setdefault(json.dumps(one), len(self._key_lists)) for one in lists]
        return {**shape, "keys": numbers if "length" in shape else numbers[0]}

    @property
    def labelled(self) -> bool:
        """Whether samples have labels.

        :raises JobError: kind ``input``, when only some of them have.
        """
        if len(self._labels) not in (0, self.count):
            raise JobError(
                "input", f"{len(self._labels)} of {self.count} samples have a label: give all of them one, or none"
            )
        return bool(self._labels)

    def close(self, *, random: bool = False, source: str = "", widened: Sequence[str] = ()) -> None:
        """Write the labels and the index: the folder is complete."""
        index: dict[str, Any] = {
            "schema": 1,
            "count": self.count,
            "names": list(self._keys),
            "random": random,
            "labels": self.labelled,
            "source": source,
        }
        if widened:
            index["widened"] = list(widened)
        if self._types:
            index["types"] = self._types
        if self._shapes:
            index["structure"] = self._shapes
            index["keys"] = [json.loads(text) for text in self._key_lists]
        if index["labels"]:
            (self.folder / "labels.json").write_text(json.dumps(self._labels, allow_nan=False), "utf-8")
        (self.folder / "index.json").write_text(json.dumps(index), "utf-8")


def storable(value: Any, what: str) -> Array:
    """Return a value as an array that .npz keeps without pickling; Python strings become a ``U`` array.

    :raises JobError: kind ``input``, when it is none.
    """
    array = np.asarray(value)
    if narrow := narrow_name(array.dtype):  # an array of the package ml_dtypes
        array = array.astype(NARROW[narrow].stored)
    if array.dtype.kind == "O":
        if not all(isinstance(item, str) for item in array.ravel().tolist()):
            kinds = sorted({type(item).__name__ for item in array.ravel().tolist()})
            raise JobError("input", f"{what} holds Python objects ({', '.join(kinds)}), not numbers or strings")
        array = array.astype(np.str_)
    if array.dtype.kind not in "biufcU":
        raise JobError("input", f"{what} has dtype {array.dtype}, which samples cannot hold")
    return array
