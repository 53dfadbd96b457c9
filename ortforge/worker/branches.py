"""branches: which branches of a model's If nodes the samples take: what no sample takes is not compared.

The conditions of the main graph's If nodes are made outputs of a copy of the model, which runs on the CPU EP without
optimizations. Those inside subgraphs and functions cannot be reached from outside and are counted only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .protocol import Channel, JobError
from .subgraphs import with_inner_nodes

__all__ = ["run"]


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do a ``branches`` job and finish it: see docs/formats.md for the result."""
    import onnx
    import onnxruntime as ort

    from . import tensors
    from .samples import Samples
    from .session import open_session

    model = onnx.load(job["model"])
    nodes = [node for node in model.graph.node if node.op_type == "If" and node.domain in ("", "ai.onnx")]
    outer = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    hidden = sum(node.op_type == "If" for node in with_inner_nodes(outer)) - len(nodes)
    seen: dict[str, set[bool]] = {node.input[0]: set() for node in nodes}
    if seen:
        samples = Samples(job["samples"])
        if not len(samples):
            raise JobError("input", "there are no samples to run")
        constants = {tensor.name: bool(_value(tensor)) for tensor in model.graph.initializer if tensor.name in seen}
        wanted = [name for name in seen if name not in constants]
        inputs = {entry.name for entry in model.graph.input}
        path = _with_outputs(model, [name for name in wanted if name not in inputs], Path("branches.onnx"), onnx)
        channel.phase("load")
        opened = open_session(ort, path, [["CPUExecutionProvider", {}]], job["session"])
        channel.phase("run")
        types = job["session"].get("inputs") or {}
        for number in range(len(samples)):
            feeds = tensors.cast_feeds(samples.feeds(number), types, number)
            asked = [name for name in wanted if name not in inputs]
            answers = dict(zip(asked, opened.session.run(asked, dict(feeds)), strict=True)) if asked else {}
            for name in wanted:
                value = answers.get(name, feeds.get(name))
                if value is not None and value.size == 1:
                    seen[name].add(bool(value.reshape(-1)[0]))
        for name, value in constants.items():
            seen[name].add(value)
    channel.finish(
        {
            "conditions": len(nodes),
            "both": sum(len(seen[node.input[0]]) == 2 for node in nodes),
            "one_sided": [
                {"node": node.name, "taken": "then" if True in seen[node.input[0]] else "else"}
                for node in nodes
                if len(seen[node.input[0]]) == 1
            ],
            "hidden": hidden,
        }
    )


def _value(tensor: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor).reshape(-1)[0]


def _with_outputs(model: Any, names: list[str], path: Path, onnx: Any) -> str:
    copy = type(model)()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    for name in names:
        if name not in known:
            copy.graph.output.add(name=name)
    onnx.save(copy, str(path), save_as_external_data=copy.ByteSize() > 1 << 30, location=f"{path.name}.data")
    return str(path)
