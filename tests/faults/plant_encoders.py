"""Faults of a sentence encoder (MiniLM): weights, masks, order of tokens, sentinels, NaN and Inf, sequences."""

from __future__ import annotations

import numpy as np
import onnx
from graph_edits import become, float_weights, in_weight, node, nodes, put, rounded, set_attribute, swapped, values
from planting import Array, Candidate, Outputs, Sample, fault, in_array, in_feeds, in_model, in_outputs

TOKENS, SENTENCE, ATTENTION = "token_embeddings", "sentence_embedding", "attention_scores"
LAYER = "encoder.layer.{}.attention.self.{}.weight"


def _tokens(name: str, description: str, candidate: Candidate, family: str = "graph or weights") -> None:
    fault("minilm", name, description, candidate, output=TOKENS, family=family)


def _sentence(name: str, description: str, candidate: Candidate, family: str = "embedding") -> None:
    fault("minilm", name, description, candidate, output=SENTENCE, family=family)


# Weights and graph


def _epsilon(model: onnx.ModelProto) -> None:
    for one in nodes(model, "LayerNormalization"):
        set_attribute(one, "epsilon", 0.1)


def _relu(layer: int) -> Candidate:
    def edit(model: onnx.ModelProto) -> None:
        become(node(model, f"l{layer}.gelu"), "Relu", f"l{layer}.up")

    return in_model(edit)


def _no_mask(feeds: list[Sample]) -> list[Sample]:
    return [{**feed, "attention_mask": np.ones_like(feed["attention_mask"])} for feed in feeds]


def _mask_dropped(model: onnx.ModelProto) -> None:
    put(model, "hidden_value", np.array(0, np.float32))


def _mask_reversed(model: onnx.ModelProto) -> None:
    where = node(model, "mask_bias")
    where.input[1], where.input[2] = where.input[2], where.input[1]


def _unscaled_attention(model: onnx.ModelProto) -> None:
    node(model, "l2.scaled").input[1] = "one"


def _heads_mixed(model: onnx.ModelProto) -> None:
    # The heads are joined without being transposed first.
    node(model, "l3.joined").input[0] = "l3.mixed"
    put(model, "join_mixed", np.array([1, -1, 384], np.int64))
    node(model, "l3.joined").input[1] = "join_mixed"


def _residual_lost(model: onnx.ModelProto) -> None:
    become(node(model, "l4.sum1"), "Identity", "l4.attention")


def _four_bits(model: onnx.ModelProto) -> None:
    for name in float_weights(model):
        if "layer" in name:
            put(model, name, rounded(values(model, name), 4))


def _outlier(weights: Array) -> Array:
    # One scale for the matrix, dictated by one large value, as after a bad rescaling of channels.
    kept = weights[5].copy()
    weights[5] *= 60
    weights = rounded(weights, 8)
    weights[5] = kept
    return weights


def _shift_positions(table: Array) -> Array:
    return np.roll(table, -1, axis=0)


def _wrong_ids(feeds: list[Sample]) -> list[Sample]:
    return [
        {**feed, "input_ids": np.where(feed["input_ids"] > 999, feed["input_ids"] + 1, feed["input_ids"])}
        for feed in feeds
    ]


_tokens("norm-epsilon", "the epsilon of all layer norms is 0.1 instead of 1e-12", in_model(_epsilon))
_tokens("gelu-is-relu", "Relu instead of Gelu in one layer", _relu(2))
_tokens("weight-transposed", "a square weight is transposed", in_weight(LAYER.format(1, "value"), lambda w: w.T.copy()))
_tokens(
    "keys-values-swapped",
    "the weights of keys and values of one layer are swapped",
    swapped(LAYER.format(2, "key"), LAYER.format(2, "value")),
)
_tokens(
    "layers-swapped",
    "the query weights of two layers are swapped",
    swapped(LAYER.format(1, "query"), LAYER.format(4, "query")),
)
_tokens(
    "attention-unscaled",
    "attention scores of one layer are not divided by the root of the width",
    in_model(_unscaled_attention),
)
_tokens("heads-mixed", "the heads of one layer are joined in the wrong order", in_model(_heads_mixed))
_tokens("residual-lost", "one residual connection is missing", in_model(_residual_lost))
_tokens("mask-dropped", "the attention mask has no effect in the layers", in_model(_mask_dropped), "masks")
_tokens("mask-reversed", "attention goes to padding instead of tokens", in_model(_mask_reversed), "masks")
_tokens("weights-4-bit", "all matrices in 4 bits with one scale each", in_model(_four_bits), "quantization")
_tokens(
    "weight-8-bit-outlier",
    "one matrix in 8 bits with a scale that an outlier row dictates",
    in_weight("encoder.layer.3.output.dense.weight", _outlier),
    "quantization",
)
_tokens(
    "positions-off-by-one",
    "position embeddings are off by one",
    in_weight("embeddings.position_embeddings.weight", _shift_positions),
)
_tokens("ids-off-by-one", "token numbers are off by one", in_feeds(_wrong_ids), "inputs")
_tokens("mask-of-ones", "the caller gives a mask of ones", in_feeds(_no_mask), "inputs")


# Outputs


def _first_token_zero(array: Array) -> None:
    array[:, 0] = 0


def _third_token_zero(array: Array) -> None:
    array[:, 2] = 0


def _frozen(array: Array) -> None:
    array[:, 8:] = array[:, 7:8]


def _tokens_swapped(array: Array) -> None:
    array[:, [1, 2]] = array[:, [2, 1]]


def _channel_dead(array: Array) -> None:
    array[..., int(np.abs(array).mean(axis=(0, 1)).argmax())] = 0


def _width_rolled(array: Array) -> Array:
    return np.roll(array, 1, axis=-1)


def _block_zero(array: Array) -> None:
    array[..., 96:128] = 0


def _not_normalized(array: Array) -> Array:
    return array * np.float32(5.3)


def _next_sample(outputs: Outputs) -> Outputs:
    return [
        {**outputs[number], SENTENCE: outputs[(number + 1) % len(outputs)][SENTENCE]} for number in range(len(outputs))
    ]


def _padding_pooled(model: onnx.ModelProto) -> None:
    become(node(model, f"{SENTENCE}.masked"), "Identity", "h6")


def _first_token_pooled(model: onnx.ModelProto) -> None:
    # The pooling of another model: the first token instead of the mean.
    become(node(model, f"{SENTENCE}.mean"), "Gather", "h6", "zero_i")
    set_attribute(node(model, f"{SENTENCE}.mean"), "axis", 1)


_tokens("first-token-zero", "the vector of the first token is 0", in_array(TOKENS, _first_token_zero), "one position")
_tokens("third-token-zero", "the vector of the third token is 0", in_array(TOKENS, _third_token_zero), "one position")
_tokens(
    "positions-frozen", "all tokens from the ninth have the eighth's vector", in_array(TOKENS, _frozen), "one position"
)
_tokens(
    "tokens-swapped",
    "the vectors of two neighboring tokens are swapped",
    in_array(TOKENS, _tokens_swapped),
    "one position",
)
_tokens("channel-dead", "the strongest of 384 channels is 0", in_array(TOKENS, _channel_dead), "one channel")
_tokens(
    "width-rolled", "the 384 numbers of each token are shifted by one", in_array(TOKENS, _width_rolled), "one channel"
)
_sentence("block-zero", "32 of the 384 numbers are 0", in_array(SENTENCE, _block_zero))
_sentence("not-normalized", "the vector is 5.3 times too long", in_array(SENTENCE, _not_normalized))
_sentence("next-sample", "each sentence has the vector of the next sentence", in_outputs(_next_sample), "wrong sample")
_sentence("padding-pooled", "padding counts in the mean", in_model(_padding_pooled))
_sentence("first-token-pooled", "the first token instead of the mean of all", in_model(_first_token_pooled))


# Sentinels in an output


def _weaker_sentinel(array: Array) -> None:
    array[array < -1e8] = -1e4


def _no_sentinel(array: Array) -> None:
    array[array < -1e8] = 0


def _noise_between(array: Array) -> None:
    real = array > -1e8
    draw = np.random.default_rng(0)
    array[real] += draw.normal(0, 3 * array[real].std(), int(real.sum())).astype(np.float32)


def _constant_between(array: Array) -> None:
    real = array > -1e8
    array[real] = array[real].mean()


def _sentinel_moved(array: Array) -> Array:
    return np.roll(array, -1, axis=-1)


def _scores(name: str, description: str, change: object) -> None:
    fault("minilm-scores", name, description, in_array(ATTENTION, change), output=ATTENTION, family="sentinels")  # type: ignore[arg-type]


_scores("sentinel-weaker", "-1e9 is replaced by -1e4", _weaker_sentinel)
_scores("sentinel-vanished", "-1e9 is replaced by 0", _no_sentinel)
_scores("noise-between-sentinels", "the values between the sentinels are noise", _noise_between)
_scores("constant-between-sentinels", "the values between the sentinels are constant", _constant_between)
_scores("sentinels-moved", "the sentinels are one position off", _sentinel_moved)


# NaN and Inf


def _inf_to_lowest(array: Array) -> None:
    array[np.isinf(array)] = np.finfo(np.float32).min


def _inf_to_nan(array: Array) -> None:
    array[np.isinf(array)] = np.nan


def _inf_sign(array: Array) -> None:
    array[np.isinf(array)] = np.inf


def _nan_to_zero(array: Array) -> Array:
    return np.nan_to_num(array, nan=0.0)


def _nan_to_numbers(outputs: Outputs) -> None:
    for sample in outputs:
        if np.isnan(sample[SENTENCE]).any():
            sample[SENTENCE] = outputs[0][SENTENCE].copy()


def _one_nan(array: Array) -> None:
    array[0, 5] = np.nan


def _not_finite(name: str, description: str, candidate: Candidate, output: str) -> None:
    fault("minilm-inf", name, description, candidate, output=output, family="NaN and Inf")


_not_finite("inf-vanished", "-Inf is replaced by the lowest float32", in_array(ATTENTION, _inf_to_lowest), ATTENTION)
_not_finite("inf-became-nan", "-Inf is replaced by NaN", in_array(ATTENTION, _inf_to_nan), ATTENTION)
_not_finite("inf-sign", "-Inf is replaced by +Inf", in_array(ATTENTION, _inf_sign), ATTENTION)
_not_finite("nan-became-zero", "NaN is replaced by 0", in_array(TOKENS, _nan_to_zero), TOKENS)
_not_finite("nan-became-numbers", "NaN is replaced by another sample's numbers", in_outputs(_nan_to_numbers), SENTENCE)
fault(
    "minilm",
    "new-nan",
    "one number of each vector is NaN",
    in_array(SENTENCE, _one_nan),
    output=SENTENCE,
    family="NaN and Inf",
)


# A sequence


def _longer(outputs: Outputs) -> None:
    for sample in outputs:
        sample["layers[6]"] = sample["layers[5]"]


def _shorter(outputs: Outputs) -> None:
    for sample in outputs:
        del sample["layers[5]"]


def _reordered(outputs: Outputs) -> None:
    for sample in outputs:
        sample["layers[1]"], sample["layers[2]"] = sample["layers[2]"], sample["layers[1]"]


def _tensor_instead(outputs: Outputs) -> Outputs:
    return [{"layers": np.stack(list(sample.values()))} for sample in outputs]


def _longer_once(outputs: Outputs) -> None:
    outputs[3]["layers[6]"] = outputs[3]["layers[5]"]


def _sequence(name: str, description: str, change: object, output: str) -> None:
    fault("minilm-layers", name, description, in_outputs(change), output=output, family="sequences")  # type: ignore[arg-type]


_sequence("extra-element", "the sequence has an element too many", _longer, "layers[6]")
_sequence("extra-element-once", "the sequence of one sample has an element too many", _longer_once, "layers[6]")
_sequence("missing-element", "the sequence has an element too few", _shorter, "layers[5]")
_sequence("elements-swapped", "two elements of the sequence are swapped", _reordered, "layers[1]")
_sequence("tensor-instead", "the output is a tensor instead of a sequence", _tensor_instead, "layers[0]")
