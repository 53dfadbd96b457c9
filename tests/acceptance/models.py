"""Small models and wheels that the acceptance tests make themselves."""

from __future__ import annotations

import hashlib
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def classifier(path: Path, *, width: int = 32, classes: int = 10, seed: int = 0) -> Path:
    """Write a two-layer perceptron with a softmax; input ``x`` is (batch, width)."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.standard_normal((width, 64)) / 6,
        "b1": rng.standard_normal(64),
        "w2": rng.standard_normal((64, classes)) / 4,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m1"], name="first"),
        helper.make_node("Add", ["m1", "b1"], ["a1"], name="bias"),
        helper.make_node("Relu", ["a1"], ["r1"], name="relu"),
        helper.make_node("MatMul", ["r1", "w2"], ["m2"], name="second"),
        helper.make_node("Softmax", ["m2"], ["y"], name="softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def samples(folder: Path, *, count: int = 8, width: int = 32, seed: int = 1) -> Path:
    """Write real-looking inputs, one ``.npz`` per sample."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        np.savez(folder / f"{number:03}.npz", x=rng.standard_normal((1, width)).astype(np.float32))
    return folder


STUB = """
import ctypes, os, time

__version__ = "1.99.0"


def get_available_providers():
    return ["CPUExecutionProvider"]


def get_build_info():
    return "stub"


class GraphOptimizationLevel:
    ORT_DISABLE_ALL, ORT_ENABLE_BASIC, ORT_ENABLE_EXTENDED, ORT_ENABLE_LAYOUT, ORT_ENABLE_ALL = range(5)


class ExecutionMode:
    ORT_SEQUENTIAL, ORT_PARALLEL = range(2)


class SessionOptions:
    def add_session_config_entry(self, name, value):
        pass

    def add_free_dimension_override_by_name(self, name, value):
        pass


class RunOptions:
    pass


def set_default_logger_severity(level):
    pass


class _Value:
    def __init__(self, name, shape):
        self.name, self.shape, self.type = name, shape, "tensor(float)"


class InferenceSession:
    def __init__(self, *arguments, **options):
        self.misbehave("load")

    def misbehave(self, when):
        {misbehaviour}

    def get_providers(self):
        return ["CPUExecutionProvider"]

    def get_inputs(self):
        return [_Value("x", ["batch", 32])]

    def get_overridable_initializers(self):
        return []

    def get_outputs(self):
        return [_Value("y", ["batch", 10])]

    def run(self, outputs, feeds, options=None):
        self.misbehave("run")
"""

MISBEHAVIOUR = {
    "segfault": 'when == "run" and ctypes.string_at(0)',
    "hang": 'when == "run" and time.sleep(3600)',
    "hungry": 'when == "load" and [bytearray(1 << 28) for _ in range(64)]',
    "abort": 'when == "load" and os.abort()',
    "garbage": 'os.write(1, b"garbage\\xff\\x00" * 200); raise RuntimeError("no such kernel, said the stub")',
}


def stub_runtime(folder: Path, kind: str) -> Path:
    """Write a wheel of an "onnxruntime" that misbehaves in one way."""
    folder.mkdir(parents=True, exist_ok=True)
    info = "onnxruntime-1.99.0.dist-info"
    files = {
        "onnxruntime/__init__.py": STUB.replace("{misbehaviour}", MISBEHAVIOUR[kind]),
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: onnxruntime\nVersion: 1.99.0\nRequires-Dist: numpy\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / "onnxruntime-1.99.0-py3-none-any.whl"
    rows = []
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            data = text.encode("utf-8")
            digest = urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")
            rows.append(f"{name},sha256={digest},{len(data)}")
            wheel.writestr(name, data)
        wheel.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")
    return path
