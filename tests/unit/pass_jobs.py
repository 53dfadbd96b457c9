"""Running a pass as the worker does, and small trained models to run it on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ortforge.worker.apply import PassJob
from ortforge.worker.module import load_module
from ortforge.worker.samples import Samples, SampleWriter

FOLDER = Path(__file__).parents[2] / "plugins" / "passes"
Feed = dict[str, Any]
CLASSES = ("across", "upright", "disc", "checks")


@cache
def module(stem: str) -> ModuleType:
    """A pass's file as a runtime's worker sees it: by its path."""
    loaded: ModuleType = load_module(FOLDER / f"{stem}.py", "apply")
    return loaded


def helper_module(name: str) -> ModuleType:
    """A file of the passes' helpers, as they see it: ``"_models.model_file"``."""
    return import_module(f".{name}", module("optimize").__package__)


def samples_folder(folder: Path, feeds: Sequence[Feed], *, random: bool = False, source: str = "test") -> Samples:
    """Write samples as the dataset step does."""
    writer = SampleWriter(folder)
    for feed in feeds:
        writer.write(feed)
    writer.close(random=random, source=source)
    return Samples(folder)


def job_for(folder: Path, model: onnx.ModelProto | Path, samples: Samples | None, parameters: Feed) -> PassJob:
    """The worker's own job, on real folders below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    source = model if isinstance(model, Path) else folder / "in.onnx"
    if not isinstance(model, Path):
        onnx.save(model, source)
    for part in ("work", "out"):
        (folder / part).mkdir()
    return PassJob(
        model=source,
        output=folder / "out" / "model.onnx",
        parameters=parameters,
        samples=tuple(samples.paths) if samples else (),
        folder=samples.folder if samples else None,
        ep="cpu",
        ep_name="CPUExecutionProvider",
        ep_options={},
        ort_version=ort.__version__,
        cpu_flags=(),
        workdir=folder / "work",
    )


def run_pass(
    folder: Path,
    name: str,
    model: onnx.ModelProto | Path,
    feeds: Sequence[Feed] = (),
    *,
    random: bool = False,
    **parameters: Any,
) -> tuple[dict[str, Any], Path]:
    """Apply a pass; return what it says and the file that it wrote."""
    number = len(list(folder.glob("pass-*")))
    below = folder / f"pass-{number}"
    below.mkdir()
    samples = samples_folder(below / "samples", feeds, random=random) if feeds else None
    job = job_for(below, model, samples, parameters)
    with contextlib.chdir(job.workdir):  # as a worker does: ONNX Runtime leaves files where it runs
        result: dict[str, Any] = module(name.replace("-", "_")).apply(job)
    return result, job.output


def outputs(model: onnx.ModelProto | Path, feeds: Sequence[Feed]) -> list[dict[str, Any]]:
    """What a model answers, sample by sample, by output."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]


def cosine(left: Sequence[Feed], right: Sequence[Feed]) -> float:
    """The worst cosine over samples, of the first output."""
    worst = 1.0
    for one, other in zip(left, right, strict=True):
        a, b = (next(iter(side.values())).astype(np.float64).ravel() for side in (one, other))
        worst = min(worst, float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return worst


# Pictures of four kinds of patterns, and a CNN that was trained to tell them apart


def pictures(count: int, seed: int = 0) -> tuple[list[Feed], NDArray[np.int64]]:
    """RGB pictures [1, 3, 16, 16] of stripes, discs and checks on a reddish ground, with their classes."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:16, 0:16]
    feeds, labels = [], draw.integers(0, len(CLASSES), count)
    for label in labels:
        shift, width = draw.integers(0, 8), draw.integers(3, 5)
        shapes = (
            (rows + shift) // width % 2,
            (columns + shift) // width % 2,
            ((rows - 4 - shift) ** 2 + (columns - 8) ** 2 < (width + 1) ** 2).astype(int),
            ((rows + shift) // width + (columns + shift) // width) % 2,
        )
        ground = np.array([0.8, 0.35, 0.1])[:, None, None] * draw.uniform(0.7, 1.1)
        picture = ground + shapes[label] * np.array([0.1, 0.4, 0.15])[:, None, None]
        noise = draw.normal(size=(3, 16, 16)) * 0.02
        feeds.append({"x": (picture + noise)[None].astype(np.float32)})
    return feeds, labels


@cache
def picture_model() -> onnx.ModelProto:
    """A CNN with drawn filters whose last layer was fitted to 200 pictures by least squares; ."""
    draw = np.random.default_rng(3)
    first = draw.normal(size=(16, 3, 3, 3)) / 5
    # Edges, not colours: filters that answer nothing to an even ground.
    first -= first.mean(axis=(2, 3), keepdims=True)
    second = draw.normal(size=(24, 16, 3, 3)) / 12
    body = _picture_graph(first, second, np.eye(96), np.zeros(96))
    feeds, labels = pictures(200, seed=9)
    features = np.concatenate([next(iter(one.values())) for one in outputs(body, feeds)]).astype(np.float64)
    centre, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    table = np.hstack([(features - centre) / spread, np.ones((len(labels), 1))])
    wanted = np.eye(len(CLASSES))[labels] * 2 - 1
    fitted = np.linalg.solve(table.T @ table + 30 * np.eye(table.shape[1]), table.T @ wanted)
    weight = fitted[:-1] / spread[:, None]
    return _picture_graph(first, second, weight, fitted[-1] - centre @ weight)


def _picture_graph(*arrays: NDArray[Any]) -> onnx.ModelProto:
    weights = [
        numpy_helper.from_array(array.astype(np.float32), name) for array, name in zip(arrays, "abwc", strict=True)
    ]
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "a"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("MaxPool", ["r1"], ["p1"], name="pool1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "b"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        node("Relu", ["c2"], ["r2"], name="relu2"),
        node("MaxPool", ["r2"], ["g"], name="pool2", kernel_shape=[4, 4], strides=[4, 4]),
        node("Flatten", ["g"], ["f"], name="flatten"),
        node("Gemm", ["f", "w", "c"], ["y"], name="classes"),
    ]
    graph = helper.make_graph(
        nodes,
        "pictures",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(arrays[3])])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def accuracy(model: onnx.ModelProto | Path, feeds: Sequence[Feed], labels: NDArray[np.int64]) -> float:
    """Share of pictures that a model puts into the right class."""
    answers = [int(next(iter(one.values())).argmax()) for one in outputs(model, feeds)]
    return float(np.mean(np.array(answers) == labels))
