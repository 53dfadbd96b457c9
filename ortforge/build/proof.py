"""The model that a new wheel has to run on its EP: a matrix product, a sum and a ReLU, and what must come out.

Written as bytes (ONNX is protocol buffers) so that neither the machine nor the clean container needs the onnx package.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["NODES", "difference", "model", "write"]

NODES: Final = 3
ROWS, INNER, COLUMNS = 16, 64, 32
_FLOAT: Final = 1
_IR_VERSION, _OPSET = 8, 13  # understood by every ORT since 1.10
_SEED: Final = 1210


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _join(parts: Iterable[bytes]) -> bytes:
    return b"".join(parts)


def _node(kind: str, inputs: tuple[str, ...], output: str) -> bytes:
    return _bytes(1, _join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(3, kind) + _bytes(4, kind))


def _tensor(name: str, value: NDArray[np.float32]) -> bytes:
    dims = _join(_number(1, size) for size in value.shape)
    return _bytes(5, dims + _number(2, _FLOAT) + _bytes(8, name) + _bytes(9, value.astype("<f4").tobytes()))


def _port(field: int, name: str, shape: tuple[int, ...]) -> bytes:
    dims = _join(_bytes(1, _number(1, size)) for size in shape)
    kind = _bytes(1, _number(1, _FLOAT) + _bytes(2, dims))
    return _bytes(field, _bytes(1, name) + _bytes(2, kind))


def _values() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(_SEED)
    shapes = (ROWS, INNER), (INNER, COLUMNS), (COLUMNS,)
    x, weight, bias = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return x, weight, bias


def model() -> bytes:
    """Return the model: ``y = max(x @ weight + bias, 0)``, ``x`` of shape (16, 64), ``y`` of shape (16, 32)."""
    _, weight, bias = _values()
    graph = _join(
        [
            _node("MatMul", ("x", "weight"), "product"),
            _node("Add", ("product", "bias"), "sum"),
            _node("Relu", ("sum",), "y"),
            _bytes(2, "proof"),
            _tensor("weight", weight),
            _tensor("bias", bias),
            _port(11, "x", (ROWS, INNER)),
            _port(12, "y", (ROWS, COLUMNS)),
        ]
    )
    return _number(1, _IR_VERSION) + _bytes(2, "ortforge") + _bytes(7, graph) + _bytes(8, _number(2, _OPSET))


def write(folder: Path) -> tuple[Path, Path]:
    """Write the model, and its one sample in the form that workers read; return both paths."""
    import json

    path, samples = folder / "proof.onnx", folder / "samples"
    path.write_bytes(model())
    samples.mkdir()
    arrays: dict[str, Any] = {"0": _values()[0]}
    np.savez(samples / "000000.npz", **arrays)
    index = {"schema": 1, "count": 1, "names": ["x"], "random": False, "labels": False, "source": "proof"}
    (samples / "index.json").write_text(json.dumps(index), encoding="utf-8")
    return path, samples


def difference(output: NDArray[Any]) -> float:
    """Return the largest difference of an output from what double precision gives, over the output's range."""
    x, weight, bias = (value.astype(np.float64) for value in _values())
    expected = np.maximum(x @ weight + bias, 0.0)
    if output.shape != expected.shape:
        return float("inf")
    return float(np.max(np.abs(output - expected)) / np.ptp(expected))
