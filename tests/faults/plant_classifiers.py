"""Faults of classifiers (PP-OCR cls, Magika) and of a recurrent model (Silero VAD)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from graph_edits import become, in_weight, nodes, put, values
from onnx import TensorProto, helper
from planting import Array, Candidate, Outputs, Sample, Subject, fault, in_array, in_feeds, in_model, in_outputs

CLS, MAGIKA = "save_infer_model/scale_0.tmp_1", "target_label"
FC = "jax2tf_get_logits_/Const_24:0"
EMBEDDING = "jax2tf_get_logits_/Const:0"


def _cls(name: str, description: str, candidate: Candidate, family: str = "decisions") -> None:
    fault("cls", name, description, candidate, output=CLS, family=family)


def _swap(array: Array) -> Array:
    return array[:, ::-1].copy()


def _stale(outputs: Outputs) -> Outputs:
    return [outputs[0], *outputs[:-1]]


def _pairs_swapped(outputs: Outputs) -> Outputs:
    return [outputs[number ^ 1] if number ^ 1 < len(outputs) else outputs[number] for number in range(len(outputs))]


def _first_for_all(outputs: Outputs) -> Outputs:
    return [outputs[0]] * len(outputs)


def _one_wrong(outputs: Outputs) -> None:
    outputs[5][CLS] = outputs[5][CLS][:, ::-1].copy()


def _no_softmax(model: onnx.ModelProto) -> None:
    become(next(one for one in nodes(model, "Softmax")), "Identity")


def _softmax_axis(model: onnx.ModelProto) -> None:
    # Over the batch, where each sample is alone.
    become(next(one for one in nodes(model, "Softmax")), "Softmax")
    nodes(model, "Softmax")[0].attribute.append(helper.make_attribute("axis", 0))
    next(entry for entry in model.opset_import if not entry.domain).version = 13


def _bn_folded_wrong(model: onnx.ModelProto) -> None:
    # The fold divides by the variance where it should divide by its square root.
    norm = nodes(model, "BatchNormalization")[-1]
    variance = values(model, norm.input[4])
    put(model, norm.input[4], (variance + 1e-5) ** 2)


def _bn_mean_dropped(model: onnx.ModelProto) -> None:
    for norm in nodes(model, "BatchNormalization"):
        put(model, norm.input[3], np.zeros_like(values(model, norm.input[3])))


def _unscaled(feeds: list[Sample]) -> list[Sample]:
    return [{"x": ((feed["x"] + 1) * 127.5).astype(np.float32)} for feed in feeds]


_cls("columns-swapped", "the two classes are swapped", in_array(CLS, _swap))
_cls("half-half", "both probabilities are 0.5 in all samples", in_array(CLS, lambda array: np.full_like(array, 0.5)))
_cls("softmax-dropped", "logits instead of probabilities", in_model(_no_softmax), "graph or weights")
_cls("stale", "each answer is that of the sample before", in_outputs(_stale), "wrong sample")
_cls("pairs-swapped", "the answers of neighboring samples are swapped", in_outputs(_pairs_swapped), "wrong sample")
_cls("first-for-all", "the first sample's answer is given for all samples", in_outputs(_first_for_all), "wrong sample")
_cls("one-wrong", "the decision of one of 24 samples is wrong", in_outputs(_one_wrong))
_cls(
    "bn-fold-wrong",
    "the last BatchNormalization divides by the variance instead of its root",
    in_model(_bn_folded_wrong),
    "graph or weights",
)
_cls(
    "bn-means-dropped",
    "the means of all BatchNormalizations are dropped",
    in_model(_bn_mean_dropped),
    "graph or weights",
)
_cls("input-unscaled", "pixels are 0..255 instead of -1..1", in_feeds(_unscaled), "inputs")
_cls("softmax-axis", "Softmax over the batch: all probabilities are 1", in_model(_softmax_axis), "graph or weights")


# Magika


def _magika(name: str, description: str, candidate: Candidate, family: str = "decisions") -> None:
    fault("magika", name, description, candidate, output=MAGIKA, family=family)


def _rare(subject: Subject) -> int:
    """Return a class that is the surest answer of a single sample."""
    tops = [int(sample[MAGIKA].argmax()) for sample in subject.reference]
    sure = {int(s[MAGIKA].argmax()): float(s[MAGIKA].max()) for s in subject.reference}
    once = [kind for kind, count in Counter(tops).items() if count == 1]
    return max(once or tops, key=lambda kind: sure[kind])


def _on_rare_column(factor: float, bias: float = 0.0) -> Candidate:
    def candidate(subject: Subject) -> Outputs:
        kind = _rare(subject)

        def change(weights: Array) -> None:
            weights[:, kind] *= factor

        return in_weight(FC, change)(subject)

    return candidate


def _top_two_swapped(outputs: Outputs) -> None:
    # One of 32 samples: 3 %.
    array = outputs[7][MAGIKA]
    second, first = np.argsort(array[0])[-2:]
    array[0, [first, second]] = array[0, [second, first]]


def _rare_silent(subject: Subject) -> Outputs:
    kind = _rare(subject)

    def change(array: Array) -> None:
        array[0, kind] = 0

    return in_array(MAGIKA, change)(subject)


def _cooler(model: onnx.ModelProto) -> None:
    put(model, FC, values(model, FC) * np.float32(0.25))


def _epsilon(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if not tensor.dims or list(tensor.dims) == [1]:
            array = values(model, tensor.name)
            if array.dtype == np.float32 and array.size == 1 and 1e-8 < float(array.reshape(())) < 1e-4:
                put(model, tensor.name, np.full_like(array, 10.0))


def _four_bits(array: Array) -> Array:
    # One scale for the whole table, in which one column has outliers.
    array[:, 3] *= 40
    top = np.abs(array).max() / 7
    array = np.round(array / top) * top
    array[:, 3] /= 40
    return array.astype(np.float32)


def _ends_swapped(feeds: list[Sample]) -> list[Sample]:
    return [{"bytes": np.concatenate([feed["bytes"][:, 1024:], feed["bytes"][:, :1024]], axis=1)} for feed in feeds]


def _off_by_one(array: Array) -> Array:
    return np.roll(array, 1, axis=-1)


_magika(
    "rare-logits-flipped",
    "the weights of the class of a single sample have the wrong sign",
    _on_rare_column(-1.0),
    "graph or weights",
)
_magika(
    "rare-column-zero", "the weights of the class of a single sample are 0", _on_rare_column(0.0), "graph or weights"
)
_magika("rare-probability-zero", "the probability of the class of a single sample is 0", _rare_silent)
_magika("top-two-swapped-once", "first and second choice are swapped in 3 % of samples", in_outputs(_top_two_swapped))
_magika("labels-off-by-one", "all classes are shifted by one", in_array(MAGIKA, _off_by_one))
_magika(
    "temperature",
    "logits are a quarter: the decisions remain, the probabilities do not",
    in_model(_cooler),
    "graph or weights",
)
_magika("constant", "the first sample's answer is given for all samples", in_outputs(_first_for_all), "wrong sample")
_magika("norm-epsilon", "the epsilon of the layer norms is 10 instead of 1e-6", in_model(_epsilon), "graph or weights")
_magika(
    "embedding-4-bit-outliers",
    "the byte embedding in 4 bits with one scale that an outlier column dictates",
    in_weight(EMBEDDING, _four_bits),
    "quantization",
)
_magika("ends-swapped", "the end of the file comes before its beginning", in_feeds(_ends_swapped), "inputs")
_magika("uniform", "all 214 probabilities are equal", in_array(MAGIKA, lambda array: np.full_like(array, 1 / 214)))


# Silero VAD: probability and state


def _vad(name: str, description: str, candidate: Candidate, output: str, family: str = "state") -> None:
    fault("vad", name, description, candidate, output=output, family=family)


def _state_passed_on(subject: Subject) -> Outputs:
    outputs = in_outputs(lambda made: None)(subject)
    for sample, feed in zip(outputs, subject.feeds, strict=True):
        sample["stateN"] = feed["state"]
    return outputs


def _halves_swapped(array: Array) -> Array:
    return array[::-1].copy()


def _probability(value: float) -> Candidate:
    return in_array("output", lambda array: np.full_like(array, value))


def _inverted(array: Array) -> Array:
    return np.float32(1) - array


def _no_state(feeds: list[Sample]) -> list[Sample]:
    return [{**feed, "state": np.zeros_like(feed["state"])} for feed in feeds]


def _no_context(feeds: list[Sample]) -> list[Sample]:
    for feed in feeds:
        feed["input"][:, :32] = 0
    return feeds


def _recurrence_lost(model: onnx.ModelProto) -> None:
    for one in _inside(model, "Constant"):
        if one.output[0].endswith("decoder.rnn.weight_hh"):
            tensor = one.attribute[0].t
            tensor.raw_data = bytes(len(tensor.raw_data))


def _branch_always_taken(model: onnx.ModelProto) -> None:
    """Always take the branch that is for calls without a state."""
    for graph in _graphs(model):
        for place, one in enumerate(graph.node):
            branches = {attribute.name: attribute.g for attribute in one.attribute} if one.op_type == "If" else {}
            kinds = {name: {inner.op_type for inner in branch.node} for name, branch in branches.items()}
            without = [name for name, found in kinds.items() if {"LSTM", "ConstantOfShape"} <= found]
            if without:
                value = helper.make_tensor("always", TensorProto.BOOL, [], [without[0] == "then_branch"])
                one.input[0] = f"always_{place}"
                graph.node.insert(place, helper.make_node("Constant", [], [f"always_{place}"], value=value))
                break


def _other_rate(feeds: list[Sample]) -> list[Sample]:
    return [{**feed, "sr": np.array(16000, np.int64)} for feed in feeds]


def _graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    found, queue = [], [model.graph]
    while queue:
        graph = queue.pop()
        found.append(graph)
        queue += [attribute.g for one in graph.node for attribute in one.attribute if attribute.HasField("g")]
    return found


def _inside(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [one for graph in _graphs(model) for one in graph.node if one.op_type == kind]


def _cell_frozen(array: Array) -> None:
    array[1, :, 64:] = 0


_vad("state-frozen", "the state comes out as it went in", _state_passed_on, "stateN")
_vad("state-zero", "the state is reset to zero", in_array("stateN", np.zeros_like), "stateN")
_vad("hidden-cell-swapped", "hidden state and cell state are swapped", in_array("stateN", _halves_swapped), "stateN")
_vad("half-of-cell-zero", "half of the cell state is 0", in_array("stateN", _cell_frozen), "stateN")
_vad("state-ignored", "the model gets a zero state with each chunk", in_feeds(_no_state), "stateN")
_vad("probability-constant", "the probability is always 0.5", _probability(0.5), "output", "decisions")
_vad("probability-zero", "the probability is always 0", _probability(0.0), "output", "decisions")
_vad("probability-inverted", "silence and speech are swapped", in_array("output", _inverted), "output", "decisions")
_vad("probability-stale", "each answer is that of the chunk before", in_outputs(_stale), "output", "wrong sample")
_vad(
    "recurrence-lost",
    "the recurrent weights of the LSTM are 0",
    in_model(_recurrence_lost),
    "stateN",
    "graph or weights",
)
_vad(
    "branch-always-taken",
    "an If always takes the branch without a state",
    in_model(_branch_always_taken),
    "stateN",
    "graph or weights",
)
_vad("other-rate", "the model is told 16 kHz and takes its other branch", in_feeds(_other_rate), "stateN", "inputs")
_vad("context-dropped", "the samples before the chunk are 0", in_feeds(_no_context), "stateN", "inputs")
