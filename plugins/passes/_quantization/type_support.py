"""What this runtime and this CPU can do with a quantized type: found out by asking them with a model of a few bytes.

Which types ONNX Runtime's quantizer writes, and which of those its kernels read, differs by version, by the onnx beside
it and by processor; no table of ours would stay right.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import contextlib
import io
import logging
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .._models import model_file
from . import float8_types

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx import ModelProto

__all__ = [
    "INTEGER_SUMS",
    "cpu_flags",
    "has_int8_conv",
    "levels",
    "multiplies_rightly",
    "newest_opset",
    "refuse_types",
    "wrong_products",
    "x86_remarks",
]

INTEGER_SUMS: Final = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Instructions that add up products of 8 bits in 32: without one of them ORT's sums of two products saturate at 16."""

WRONG: Final = 0.1
"""Relative error of a tiny model against itself without optimizations; rounding makes some per cent at 4 bits."""

BITS: Final = {"QInt4": 4, "QUInt4": 4, "QInt16": 16, "QUInt16": 16}


def levels(quantized_type: str) -> int:
    """Return how many steps the range of a type has (255 for 8 bits)."""
    return int(2 ** BITS.get(quantized_type, 8)) - 1


def refuse_types(activation: str, weight: str, form: str, workdir: Path, ort_version: str) -> None:
    """Quantize a tiny model with these types and run it, unless they are the 8-bit integers that all versions have.

    :raises NotImplementedError: the runtime lacks one of them, or computes wrongly with it.
    """
    if {activation, weight} <= {"QInt8", "QUInt8"}:
        return
    what = f"{weight} weights with {activation} activations in the {form} format"
    folder = workdir / "types"
    folder.mkdir(exist_ok=True)
    try:
        _quantize_tiny(activation, weight, form, folder)
    except Exception as problem:
        raise NotImplementedError(
            f"ONNX Runtime {ort_version} with onnx {_onnx_version()} cannot make {what}: "
            f"{model_file.first_sentence(problem)} Use 8 bits, or another version of ONNX Runtime."
        ) from problem
    quantized, feed = folder / "quantized.onnx", _tiny_feed()
    try:
        plain, optimized = (_answer(quantized, feed, optimize=optimize) for optimize in (False, True))
    except Exception as problem:
        raise NotImplementedError(
            f"ONNX Runtime {ort_version} writes {what} and does not run them: {model_file.first_sentence(problem)} "
            "Use activations of QUInt8 with weights of QInt8, or another version of ONNX Runtime."
        ) from problem
    error = float(((plain - optimized) ** 2).sum() / max(float((plain**2).sum()), 1e-12)) ** 0.5
    if not error < WRONG:
        raise NotImplementedError(
            f"ONNX Runtime {ort_version} computes something else with {what} when it optimizes a model (off by "
            f"{error:.0%} on one of a Conv, a MatMul and a Gemm). Use other types, or another version of ONNX Runtime."
        )


def _quantize_tiny(activation: str, weight: str, form: str, folder: Path) -> None:
    import onnx
    import onnxruntime.quantization as quantization

    float8 = activation == "QFLOAT8E4M3FN"
    onnx.save(tiny(), folder / "float.onnx")
    samples: Iterator[dict[str, Any]] = iter([_tiny_feed()])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def get_next(self) -> dict[str, Any] | None:
            return next(samples, None)

    # The versions print their progress, and log that pre-processing is advisable.
    with contextlib.redirect_stdout(io.StringIO()), quiet_root_logger():
        quantization.quantize_static(
            str(folder / "float.onnx"),
            str(folder / "quantized.onnx"),
            Reader(),
            quant_format=quantization.QuantFormat[form],
            activation_type=quantization.QuantType[activation],
            weight_type=quantization.QuantType[weight],
            calibrate_method=quantization.CalibrationMethod["Distribution" if float8 else "MinMax"],
            extra_options={"QuantizeBias": False, "QDQKeepRemovableActivations": float8},
        )
    if float8:
        written = onnx.load(folder / "quantized.onnx")
        float8_types.shield_activations(written)
        onnx.save(written, folder / "quantized.onnx")


@contextlib.contextmanager
def quiet_root_logger() -> Iterator[None]:
    """Keep the quantizer's advice to pre-process a model of ours out of the log."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def tiny() -> ModelProto:
    """Return a model with a Conv, a MatMul and a Gemm with bias, opset 17; input ``x`` is [2, 3, 6, 6]."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "m": (8, 64), "g": (64, 4), "b": (4,)}
    arrays = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    # Products of one sign add up: sums that a kernel keeps in too few bits overflow.
    arrays |= {name: np.abs(arrays[name]) for name in ("m", "g")}
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "m"], ["h"], name="matmul"),
        helper.make_node("Gemm", ["h", "g", "b"], ["y"], name="gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _tiny_feed() -> dict[str, Any]:
    import numpy as np

    return {"x": np.linspace(-1, 1, 2 * 3 * 6 * 6, dtype=np.float32).reshape(2, 3, 6, 6)}


def _answer(path: Path, feed: dict[str, Any], *, optimize: bool) -> Any:
    """Run a model on the CPU EP, with all graph optimizations, as models are run, or with none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def has_int8_conv() -> bool:
    """Whether the CPU EP has ConvInteger for signed weights, which dynamic quantization makes of Conv."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("ConvInteger", ["x", "w"], ["y"])],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 1, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 1, 1, 1])],
        [numpy_helper.from_array(np.ones((1, 1, 3, 3), np.int8), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    return _loads(model)


def multiplies_rightly() -> bool:
    """Whether the CPU EP's products of 8-bit integers are right where columns are left over behind whole tiles.

    The kernels for AMX of 1.21.1, 1.23.2 and 1.24.1 answer anything there, with more than 32 rows.
    """
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for columns in (24, 56):
        x, w = draw.integers(0, 256, (33, 40), np.uint8), draw.integers(-128, 128, (40, columns), np.int8)
        graph = helper.make_graph(
            [helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])],
            "products",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
            [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
            [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.array(100, np.uint8), "zero")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        if not np.array_equal(session.run(None, {"x": x})[0], (x.astype(np.int64) - 100) @ w.astype(np.int64)):
            return False
    return True


def wrong_products(model: ModelProto, ort_version: str, flags: Sequence[str] | frozenset[str] = ()) -> list[str]:
    """Say that this runtime computes a model like this one wrongly in 8-bit integers on this CPU, if it does."""
    if not _leaves_columns_over(model) or multiplies_rightly():
        return []
    cause = " (its kernels for AMX)" if "amx_int8" in (frozenset(flags) or cpu_flags()) else ""
    return [
        f"WRONG PRODUCTS: the CPU EP of ONNX Runtime {ort_version} multiplies 8-bit integers wrongly here{cause}: "
        "columns beyond the last multiple of 16 or 64 may hold anything. Use another version (1.32 is right), or leave "
        "Conv and products of such widths out with nodes_to_exclude."
    ]


def _leaves_columns_over(model: ModelProto) -> bool:
    """Whether a model has convolutions, or products with constants whose width is no multiple of 64."""
    dims = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            return True
        if node.op_type in ("MatMul", "Gemm") and len(known := dims.get(node.input[1], ())) == 2:
            turned = any(part.name == "transB" and part.i for part in node.attribute)
            if known[0 if turned else 1] % 64:
                return True
    return False


def newest_opset(below: int) -> int:
    """Return the newest of ONNX's operator sets below one for which the CPU EP has DequantizeLinear."""
    from onnx import TensorProto, helper

    values = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["x", "s"], ["y"])],
        "dequantize",
        [values("x", TensorProto.UINT8, [2]), values("s", TensorProto.FLOAT, [])],
        [values("y", TensorProto.FLOAT, [2])],
    )
    opsets = range(below - 1, 9, -1)
    models = (helper.make_model(graph, opset_imports=[helper.make_opsetid("", n)], ir_version=8) for n in opsets)
    return next((n for n, model in zip(opsets, models, strict=True) if _loads(model)), 10)


def _loads(model: ModelProto) -> bool:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def cpu_flags() -> frozenset[str]:
    """Return the features of this CPU as Linux names them; nothing where they are not known."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def x86_remarks(
    activation: str, weight: str, *, reduce_range: bool, machine: str = "", flags: Sequence[str] | frozenset[str] = ()
) -> list[str]:
    """Say what is slow or imprecise about 8-bit types on ONNX Runtime's CPU EP on x86.

    :param machine: as ``platform.machine()`` gives it; that of this computer if left out. :param flags: its features.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64"):
        return []
    known = frozenset(flags) or cpu_flags()
    remarks = []
    if (activation, weight) == ("QInt8", "QInt8"):
        remarks.append(
            "S8S8 ON X86: int8 activations with int8 weights have no fast kernels on ONNX Runtime's CPU EP here and "
            "run several times slower than uint8 activations. Use activation_type = 'QUInt8'."
        )
    if activation == "QUInt8" and weight == "QInt8" and known and not reduce_range and known.isdisjoint(INTEGER_SUMS):
        remarks.append(
            "This CPU has no VNNI: sums of uint8 times int8 products may saturate. "
            "Set reduce_range = true (7-bit weights), or use weight_type = 'QUInt8'."
        )
    return remarks


def _onnx_version() -> str:
    import onnx

    return str(onnx.__version__)
