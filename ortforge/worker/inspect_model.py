"""inspect: what a model is made of, read without running it and without trusting it.

A model names the files of its weights. A path out of its folder would make ortforge read, copy and hash what the
model's author chose, so it is refused here, before any runtime sees the model; and a file shorter than the model says
would later be a SIGBUS.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from . import function_nesting
from .index_limits import index_limits
from .protocol import Channel, JobError
from .subgraphs import nested_graphs

__all__ = ["inspect", "run"]

_BLOCK = 1 << 20


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do an ``inspect`` job and finish it."""
    model = Path(job["model"])
    root = Path(job.get("root") or model.parent)
    if not model.is_file():
        raise JobError("model", f"there is no file {model.name}")
    channel.phase("load")
    channel.finish(_inspect_by_session(model) if job.get("by") == "session" else inspect(model, root))


def inspect(model: Path, root: Path) -> dict[str, Any]:
    """Describe a model file; the form is in docs/formats.md.

    :param root: the folder that the model and its external data must not leave.
    :raises JobError: kind ``model``, when the file cannot be read, and ``refused``, when it leaves its folder.
    """
    return _inspect_by_session(model) if model.suffix == ".ort" else _inspect_onnx(model, root)


def _inspect_by_session(path: Path) -> dict[str, Any]:
    """Return what a session tells of a model whose nodes and opsets cannot be read from outside.

    That is a model in ORT's format, and one that ONNX Runtime reads and onnx does not.
    """
    import onnxruntime as ort

    from .run import described

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    meta = session.get_modelmeta()
    return {
        "inputs": described(session.get_inputs()),
        "outputs": described(session.get_outputs()),
        "ir_version": None,
        "opsets": {},
        "ops": {},
        "nodes": None,
        "initializers_bytes": None,
        "external": [],
        "metadata": dict(meta.custom_metadata_map),
        "producer": meta.producer_name,
        "random_ops": None,
        "digest": _file_digest(path),
    }


def _inspect_onnx(path: Path, root: Path) -> dict[str, Any]:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # protobuf's, which need not be importable by that name
            raise
        size = path.stat().st_size
        raise JobError(
            "model", f"{path.name} is not a valid ONNX model: its {size} bytes do not parse. It may be truncated"
        ) from error
    graph = model.graph
    if not graph.node and not graph.output:
        raise JobError("model", f"{path.name} is not a valid ONNX model: it holds no graph")
    tensors = list(_tensors(model))
    external = _external_files(tensors, path.parent, root)
    initializers = {tensor.name for tensor in graph.initializer}
    initializers.update(tensor.values.name for tensor in graph.sparse_initializer)
    nodes = list(_nodes(graph))
    rows = index_limits(graph)
    return {
        "inputs": [
            {**_value(entry), **({"rows": rows[entry.name]} if entry.name in rows else {})}
            for entry in graph.input
            if entry.name not in initializers
        ],
        "outputs": [_value(entry) for entry in graph.output],
        "ir_version": model.ir_version,
        "opsets": {entry.domain if entry.domain != "ai.onnx" else "": entry.version for entry in model.opset_import},
        "ops": dict(Counter(node.op_type for node in nodes).most_common()),
        "nodes": len(nodes),
        "initializers_bytes": sum(_size(tensor) for tensor in tensors),
        "external": sorted(external),
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
        "producer": " ".join(part for part in (model.producer_name, model.producer_version) if part),
        "functions": function_nesting.facts(model.functions),
        "random_ops": _random_ops(model),
        "digest": _digest(model, tensors, path.parent),
    }


_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Operators whose result is random. An attribute ``seed`` fixes where a session starts, not each run's result."""

_TRAINING_MODE = {"Dropout": 2, "BitmaskDropout": 2, "BiasDropout": 4, "BitmaskBiasDropout": 4}
"""Operators that are random in training mode, and the position of the input that switches it on."""


def _random_ops(model: Any) -> list[dict[str, str]]:
    """Return the nodes whose result is random, also in subgraphs and functions. Must run before ``_digest``."""
    nodes = [*_nodes(model.graph), *(node for function in model.functions for node in _nodes(function))]
    switched_on = {tensor.name for graph in _graphs(model.graph) for tensor in graph.initializer if _is_true(tensor)}
    for node in nodes:
        if node.op_type == "Constant" and any(_is_true(entry.t) for entry in node.attribute if entry.HasField("t")):
            switched_on.update(node.output)
    random = []
    for node in nodes:
        place = _TRAINING_MODE.get(node.op_type)
        trains = place is not None and len(node.input) > place and node.input[place] in switched_on
        if trains or node.op_type in _RANDOM:
            random.append({"name": node.name, "op": node.op_type})
    return random


def _is_true(tensor: Any) -> bool:
    """Return whether a tensor is one boolean that is true."""
    if tensor.data_type != 9 or _location(tensor):  # onnx.TensorProto.BOOL
        return False
    return tensor.raw_data == b"\1" or list(tensor.int32_data) == [1]


def _nodes(graph: Any) -> Iterator[Any]:
    """Walk the nodes of a graph or function and of the subgraphs inside it."""
    for node in graph.node:
        yield node
        for inner in nested_graphs(node):
            yield from _nodes(inner)


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for inner in nested_graphs(node):
            yield from _graphs(inner)


def _tensors(model: Any) -> Iterator[Any]:
    """Walk all tensors of a model: initializers and attributes, also in subgraphs and functions."""
    nodes: list[Any] = []
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
        nodes.extend(graph.node)
    for function in model.functions:
        for node in function.node:
            nodes.append(node)
            for inner in nested_graphs(node):
                for graph in _graphs(inner):
                    yield from graph.initializer
                    nodes.extend(graph.node)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _location(tensor: Any) -> dict[str, str]:
    """Return where a tensor's bytes are (location, offset, length), or ``{}`` when they are in the model."""
    if tensor.data_location != tensor.EXTERNAL:
        return {}
    return {entry.key: entry.value for entry in tensor.external_data}


def _external_files(tensors: Iterable[Any], folder: Path, root: Path) -> set[str]:
    """Return the external files that a model names, each inside ``root`` and long enough.

    :raises JobError: kind ``model``.
    """
    files: dict[str, int] = {}
    for tensor in tensors:
        if tensor.data_location != tensor.EXTERNAL:
            continue
        where = _location(tensor)
        location = where.get("location", "")
        if location not in files:
            files[location] = _check_location(tensor.name, location, folder, root)
        begin, length = _range(tensor.name, where, files[location])
        if begin + length > files[location]:
            raise JobError(
                "model",
                f"the external data of {tensor.name!r} is bytes {begin} to {begin + length} of {location}, which has "
                f"only {files[location]}: the file is truncated, or belongs to another model",
            )
    return set(files)


def _range(name: str, where: Mapping[str, str], size: int) -> tuple[int, int]:
    try:
        begin = int(where.get("offset") or 0)
        length = int(where["length"]) if where.get("length") else max(0, size - begin)
    except ValueError as error:
        raise JobError(
            "model", f"the external data of {name!r} has no usable offset or length: {dict(where)}"
        ) from error
    if begin < 0 or length < 0:
        raise JobError("model", f"the external data of {name!r} has a negative offset or length: {dict(where)}")
    return begin, length


def _check_location(name: str, location: str, folder: Path, root: Path) -> int:
    """Return the size of an external file.

    :raises JobError: kind ``model``, when it is missing, and ``refused``, when it lies outside ``root``.
    """
    if not location or "\0" in location:
        raise JobError("model", f"the external data of {name!r} names no file")
    outside = PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute()
    if outside or PureWindowsPath(location).drive or ".." in PureWindowsPath(location).parts:
        raise JobError(
            "refused",
            f"the external data of {name!r} is {location!r}, which leaves the model's folder: such a model is refused",
        )
    path = folder / location
    if not path.resolve().is_relative_to(root.resolve()):
        raise JobError(
            "refused",
            f"the external data of {name!r} is {location!r}, a link out of the model's folder: such a model is refused",
        )
    if not path.is_file():
        raise JobError("model", f"the external data file {location!r} is missing: it belongs beside the model")
    return path.stat().st_size


def _size(tensor: Any) -> int:
    """Return the bytes that a tensor's values take in the model, or in the file it names."""
    where = _location(tensor)
    if where:
        return int(where.get("length") or 0)
    if tensor.raw_data:
        return len(tensor.raw_data)
    wide = 8 * (len(tensor.int64_data) + len(tensor.double_data) + len(tensor.uint64_data))
    return wide + 4 * (len(tensor.float_data) + len(tensor.int32_data)) + sum(map(len, tensor.string_data))


def _value(entry: Any) -> dict[str, Any]:
    """Return an input or output as JSON."""
    kind = entry.type
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return {"name": entry.name, "dtype": _dtype(kind.tensor_type.elem_type), "shape": _shape(kind.tensor_type)}
    element = kind
    while element.WhichOneof("value") in ("sequence_type", "optional_type"):
        element = getattr(element, element.WhichOneof("value")).elem_type
    inner = _shape(element.tensor_type) if element.WhichOneof("value") == "tensor_type" else None
    return {"name": entry.name, "dtype": _type_name(kind), "shape": [], "element_shape": inner}


def _shape(tensor_type: Any) -> list[int | str | None] | None:
    """Return a shape, or ``None`` when the model does not even give the number of dimensions."""
    if not tensor_type.HasField("shape"):
        return None
    return [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else (dim.dim_param or None)
        for dim in tensor_type.shape.dim
    ]


def _dtype(number: int) -> str:
    """Return numpy's name of an ONNX element type; ``undefined`` or the number where there is none."""
    import onnx

    from .tensors import NUMPY_NAMES

    try:
        name = onnx.TensorProto.DataType.Name(number).lower()
    except ValueError:
        return f"unknown type {number}"
    return NUMPY_NAMES.get(name, name)


def _type_name(kind: Any) -> str:
    """Return a type that is no tensor as ORT writes it: ``seq(tensor(float32))``."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return f"tensor({_dtype(kind.tensor_type.elem_type)})"
    if which == "sequence_type":
        return f"seq({_type_name(kind.sequence_type.elem_type)})"
    if which == "optional_type":
        return f"optional({_type_name(kind.optional_type.elem_type)})"
    if which == "map_type":
        return f"map({_dtype(kind.map_type.key_type)},{_type_name(kind.map_type.value_type)})"
    return which or "undefined"


def _digest(model: Any, tensors: Iterable[Any], folder: Path) -> str:
    """Digest what the model computes: two files that differ only in metadata, documentation, shape hints or where their
    weights lie have the same one. Takes ``model`` apart.
    """
    for tensor in tensors:
        _replace_data(tensor, folder)
    for graph in _graphs(model.graph):
        del graph.value_info[:]
        graph.ClearField("doc_string")
        for node in graph.node:
            node.ClearField("doc_string")
            if "metadata_props" in node.DESCRIPTOR.fields_by_name:
                del node.metadata_props[:]
        if "metadata_props" in graph.DESCRIPTOR.fields_by_name:
            del graph.metadata_props[:]
    digest = hashlib.blake2b(digest_size=32)
    opsets = sorted((entry.domain, entry.version) for entry in model.opset_import)
    digest.update(json.dumps(opsets).encode())
    digest.update(model.graph.SerializeToString(deterministic=True))
    for function in model.functions:
        digest.update(function.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _replace_data(tensor: Any, folder: Path) -> None:
    """Put a digest of a tensor's bytes in their place, so that it does not matter where they were."""
    where = _location(tensor)
    if where:
        path = folder / where["location"]
        begin, length = _range(tensor.name, where, path.stat().st_size)
        tensor.raw_data = _file_digest(path, begin, length).encode()
        del tensor.external_data[:]
    elif tensor.raw_data:
        tensor.raw_data = hashlib.blake2b(tensor.raw_data, digest_size=32).hexdigest().encode()
    tensor.ClearField("data_location")  # also where it says "in the model", which is the same as saying nothing
    tensor.ClearField("doc_string")


def _file_digest(path: Path, begin: int = 0, length: int | None = None) -> str:
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        file.seek(begin)
        left = length if length is not None else path.stat().st_size
        while left > 0 and (block := file.read(min(_BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
