"""What a search does to a copy of the model before ONNX Runtime's quantizer changes it (``quantizer_input.py``).

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .._quantization import quantizer_input

if TYPE_CHECKING:
    from collections.abc import Collection

    from onnx import ModelProto

__all__ = ["guard"]


def guard(
    model: ModelProto,
    kept: Collection[str],
    op_types: Collection[str],
    mode: Literal["dynamic", "QDQ"],
    per_channel: bool,
) -> tuple[list[str], dict[str, Any]]:
    """Adapt a model to the quantizer, in place; return the nodes that stay float, and options for the quantizer.

    :param kept: names of nodes that stay float anyway. :param op_types: operators that will be quantized.
    """
    left = {*kept}
    left.update(node.name for node in quantizer_input.nodes_of_other_domains(model, op_types))
    options: dict[str, Any] = {}
    if mode == "QDQ":
        left.update(node.name for node in quantizer_input.lossy_activations(model, mode))
    if per_channel:
        left.update(node.name for node in quantizer_input.products_with_vectors(model))
        batched = [node for node in quantizer_input.batched_products(model) if node.name not in left]
        if mode == "dynamic":
            left.update(node.name for node in batched)
        elif batched:
            from onnxruntime.quantization import QuantType

            one_scale = [{"quant_type": QuantType.QInt8}]
            options["TensorQuantOverrides"] = {node.input[1]: one_scale for node in batched}
    adapter = quantizer_input.Adapter(model, {}, mode, per_channel, op_types, excluded=left)
    adapter.separate_shared_weights()
    adapter.shield_readers()
    return sorted(left), options
