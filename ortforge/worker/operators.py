"""operators: which operators and types models need of a runtime, before and after the runtime's own optimizations.

A session rewrites a graph when it loads it: it inlines functions, computes constants, fuses nodes and changes layouts,
and each result has operators that the file does not. So the graph is saved at every level and read back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .protocol import Channel, JobError

__all__ = ["run"]

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do an ``operators`` job: ``models`` is a list of paths.

    The result names operators by domain and opset, and the types of all tensors, as ONNX's ``TensorProto`` names them.
    """
    import onnx
    import onnxruntime as ort

    channel.phase("load")
    found: set[tuple[str, int, str]] = set()
    types: set[int] = set()
    for path in job["models"]:
        if Path(path).suffix == ".ort":
            raise JobError("unsupported", "the operators of a model in ORT format cannot be read from outside")
        model = onnx.load(path, load_external_data=False)
        found.update(_operators(model))
        types.update(_types(model.graph))
        for level in LEVELS:
            options = ort.SessionOptions()
            options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
            options.optimized_model_filepath = str(Path.cwd() / "optimized.onnx")
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", "optimized.onnx.data"
            )
            ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            model = onnx.load(options.optimized_model_filepath, load_external_data=False)
            found.update(_operators(model))
            types.update(_types(model.graph))
    names = sorted(onnx.TensorProto.DataType.Name(number) for number in types if number)
    channel.finish(
        {"ort_version": ort.__version__, "operators": [list(entry) for entry in sorted(found)], "types": names}
    )


def _operators(model: Any) -> Iterator[tuple[str, int, str]]:
    """Give (domain, opset version, operator) of every node, also inside control flow and functions."""
    imports = {entry.domain: int(entry.version) for entry in model.opset_import}
    yield from _of_nodes(model.graph.node, imports)
    for function in model.functions:
        own = {entry.domain: int(entry.version) for entry in function.opset_import}
        yield from _of_nodes(function.node, {**imports, **own})


def _of_nodes(nodes: Any, imports: Mapping[str, int]) -> Iterator[tuple[str, int, str]]:
    for node in nodes:
        yield node.domain or "ai.onnx", imports.get(node.domain, 1), node.op_type
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _of_nodes(attribute.g.node, imports)
            for graph in attribute.graphs:
                yield from _of_nodes(graph.node, imports)


def _types(graph: Any) -> Iterator[int]:
    """Give the element type of every tensor of a graph, those in branches and attributes included.

    What a session saves names the type of each value that is computed, so nothing has to be inferred.
    """
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield from _of_type(value.type)
    yield from (tensor.data_type for tensor in graph.initializer)
    yield from (tensor.values.data_type for tensor in graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t.data_type
            yield from (tensor.data_type for tensor in attribute.tensors)
            if attribute.HasField("g"):
                yield from _types(attribute.g)
            for branch in attribute.graphs:
                yield from _types(branch)
            if node.op_type == "Cast" and attribute.name == "to":
                yield int(attribute.i)


def _of_type(kind: Any) -> Iterator[int]:
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        yield getattr(kind, which).elem_type
    elif which in ("sequence_type", "optional_type"):
        yield from _of_type(getattr(kind, which).elem_type)
    elif which == "map_type":
        yield kind.map_type.key_type
        yield from _of_type(kind.map_type.value_type)
