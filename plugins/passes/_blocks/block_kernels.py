"""Whether this runtime computes with weights in blocks, found out with a small product, and how far off weights are.

Which bits, sizes and zero points the kernels take differs by version, and some get a case wrong: 1.23.2 reads the zero
points of bytes with an odd number of blocks wrongly. So the small model is run, and its answer is compared.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._models import model_file, onnx_graph
from . import block_nodes, rounding

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from ..quantize_weights import Parameters

    Array = NDArray[Any]

__all__ = ["refuse", "sqnr"]

CLOSE: Final = 20.0
"""dB between a kernel's answer and numpy's: rounding activations to 8 bits gives 35 and more, a wrong layout 0."""


def sqnr(reference: Array, other: Array) -> float:
    """Return the ratio of signal to error in dB; 200 for no error."""
    import numpy as np

    signal = float(np.square(reference, dtype=np.float64).sum())
    error = float(np.square(np.subtract(reference, other, dtype=np.float64)).sum())
    return round(10 * float(np.log10(max(signal, 1e-300) / error)), 2) if error else 200.0


def refuse(op_type: str, wanted: Parameters, ort_version: str) -> None:
    """Run a small product, or look a few rows up, with weights as the pass will write them.

    :raises NotImplementedError: this runtime's CPU kernels do not take them, or answer wrongly.
    """
    import numpy as np
    import onnxruntime

    what = f"{wanted.bits}-bit weights of {op_type} in blocks of {wanted.block_size} ({wanted.format})"
    model, feed, expected = _small(op_type, wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        answer = np.asarray(session.run(None, feed)[0])
    except Exception as problem:
        raise NotImplementedError(
            f"ONNX Runtime {ort_version} does not run {what}: {model_file.first_sentence(problem)} "
            f"Use {'bits = 4' if wanted.bits != 4 else 'block_size = 32'} (every version from 1.21 on), or a later one."
        ) from problem
    if answer.shape != expected.shape or not sqnr(expected, answer) >= CLOSE:
        raise NotImplementedError(
            f"ONNX Runtime {ort_version} loads {what} and answers wrongly ({sqnr(expected, answer):.0f} dB). "
            f"Use {'bits = 4' if wanted.bits != 4 else 'a smaller block_size'}, or another version."
        )


def _small(op_type: str, wanted: Parameters) -> tuple[ModelProto, dict[str, Any], Array]:
    """Return a model of one node, an input, and the answer that it must give."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    gather = op_type == "Gather"
    # An odd number of blocks: zero points that share bytes are then filled up.
    depth = 3 * wanted.block_size
    weight = draw.normal(size=(16, depth) if gather else (depth, 16)).astype(np.float32)
    data = np.array([3, 0, 15], np.int64) if gather else draw.normal(size=(3, depth)).astype(np.float32)
    inputs = ["weight", "x"] if gather else ["x", "weight"]
    kind = TensorProto.INT64 if gather else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(op_type, inputs, ["y"], name="node")],
        "small",
        [helper.make_tensor_value_info("x", kind, data.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = max(block_nodes.QDQ_OPSET[wanted.bits] if wanted.format == "QDQ" else 17, 17)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    if opset > QDQ_LATE:
        model.ir_version = 13
    target = next(block_nodes.targets(model, [op_type]))
    floats = wanted.float_zero_points and not gather
    method = "hqq" if floats else "default"
    blocks = rounding.round_blocks(
        target.matrix,
        bits=wanted.bits,
        block=wanted.block_size,
        method=method,
        symmetric=wanted.symmetric,
        float_zero_points=floats,
    )
    expected = blocks.values()[data] if gather else data @ blocks.values().T
    if wanted.format == "QDQ":
        nodes, constants = block_nodes.qdq_nodes(target, blocks, "weight")
    elif gather:
        node, constants = block_nodes.lookup(target, blocks, "weight")
        nodes = [node]
    else:
        node, constants = block_nodes.product(target, blocks, "weight", wanted.accuracy_level)
        nodes = [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    block_nodes.drop_unread(model)
    onnx_graph.fit_imports(model)
    return model, {"x": data}, expected


QDQ_LATE: Final = 24
"""Operator sets above it belong to IR versions above 10."""
