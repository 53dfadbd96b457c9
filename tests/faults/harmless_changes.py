"""Changes that keep a model's answers: none may be called inaccurate."""

from __future__ import annotations

import atexit
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import detector_model
import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
from graph_edits import float_weights, node, put, rounded, values
from onnx import helper
from onnxruntime import quantization
from pass_jobs import run_pass
from plant_classifiers import CLS, MAGIKA
from plant_detectors import HEAD
from plant_encoders import SENTENCE
from plant_pictures import IMAGE, MAP
from plant_variants import SOUND
from planting import CORRECT, Array, Candidate, Outputs, Subject, harmless, in_array, in_model, in_outputs, options, run
from subjects import install

LEVEL = ort.GraphOptimizationLevel

# Sessions


def _with(session: Callable[[], ort.SessionOptions]) -> Candidate:
    return lambda subject: run(subject.data, subject.feeds, session())


def _parallel() -> ort.SessionOptions:
    made = options()
    made.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    made.inter_op_num_threads = 2
    return made


def _entry(name: str, value: str) -> Candidate:
    def session() -> ort.SessionOptions:
        made = options()
        made.add_session_config_entry(name, value)
        return made

    return _with(session)


MODELS = ("cls", "det", "vad", "magika", "minilm", "yolo", "yolo5", "yolo-pair", "yolo-nms")

for _subject in (*MODELS, "minilm-scores", "minilm-layers", "sharpen"):
    harmless(_subject, "optimized", "all graph optimizations", _with(options))
for _subject in ("det", "magika", "minilm", "yolo"):
    harmless(_subject, "basic", "basic graph optimizations", _with(lambda: options(LEVEL.ORT_ENABLE_BASIC)))
for _subject in ("cls", "vad", "minilm", "yolo-nms"):
    harmless(_subject, "extended", "extended graph optimizations", _with(lambda: options(LEVEL.ORT_ENABLE_EXTENDED)))
for _subject in ("det", "minilm", "magika"):
    harmless(_subject, "two-threads", "two threads instead of one", _with(lambda: options(threads=2)))
for _subject in ("vad", "yolo"):
    harmless(_subject, "parallel", "the parallel executor", _with(_parallel))
for _subject in ("cls", "magika", "det"):
    harmless(_subject, "denormals-zero", "denormals count as zero", _entry("session.set_denormal_as_zero", "1"))
harmless(
    "minilm", "approximate-gelu", "the approximation of Gelu", _entry("optimization.enable_gelu_approximation", "1")
)

# Other versions of ONNX Runtime

RUNNER = """
import pickle, sys
import onnxruntime as ort
with open(sys.argv[1], "rb") as file:
    model, feeds = pickle.load(file)
options = ort.SessionOptions()
options.log_severity_level, options.intra_op_num_threads = 4, 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
names = [entry.name for entry in session.get_outputs()]
results = [dict(zip(names, session.run(None, feed))) for feed in feeds]
with open(sys.argv[2], "wb") as file:
    pickle.dump((ort.__version__, results), file)
"""


class UnavailableError(Exception):
    """A version of ONNX Runtime has no package for this Python."""


_folders: dict[str, Path] = {}


def _version(version: str) -> Candidate:
    def candidate(subject: Subject) -> Outputs:
        with tempfile.TemporaryDirectory() as folder:
            given, results = Path(folder) / "given", Path(folder) / "results"
            given.write_bytes(pickle.dumps((subject.data, subject.feeds)))
            environment = {**os.environ, "PYTHONPATH": str(_installed(version))}
            command = [sys.executable, "-c", RUNNER, str(given), str(results)]
            subprocess.run(command, check=True, env=environment, capture_output=True)
            used, outputs = pickle.loads(results.read_bytes())
        assert used == version
        return list(outputs)

    return candidate


def _installed(version: str) -> Path:
    if version not in _folders:
        try:
            folder = Path(tempfile.mkdtemp(prefix="ort-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            _folders[version] = install(folder, f"onnxruntime=={version}")
        except subprocess.CalledProcessError as error:
            raise UnavailableError(f"onnxruntime {version} has no package for this Python") from error
    return _folders[version]


for _release in ("1.21.1", "1.23.2"):
    for _subject in ("cls", "det", "vad", "magika", "minilm", "yolo", "yolo-nms"):
        harmless(_subject, f"ort-{_release}", f"ONNX Runtime {_release}", _version(_release))


# Half precision


def _passes(*chain: tuple[str, dict[str, Any]]) -> Candidate:
    """Apply ortforge's own passes, calibrated on the subject's samples."""

    def candidate(subject: Subject) -> Outputs:
        with tempfile.TemporaryDirectory() as folder:
            model: onnx.ModelProto | Path = subject.model
            for name, parameters in chain:
                feeds = subject.feeds if name == "quantize-static" else ()
                _, model = run_pass(Path(folder), name, model, feeds, **parameters)
            return run(model, subject.feeds)

    return candidate


for _subject in ("cls", "det", "magika", "minilm", "minilm-twins", "yolo", "yolo5", "yolo-pair", "yolo-blank"):
    _statuses = ("pass", "unproven") if _subject == "yolo-blank" else tuple(CORRECT)
    harmless(_subject, "float16", "the pass float16", _passes(("to-float16", {})), statuses=_statuses)


def _half_weights(model: onnx.ModelProto) -> None:
    for name in float_weights(model):
        put(model, name, values(model, name).astype(np.float16).astype(np.float32))


harmless("minilm", "half-weights", "weights rounded to half precision", in_model(_half_weights))
harmless("yolo-nms", "half-weights", "weights rounded to half precision", in_model(_half_weights))


# Reordered reductions and other forms of one graph


def _split_products(model: onnx.ModelProto) -> None:
    """Sum each product of the feed-forward layers in two halves."""
    for layer in range(6):
        old = node(model, f"l{layer}.up.product")
        value, weight, output = old.input[0], old.input[1], old.output[0]
        matrix = values(model, weight)
        place = list(model.graph.node).index(old)
        model.graph.node.remove(old)
        put(model, "halves", np.array([192, 192], np.int64))
        made = [helper.make_node("Split", [value, "halves"], [f"{output}.v0", f"{output}.v1"], axis=-1)]
        for half in (0, 1):
            put(model, f"{weight}.{half}", matrix[192 * half : 192 * (half + 1)])
            made.append(helper.make_node("MatMul", [f"{output}.v{half}", f"{weight}.{half}"], [f"{output}.p{half}"]))
        made.append(helper.make_node("Add", [f"{output}.p1", f"{output}.p0"], [output]))
        for number, one in enumerate(made):
            model.graph.node.insert(place + number, one)


def _split_convolution(model: onnx.ModelProto) -> None:
    """Sum a convolution over two halves of its input channels."""
    old = node(model, "conv3")
    weights = values(model, "w3")
    place = list(model.graph.node).index(old)
    attributes = list(old.attribute)
    model.graph.node.remove(old)
    put(model, "halves16", np.array([16, 16], np.int64))
    made = [helper.make_node("Split", ["relu2", "halves16"], ["c0", "c1"], axis=1)]
    for half, bias in ((0, ["b3"]), (1, [])):
        put(model, f"w3.{half}", weights[:, 16 * half : 16 * (half + 1)])
        made.append(helper.make_node("Conv", [f"c{half}", f"w3.{half}", *bias], [f"s{half}"]))
        made[-1].attribute.extend(attributes)
    made.append(helper.make_node("Add", ["s1", "s0"], ["conv3"]))
    for number, one in enumerate(made):
        model.graph.node.insert(place + number, one)


def _reversed_channels(model: onnx.ModelProto) -> None:
    """Reverse the order of the channels between two convolutions."""
    for name in ("w3", "b3"):
        put(model, name, values(model, name)[::-1])
    put(model, "w4", values(model, "w4")[:, ::-1])


def _as_nodes(model: onnx.ModelProto) -> None:
    made = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    del model.graph.initializer[:]
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*made, *kept])


def _preprocessed(subject: Subject) -> Outputs:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "shaped.onnx"
        onnx.save(subject.model, source)
        quantization.quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        return run(target.read_bytes(), subject.feeds)


def _newer_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.version_converter.convert_version(model, 18)


harmless("minilm", "split-products", "six products are summed in two halves", in_model(_split_products))
harmless("yolo", "split-convolution", "a convolution is summed in two halves", in_model(_split_convolution))
harmless(
    "yolo-nms", "reversed-channels", "channels between two convolutions are in reverse", in_model(_reversed_channels)
)
harmless("magika", "weights-as-nodes", "weights are Constant nodes", in_model(_as_nodes))
harmless("yolo5", "weights-as-nodes", "weights are Constant nodes", in_model(_as_nodes))
for _subject in ("det", "minilm", "cls"):
    harmless(_subject, "preprocessed", "shapes inferred and constants folded, and saved", _preprocessed)
harmless("yolo-pair", "opset-18", "converted to opset 18", in_model(_newer_opset))


# Noise below tolerance

WITH_NAN = (*CORRECT, "unproven")
"""One sample of ``minilm-inf`` has nothing but NaN to compare."""


def _noise(share: float, *names: str) -> Candidate:
    def each(outputs: Outputs) -> None:
        draw = np.random.default_rng(4)
        for sample in outputs:
            for name in names or tuple(sample):
                array = sample[name]
                if array.dtype.kind == "f":
                    sample[name] = (array * (1 + draw.uniform(-share, share, array.shape))).astype(array.dtype)

    return in_outputs(each)


for _subject in (*MODELS, "minilm-layers"):
    harmless(_subject, "bfloat16-noise", "each number is off by up to 0.4 %", _noise(2**-8))


def _negative_zeros(array: Array) -> None:
    array[array == 0] = -0.0


def _flush(limit: float) -> Callable[[Array], None]:
    def change(array: Array) -> None:
        array[np.abs(array) < limit] = 0

    return change


def _sixteen_bits(array: Array) -> Array:
    return (np.round(array * 32768) / 32768).astype(np.float32)


def _eight_bits(model: onnx.ModelProto) -> None:
    for name in float_weights(model, minimum=1024):
        array = values(model, name)
        axis = 0 if array.ndim == 4 or "embeddings" in name else array.ndim - 1
        put(model, name, rounded(array, 8, axis))


def _silent_rows(array: Array) -> None:
    # Scores that stand for nothing are other numbers that stand for nothing.
    draw = np.random.default_rng(6)
    scores = array[:, 4:]
    scores[:] = np.where(scores < 0.002, draw.uniform(0, 0.002, scores.shape), scores)


def _faint(array: Array) -> Array:
    return array + np.random.default_rng(7).uniform(0, 1e-4, array.shape).astype(np.float32)


harmless("det", "negative-zeros", "-0.0 instead of 0.0", in_array(MAP, _negative_zeros))
harmless("magika", "tiny-flushed", "probabilities below 1e-6 are 0", in_array(MAGIKA, _flush(1e-6)))
harmless("cls", "tiny-flushed", "probabilities below 1e-6 are 0", in_array(CLS, _flush(1e-6)))
harmless("yolo", "silent-scores", "scores below 0.002 are other scores below 0.002", in_array(HEAD, _silent_rows))
harmless(
    "yolo-blank",
    "silent-scores",
    "scores below 0.002 are other scores below 0.002",
    in_array(HEAD, _silent_rows),
    statuses=("pass", "unproven"),
)
harmless(
    "yolo-blank",
    "scores-flushed",
    "scores below 0.0005 are 0",
    in_array(HEAD, _flush(5e-4)),
    statuses=("pass", "unproven"),
)
harmless("yolo-blank", "optimized", "all graph optimizations", _with(options), statuses=("pass", "unproven"))
harmless(
    "det-blank",
    "faint-noise",
    "the empty map is off by up to 1e-4",
    in_array(MAP, _faint),
    statuses=("pass", "unproven"),
)
harmless("det-blank", "optimized", "all graph optimizations", _with(options), statuses=("pass", "unproven"))
harmless(
    "yolo-nms-blank",
    "optimized",
    "all graph optimizations; there is no detection to compare",
    _with(options),
    statuses=("unproven",),
)
harmless("minilm-twins", "bfloat16-noise", "each number is off by up to 0.4 %", _noise(2**-8, SENTENCE))
harmless("minilm-inf", "optimized", "all graph optimizations; NaN and -Inf stay", _with(options), statuses=WITH_NAN)
harmless("minilm-inf", "bfloat16-noise", "each number is off by up to 0.4 %", _noise(2**-8), statuses=WITH_NAN)


for _subject in ("minilm-logits", "low-pass"):
    harmless(_subject, "optimized", "all graph optimizations", _with(options))
    harmless(_subject, "bfloat16-noise", "each number is off by up to 0.4 %", _noise(2**-8))
harmless("low-pass", "sixteen-bits", "the sound is rounded to 16 bits", in_array(SOUND, _sixteen_bits))
harmless("low-pass", "float16", "the pass float16", _passes(("to-float16", {})))
harmless("minilm-logits", "float16", "the pass float16", _passes(("to-float16", {})))


# Ties, and pictures that differ by one


def _off_by_one(array: Array) -> Array:
    step = np.random.default_rng(8).integers(-1, 2, array.shape)
    return np.clip(array.astype(np.int16) + step, 0, 255).astype(np.uint8)


def _truncated(model: onnx.ModelProto) -> None:
    node(model, "rounded").op_type = "Floor"


def _other_ties(subject: Subject) -> Outputs:
    return run(detector_model.ranked(last_first=True), subject.feeds)


harmless("yolo-ranked", "other-ties", "the last of equal scores instead of the first", _other_ties)
harmless("sharpen", "off-by-one", "each pixel is off by at most 1 of 255", in_array(IMAGE, _off_by_one))
harmless("sharpen", "truncated", "pixels are truncated instead of rounded", in_model(_truncated))


# Quantization that works


for _subject in ("minilm-sentence", "minilm-twins", "magika", "yolo", "yolo-pair"):
    harmless(_subject, "weights-8-bit", "weights in 8 bits with a scale for each channel", in_model(_eight_bits))

STATIC = (("preprocess", {}), ("quantize-static", {"format": "QDQ", "per_channel": True}))

harmless("cls", "int8-static", "the passes preprocess and quantize-static, a scale for each channel", _passes(*STATIC))
harmless("cls", "int8-dynamic", "the pass quantize-dynamic", _passes(("quantize-dynamic", {"weight_type": "QUInt8"})))
harmless(
    "minilm-sentence",
    "int8-weights",
    "the pass quantize-weights with 8 bits",
    _passes(("quantize-weights", {"bits": 8})),
)
harmless("det", "optimize", "the pass optimize", _passes(("optimize", {"level": "all"})))
