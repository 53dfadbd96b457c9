"""Runs a graph in segments: numpy computes some tensors in between, from tensors that ORT computed before.

A tensor's level says how many such computations precede it. Nodes of one level form a segment, a model of its own, so
products that do not depend on one another (the three projections of an attention) share a cut, and each node runs once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .protocol import JobError
from .subgraphs import nested_graphs
from .tier_graph import Rewritten, Step

__all__ = ["Segments"]

Compute = Callable[[Step, Mapping[str, Any]], Any]


class Segments:
    """A rewritten graph, cut where :class:`.tier_graph.Step` needs numpy. Sessions are made with the first sample.

    :param compute: from a step and the tensors that it needs, its excess.
    """

    def __init__(
        self, ort: Any, onnx: Any, model: Any, rewritten: Rewritten, compute: Compute, *, threads: int | None = None
    ) -> None:
        self._ort, self._onnx, self._model, self._threads = ort, onnx, model, threads
        self._compute = compute
        self._initializers = rewritten.initializers
        self.outputs = [value.name for value in model.graph.output]
        self._steps: list[list[Step]] = [[]]
        self._nodes: list[list[Any]] = [[]]
        self._sessions: dict[int, tuple[Any, list[str], list[str]]] = {}
        self._level(rewritten)
        self._needs = [set(_reads(nodes)) for nodes in self._nodes]

    def __len__(self) -> int:
        return len(self._nodes)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return the model's outputs, and the inputs and tensors that crossed a cut."""
        values = dict(feeds)
        for number in range(len(self._nodes)):
            for step in self._steps[number]:
                values[step.excess] = self._compute(step, _With(values, self._constant))
            if not self._nodes[number]:
                continue
            if number not in self._sessions:
                self._sessions[number] = self._open(number, values)
            session, takes, gives = self._sessions[number]
            answers = session.run(gives, {name: values[name] for name in takes})
            values.update(zip(gives, answers, strict=True))
        return {name: values[name] if name in values else self._constant(name) for name in self.outputs}

    def _constant(self, name: str) -> Any:
        return self._onnx.numpy_helper.to_array(self._initializers[name])

    def _level(self, rewritten: Rewritten) -> None:
        levels: dict[str, int] = {}
        starts = {id(node): step for step in rewritten.steps for node in step.users}
        for node in rewritten.nodes:
            level = max((levels.get(name, 0) for name in _reads([node])), default=0)
            step = starts.get(id(node))
            if step is not None:
                level = max(level, 1 + max(levels.get(name, 0) for name in (step.a, step.b, step.zero)))
            while len(self._nodes) <= level:
                self._nodes.append([])
                self._steps.append([])
            if step is not None and all(step is not known for known in self._steps[level]):
                self._steps[level].append(step)
            self._nodes[level].append(node)
            levels.update((name, level) for name in node.output if name)

    def _open(self, number: int, values: Mapping[str, Any]) -> tuple[Any, list[str], list[str]]:
        """Make a segment's session; the types of its inputs are those of the values at hand."""
        helper = self._onnx.helper
        nodes = self._nodes[number]
        made = {name for node in nodes for name in node.output if name}
        reads = self._needs[number]
        inputs = []
        for name in sorted(reads - made - set(self._initializers)):
            if name not in values:
                continue  # an outer name that a nested graph gives itself
            value = values[name]
            if not isinstance(value, np.ndarray):
                raise JobError("unsupported", f"The tensor {name!r} between two products is not a plain tensor.")
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            inputs.append(helper.make_tensor_value_info(name, kind, [None] * value.ndim))
        later = set(self.outputs).union(*self._needs[number + 1 :])
        for steps in self._steps[number + 1 :]:
            later |= {name for step in steps for name in (step.a, step.b, step.zero)}
        gives = sorted(made & later)
        outputs = [helper.make_empty_tensor_value_info(name) for name in gives]
        constants = [self._initializers[name] for name in sorted(reads & set(self._initializers))]
        graph = helper.make_graph(nodes, f"segment-{number}", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=self._model.opset_import, functions=self._model.functions)
        model.ir_version = self._model.ir_version
        options = self._ort.SessionOptions()
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self._threads:
            options.intra_op_num_threads = int(self._threads)
        session = self._ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        return session, [value.name for value in inputs], gives


class _With(Mapping[str, Any]):
    """Tensors at hand, and constants behind them."""

    def __init__(self, values: Mapping[str, Any], constant: Callable[[str], Any]) -> None:
        self._values, self._constant = values, constant

    def __getitem__(self, name: str) -> Any:
        return self._values[name] if name in self._values else self._constant(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _reads(nodes: Iterable[Any]) -> Iterator[str]:
    """Return every name that nodes read, those that their nested graphs read from outside included."""
    for node in nodes:
        yield from (name for name in node.input if name)
        for inner in nested_graphs(node):
            inside = {name for one in inner.node for name in one.output}
            inside |= {value.name for value in [*inner.input, *inner.initializer]}
            yield from (name for name in _reads(inner.node) if name not in inside)
            yield from (value.name for value in inner.output if value.name not in inside)
