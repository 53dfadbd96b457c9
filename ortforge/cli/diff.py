"""ortforge diff: what differs between two model files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ortforge.cli.shared import Json, echo_json
from ortforge.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from ortforge.report.onnx_reading import Model, Tensor

_LONG: Final = 1_000_000_000
"""Bytes of weights from which comparing takes seconds."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("diff", epilog="Example: ortforge diff model.onnx model.int8.onnx")(diff)


def diff(
    model_a: Annotated[Path, typer.Argument(metavar="A.onnx", help="A model; external data lies beside it.")],
    model_b: Annotated[Path, typer.Argument(metavar="B.onnx", help="The same; the later one.")],
    as_json: Json = False,
    everything: Annotated[bool, typer.Option("--all", help="List every node and weight, not the first few.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 unless they compute the same.")] = False,
) -> None:
    """Compare two models: operators, fusions, types, sizes, opsets, quantization, weights, nodes by name."""
    from ortforge.errors import UsageError
    from ortforge.report import model_diff_text
    from ortforge.report.model_diff import compare
    from ortforge.report.onnx_weights import external_sizes

    _refuse_ort_format(model_a, model_b)
    a, b = _model(model_a), _model(model_b)
    notes: list[str] = []
    sides = []
    for model in (a, b):
        sizes, problems = external_sizes(model)
        notes += problems
        sides.append(_side(model, sum(sizes.values())))
    _announce(a, b)
    try:
        found = compare(a, b, _digests(a, notes), _digests(b, notes))
    except ValueError as error:
        raise UsageError(
            f"{model_a} or {model_b} is not a valid ONNX model; it may be truncated or corrupted: {error}.",
            todo="Fetch or export it again.",
        ) from error
    if lost := found["weights"]["not_compared"]:
        notes.append(f"The values of {len(lost)} weights could not be compared; everything else was.")
    found = {
        "schema": 1,
        "a": sides[0],
        "b": sides[1],
        "identical": _same_files(a, b, is_same=found["same"]),
        "notes": list(dict.fromkeys(notes)),
        **found,
    }
    if as_json:
        echo_json(found)
    else:
        model_diff_text.show(found, everything=everything)
    if exit_code and not found["same"]:
        raise typer.Exit(ExitCode.VERDICT)


def _announce(a: Model, b: Model) -> None:
    """Say on a terminal that reading the weights will take a while, when it will."""
    from ortforge.api.wording import size

    total = sum(tensor.bytes for model in (a, b) for tensor in model.weights)
    if total > _LONG and sys.stderr.isatty():
        typer.echo(f"Reading {size(total)} of weights …", err=True)


def _side(model: Model, external: int) -> dict[str, Any]:
    return {
        "path": str(model.path),
        "bytes": model.file_bytes + external,
        "external_bytes": external,
        "nodes": len(model.nodes),
        "weights": len(model.weights),
        "ir_version": model.ir_version,
        "producer": model.producer,
        "opsets": model.opsets,
    }


def _digests(model: Model, notes: list[str]) -> Callable[[Tensor], str]:
    """Return what digests a model's weights; what cannot be had is noted, and has no digest."""
    from ortforge.errors import FetchError
    from ortforge.report.onnx_weights import Contents

    contents = Contents(model)

    def digest(tensor: Tensor) -> str:
        try:
            return contents.digest(tensor)
        except FetchError as error:
            notes.append(error.what)
        except OSError as error:
            notes.append(f"weights of {model.path.name} cannot be read: {error.strerror or error}.")
        return ""

    return digest


def _same_files(a: Model, b: Model, *, is_same: bool) -> bool:
    """Say whether two model files have the same bytes; where they name external data, that has to be equal, too."""
    is_external = any(tensor.external for tensor in a.weights)
    return a.file_bytes == b.file_bytes and _same_bytes(a.path, b.path) and (is_same or not is_external)


def _same_bytes(a: Path, b: Path) -> bool:
    from ortforge.store.hashing import digest_file

    return digest_file(a) == digest_file(b)


# What is no ONNX file


def _refuse_ort_format(*paths: Path) -> None:
    """Say what can be compared when a file is in ORT's own format.

    :raises UsageError: one is.
    """
    from ortforge.errors import UsageError

    named = [path for path in paths if _head(path)[4:8] == b"ORTM"]
    if not named:
        return
    a, b = paths
    sizes = [path.stat().st_size for path in paths]
    alike = "the same bytes" if sizes[0] == sizes[1] and _same_bytes(a, b) else "different"
    raise UsageError(
        f"{' and '.join(path.name for path in named)} is in ORT's own format, which nothing but ONNX Runtime reads: "
        "nodes and weights cannot be compared.",
        meant=f"Of the files themselves: {sizes[0]:,} and {sizes[1]:,} bytes, {alike}.",
        todo="Compare the ONNX models that they were made from, or make one with optimize's format = 'onnx', which "
        "saves the same graph.",
    )


def _model(path: Path) -> Model:
    """Read a model.

    :raises UsageError: there is none, or it is no ONNX file.
    """
    from ortforge.errors import UsageError
    from ortforge.report.onnx_reading import read_model

    head = _head(path)
    try:
        return read_model(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        guess = _guess(path, head)
        raise UsageError(
            f"{path} is no ONNX model, or a damaged or truncated one: {error}.",
            meant=guess,
            todo="Give two ONNX files." if guess else "Fetch or export it again; 'ortforge diff' compares ONNX files.",
        ) from error


def _head(path: Path) -> bytes:
    """Return a file's first bytes.

    :raises UsageError: there is no such file.
    """
    from ortforge.errors import UsageError, nearest

    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() and not path.exists() else []
        close = nearest(path.name, beside)
        raise UsageError(
            f"the model {path} cannot be read: {error.strerror or error}.",
            meant=f"Perhaps you meant {path.with_name(close)}." if close else "",
            todo="Give two ONNX files.",
        ) from error


_SIGNATURES = (
    (b"version https://git-lfs", "It is a pointer of Git LFS; 'git lfs pull' brings the file itself."),
    (b"PK\x03\x04", "It looks like a zip archive: a PyTorch checkpoint or a package. Export or unpack it first."),
    (b"\x89HDF", "It looks like a Keras or HDF5 file. Convert it to ONNX first."),
    (b"\x80\x02", "It looks like a pickled PyTorch checkpoint. Export it to ONNX first."),
    (b"<!DOCTYPE", "It is a web page: the download went wrong."),
    (b"<html", "It is a web page: the download went wrong."),
    (b"GGUF", "It is a GGUF file, of llama.cpp."),
)


def _guess(path: Path, head: bytes) -> str:
    """Say what a file that is no ONNX model probably is."""
    for signature, said in _SIGNATURES:
        if head.startswith(signature):
            return said
    if head[4:8] == b"TFL3":
        return "It is a TensorFlow Lite model. Convert it to ONNX first."
    if path.suffix == ".safetensors" or head[8:10] == b'{"':
        return "It is a safetensors file: weights without a graph."
    return ""
