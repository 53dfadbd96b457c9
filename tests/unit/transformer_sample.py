"""Small transformer layers as exporters write them, and one call that runs a pass on a model as the worker does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ortforge.worker.apply import PassJob

HEADS, SIZE, LENGTH = 2, 4, 5
HIDDEN = HEADS * SIZE


def apply_pass(
    module: ModuleType,
    folder: Path,
    model: onnx.ModelProto | Path,
    *,
    ep: str = "cpu",
    ep_name: str = "CPUExecutionProvider",
    ort_version: str = ort.__version__,
    **parameters: Any,
) -> tuple[dict[str, Any], Path]:
    """Apply a pass in a new folder; return what it says, and the file it wrote."""
    number = len(list(folder.glob("job-*")))
    place = folder / f"job-{number}"
    for part in ("work", "out"):
        (place / part).mkdir(parents=True)
    source = model if isinstance(model, Path) else place / "in.onnx"
    if not isinstance(model, Path):
        onnx.save(model, source)
    job = PassJob(
        model=source,
        output=place / "out" / "model.onnx",
        parameters=parameters,
        samples=(),
        folder=None,
        ep=ep,
        ep_name=ep_name,
        ep_options={},
        ort_version=ort_version,
        cpu_flags=("avx2", "fpu"),
        workdir=place / "work",
    )
    result: dict[str, Any] = module.apply(job)
    json.dumps(result)
    return result, job.output.parent / result.get("file", "model.onnx")


def outputs(model: onnx.ModelProto | Path, feed: Mapping[str, Any]) -> list[Any]:
    """Run a model on the CPU."""
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return list(ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, dict(feed)))


def cosine(left: onnx.ModelProto | Path, right: onnx.ModelProto | Path, feed: Mapping[str, Any]) -> float:
    """Compare the answers of two models."""
    a, b = (np.concatenate([np.ravel(x) for x in outputs(m, feed)]).astype(np.float64) for m in (left, right))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def feed(*, seed: int = 3, batch: int = 1) -> dict[str, Any]:
    """An input of the layers, with a mask that ends before the sequence does."""
    x = np.random.default_rng(seed).normal(size=(batch, LENGTH, HIDDEN)).astype(np.float32)
    mask = np.ones((batch, LENGTH), np.int64)
    mask[:, -1] = 0
    return {"x": x, "mask": mask}


def encoder_layer(
    *,
    form: Literal["eager", "sdpa"] = "eager",
    split: Literal["constant", "minus one", "computed"] = "constant",
    gelu: bool = True,
    producer: str = "pytorch",
    dynamo: bool = False,
    heads: int = HEADS,
) -> onnx.ModelProto:
    """One layer of BERT, opset 17.

    :param form: ``eager`` is what torch's TorchScript exporter writes; ``sdpa`` scales both factors, as the exports of
        scaled_dot_product_attention do. :param split: how the Reshape before the heads says its shape.
    """
    rng = np.random.default_rng(7)
    values: dict[str, Any] = {f"w_{x}": rng.normal(size=(HIDDEN, HIDDEN)) * 0.3 for x in "qkvo"}
    values |= {f"b_{x}": rng.normal(size=HIDDEN) * 0.3 for x in "qkvo"}
    values |= {"w_up": rng.normal(size=(HIDDEN, 16)) * 0.3, "b_up": rng.normal(size=16) * 0.3}
    values |= {"w_down": rng.normal(size=(16, HIDDEN)) * 0.3, "b_down": rng.normal(size=HIDDEN) * 0.3}
    values |= {"gamma": rng.normal(size=HIDDEN), "beta": rng.normal(size=HIDDEN)}
    size = HIDDEN // heads
    values |= {
        "root": np.sqrt(size),
        "fourth": size**-0.25,
        "one": 1.0,
        "minus": -10000.0,
        "half": 0.5,
        "two": 2.0**0.5,
    }
    weights = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in values.items()]
    whole: dict[str, Any] = {"merge": [0, 0, HIDDEN], "axis1": [1], "axis2": [2], "zero": 0, "first": 1}
    whole |= {"split": [0, 0, -1 if split == "minus one" else heads, size], "heads": [heads], "size": [size]}
    whole |= {"axis0": [0]}
    weights += [numpy_helper.from_array(np.asarray(value, np.int64), name) for name, value in whole.items()]
    nodes = [
        node("LayerNormalization", ["x", "gamma", "beta"], ["h"], axis=-1, name="norm_in"),
        node("Unsqueeze", ["mask", "axis1"], ["m1"]),
        node("Unsqueeze", ["m1", "axis2"], ["m2"]),
        node("Cast", ["m2"], ["mf"], to=TensorProto.FLOAT),
        node("Sub", ["one", "mf"], ["ms"]),
        node("Mul", ["ms", "minus"], ["bias"]),
    ]
    for x in "qkv":
        nodes += _projection(x, computed=split == "computed")
    nodes += _scores(form)
    nodes += [
        node("Softmax", ["qk_b"], ["p"], axis=-1),
        node("MatMul", ["p", "v_t"], ["pv"]),
        node("Transpose", ["pv"], ["pv_t"], perm=[0, 2, 1, 3]),
        node("Reshape", ["pv_t", "merge"], ["ctx"]),
        node("MatMul", ["ctx", "w_o"], ["o_m"]),
        node("Add", ["b_o", "o_m"], ["o_a"]),
        node("Add", ["o_a", "h"], ["res"]),
        node("LayerNormalization", ["res", "gamma", "beta"], ["a" if gelu else "y"], axis=-1, name="norm_mid"),
    ]
    nodes += _feed_forward() if gelu else []
    for number, one in enumerate(nodes):
        one.name = one.name or f"/{one.op_type}_{number}"
    graph = helper.make_graph(
        nodes,
        "layer",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", LENGTH, HIDDEN]),
            helper.make_tensor_value_info("mask", TensorProto.INT64, ["batch", LENGTH]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", LENGTH, HIDDEN])],
        weights,
    )
    if dynamo:
        graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'encoder']")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = producer
    onnx.checker.check_model(model)
    return model


def node(*arguments: Any, **attributes: Any) -> NodeProto:
    """``helper.make_node``, which mypy cannot follow through keyword attributes."""
    return helper.make_node(*arguments, **attributes)


def _projection(x: str, *, computed: bool) -> list[NodeProto]:
    shape = []
    if computed:
        shape = [
            node("Shape", ["h"], [f"{x}_dims"]),
            node("Gather", [f"{x}_dims", "zero"], [f"{x}_d0"], axis=0),
            node("Gather", [f"{x}_dims", "first"], [f"{x}_d1"], axis=0),
            node("Unsqueeze", [f"{x}_d0", "axis0"], [f"{x}_u0"]),
            node("Unsqueeze", [f"{x}_d1", "axis0"], [f"{x}_u1"]),
            node("Concat", [f"{x}_u0", f"{x}_u1", "heads", "size"], [f"{x}_split"], axis=0),
        ]
    return [
        node("MatMul", ["h", f"w_{x}"], [f"{x}_m"]),
        node("Add", [f"b_{x}", f"{x}_m"], [f"{x}_a"]),
        *shape,
        node("Reshape", [f"{x}_a", f"{x}_split" if computed else "split"], [f"{x}_s"]),
        node("Transpose", [f"{x}_s"], [f"{x}_t"], perm=[0, 2, 3, 1] if x == "k" else [0, 2, 1, 3]),
    ]


def _scores(form: str) -> list[NodeProto]:
    if form == "eager":
        scores = [node("MatMul", ["q_t", "k_t"], ["qk"]), node("Div", ["qk", "root"], ["qk_d"])]
    else:
        scores = [
            node("Mul", ["q_t", "fourth"], ["q_f"]),
            node("Mul", ["k_t", "fourth"], ["k_f"]),
            node("MatMul", ["q_f", "k_f"], ["qk_d"]),
        ]
    return [*scores, node("Add", ["qk_d", "bias"], ["qk_b"])]


def _feed_forward() -> list[NodeProto]:
    return [
        node("MatMul", ["a", "w_up"], ["up_m"]),
        node("Add", ["b_up", "up_m"], ["up"]),
        node("Div", ["up", "two"], ["g_d"]),
        node("Erf", ["g_d"], ["g_e"]),
        node("Add", ["g_e", "one"], ["g_a"]),
        node("Mul", ["up", "g_a"], ["g_m"]),
        node("Mul", ["g_m", "half"], ["g"]),
        node("MatMul", ["g", "w_down"], ["down_m"]),
        node("Add", ["b_down", "down_m"], ["down"]),
        node("Add", ["down", "a"], ["res2"]),
        node("LayerNormalization", ["res2", "gamma", "beta"], ["y"], axis=-1, name="norm_out"),
    ]
