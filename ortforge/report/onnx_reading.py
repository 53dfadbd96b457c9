"""Reads what an ONNX file is made of, without onnx: comparing two models must work on a core install, and at once.

Weights are skipped and remembered by their place. Field numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ortforge.report.protobuf import LONGEST_VALUE, Field, Window, packed_numbers, signed

__all__ = ["DATA_TYPES", "MAX_NESTING", "Model", "Node", "Reader", "Tensor", "Value", "read_model"]

DATA_TYPES: Final[Mapping[int, tuple[str, int]]] = {
    1: ("float32", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    8: ("string", 0),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("float64", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    14: ("complex64", 64),
    15: ("complex128", 128),
    16: ("bfloat16", 16),
    17: ("float8e4m3fn", 8),
    18: ("float8e4m3fnuz", 8),
    19: ("float8e5m2", 8),
    20: ("float8e5m2fnuz", 8),
    21: ("uint4", 4),
    22: ("int4", 4),
    23: ("float4e2m1", 4),
    24: ("float8e8m0", 8),
    25: ("uint2", 2),
    26: ("int2", 2),
}
"""Name and bits of each ``TensorProto.DataType``; strings have no size of their own."""

MAX_NESTING: Final = 60
"""Nesting of graphs that is followed; protobuf's own readers stop at 100 messages."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A weight: an initializer at any depth, or the value of a Constant node (named by its output).

    :param spans: byte ranges of the values in the model file; :param field: the field of TensorProto that they are in
        (9 is ``raw_data``). :param external: location, offset and length of values in another file; -1: to its end.
    :param sparse_dims: the shape of the whole tensor, where this is the values or the indices of a sparse one.
    """

    name: str
    data_type: int
    dims: tuple[int, ...]
    field: int
    spans: tuple[tuple[int, int], ...]
    external: tuple[str, int, int] | None = None
    sparse_dims: tuple[int, ...] | None = None

    @property
    def dtype(self) -> str:
        """Name of the element type."""
        return DATA_TYPES.get(self.data_type, (f"type {self.data_type}", 0))[0]

    @property
    def bytes(self) -> int:
        """Bytes that the values take, packed; for strings what they take in the file."""
        bits = DATA_TYPES.get(self.data_type, ("", 0))[1]
        stored = sum(end - begin for begin, end in self.spans)
        return -(-max(0, math.prod(self.dims)) * bits // 8) if bits else stored


@dataclass(frozen=True, slots=True)
class Node:
    """A node at any depth; ``attributes`` are JSON values, with a digest or a shape for what is large.

    :param place: the way to the inner graph or function that it is in (``If.then_branch``), ``""`` for the main graph.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    place: str = ""

    @property
    def key(self) -> str:
        """What the node is found by in another model: its name, or else its first output."""
        return self.name or next((name for name in self.outputs if name), "")


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of the model; ``type`` as in ``float32[batch, 3, 224, 224]``."""

    name: str
    type: str


@dataclass(slots=True)
class Model:
    """An ONNX file; nodes and weights are those of all graphs and functions in it."""

    path: Path
    file_bytes: int
    ir_version: int = 0
    producer: str = ""
    domain: str = ""
    version: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    overridable_inputs: list[Value] = field(default_factory=list)
    """Initializers that are also inputs: whoever runs the model may replace them (from IR version 4)."""
    functions: dict[str, str] = field(default_factory=dict)
    """Signature and opsets of each."""
    has_graph: bool = False


def read_model(path: Path) -> Model:
    """Read the structure of an ONNX file.

    :raises ValueError: it is no protocol buffer message, ends in the middle of one, or holds no graph.
    :raises OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        source = Window(file)
        if source.size == 0:
            raise ValueError("the file is empty")
        model = Model(path, source.size)
        Reader(source, model).model()
    if not model.has_graph or not (model.nodes or model.outputs):
        raise ValueError("it holds no graph")
    return model


class Reader:
    """Fills a Model from its file; each method reads one kind of message."""

    def __init__(self, source: Window, model: Model) -> None:
        self._source = source
        self._model = model

    def model(self) -> None:
        """Read the whole file."""
        model, source = self._model, self._source
        producer = {2: "", 3: ""}
        for part in source.fields(0, source.size):
            if part.number == 1:
                model.ir_version = part.value
            elif part.number in producer:
                producer[part.number] = source.text(part)
            elif part.number == 4:
                model.domain = source.text(part)
            elif part.number == 5:
                model.version = part.value
            elif part.number == 7:
                model.has_graph = True
                self._graph(part, ())
            elif part.number == 8:
                self._opset(part, model.opsets)
            elif part.number == 14:
                self._entry(part, model.metadata)
            elif part.number == 25:
                self._function(part)
        model.producer = " ".join(filter(None, producer.values()))

    def _opset(self, message: Field, into: dict[str, int]) -> None:
        domain, version = "", 0
        for part in self._source.fields(message.begin, message.end):
            if part.number == 1:
                domain = self._source.text(part)
            elif part.number == 2:
                version = signed(part.value)
        into[domain or "ai.onnx"] = version

    def _entry(self, message: Field, into: dict[str, str]) -> None:
        pair = {1: "", 2: ""}
        for part in self._source.fields(message.begin, message.end):
            if part.number in pair:
                pair[part.number] = self._source.text(part)
        into[pair[1]] = pair[2]

    def _function(self, message: Field) -> None:
        source, opsets = self._source, dict[str, int]()
        names: dict[int, list[str]] = {number: [] for number in (1, 4, 5, 6, 10, 13)}
        defaults: list[str] = []
        nodes = []
        for part in source.fields(message.begin, message.end):
            if part.number in names:
                names[part.number].append(source.text(part))
            elif part.number == 7:
                nodes.append(part)
            elif part.number == 9:
                self._opset(part, opsets)
            elif part.number == 11:
                name, value, _ = self._attribute(part)
                defaults.append(f"{name} = {self._told(value) if isinstance(value, Tensor) else value}")
        name = ":".join(text for number in (10, 1, 13) for text in names[number] if text)
        for node in nodes:
            self._node(node, (name,))
        told = [_signature(names[4], names[5]), ", ".join(sorted((*names[6], *defaults)))]
        told.append(", ".join(f"{domain} {version}" for domain, version in sorted(opsets.items())))
        self._model.functions[name] = "; ".join(filter(None, told))

    def _graph(self, message: Field, place: tuple[str, ...]) -> str:
        """Read a graph's nodes and weights, and the model's inputs and outputs; return the names of the graph's own."""
        if len(place) > MAX_NESTING:
            raise ValueError(f"its graphs are nested more than {MAX_NESTING} deep")
        model, initializers = self._model, set[str]()
        inputs: list[Value] = []
        outputs: list[Value] = []
        for part in self._source.fields(message.begin, message.end):
            if part.number == 1:
                self._node(part, place)
            elif part.number == 5:
                tensor = self.tensor(part)
                initializers.add(tensor.name)
                model.weights.append(tensor)
            elif part.number == 15:
                weights = self._sparse(part)
                initializers.add(weights[0].name)
                model.weights += weights
            elif part.number == 11:
                inputs.append(self.value(part))
            elif part.number == 12:
                outputs.append(self.value(part))
        overridable = [value for value in inputs if value.name in initializers]
        inputs = [value for value in inputs if value.name not in initializers]
        if not place:
            model.inputs += inputs
            model.overridable_inputs += overridable
            model.outputs += outputs
        return _signature([value.name for value in inputs], [value.name for value in outputs])

    def _node(self, message: Field, place: tuple[str, ...]) -> None:
        source = self._source
        texts = {3: "", 4: "", 7: ""}
        inputs, outputs = [], []
        attributes: dict[str, Any] = {}
        graphs: list[tuple[str, Field]] = []
        constant: Tensor | None = None
        for part in source.fields(message.begin, message.end):
            if part.number == 1:
                inputs.append(source.text(part))
            elif part.number == 2:
                outputs.append(source.text(part))
            elif part.number in texts:
                texts[part.number] = source.text(part)
            elif part.number == 5:
                name, value, inner = self._attribute(part)
                graphs += [(name, graph) for graph in inner]
                if isinstance(value, Tensor):
                    constant, value = value, self._told(value)
                attributes[name] = value
        domain = "" if texts[7] == "ai.onnx" else texts[7]
        op = f"{domain}:{texts[4]}" if domain else texts[4]
        # By name: a file may hold an If's branches in either order, and what has one name in both is told by order.
        for name, graph in sorted(graphs, key=lambda pair: pair[0]):
            attributes[name] = f"a graph: {self._graph(graph, (*place, f'{op}.{name}'))}"
        if op == "Constant" and constant is not None and outputs:
            held = (constant.data_type, constant.dims, constant.field, constant.spans, constant.external)
            self._model.weights.append(Tensor(outputs[0], *held))
        self._model.nodes.append(Node(texts[3], op, tuple(inputs), tuple(outputs), attributes, "/".join(place)))

    def _attribute(self, message: Field) -> tuple[str, Any, list[Field]]:
        """Return an attribute's name, its value as JSON has it (or a tensor), and its graphs, which are not read."""
        source, name = self._source, ""
        value: Any = None
        lists: dict[int, list[Any]] = {}
        graphs: list[Field] = []
        for part in source.fields(message.begin, message.end):
            if part.number == 1:
                name = source.text(part)
            elif part.number == 2:
                value = next(iter(self._floats(part)), None)
            elif part.number == 3:
                value = signed(part.value)
            elif part.number == 4:
                value = source.text(part)
            elif part.number == 5:
                value = self.tensor(part)
            elif part.number == 21:
                value = f"@{source.text(part)}"
            elif part.number in (6, 11):
                graphs.append(part)
            elif part.number in _LISTED:
                lists.setdefault(part.number, []).extend(_LISTED[part.number](self, part))
        for found in lists.values():
            value = found
        return name, value, graphs

    def _told(self, tensor: Tensor) -> str:
        """Describe a tensor that is an attribute, with a checksum of its values."""
        checksum = 0
        for begin, end in tensor.spans:
            for start in range(begin, end, LONGEST_VALUE):
                checksum = zlib.crc32(self._source.get(start, min(start + LONGEST_VALUE, end)), checksum)
        return f"{tensor.dtype}[{', '.join(map(str, tensor.dims))}] {checksum:08x}"

    def _floats(self, part: Field) -> list[float]:
        data = self._source.get(part.begin, part.end)
        return list(struct.unpack(f"<{len(data) // 4}f", data[: len(data) // 4 * 4]))

    def integers(self, part: Field) -> list[int]:
        """Return the numbers of a repeated field, packed or not."""
        if part.begin == part.end and part.value:
            return [signed(part.value)]
        data = self._source.get(part.begin, part.end)
        return packed_numbers(data) if data else [0]

    def _strings(self, part: Field) -> list[str]:
        return [self._source.text(part)]

    def _tensors(self, part: Field) -> list[str]:
        return [self._told(self.tensor(part))]

    def sparse_parts(self, *messages: Field) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Return the values, the indices and the dims of a sparse tensor."""
        values: list[Field] = []
        indices: list[Field] = []
        dims: list[int] = []
        for message in messages:
            for part in self._source.fields(message.begin, message.end):
                if part.number == 1:
                    values.append(part)
                elif part.number == 2:
                    indices.append(part)
                elif part.number == 3:
                    dims += self.integers(part)
        return self.tensor(*values), self.tensor(*indices), tuple(dims)

    def _sparse(self, message: Field) -> list[Tensor]:
        """Return a sparse initializer as two weights: its values, and its indices under ``NAME (sparse indices)``."""
        values, indices, dims = self.sparse_parts(message)
        name = f"{values.name} (sparse indices)"
        return [replace(values, sparse_dims=dims), replace(indices, name=name, sparse_dims=dims)]

    def tensor(self, *messages: Field) -> Tensor:
        """Return the tensor that a message describes; several messages are merged, as protobuf does."""
        source, name, data_type, outside = self._source, "", 0, False
        dims: list[int] = []
        spans: dict[int, list[tuple[int, int]]] = {}
        entries: dict[str, str] = {}
        for part in (part for message in messages for part in source.fields(message.begin, message.end)):
            if part.number == 1:
                dims += self.integers(part)
            elif part.number == 2:
                data_type = part.value
            elif part.number == 8:
                name = source.text(part)
            elif part.number in _DATA_FIELDS:
                # A number that is not packed lies where its tag ends; of several raw_data the last one counts.
                span = (part.begin if part.end > part.begin else part.start, part.end)
                spans[part.number] = [span] if part.number == _RAW_DATA else [*spans.get(part.number, ()), span]
            elif part.number == 13:
                self._entry(part, entries)
            elif part.number == 14:
                outside = part.value == 1
        place = None
        if outside:
            place = (entries.get("location", ""), _count(entries, "offset", 0), _count(entries, "length", -1))
        field_number = _RAW_DATA if _RAW_DATA in spans else max(spans, key=lambda number: len(spans[number]), default=0)
        return Tensor(name, data_type, tuple(dims), field_number, tuple(spans.get(field_number, ())), place)

    def value(self, message: Field) -> Value:
        """Return an input or output of a graph."""
        name, kind = "", "?"
        for part in self._source.fields(message.begin, message.end):
            if part.number == 1:
                name = self._source.text(part)
            elif part.number == 2:
                kind = self.type(part, 0)
        return Value(name, kind)

    def type(self, message: Field, depth: int) -> str:
        """Return a type as text: ``seq(float32[2])``."""
        if depth > MAX_NESTING:
            raise ValueError(f"its types are nested more than {MAX_NESTING} deep")
        for part in self._source.fields(message.begin, message.end):
            if part.number == 1:
                return self._tensor_type(part)
            if part.number == 8:
                return f"sparse({self._tensor_type(part)})"
            if part.number == 7:
                names = [self._source.text(each) for each in self._source.fields(part.begin, part.end)]
                return f"opaque({', '.join(names)})"
            if part.number in (4, 5, 9):
                inner = [
                    self.type(each, depth + 1) if each.end > each.begin else _dtype(each.value)
                    for each in self._source.fields(part.begin, part.end)
                ]
                return f"{ {4: 'seq', 5: 'map', 9: 'optional'}[part.number] }({', '.join(inner)})"
        return "?"

    def _tensor_type(self, message: Field) -> str:
        dtype, shape = "?", ""
        for part in self._source.fields(message.begin, message.end):
            if part.number == 1:
                dtype = _dtype(part.value)
            elif part.number == 2:
                sizes = self._source.fields(part.begin, part.end)
                shape = f"[{', '.join(self._size(size) for size in sizes if size.number == 1)}]"
        return dtype + shape

    def _size(self, message: Field) -> str:
        for part in self._source.fields(message.begin, message.end):
            if part.number == 1:
                return str(signed(part.value))
            if part.number == 2:
                text = self._source.text(part)
                return f'"{text}"' if text.lstrip("-").isdecimal() else text or "?"
        return "?"


_RAW_DATA: Final = 9
_DATA_FIELDS: Final = (4, 5, 6, 7, 9, 10, 11)
"""Fields of TensorProto that hold values: float, int32, string, int64, raw, double, uint64."""

_LISTED: Final[Mapping[int, Callable[[Reader, Field], list[Any]]]] = {
    7: Reader._floats,
    8: Reader.integers,
    9: Reader._strings,
    10: Reader._tensors,
}
"""Fields of AttributeProto that repeat."""


def _signature(inputs: Sequence[str], outputs: Sequence[str]) -> str:
    return f"({', '.join(inputs)}) → {', '.join(outputs)}"


def _dtype(number: int) -> str:
    return DATA_TYPES.get(number, (f"type {number}", 0))[0]


def _count(entries: Mapping[str, str], name: str, otherwise: int) -> int:
    text = entries.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else otherwise
