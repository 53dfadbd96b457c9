"""Reading and writing models for the passes: external data, IR versions, sizes, and problems in one line.

Runs inside a runtime beside the pass that imports it, so it knows nothing of ortforge. Only the standard library is
imported when the file is, since the passes' other half is listed by processes that have no onnx.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .normalization import normalize
from .onnx_graph import demote_weight_inputs, fit_imports, graphs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto, TensorProto

__all__ = [
    "OLDEST_IR",
    "bytes_of",
    "copy",
    "external_files",
    "first_line",
    "first_sentence",
    "has_external_data",
    "load",
    "needs_external_data",
    "refuse_ort",
    "save",
    "save_beside",
    "settle",
    "size",
]

INLINE_LIMIT: Final = 1_900_000_000
"""Bytes above which weights go to a file of their own: protobuf refuses messages of 2 GiB and more."""

OLDEST_IR: Final = 4
"""IR version from which initializers need not be graph inputs; models below it are raised to :data:`RAISED_IR`."""

RAISED_IR: Final = 8
"""What such models are raised to: read by every ONNX Runtime since 1.10."""


ADVICE_ON_OPSETS: Final = (
    "ONNX Runtime only *guarantees* support for models stamped with official released onnx opset versions. "
)
"""What stands before the point when ONNX Runtime refuses an operator set."""


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model that may carry much data: initializers and tensor attributes, at any depth."""
    for graph in graphs(model):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def external_files(model: ModelProto) -> list[str]:
    """Return the relative names of the files that hold external data of ``model``, sorted."""
    return sorted(
        {entry.value for tensor in tensors(model) for entry in tensor.external_data if entry.key == "location"}
    )


def load(path: Path) -> ModelProto:
    """Load a model with its external data, its domain names and weights in their plain form (``normalization.py``).

    :raises ValueError: the file is no ONNX model, or its data is missing.
    """
    import onnx

    refuse_ort(path)
    try:
        model = onnx.load(str(path))
    except Exception as problem:
        raise ValueError(
            f"{path.name} cannot be read as an ONNX model ({first_line(problem)}). "
            "The file may be truncated, or its external data may be missing: fetch the model again."
        ) from problem
    return normalize(model)


def refuse_ort(path: Path) -> None:
    """Refuse a file in ORT's own format.

    :raises ValueError: it is one.
    """
    if path.suffix == ".ort":
        raise ValueError(
            f"{path.name} is in ORT's own format, which no pass can read back. Give the .onnx file that it was made "
            "from; a pass that writes this format (optimize with format = 'ort') goes last in the recipe."
        )


def needs_external_data(model: ModelProto) -> bool:
    """Whether the weights are too large for one protobuf message."""
    return sum(map(bytes_of, tensors(model))) > INLINE_LIMIT


def bytes_of(tensor: TensorProto) -> int:
    """Return the bytes of a tensor's values, counted from its shape: asking for raw_data copies them."""
    return int(math.prod(tensor.dims)) * _item_bytes(tensor.data_type)


def _item_bytes(data_type: int) -> int:
    """Return the bytes of one element of a tensor; 1 for types of less than a byte, and for strings."""
    import onnx

    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)
    except KeyError:
        return 1


def settle(model: ModelProto, ir_version: int) -> None:
    """Give a model the IR version of the model it came from, and imports only of domains that it uses."""
    if ir_version < OLDEST_IR:
        demote_weight_inputs(model)
        ir_version = RAISED_IR
    model.ir_version = ir_version
    fit_imports(model)


def save(model: ModelProto, path: Path, *, ir_version: int) -> None:
    """Write a model, with the IR version of the model it came from and imports only of domains that it uses.

    Weights go to ``<name>.data`` beside it when all would not fit into one protobuf message. The model in memory keeps
    them.
    """
    import onnx

    settle(model, ir_version)
    if needs_external_data(model):
        onnx.save_model(
            model,
            str(path),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=f"{path.name}.data",
            size_threshold=1024,
            convert_attribute=False,
        )
        # onnx takes the weights out of the model in memory, and callers go on using it.
        onnx.load_external_data_for_model(model, str(path.parent))
    else:
        onnx.save_model(model, str(path))


def save_beside(model: ModelProto, path: Path, *, ir_version: int, convert_attribute: bool = False) -> None:
    """Write a model as :func:`save` does, with weights of 1 KiB and more in ``<name>.data`` whatever their size.

    :param convert_attribute: tensors in attributes go there, too.
    """
    import onnx

    settle(model, ir_version)
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{path.name}.data",
        size_threshold=1024,
        convert_attribute=convert_attribute,
    )
    if (path.parent / f"{path.name}.data").is_file():
        onnx.load_external_data_for_model(model, str(path.parent))


def copy(source: Path, target: Path) -> None:
    """Copy a model byte by byte, with the files that hold its external data (their names are part of it)."""
    shutil.copyfile(source, target)
    for name in _files_beside(source):
        beside = target.parent / name
        beside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / name, beside)


def stand_in(source: Path, target: Path) -> None:
    """Make a model appear at ``target`` for somebody who reads it and writes beside it: linked where that is possible.

    A link costs nothing, a copy of a large model much of the time that a pass takes. Models with external data are
    copied: onnx refuses to read such data through a second link.
    """
    try:
        if _files_beside(source):
            copy(source, target)
        else:
            os.link(source, target)
    except OSError:
        copy(source, target)


def _files_beside(path: Path) -> list[str]:
    """Return the names of the files that hold a model's external data; reads the model only where there may be any."""
    from . import outlines

    if path.suffix == ".ort" or all(entry.name in (path.name, "index.json") for entry in path.parent.iterdir()):
        return []
    return external_files(outlines.outline_of(path))


def has_external_data(path: Path) -> bool:
    """Whether a model keeps weights in files beside it."""
    return bool(_files_beside(path))


def size(path: Path) -> int:
    """Return the bytes of a model and of its external data."""
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in _files_beside(path))


def first_line(problem: BaseException) -> str:
    """Return an exception's first line, at most 400 characters, without paths of temporary files and C++ signatures.

    Python's own errors and asserts, which say little by themselves, are named with the function they stand in.
    """
    text = re.sub(r"Load model from \S+ failed:\s*", "", str(problem).strip())
    # Python tells where it imported from.
    line = re.sub(r" \(/\S+\)$", "", _first_lines(text))
    frames = traceback.extract_tb(problem.__traceback__)
    if frames and (not line or isinstance(problem, AttributeError | LookupError | NameError | TypeError)):
        line = f"{type(problem).__name__} in {frames[-1].name}" + (f": {line}" if line else "")
    return _without_signatures(line)[:400] or type(problem).__name__


def first_sentence(problem: BaseException) -> str:
    """Return an exception's first line with a full stop, for a message that goes on after it."""
    line = first_line(problem)
    return line if line.endswith((".", "!", "?")) else f"{line}."


def _first_lines(text: str) -> str:
    """Return the first line, and those that it announces with a colon."""
    said = ""
    for line in text.splitlines():
        said = f"{said} {line.strip()}".strip()
        if not said.endswith(":"):
            break
    return said


def _without_signatures(line: str) -> str:
    """Take out source files and C++ signatures, which fill a line before it comes to its point.

    >>> _without_signatures("FAIL : /src/core/a.cc:17 void onnxruntime::F(int, g<h(k)>) const Bad x")
    'FAIL : Bad x'
    """
    line = line.removeprefix(ADVICE_ON_OPSETS)
    while found := re.search(r"\S+\.(?:cc|h|cpp|hpp|cu):\d+ +", line):
        depth, end = 0, found.end()
        for end in range(found.end(), len(line)):
            depth += (line[end] in "([{") - (line[end] in ")]}")
            if depth == 0 and line[end] in ")]}" and line[end + 1 : end + 2] in (" ", ""):
                break
        else:
            # No signature follows.
            end = found.end() - 1
        rest = line[end + 1 :].lstrip()
        line = line[: found.start()] + re.sub(r"^const (?:\[with .*?\] )?|^\[with .*?\] ", "", rest)
    return line.replace(ADVICE_ON_OPSETS, "")
