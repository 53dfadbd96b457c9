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

from .protocol import JobError, plain

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
    """

    def __init__(self, folder: str | Path, names: Sequence[str] = ()) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.count = 0
        self._keys = {name: str(number) for number, name in enumerate(names)}
        self._labels: list[Any] = []

    def write(self, arrays: Mapping[str, Any], label: Any = None) -> None:
        """Keep one sample.

        :raises JobError: kind ``input``, when a value is no array of numbers or strings.
        """
        members: dict[str, Any] = {}
        for name, value in arrays.items():
            key = self._keys.setdefault(str(name), str(len(self._keys)))
            members[key] = storable(value, f"{name!r} of sample {self.count}")
        np.savez(self.folder / f"{self.count:06}.npz", **members)
        self.count += 1
        if label is not None:
            self._labels.append(plain(label))

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
        if index["labels"]:
            (self.folder / "labels.json").write_text(json.dumps(self._labels, allow_nan=False), "utf-8")
        (self.folder / "index.json").write_text(json.dumps(index), "utf-8")


def storable(value: Any, what: str) -> Array:
    """Return a value as an array that .npz keeps without pickling; Python strings become a ``U`` array.

    :raises JobError: kind ``input``, when it is none.
    """
    array = np.asarray(value)
    if array.dtype.kind == "O":
        if not all(isinstance(item, str) for item in array.ravel().tolist()):
            kinds = sorted({type(item).__name__ for item in array.ravel().tolist()})
            raise JobError("input", f"{what} holds Python objects ({', '.join(kinds)}), not numbers or strings")
        array = array.astype(np.str_)
    if array.dtype.kind not in "biufcU":
        raise JobError("input", f"{what} has dtype {array.dtype}, which samples cannot hold")
    return array
