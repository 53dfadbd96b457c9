"""Digests of what an ONNX model computes, independent of how its file spells it.

Two models compute the same when every output is the same expression of the same inputs and the same weights. Names of
nodes and of inner values, the order of nodes, documentation and the place of weights are not part of the expression.
Operators, domains, opset versions, attributes (with their types), function bodies, subgraphs, sparse indices and
unknown fields are. Weights are compared bit by bit: -0.0 and 0.0 differ, and so do NaNs with other payloads.

Field numbers are those of ``onnx.proto``. Repeated occurrences of a singular message are merged, as protobuf does.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ortforge.report.onnx_reading import MAX_NESTING, Model, Reader, Tensor
from ortforge.report.protobuf import Field, Window, signed

__all__ = ["ModelIdentity", "model_identity"]

Digest = Callable[[Tensor], str]
Parts = Mapping[int, Sequence[Field]]
Scope = ChainMap[str, str]

RANDOM_OPERATORS: Final = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Operators whose two nodes give two results, although they are written alike."""

_FLOAT, _INT, _STRING = 1, 2, 3
_CONSTANT_TYPES: Final[Mapping[str, int]] = {
    "value_float": _FLOAT,
    "value_floats": 6,
    "value_int": _INT,
    "value_ints": 7,
    "value_string": _STRING,
    "value": 4,
    "sparse_value": 11,
}
"""Attributes that hold the value of a Constant node, with the ``AttributeProto.AttributeType`` of each."""


@dataclass(slots=True)
class ModelIdentity:
    """What a model computes and offers.

    :param computation: digest of the outputs as expressions; ``""`` when the values of a weight are not available.
    :param interface: ``(name, type)`` of each input, overridable input and output, in order.
    :param other: digest of each further part of the file: training information, quantization annotations, metadata
        of nodes and graphs, unknown fields.
    """

    computation: str = ""
    interface: list[tuple[str, str, str]] = field(default_factory=list)
    other: dict[str, str] = field(default_factory=dict)


def model_identity(model: Model, content: Digest) -> ModelIdentity:
    """Read a model's file once more and digest what it computes.

    :param content: digest of a tensor's values; ``""`` when they are not available.
    :raises ValueError: the file is not a valid model. :raises OSError: it cannot be read.
    """
    with model.path.open("rb", buffering=0) as file:
        return _Identifier(Window(file), model, content).model()


def _digest(*values: Any) -> str:
    text = json.dumps(values, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(slots=True)
class _Node:
    parts: Parts
    inputs: list[str]
    outputs: list[str]
    needed: set[str]


class _Identifier:
    """Digests one file; each method takes the fields that hold one message."""

    def __init__(self, source: Window, model: Model, content: Digest) -> None:
        self._source = source
        self._reader = Reader(source, model)
        self._ir_version = model.ir_version
        self._content = content
        self._incomplete = False
        self._other: dict[str, list[str]] = defaultdict(list)
        self._functions: dict[tuple[str, str, str], Field] = {}
        self._function_digests: dict[tuple[str, str, str], str] = {}
        self._active: set[tuple[str, str, str]] = set()
        self._random_nodes = 0
        self._random_functions: set[tuple[str, str, str]] = set()
        self._interface: list[tuple[str, str, str]] = []

    def model(self) -> ModelIdentity:
        whole = Field(0, 0, self._source.size, 0)
        parts = self._split([whole], "ModelProto", {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25})
        for function in parts[25]:
            self._functions[self._function_name(function)] = function
        outputs = self._graph(parts[7], ChainMap(), self._opsets(parts[8]), 0)
        for training in parts[20]:
            self._other["training information"].append(self._bytes(training))
        unknown = self._other["unknown fields"]
        computation = "" if self._incomplete else _digest(outputs, self._interface, unknown)
        other = {name: _digest(sorted(values)) for name, values in self._other.items() if values}
        return ModelIdentity(computation, self._interface, other)

    # Messages

    def _split(self, messages: Sequence[Field], kind: str, known: set[int]) -> defaultdict[int, list[Field]]:
        parts: defaultdict[int, list[Field]] = defaultdict(list)
        for message in messages:
            for part in self._source.fields(message.begin, message.end):
                parts[part.number].append(part)
        for number in parts.keys() - known:
            values = [[part.value, self._bytes(part)] for part in parts[number]]
            self._other["unknown fields"].append(_digest(kind, number, values))
        return parts

    def _bytes(self, part: Field) -> str:
        """Return a digest of a field's bytes."""
        digest = hashlib.blake2b(digest_size=16)
        for begin in range(part.begin, part.end, 1 << 18):
            digest.update(self._source.get(begin, min(begin + (1 << 18), part.end)))
        return digest.hexdigest()

    def _text(self, parts: Parts, number: int) -> str:
        return self._whole_text(parts[number][-1]) if parts[number] else ""

    def _whole_text(self, part: Field) -> str:
        return self._source.get(part.begin, part.end).decode("utf-8", "surrogateescape")

    def _opsets(self, messages: Iterable[Field]) -> dict[str, int]:
        versions: dict[str, int] = {}
        for message in messages:
            parts = self._split([message], "OperatorSetIdProto", {1, 2})
            versions[_domain(self._text(parts, 1))] = signed(parts[2][-1].value) if parts[2] else 0
        return versions

    # Tensors

    def _tensor(self, messages: Sequence[Field]) -> tuple[str, str]:
        """Return a tensor's name and the digest of its type, dims and values."""
        self._split(messages, "TensorProto", {1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16})
        return self._tensor_digest(self._reader.tensor(*messages))

    def _tensor_digest(self, tensor: Tensor) -> tuple[str, str]:
        content = self._content(tensor)
        self._incomplete |= not content
        return tensor.name, _digest("tensor", tensor.data_type, tensor.dims, content)

    def _sparse(self, messages: Sequence[Field]) -> tuple[str, str]:
        self._split(messages, "SparseTensorProto", {1, 2, 3})
        values, indices, dims = self._reader.sparse_parts(*messages)
        digests = [self._tensor_digest(part)[1] for part in (values, indices)]
        return values.name, _digest("sparse", dims, digests)

    # Graphs

    def _graph(self, messages: Sequence[Field], outer: Scope, opsets: Mapping[str, int], depth: int) -> str:
        if depth > MAX_NESTING:
            raise ValueError(f"its graphs are nested more than {MAX_NESTING} deep")
        parts = self._split(messages, "GraphProto", {1, 2, 5, 10, 11, 12, 13, 14, 15, 16})
        for annotation in parts[14]:
            self._other["quantization annotations"].append(self._bytes(annotation))
        self._metadata(parts[16], "graph metadata")
        scope = outer.new_child()
        initializers = dict([self._tensor([part]) for part in parts[5]] + [self._sparse([part]) for part in parts[15]])
        scope.update(initializers)
        for position, part in enumerate(parts[11]):
            self._input(part, position, scope, initializers, depth)
        self._nodes(parts[1], scope, opsets, depth)
        outputs = []
        for part in parts[12]:
            value = self._reader.value(part)
            if not depth:
                self._interface.append(("output", value.name, value.type))
            outputs.append([_element(value.type), scope.get(value.name) or _digest("undefined", value.name)])
        return _digest("graph", outputs)

    def _input(
        self, part: Field, position: int, scope: MutableMapping[str, str], initializers: Mapping[str, str], depth: int
    ) -> None:
        value = self._reader.value(part)
        default = initializers.get(value.name, "")
        if depth:
            scope[value.name] = _digest("parameter", depth, position, _element(value.type), default)
        elif not default:
            self._interface.append(("input", value.name, value.type))
            scope[value.name] = _digest("input", value.name)
        elif self._ir_version >= 4:  # before, all initializers were listed as inputs
            self._interface.append(("overridable input", value.name, value.type))
            scope[value.name] = _digest("overridable input", value.name, default)

    def _nodes(self, fields: Sequence[Field], scope: Scope, opsets: Mapping[str, int], depth: int) -> None:
        """Add what the nodes produce to ``scope``; nodes may stand in any order."""
        pending = [self._node_parts(part, depth) for part in fields]
        missing = {name for node in pending for name in node.outputs if name}
        while pending:
            waiting = []
            for node in pending:
                if node.needed & missing:
                    waiting.append(node)
                    continue
                self._node(node, scope, opsets, depth, "")
                missing -= set(node.outputs)
            if len(waiting) == len(pending):  # a cycle, or a name that is produced twice
                rest = _digest([self._bytes(part) for part in fields])
                for node in waiting:
                    self._node(node, scope, opsets, depth, rest)
                return
            pending = waiting

    def _node_parts(self, message: Field, depth: int) -> _Node:
        parts = self._split([message], "NodeProto", {1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
        self._metadata(parts[9], "node metadata")
        inputs, outputs = ([self._whole_text(part) for part in parts[number]] for number in (1, 2))
        needed = set(inputs)
        for attribute in parts[5]:
            needed |= self._captured(attribute, depth)
        return _Node(parts, inputs, outputs, needed - {""})

    def _captured(self, attribute: Field, depth: int) -> set[str]:
        """Return all names that subgraphs in an attribute use."""
        if depth > MAX_NESTING:
            raise ValueError(f"its graphs are nested more than {MAX_NESTING} deep")
        names: set[str] = set()
        for graph in self._source.fields(attribute.begin, attribute.end):
            if graph.number not in (6, 11):
                continue
            made: set[str] = set()
            for part in self._source.fields(graph.begin, graph.end):
                if part.number == 12:
                    names.add(self._reader.value(part).name)
                if part.number != 1:
                    continue
                for inner in self._source.fields(part.begin, part.end):
                    if inner.number in (1, 2):
                        (names if inner.number == 1 else made).add(self._whole_text(inner))
                    elif inner.number == 5:
                        names |= self._captured(inner, depth + 1)
            names -= made
        return names

    def _node(
        self, node: _Node, scope: MutableMapping[str, str], opsets: Mapping[str, int], depth: int, salt: str
    ) -> None:
        domain, operator = _domain(self._text(node.parts, 7)), self._text(node.parts, 4)
        name = domain, operator, self._text(node.parts, 8)
        constant = self._constant(node) if name[:2] == ("", "Constant") else ""
        if constant:
            scope.update(dict.fromkeys(node.outputs, constant))
            return
        inner = ChainMap(scope) if not isinstance(scope, ChainMap) else scope
        attributes = sorted(self._attribute(part, inner, opsets, depth) for part in node.parts[5])
        inputs = [scope.get(text) or _digest("undefined", text) if text else "" for text in node.inputs]
        while inputs and not inputs[-1]:
            inputs.pop()
        body = self._function(name) if name in self._functions else ""
        devices = [self._bytes(part) for part in node.parts[10]]
        named = [bool(text) for text in node.outputs]
        while named and not named[-1]:
            named.pop()
        random = operator in RANDOM_OPERATORS or (operator == "Dropout" and len(inputs) > 2)
        count = 0
        if random or name in self._random_functions:
            self._random_nodes += 1
            count = self._random_nodes
        digest = _digest(name, opsets.get(domain), body, attributes, inputs, named, devices, count, salt)
        scope.update({text: _digest(digest, number) for number, text in enumerate(node.outputs) if text})

    def _metadata(self, entries: Sequence[Field], kind: str) -> None:
        self._other[kind] += [self._bytes(part) for part in entries]

    # Attributes

    def _constant(self, node: _Node) -> str:
        """Return the digest that an initializer of a Constant node's value would have; ``""`` for other forms."""
        for part in node.parts[5]:
            parts = self._split([part], "AttributeProto", _ATTRIBUTE_FIELDS)
            name = self._text(parts, 1)
            if not parts[20] or parts[20][-1].value != _CONSTANT_TYPES.get(name):
                continue
            if name == "value" and parts[5] and not parts[21]:
                return self._tensor(parts[5])[1]
            if name == "sparse_value" and parts[22] and not parts[21]:
                return self._sparse(parts[22])[1]
            if not parts[21]:
                return self._constant_numbers(parts, name)
        return ""

    def _constant_numbers(self, parts: Parts, name: str) -> str:
        is_list = name.endswith("s")
        if "float" in name:
            data_type, blocks = 1, [self._raw(part) for part in parts[7 if is_list else 2]]
            count = sum(map(len, blocks)) // 4
        elif "int" in name:
            numbers = [number for part in parts[8 if is_list else 3] for number in self._reader.integers(part)]
            data_type, blocks, count = 7, [struct.pack("<q", number) for number in numbers], len(numbers)
        else:
            texts = [self._raw(part) for part in parts[4]]
            data_type, count = 8, len(texts)
            blocks = [len(text).to_bytes(8, "little") + text for text in texts]
        if not is_list and count != 1:
            return ""
        content = hashlib.blake2b(b"".join(blocks), digest_size=32).hexdigest()
        return _digest("tensor", data_type, (count,) if is_list else (), content)

    def _raw(self, part: Field) -> bytes:
        return self._source.get(part.begin, part.end)

    def _attribute(self, message: Field, scope: Scope, opsets: Mapping[str, int], depth: int) -> list[Any]:
        """Return an attribute's name, type and value as JSON values; the value of a graph or tensor as its digest."""
        parts = self._split([message], "AttributeProto", _ATTRIBUTE_FIELDS)
        kind = parts[20][-1].value if parts[20] else 0
        values: dict[str, Any] = {str(number): self._value(number, parts) for number in parts if number in _PLAIN}
        default = {_FLOAT: "00000000", _INT: 0, _STRING: self._bytes(Field(0, 0, 0, 0))}
        if kind in default:
            values.setdefault(str({_FLOAT: 2, _INT: 3, _STRING: 4}[kind]), default[kind])
        if parts[5]:
            values["5"] = self._tensor(parts[5])[1]
        if parts[22]:
            values["22"] = self._sparse(parts[22])[1]
        if parts[6]:
            values["6"] = self._graph(parts[6], scope, opsets, depth + 1)
        for number, read in ((10, self._tensor), (23, self._sparse)):
            if parts[number]:
                values[str(number)] = [read([part])[1] for part in parts[number]]
        if parts[11]:
            values["11"] = [self._graph([part], scope, opsets, depth + 1) for part in parts[11]]
        return [self._text(parts, 1), kind, json.dumps(values, sort_keys=True)]

    def _value(self, number: int, parts: Parts) -> Any:
        fields = parts[number]
        if number == 2:
            return self._raw(fields[-1]).hex()
        if number == 3:
            return signed(fields[-1].value)
        if number in (4, 21):
            return self._bytes(fields[-1])
        if number == 7:
            return b"".join(self._raw(part) for part in fields).hex()
        if number == 8:
            return [value for part in fields for value in self._reader.integers(part)]
        if number == 9:
            return [self._bytes(part) for part in fields]
        return [self._reader.type(part, 0) for part in fields]

    # Functions

    def _function_name(self, message: Field) -> tuple[str, str, str]:
        parts = self._split([message], "FunctionProto", _FUNCTION_FIELDS)
        return _domain(self._text(parts, 10)), self._text(parts, 1), self._text(parts, 13)

    def _function(self, name: tuple[str, str, str]) -> str:
        if name in self._active:
            return _digest("recursion", name)
        if name not in self._function_digests:
            self._active.add(name)
            before = self._random_nodes
            self._function_digests[name] = self._function_digest(self._functions[name])
            if self._random_nodes != before:
                self._random_functions.add(name)
            self._random_nodes = before
            self._active.discard(name)
        return self._function_digests[name]

    def _function_digest(self, message: Field) -> str:
        parts = self._split([message], "FunctionProto", _FUNCTION_FIELDS)
        self._metadata(parts[14], "function metadata")
        opsets = self._opsets(parts[9])
        inputs, outputs, attributes = ([self._whole_text(part) for part in parts[number]] for number in (4, 5, 6))
        scope: Scope = ChainMap({text: _digest("formal", number) for number, text in enumerate(inputs)})
        defaults = sorted(self._attribute(part, scope, opsets, 1) for part in parts[11])
        self._nodes(parts[7], scope, opsets, 1)
        results = [scope.get(text) or _digest("undefined", text) for text in outputs]
        return _digest("function", len(inputs), sorted(attributes), defaults, results)


_PLAIN: Final = frozenset({2, 3, 4, 7, 8, 9, 14, 15, 21})
_ATTRIBUTE_FIELDS: Final = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 20, 21, 22, 23}
_FUNCTION_FIELDS: Final = {1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}


def _domain(text: str) -> str:
    return "" if text == "ai.onnx" else text


def _element(type_text: str) -> str:
    """Return a type without its shape: inside a model shapes are hints."""
    return type_text.partition("[")[0]
