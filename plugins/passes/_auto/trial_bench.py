"""What all schemes of a search share, made once: the model made ready, its ranges, its smoothed copy.

ONNX Runtime's quantizers infer shapes and calibrate anew at every call. A search makes dozens of candidates of one
model, so both are done once here, and the quantizers are given the results.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .._models import choosing, model_file, onnx_graph, ort_graph, tensor_types
from .._quantization import quantizer_input, quantizing
from . import smoothing

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["HEAVY_OPS", "Bench", "ready"]

HEAVY_OPS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that do the work: quantizing only these leaves least to go wrong."""

LEAST_OPSET: Final = 13
"""Scales per channel need it."""


@dataclass
class Bench:
    """A float model and what quantizers need to know of it.

    :param model: with constants as initializers, named nodes, known types. :param path: the same, on disk.
    :param source: the model as it came; :param ir_version: its IR version. :param feeds: samples to calibrate on.
    :param saturates: whether a candidate was wrong on a required CPU tier, whose 8-bit products saturate.
    """

    model: ModelProto
    path: Path
    source: Path
    feeds: Sequence[Mapping[str, Any]]
    workdir: Path
    ir_version: int
    saturates: bool = False
    _ranges: dict[tuple[bool, tuple[str, ...]], Any] = field(default_factory=dict)
    _observed: Any = None
    _smoothed: dict[bool, Any] = field(default_factory=dict)

    def copy(self) -> ModelProto:
        """Return a copy of the model, for a quantizer to change."""
        return _copied(self.model)

    def heavy_nodes(self) -> list[str]:
        """Return the nodes of the main graph that multiply with a constant weight."""
        weights = {tensor.name for tensor in self.model.graph.initializer}
        return [
            node.name
            for node in self.model.graph.node
            if node.op_type in HEAVY_OPS and len(node.input) > 1 and node.input[1] in weights
        ]

    def chosen(self, wanted: Iterable[str], parameter: str) -> list[str]:
        """Return the nodes that names and globs choose, and those that do the work of such that ONNX Runtime fused.

        :raises ValueError: one chooses no node of the model, neither as it came nor as it is here.
        """
        here = [node.name for node in onnx_graph.nodes(self.model) if node.name]
        came = list(model_file.load(self.source).graph.node)
        known = list(dict.fromkeys((*here, *(node.name for node in came if node.name))))
        names = choosing.chosen(wanted, known, f"{parameter} names {{!r}}, but the model has no node of that name.")
        gone = set(names) - set(here)
        fused = [name for node in came if node.name in gone for name in self._doing(node, came)]
        return list(dict.fromkeys((*names, *fused)))

    def _doing(self, node: NodeProto, came: Iterable[NodeProto]) -> list[str]:
        """Return the nodes whose outputs are the next that are still made, on the ways from a node that is gone."""
        makers = {tensor: maker.name for maker in self.model.graph.node for tensor in maker.output}
        constant = {tensor.name for tensor in self.model.graph.initializer}
        found: dict[str, None] = {}
        left, seen = list(node.output), set[str]()
        while left:
            tensor = left.pop()
            if tensor in makers:
                found[makers[tensor]] = None
            elif tensor and tensor not in seen and tensor not in constant:
                left += [output for reader in came if tensor in reader.input for output in reader.output]
            seen.add(tensor)
        return list(found)

    def has(self, *op_types: str) -> bool:
        """Whether the main graph has any of these operators."""
        return any(node.op_type in op_types for node in self.model.graph.node)

    def ranges(self, op_types: Sequence[str], *, smooth: bool = False) -> Any:
        """Return the activations' smallest and largest values on the calibration samples, as the quantizers take them.

        :param smooth: of the smoothed model.

        Memory is that of one sample.
        """
        from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

        key = (smooth, tuple(sorted(op_types)))
        if key not in self._ranges:
            path = self.path
            if smooth:
                path = self.workdir / "smoothed.onnx"
                model_file.save(self.smoothed()[0], path, ir_version=max(self.ir_version, model_file.OLDEST_IR))
            augmented = self.workdir / "augmented.onnx"
            with contextlib.redirect_stdout(io.StringIO()):
                calibrator = create_calibrator(
                    path,
                    list(op_types),
                    augmented_model_path=str(augmented),
                    calibrate_method=CalibrationMethod.MinMax,
                    use_external_data_format=model_file.needs_external_data(self.model),
                )
                for feed in self.feeds:
                    calibrator.collect_data(_Reader([feed]))  # each call merges what it saw
                self._ranges[key] = calibrator.compute_data()
            del calibrator
            augmented.unlink(missing_ok=True)
        return self._ranges[key]

    def smoothed(self, *, split: bool = False) -> tuple[ModelProto, list[dict[str, Any]]]:
        """Return the model with its outliers moved into the weights, and what was moved (:mod:`smoothing`)."""
        if self._observed is None:
            self._observed = smoothing.observe(self.copy(), self.feeds, self.workdir)
        if split not in self._smoothed:
            self._smoothed[split] = smoothing.smoothed(self.model, self._observed, split=split)
        model, moved = self._smoothed[split]
        return _copied(model), moved


class _Reader:
    """The samples, as ONNX Runtime's calibrators ask for them."""

    def __init__(self, feeds: Iterable[Mapping[str, Any]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next sample, or ``None`` after the last."""
        feed = next(self._feeds, None)
        return None if feed is None else dict(feed)


def ready(source: Path, feeds: Sequence[Mapping[str, Any]], workdir: Path) -> Bench:
    """Make a model ready to be quantized in many ways.

    :raises ValueError: it cannot be read, is quantized already, or is bound to one CPU.
    :raises RuntimeError: its opset cannot be raised.
    """
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    model = model_file.load(source)
    if done := onnx_graph.quantized_ops(model):
        listed = ", ".join(f"{n} {op}" for op, n in list(done.items())[:4])
        raise ValueError(f"The model is quantized already ({listed}). Use a float model, or leave this pass out.")
    if any(node.domain == "com.microsoft.nchwc" for node in onnx_graph.nodes(model)):
        raise ValueError(
            "The model was optimized for one CPU's memory layout, which the quantizers do not know. "
            "Quantize first and put optimize after it, or use level = 'basic' before."
        )
    ir_version = model.ir_version
    split = model_file.has_external_data(source) or model_file.needs_external_data(model)
    model = _simplified(source, workdir, split=split) or model
    if model.functions:
        model = onnx_graph.without_functions(model)
    onnx_graph.constants_to_initializers(model)
    onnx_graph.name_nodes(model)
    quantizer_input.rename_reserved(model, {})
    if onnx_graph.has_onnx_operators(model) and not quantizing.why_classical(model):
        model = onnx_graph.raise_opset(model, LEAST_OPSET, "quantization per channel")
    _flatten_biases(model)
    onnx_graph.fit_imports(model)
    model = _typed(model)
    if tensor_types.has_unknown_operators(model):
        tensor_types.infer(model, workdir / "typed.onnx")
    add_infer_metadata(model)
    path = workdir / "ready.onnx"
    model_file.save(model, path, ir_version=max(ir_version, model_file.OLDEST_IR))
    return Bench(model, path, source, feeds, workdir, ir_version)


def _simplified(source: Path, workdir: Path, *, split: bool) -> ModelProto | None:
    """Return the model with constants folded and batch normalization fused, or ``None`` where ORT cannot save that.

    :param split: ORT writes the weights beside the graph, which may not hold more than two gigabytes.
    """
    saved = workdir / "simplified.onnx"
    cpu: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
    try:
        ort_graph.save_graph(source, saved, level="basic", providers=cpu, split=split, disabled=["ConstantSharing"])
        return model_file.load(saved)
    except Exception:
        return None
    finally:
        for written in (saved, workdir / f"{saved.name}.data"):
            written.unlink(missing_ok=True)


def _flatten_biases(model: ModelProto) -> None:
    """Give biases of Gemm the shape [N] where they have [1, N]; they mean the same.

    ONNX Runtime fuses MatMul and Add into such a Gemm, and its quantizer writes the bias' scales for an axis that then
    has the length 1: no EP but the CPU loads that.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = [name for node in onnx_graph.nodes(model) for name in node.input]
    for node in model.graph.node:
        bias = weights.get(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        if bias is not None and len(bias.dims) == 2 and bias.dims[0] == 1 and readers.count(bias.name) == 1:
            del bias.dims[0]


def _typed(model: ModelProto) -> ModelProto:
    """Return the model with the types of its tensors, as far as onnx can tell them."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:
        return model


def _copied(model: ModelProto) -> ModelProto:
    from onnx import ModelProto as Model

    copied = Model()
    copied.CopyFrom(model)
    return copied
