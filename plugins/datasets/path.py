"""``path:`` datasets: samples that lie in files.

Three layouts, told apart by what is there:

- a folder of ``.npz`` or ``.npy`` files: one sample a file, in natural order (``2.npz`` before ``10.npz``). The arrays
  are fed as they are, so their rank is the model's.
- one ``.npz`` or ``.npy`` file: the first axis counts the samples. Where an array has one axis more than the model's
  input, sample *i* is ``array[i]``; where it has as many, the first axis is the model's batch, and a sample is a slice
  of as many rows as the model asks for (one, where its batch is free). An array without axes is the same
  in all samples.
- a folder of ``test_data_set_*`` folders, or one of these: ONNX's layout, ``input_K.pb`` being the model's K-th input.

The names of arrays in ``.npz`` are the model's inputs; ``.npy`` is for models with one input. In a folder, labels come
from ``labels.json`` (a list, or an object from file name without suffix to label) or ``labels.npy``; in ``.npz`` files
from an array called ``label`` or ``labels`` that is no input of the model. Pickles are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ortforge.api import DatasetSource

_LABELS = ("label", "labels")
_SUFFIXES = (".npz", ".npy")


def ortforge_datasets() -> list[DatasetSource]:
    """Give ``path:``."""
    from ortforge.api import DatasetSource

    return [
        DatasetSource(
            scheme="path",
            summary=".npz or .npy files, or ONNX's test_data_set_N/input_K.pb, with or without labels",
            example="path:data/validation",
            module=__file__,
            fingerprint=fingerprint,
        )
    ]


def fingerprint(reference: str, base: Path) -> str:
    """Return a digest of the names and contents of all files of the dataset.

    :raises FetchError: there is no such file or folder.
    """
    from ortforge.api import FetchError, nearest

    path = base / reference
    if not path.exists():
        siblings = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(path.name, siblings)
        raise FetchError(
            f"The dataset {path} does not exist.",
            meant=f"Perhaps {close} was meant." if close else "",
            todo="Correct the path; it is relative to the folder of matrix.toml.",
        )
    total = hashlib.blake2b(digest_size=32)
    for file in [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file()):
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        content = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                content.update(block)
        total.update(f"{name}\0{content.hexdigest()}\n".encode())
    return total.hexdigest()


# In a tools environment: numpy and onnx are there, ortforge is not.


def materialize(job: Any) -> dict[str, Any]:
    """Write the samples of a ``path:`` dataset, at most ``job.limit``.

    :raises ValueError: the data is missing or does not fit the model; the message says how.
    """
    path = Path(job.base) / job.reference
    if not path.exists():
        raise ValueError(f"the dataset {path} does not exist")
    inputs = {entry["name"]: entry for entry in job.inputs}
    count = 0
    for count, (feeds, label) in enumerate(_samples(path, inputs), 1):
        job.write(feeds, label)
        if job.limit and count >= job.limit:
            break
    if not count:
        raise ValueError(f"{path} holds no samples: no .npz, no .npy and no test_data_set_N/input_K.pb")
    return {"random": False}


def _samples(path: Path, inputs: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    if path.is_file():
        yield from _stacked(path, inputs)
        return
    files = _natural(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.stem not in _LABELS)
    if files:
        named = ((file.stem, _file_sample(file, inputs)) for file in files)
        yield from _with_labels(path, named, [file.stem for file in files])
        return
    sets = _natural(folder for folder in path.glob("test_data_set_*") if folder.is_dir())
    if not sets and (path / "input_0.pb").is_file():
        sets = [path]
    named = ((folder.name, (_onnx_sample(folder, inputs), None)) for folder in sets)
    yield from _with_labels(path, named, [folder.name for folder in sets])


def _natural(paths: Iterable[Path]) -> list[Path]:
    def key(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]

    return sorted(paths, key=key)


def _stacked(path: Path, inputs: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Cut the samples out of one file, whose first axis counts them."""
    arrays, labels = _read(path, inputs)
    if sequence := next((name for name, array in arrays.items() if isinstance(array, list)), None):
        raise ValueError(f"{path} holds the sequence {sequence}; give a folder with one .npz file for each sample")
    whole = {name: _checked(array, inputs[name], path, stacked=True) for name, array in arrays.items()}
    counts = {name: len(array) // step for name, (array, step) in whole.items() if array.ndim}
    if len(set(counts.values())) > 1:
        raise ValueError(f"the arrays of {path} hold different numbers of samples: {_listed(counts)}")
    count = next(iter(counts.values()), 1)
    if labels is not None and len(labels) != count:
        raise ValueError(f"{path} holds {count} samples and {len(labels)} labels")
    for index in range(count):
        feeds = {name: _cut(array, step, index, inputs[name]) for name, (array, step) in whole.items()}
        yield feeds, None if labels is None else _plain(labels[index])


def _file_sample(path: Path, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    arrays, label = _read(path, inputs)
    feeds = {
        name: array if isinstance(array, list) else _checked(array, inputs[name], path, stacked=False)[0]
        for name, array in arrays.items()
    }
    return feeds, None if label is None else _plain(label)


def _with_labels(
    folder: Path, named: Iterable[tuple[str, tuple[dict[str, Any], Any]]], names: list[str]
) -> Iterator[tuple[dict[str, Any], Any]]:
    labels = _folder_labels(folder, names)
    for name, (feeds, own) in named:
        yield feeds, own if labels is None else labels[name]


def _folder_labels(folder: Path, names: list[str]) -> dict[str, Any] | None:
    """Return the label of each sample from labels.json or labels.npy, or ``None`` when there is neither."""
    file = next((folder / name for name in ("labels.json", "labels.npy") if (folder / name).is_file()), None)
    if file is None:
        return None
    if file.suffix == ".json":
        try:
            labels = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not JSON: {error}") from None
    else:
        labels = _plain(_load(file))
    if isinstance(labels, dict):
        missing = [name for name in names if name not in labels]
        if missing:
            raise ValueError(f"{file} has no label for {missing[0]}")
        return labels
    if not isinstance(labels, list) or len(labels) != len(names):
        found = len(labels) if isinstance(labels, list) else "no list of"
        raise ValueError(f"{file} holds {found} labels, and there are {len(names)} samples")
    return dict(zip(names, labels, strict=True))


def _onnx_sample(folder: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Read ``input_K.pb``: tensors, K-th input each, or a name inside the tensor that is one of the model's."""
    import onnx
    from onnx import numpy_helper

    names = list(inputs)
    feeds = {}
    for file in _natural(folder.glob("input_*.pb")):
        position = int(file.stem.partition("_")[2])
        declared = str(inputs[names[position]]["dtype"]) if position < len(names) else ""
        nested = declared.startswith(("seq(", "optional("))
        tensor = (onnx.SequenceProto if declared.startswith("seq(") else onnx.OptionalProto)() if nested else None
        tensor = tensor or onnx.TensorProto()
        try:
            tensor.ParseFromString(file.read_bytes())
            if nested:
                to_value = numpy_helper.to_list if declared.startswith("seq(") else numpy_helper.to_optional
                feeds[names[position]] = to_value(tensor)
                continue
            array = numpy_helper.to_array(tensor)
        except Exception as error:  # protobuf and onnx raise many kinds for a damaged file
            raise ValueError(f"{file} is not a tensor: {error}") from None
        name = tensor.name if tensor.name in inputs else names[position] if position < len(names) else ""
        if not name:
            raise ValueError(f"{file} is for input {position}, and the model has {len(names)}: {', '.join(names)}")
        feeds[name] = _checked(array, inputs[name], file, stacked=False)[0]
    _refuse_missing(feeds, inputs, folder)
    return feeds


def _read(path: Path, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Read a file's arrays by input name, and its labels or ``None``."""
    if path.suffix == ".npy":
        if len(inputs) != 1:
            raise ValueError(
                f"{path} is one array, and the model has {len(inputs)} inputs: use .npz ({', '.join(inputs)})"
            )
        return {next(iter(inputs)): _load(path)}, None
    if path.suffix != ".npz":
        raise ValueError(f"{path} is neither .npz nor .npy")
    arrays = _load(path)
    labels = next((arrays.pop(name) for name in _LABELS if name in arrays and name not in inputs), None)
    if list(arrays) == ["arr_0"] and len(inputs) == 1 and "arr_0" not in inputs:
        arrays = {next(iter(inputs)): arrays["arr_0"]}
    arrays = _with_sequences(arrays, inputs)
    for name in arrays:
        if name not in inputs:
            close = get_close_matches(name, inputs, n=1)
            hint = f"; perhaps {close[0]} was meant" if close else ""
            raise ValueError(f"{path} holds {name}, which is no input of the model ({', '.join(inputs)}){hint}")
    _refuse_missing(arrays, inputs, path)
    return arrays, labels


def _with_sequences(arrays: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Gather the arrays ``x[0]``, ``x[1]`` … of a sequence input ``x`` into a list; ``x[]`` is an empty one."""
    elements: dict[str, dict[int, Any]] = {
        name: {} for name, entry in inputs.items() if "seq(tensor(" in str(entry["dtype"])
    }
    others: dict[str, Any] = {}
    for key, array in arrays.items():
        found = re.fullmatch(r"(.*)\[(\d*)\]", key)
        if found and found[1] in elements and key not in inputs:
            if found[2]:
                elements[found[1]][int(found[2])] = array
            others.setdefault(found[1], [])
        else:
            others[key] = array
    for name, items in elements.items():
        if name in others and isinstance(others[name], list):
            others[name] = [items[number] for number in sorted(items)]
    return others


def _refuse_missing(feeds: Mapping[str, Any], inputs: Mapping[str, Any], where: Path) -> None:
    missing = [name for name, entry in inputs.items() if name not in feeds and "optional" not in str(entry["dtype"])]
    if missing:
        raise ValueError(f"{where} lacks the model's input {', '.join(missing)}; it holds {', '.join(feeds) or 'none'}")


def _load(path: Path) -> Any:
    """Read a ``.npy`` file into an array, or a ``.npz`` file into a dict of arrays; pickles are never read."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
        return {name: loaded[name] for name in loaded.files} if path.suffix == ".npz" else loaded
    except Exception as error:  # zipfile, zlib, header and pickle errors alike
        if "pickle" in str(error) or "Object arrays" in str(error):
            raise ValueError(
                f"{path} holds Python objects (a pickle), which are never read: save plain arrays, strings as dtype U"
            ) from None
        raise ValueError(f"{path} is damaged or not a numpy file: {error}") from None


def _checked(array: Any, entry: Mapping[str, Any], where: Path, *, stacked: bool) -> tuple[Any, int]:
    """Return the array in the input's dtype and the rows of a sample, after a look at its shape.

    :raises ValueError: dtype or shape do not fit.
    """
    shape = entry.get("shape")
    array = _cast(array, entry, where)
    if shape is None:
        return array, 1
    wanted = list(shape)
    own = list(array.shape)
    step = wanted[0] if wanted and isinstance(wanted[0], int) and wanted[0] > 0 else 1
    if stacked and len(own) == len(wanted) + 1:
        own = own[1:]
    elif stacked and wanted and len(own) == len(wanted):
        own[0] = step if own[0] % step == 0 else own[0]
    fits = len(own) == len(wanted) and all(
        not isinstance(size, int) or size <= 0 or size == have for size, have in zip(wanted, own, strict=True)
    )
    if not fits:
        form = "[" + ", ".join("?" if size is None else str(size) for size in wanted) + "]"
        extra = " (with or without an axis of samples before it)" if stacked else ""
        raise ValueError(f"{entry['name']} in {where} has shape {list(array.shape)}, and the model wants {form}{extra}")
    return array, step


def _cut(array: Any, step: int, index: int, entry: Mapping[str, Any]) -> Any:
    if entry.get("shape") is None or array.ndim == len(entry["shape"]):
        return array[index * step : (index + 1) * step] if array.ndim else array
    return array[index]


_ORT_DTYPES = {"float": "float32", "double": "float64", "string": "str"}
_NARROW = (
    *("bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float8e8m0", "float4e2m1"),
    *("uint4", "int4", "uint2", "int2"),
)
"""Element types that numpy lacks: their values are given as floats or integers."""


def _cast(array: Any, entry: Mapping[str, Any], where: Path) -> Any:
    """Convert among floats, and among integers that keep their values; anything else is refused."""
    import numpy as np

    kind = str(entry["dtype"]).removeprefix("tensor(").rstrip(")")
    kind = _ORT_DTYPES.get(kind, kind)
    if kind in _NARROW or "(" in kind:  # the worker knows them
        return array
    if kind == "str":
        if array.dtype.kind == "U":
            return array
    else:
        try:
            wanted = np.dtype(kind)
        except TypeError:
            return array
        if array.dtype == wanted or array.dtype.kind == wanted.kind == "f":
            return array.astype(wanted, copy=False)
        if array.dtype.kind in "iu" and wanted.kind in "iu":
            converted = array.astype(wanted)
            if (converted == array).all():
                return converted
    raise ValueError(f"{entry['name']} in {where} is {array.dtype}, and the model wants {kind}")


def _plain(value: Any) -> Any:
    """Return a label as a JSON value."""
    return value.tolist() if hasattr(value, "tolist") else value


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
