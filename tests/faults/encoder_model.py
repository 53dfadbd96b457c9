"""all-MiniLM-L6-v2 as an ONNX model, built from the package's weights without torch.

The graph is BERT's (six layers, 384 wide, 12 heads), with mean pooling and normalization at its end, in operators of
opset 17. Weights are read from ``model.safetensors``: 8 bytes with the length of a JSON header, the header, the data.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

HEADS, WIDTH, LAYERS, EPSILON = 12, 384, 6, 1e-12


def read_safetensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the float32 tensors of a safetensors file by name."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if entry.get("dtype") == "F32":
            first, last = entry["data_offsets"]
            values = np.frombuffer(data[8 + length + first : 8 + length + last], np.float32)
            tensors[name] = values.reshape(entry["shape"])
    return tensors


class Builder:
    """Collects nodes and weights; each method returns the name of the tensor that it produces."""

    def __init__(self, weights: dict[str, np.ndarray[Any, Any]]) -> None:
        self.weights = weights
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}

    def op(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node that is named after its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: Any, kind: Any = np.float32) -> str:
        """Add an initializer."""
        self.initializers.setdefault(name, numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        """Add one of the package's weights; torch stores matrices as [outputs, inputs]."""
        values = self.weights[name].T if transposed else self.weights[name]
        return self.constant(name, np.ascontiguousarray(values))

    def dense(self, value: str, name: str, output: str) -> str:
        """Multiply by a weight and add its bias."""
        product = self.op("MatMul", [value, self.weight(f"{name}.weight", transposed=True)], f"{output}.product")
        return self.op("Add", [product, self.weight(f"{name}.bias")], output)

    def norm(self, value: str, name: str, output: str) -> str:
        """Normalize over the last axis."""
        inputs = [value, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.op("LayerNormalization", inputs, output, axis=-1, epsilon=EPSILON)

    def embeddings(self) -> str:
        """Add up the embeddings of words, positions and the first token type."""
        words = self.op("Gather", [self.weight("embeddings.word_embeddings.weight"), "input_ids"], "words")
        shape = self.op("Shape", ["input_ids"], "shape")
        length = self.op("Gather", [shape, self.constant("one_i", 1, np.int64)], "length")
        ends = [self.constant("zero_i", 0, np.int64), length, self.constant("one_i", 1, np.int64)]
        places = self.op("Range", ends, "places")
        positions = self.op("Gather", [self.weight("embeddings.position_embeddings.weight"), places], "positions")
        first = self.constant("token_type", self.weights["embeddings.token_type_embeddings.weight"][0])
        total = self.op("Add", [self.op("Add", [words, positions], "words_placed"), first], "embedded")
        return self.norm(total, "embeddings.LayerNorm", "h0")

    def bias(self, hidden_value: float) -> str:
        """Return what is added to attention scores: 0 for tokens and ``hidden_value`` for padding."""
        axes = self.constant("axes_12", [1, 2], np.int64)
        mask = self.op("Unsqueeze", ["attention_mask", axes], "mask_4d")
        is_token = self.op("Cast", [mask], "is_token", to=TensorProto.BOOL)
        values = [self.constant("zero", 0.0), self.constant("hidden_value", hidden_value)]
        return self.op("Where", [is_token, *values], "mask_bias")

    def attention(self, hidden: str, layer: int, bias: str) -> str:
        """Add self-attention with its residual connection and normalization."""
        own, out = f"encoder.layer.{layer}.attention", f"l{layer}"
        split = self.constant("split", [0, 0, HEADS, WIDTH // HEADS], np.int64)
        heads = {}
        for part in ("query", "key", "value"):
            dense = self.dense(hidden, f"{own}.self.{part}", f"{out}.{part}")
            parted = self.op("Reshape", [dense, split], f"{out}.{part}_heads")
            order = [0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]
            heads[part] = self.op("Transpose", [parted], f"{out}.{part}_t", perm=order)
        products = self.op("MatMul", [heads["query"], heads["key"]], f"{out}.products")
        root = self.constant("root", math.sqrt(WIDTH // HEADS))
        scores = self.op("Add", [self.op("Div", [products, root], f"{out}.scaled"), bias], f"{out}.scores")
        shares = self.op("Softmax", [scores], f"{out}.shares", axis=-1)
        mixed = self.op("MatMul", [shares, heads["value"]], f"{out}.mixed")
        joined = self.op("Transpose", [mixed], f"{out}.mixed_t", perm=[0, 2, 1, 3])
        flat = self.op("Reshape", [joined, self.constant("join", [0, 0, WIDTH], np.int64)], f"{out}.joined")
        dense = self.dense(flat, f"{own}.output.dense", f"{out}.attention")
        return self.norm(self.op("Add", [dense, hidden], f"{out}.sum1"), f"{own}.output.LayerNorm", f"{out}.normalized")

    def feed_forward(self, hidden: str, layer: int) -> str:
        """Add the two dense layers with Gelu between them."""
        own, out = f"encoder.layer.{layer}", f"l{layer}"
        up = self.dense(hidden, f"{own}.intermediate.dense", f"{out}.up")
        erf = self.op("Erf", [self.op("Div", [up, self.constant("sqrt2", math.sqrt(2.0))], f"{out}.g1")], f"{out}.g2")
        more = self.op("Add", [erf, self.constant("one", 1.0)], f"{out}.g3")
        gelu = self.op("Mul", [self.op("Mul", [up, more], f"{out}.g4"), self.constant("half", 0.5)], f"{out}.gelu")
        down = self.dense(gelu, f"{own}.output.dense", f"{out}.down")
        return self.norm(self.op("Add", [down, hidden], f"{out}.sum2"), f"{own}.output.LayerNorm", f"h{layer + 1}")

    def pooled(self, hidden: str, output: str) -> str:
        """Average the vectors of the tokens, without padding, and scale the result to length 1."""
        last = self.constant("axes_last", [2], np.int64)
        mask = self.op("Cast", ["attention_mask"], f"{output}.mask", to=TensorProto.FLOAT)
        mask = self.op("Unsqueeze", [mask, last], f"{output}.mask_3d")
        axis = self.constant("axis_1", [1], np.int64)
        total = self.op(
            "ReduceSum", [self.op("Mul", [hidden, mask], f"{output}.masked"), axis], f"{output}.total", keepdims=0
        )
        count = self.op("ReduceSum", [mask, axis], f"{output}.count", keepdims=0)
        mean = self.op("Div", [total, count], f"{output}.mean")
        length = self.op("ReduceL2", [mean], f"{output}.length", axes=[-1], keepdims=1)
        return self.op("Div", [mean, length], output)


def build(
    folder: Path,
    *,
    hidden_value: float = -1e4,
    tokens: bool = True,
    scores: bool = False,
    layer_sequence: bool = False,
    logits: bool = False,
) -> onnx.ModelProto:
    """Return the model with outputs ``token_embeddings`` [1, tokens, 384] and ``sentence_embedding`` [1, 384].

    :param folder: holds ``model.safetensors``. :param hidden_value: what hides padding in attention scores.
    :param tokens: output ``token_embeddings``; without it only ``sentence_embedding``, which is what the model is for.
    :param scores: also output ``attention_scores`` of the first layer, [1, 12, tokens, tokens], with the mask added.
    :param layer_sequence: output a sequence ``layers`` with the sentence embedding after each layer instead.
    :param logits: output ``logits`` [1, tokens, vocabulary] instead, by the transposed word embeddings.
    """
    build = Builder(read_safetensors(folder / "model.safetensors"))
    hidden, bias = build.embeddings(), build.bias(hidden_value)
    layers = []
    for layer in range(LAYERS):
        hidden = build.feed_forward(build.attention(hidden, layer, bias), layer)
        if layer_sequence:
            layers.append(build.pooled(hidden, f"pooled{layer}"))
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, [1, "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = []
    if layer_sequence:
        build.op("SequenceConstruct", layers, "layers")
        outputs.append(helper.make_tensor_sequence_value_info("layers", TensorProto.FLOAT, None))
    elif logits:
        words = build.weight("embeddings.word_embeddings.weight")
        build.op("MatMul", [hidden, build.op("Transpose", [words], "words_t", perm=[1, 0])], "logits")
        outputs.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "tokens", "words"]))
    else:
        if tokens:
            build.op("Identity", [hidden], "token_embeddings")
            outputs.append(helper.make_tensor_value_info("token_embeddings", TensorProto.FLOAT, [1, "tokens", WIDTH]))
        build.pooled(hidden, "sentence_embedding")
        outputs.append(helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, [1, WIDTH]))
    if scores:
        build.op("Identity", ["l0.scores"], "attention_scores")
        shape = [1, HEADS, "tokens", "tokens"]
        outputs.append(helper.make_tensor_value_info("attention_scores", TensorProto.FLOAT, shape))
    graph = helper.make_graph(build.nodes, "minilm", ids, outputs, list(build.initializers.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
