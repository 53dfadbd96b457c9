"""The proof model is a real ONNX model, and says so when a wheel computes something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from ortforge.build import proof


def test_onnx_and_its_runtime_take_the_model(tmp_path: Path) -> None:
    path, samples = proof.write(tmp_path)
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded, full_check=True)
    assert [node.op_type for node in loaded.graph.node] == ["MatMul", "Add", "Relu"]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.load(samples / "000000.npz")["0"]
    (answer,) = session.run(None, {"x": x})
    assert proof.difference(answer) < 1e-6
    assert proof.difference(answer * 1.01) > 1e-3
    assert proof.difference(answer[:1]) == float("inf")
