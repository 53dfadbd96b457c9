"""Known faults of ONNX Runtime's quantizer: which versions have them, and what the passes do about each.

Every fault has reproducers in ``tests/unit/quantizer_reproducers.py``, which run it with and without our passes. The
versions were found by running them with 1.21.1, 1.30.0, 1.31.0 and 1.32.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FAULTS", "QuantizerFault"]


@dataclass(frozen=True)
class QuantizerFault:
    """One fault.

    :param what: what the quantizer does wrong, and the consequence.
    :param fixed_in: the first version of ONNX Runtime without it; empty: the newest that was tried, 1.32.0, has it.
    :param remedy: what our passes do instead; ``_quantization/quantizer_input.py`` has the code unless it says so.
    :param reproducers: names in ``REPRODUCERS`` of ``tests/unit/quantizer_reproducers.py``.
    """

    what: str
    fixed_in: str
    remedy: str
    reproducers: tuple[str, ...]


FAULTS: Final[dict[str, QuantizerFault]] = {
    "transposed-gemm": QuantizerFault(
        "Dynamic: the weight of a Gemm with transB = 1 is transposed in place, also for the other nodes that read it. "
        "With a square weight the result is wrong without an error.",
        "1.32",
        "All transposed Gemm that share a weight read one transposed copy of it.",
        ("gemm-and-matmul", "two-gemms", "two-gemms-per-channel", "gemm-and-branch", "gather-and-gemm-dynamic"),
    ),
    "table-per-channel": QuantizerFault(
        "Static QDQ per channel: what a Gather looks up gets the scales per channel of a Gemm that shares the table.",
        "",
        "Uses that need scales along different axes get copies of the weight.",
        ("gather-and-gemm",),
    ),
    "shared-bias": QuantizerFault(
        "Static QOperator: a bias that two nodes share keeps the scale of the first. The result is wrong.",
        "",
        "Each node gets a copy of the bias.",
        ("shared-bias-qoperator", "name-of-bias-qoperator"),
    ),
    "shared-lstm": QuantizerFault(
        "Dynamic: weights that two LSTM share are transposed twice. The result is wrong without an error.",
        "",
        "Each LSTM gets copies of the weights.",
        ("shared-lstm",),
    ),
    "batched-weight": QuantizerFault(
        "Dynamic and QOperator per channel: a MatMul with a constant of three axes gets scales that no kernel takes.",
        "",
        "Dynamic: such weights get one scale, in a second call of the quantizer. QOperator: such nodes stay in float.",
        ("batched-dynamic", "batched-qoperator"),
    ),
    "batched-weight-qdq": QuantizerFault(
        "Static QDQ per channel: a MatMul with a constant of three axes gets scales along the wrong axis.",
        "1.32",
        "Such weights get one scale (TensorQuantOverrides, in quantize_static.py).",
        ("batched",),
    ),
    "vector-weight": QuantizerFault(
        "Dynamic and QOperator per channel: a MatMul with a constant vector gets scales that no kernel takes.",
        "",
        "Such nodes stay in float (quantizing.py).",
        ("vector-dynamic", "vector-qoperator"),
    ),
    "foreign-operator": QuantizerFault(
        "Dynamic: operators are told apart by name alone, so ONNX's Attention becomes com.microsoft's QAttention.",
        "",
        "Operators of other domains stay in float.",
        ("attention", "constant-attention"),
    ),
    "taken-name": QuantizerFault(
        "Names such as b_quantized, w_scale and product_quant are given to new tensors and nodes although the model "
        "has them.",
        "",
        "The tensor or node that bears such a name is renamed; inputs and outputs of the model keep theirs.",
        (
            "name-of-weight",
            "name-of-weight-qoperator",
            "name-of-activation",
            "name-of-activation-qoperator",
            "name-of-scale",
            "name-of-scale-qdq",
            "name-of-node",
        ),
    ),
    "branch-reader": QuantizerFault(
        "Dynamic and QOperator: a quantized tensor that only branches or loops read is not made float again, "
        "and the quantizer gives up. QDQ: it takes out a Relu, and the tensor that the branch reads vanishes.",
        "",
        "Branches read such a tensor through an Identity in the main graph.",
        ("read-by-branch-qoperator", "lookup-read-by-branch", "branch-before-relu", "branch-before-relu-qoperator"),
    ),
    "forgotten-input": QuantizerFault(
        "Dynamic: a state of an LSTM that is looked up in a table is not made float again. QOperator: neither is "
        "what a Where reads. The quantizer gives up.",
        "",
        "Such a node reads the tensor through an Identity.",
        ("looked-up-state", "where-qoperator"),
    ),
    "clipped-pad": QuantizerFault(
        "Static QOperator: the value of a Pad gets the scale of its input, and is cut off beyond its range. The "
        "result is wrong without an error.",
        "",
        "A Pad with another value than zero stays in float.",
        ("pad-qoperator",),
    ),
    "output-before-relu": QuantizerFault(
        "Static: an output of the model that a Relu or Clip reads, too, gets the range behind it: negative values "
        "become zero without an error.",
        "",
        "Such a Relu or Clip stays in float.",
        ("output-before-relu", "output-before-relu-qoperator"),
    ),
    "lost-relu": QuantizerFault(
        "Static QOperator: a Relu or Clip is taken out although other nodes read its input, or the operator before it "
        "keeps the scale of its own input (MaxPool, Transpose, Relu). The result is wrong without an error.",
        "",
        "Such a Relu or Clip stays in float.",
        (
            "residual-relu-qoperator",
            "relu-after-pool-qoperator",
            "relu-after-transpose-qoperator",
            "clip-after-relu-qoperator",
            "relu-of-input-qoperator",
        ),
    ),
}
