"""What the converters to float16 leave wrong around nodes that stay float32, put right.

Seen with onnxconverter-common 1.16: a tensor that two nodes read, both of which stay float32, is cast to float16 and
back between them, so that it overflows or is rounded all the same; and an output of the model whose node stays becomes
float16 whatever ``keep_io_types`` says. ONNX Runtime's own converter casts to and fro between any two nodes that stay.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._models import onnx_graph

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["pass_by_round_trips", "restore_outputs"]


def pass_by_round_trips(made: ModelProto, model: ModelProto) -> int:
    """Let nodes read a float32 tensor itself where they read it cast to float16 and back; return how many casts went.

    :param model: the model before conversion, whose own casts stay.
    """
    from onnx import TensorProto

    own = {name for node in onnx_graph.nodes(model) if node.op_type == "Cast" for name in node.output}
    outputs = {value.name for value in made.graph.output}
    halved = {
        node.output[0]: node.input[0]
        for node in made.graph.node
        if _casts_to(node, TensorProto.FLOAT16) and node.output[0] not in own
    }
    back = {}
    for node in made.graph.node:
        if _casts_to(node, TensorProto.FLOAT) and node.input[0] in halved and node.output[0] not in own:
            source = halved[node.input[0]]
            # An output keeps its name, and a cast that changes nothing to carry it.
            node.input[0] = source
            if node.output[0] not in outputs:
                back[node.output[0]] = source
    for node in onnx_graph.nodes(made):
        for place, name in enumerate(node.input):
            if name in back:
                node.input[place] = back[name]
    return _drop_unread_casts(made, {*back, *halved} - outputs)


def _drop_unread_casts(made: ModelProto, candidates: set[str]) -> int:
    read = {name for node in onnx_graph.nodes(made) for name in node.input}
    for graph in onnx_graph.graphs(made):
        read |= {value.name for value in graph.output}
    unread = candidates - read
    kept = [node for node in made.graph.node if not (node.output and node.output[0] in unread)]
    dropped = len(made.graph.node) - len(kept)
    if dropped:
        del made.graph.node[:]
        made.graph.node.extend(kept)
    return dropped


def _casts_to(node: NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(part.name == "to" and part.i == kind for part in node.attribute)


def restore_outputs(made: ModelProto, model: ModelProto) -> None:
    """Give outputs that became float16 their type back: onnxconverter-common changes those of nodes that stay float32.

    Where such a node's float32 result was cast, the output takes it before that.
    """
    from onnx import TensorProto, helper

    before = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    makers = {name: node for node in made.graph.node for name in node.output}
    for value in made.graph.output:
        kind = value.type.tensor_type
        if kind.elem_type != TensorProto.FLOAT16 or before.get(value.name) != TensorProto.FLOAT:
            continue
        kind.elem_type = TensorProto.FLOAT
        maker, half = makers[value.name], f"{value.name}_float16"
        readers = [node for node in onnx_graph.nodes(made) if value.name in node.input]
        for node in readers:
            for place, name in enumerate(node.input):
                node.input[place] = half if name == value.name else name
        for place, name in enumerate(maker.output):
            maker.output[place] = half if name == value.name else name
        # A cast of a node that stays float32 is passed by; casting back what it makes is right for any other maker.
        source = maker.input[0] if maker.op_type == "Cast" else half
        made.graph.node.append(
            helper.make_node("Cast", [source], [value.name], name=f"{value.name}_Cast", to=TensorProto.FLOAT)
        )
        if source != half and not readers:
            made.graph.node.remove(maker)
