"""operators: which operators models need of a runtime, before and after the runtime's own optimizations.

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
    """Do an ``operators`` job: ``models`` is a list of paths; the result names operators by domain and opset."""
    import onnx
    import onnxruntime as ort

    channel.phase("load")
    found: set[tuple[str, int, str]] = set()
    for path in job["models"]:
        if Path(path).suffix == ".ort":
            raise JobError("unsupported", "the operators of a model in ORT format cannot be read from outside")
        found.update(_operators(onnx.load(path, load_external_data=False)))
        for level in LEVELS:
            options = ort.SessionOptions()
            options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
            options.optimized_model_filepath = str(Path.cwd() / "optimized.onnx")
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", "optimized.onnx.data"
            )
            ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            found.update(_operators(onnx.load(options.optimized_model_filepath, load_external_data=False)))
    channel.finish({"ort_version": ort.__version__, "operators": [list(entry) for entry in sorted(found)]})


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
