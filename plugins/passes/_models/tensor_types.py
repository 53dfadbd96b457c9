"""Types of a model's tensors as ONNX Runtime knows them, for tools that stop at operators they do not know.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import model_file, onnx_graph

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

__all__ = ["has_unknown_operators", "infer"]


def has_unknown_operators(model: ModelProto) -> bool:
    """Return whether the main graph has operators beyond which onnx infers no types."""
    return any(node.domain not in onnx_graph.DEFAULT_DOMAINS for node in model.graph.node)


def infer(model: ModelProto, scratch: Path) -> int:
    """Write the types of all tensors of the main graph into it, as a session knows them; return how many were missing.

    onnx's inference stops at operators that are not ONNX's own: those of ONNX Runtime and of ai.onnx.ml. The quantizers
    leave every tensor behind one as it is, or give up.

    :param scratch: a file that may be written. A model that does not load keeps the types that it has.
    """
    import onnxruntime
    from onnx import TensorProto, helper

    outputs = model.graph.output
    count = len(outputs)
    known = {value.name for value in (*model.graph.input, *outputs, *model.graph.value_info)}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                outputs.add(name=name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        model_file.save(model, scratch, ir_version=model.ir_version)
        found = onnxruntime.InferenceSession(str(scratch), options, providers=["CPUExecutionProvider"]).get_outputs()
    except Exception:
        # A model that does not load is said by what follows, in better words.
        found = []
    finally:
        del outputs[count:]
    tensors = [value for value in found[count:] if value.type.startswith("tensor(")]
    for value in tensors:
        kind = TensorProto.DataType.Value(value.type.removeprefix("tensor(").rstrip(")").upper())
        # A session gives no dimensions for an unknown rank, and for a scalar.
        model.graph.value_info.append(helper.make_tensor_value_info(value.name, kind, value.shape or None))
    return len(tensors)
