"""``preprocess``: shapes inferred, constants folded, nodes named: what the quantizers expect of a model.

ONNX Runtime's ``quant_pre_process`` gives up as a whole when one of its three steps does; here the steps that fail are
left out one after the other, and the result says which.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._models import loading, model_file, onnx_graph, outlines

if TYPE_CHECKING:
    from ortforge.api import Pass, PassJob


@dataclass(frozen=True)
class Parameters:
    """What ``preprocess`` can be told."""

    optimization: bool = field(
        default=True, metadata={"doc": "fold constants and fuse batch normalization (ORT's basic level)"}
    )
    symbolic_shapes: bool = field(default=True, metadata={"doc": "infer shapes with symbols, best for transformers"})
    onnx_shapes: bool = field(default=True, metadata={"doc": "infer shapes with onnx"})
    auto_merge: bool = field(
        default=True, metadata={"doc": "merge symbols that must be equal; without it most real models are refused"}
    )
    guess_output_rank: bool = field(
        default=False, metadata={"doc": "take an unknown operator's output to have the rank of its first input"}
    )
    int_max: int = field(default=2**31 - 1, metadata={"doc": "integers from here on count as unbounded (Slice)"})
    name_nodes: bool = field(default=True, metadata={"doc": "name nodes without a name, so that they can be excluded"})


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="preprocess",
            summary="shape inference and cleaning before quantization",
            parameters=Parameters,
            module=__file__,
            kind="prepare",
            requires=("sympy",),
            example={},
        )
    ]


def apply(job: PassJob) -> dict[str, Any]:
    """Write ``job.model`` with shapes, folded constants and named nodes to ``job.output``.

    :raises ValueError: the model cannot be read.
    :raises RuntimeError: the result does not load.
    """
    wanted = Parameters(**job.parameters)
    source, output, workdir = Path(job.model), Path(job.output), Path(job.workdir)
    before = outlines.outline_of(source)
    plain = outlines.plain_source(source, workdir)
    written, skipped = _with_fallbacks(plain, workdir, wanted, large=model_file.needs_external_data(before))
    apart = outlines.read(written or plain)
    model = apart.model
    named = onnx_graph.name_nodes(model) if wanted.name_nodes else 0
    outlines.save(apart, output, ir_version=before.ir_version)
    # A missing kernel is the runtime's matter: a model that came with one keeps it.
    problem = loading.load_error(output, job, kernels=False)
    if problem and not loading.load_error(source, job, kernels=False):
        raise RuntimeError(f"The preprocessed model does not load: {problem} Leave this pass out for this model.")
    counts, counted = onnx_graph.op_counts(before), onnx_graph.op_counts(model)
    result: dict[str, Any] = {
        "skipped": {step: why for step, why in skipped.items() if why},
        "removed": {op: n - counted.get(op, 0) for op, n in counts.items() if n > counted.get(op, 0)},
        "nodes_named": named,
        "shapes_known": len(model.graph.value_info),
        "bytes_before": model_file.size(source),
        "bytes_after": model_file.size(output),
        "warnings": [f"Skipped {step}: {why}" for step, why in skipped.items() if why],
    }
    if onnx_graph.opset(model) != onnx_graph.opset(before):
        result["opset"] = f"{onnx_graph.opset(before)} -> {onnx_graph.opset(model)}"
    if model.ir_version != before.ir_version:
        result["ir_version"] = f"{before.ir_version} -> {model.ir_version}"
    return result


def _with_fallbacks(
    source: Path, workdir: Path, wanted: Parameters, *, large: bool
) -> tuple[Path | None, dict[str, str]]:
    """Try all three steps, then without the one that most often fails, and so on.

    Returns the written model (``None`` when no step worked) and why each step that was asked for was left out.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    steps = {
        "symbolic shape inference": wanted.symbolic_shapes,
        "graph optimization": wanted.optimization,
        "onnx shape inference": wanted.onnx_shapes,
    }
    skipped: dict[str, str] = {}
    attempt, auto_merge = 0, wanted.auto_merge
    while any(steps.values()):
        attempt += 1
        written = workdir / f"preprocessed-{attempt}.onnx"
        complaints = _Complaints()
        try:
            with complaints, _shapes_by_domain():
                quant_pre_process(
                    str(source),
                    str(written),
                    skip_optimization=not steps["graph optimization"],
                    skip_onnx_shape=not steps["onnx shape inference"],
                    skip_symbolic_shape=not steps["symbolic shape inference"],
                    auto_merge=auto_merge,
                    int_max=wanted.int_max,
                    guess_output_rank=wanted.guess_output_rank,
                    save_as_external_data=large,
                    all_tensors_to_one_file=large,
                    external_data_location=f"{written.name}.data" if large else None,
                )
            if not complaints.optimization:
                return written, skipped
            # It logs that its optimization failed, and goes on as if it had not been asked for.
            step, why = "graph optimization", complaints.optimization
        except Exception as problem:
            if not auto_merge and steps["symbolic shape inference"] and not complaints.optimization:
                # Symbols that must be equal and are not merged are what it most often stops at.
                auto_merge = True
                skipped["leaving symbols apart (auto_merge = false)"] = model_file.first_line(problem)
                continue
            # The step that failed is not told: leave out the first that is still on, in the order they run.
            step = "graph optimization" if complaints.optimization else next(name for name, on in steps.items() if on)
            why = complaints.optimization or model_file.first_line(problem)
        steps[step] = False
        skipped[step] = why
    return None, skipped


@contextlib.contextmanager
def _shapes_by_domain() -> Iterator[None]:
    """Let ONNX Runtime's symbolic shape inference tell ONNX's own operators from com.microsoft's of the same name.

    It takes ONNX's Attention, of opset 23, for its own (seen with 1.32.0). Such nodes are left to onnx's inference.
    """
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference as Inference

    contrib = {name: getattr(Inference, name, None) for name in ("_infer_Attention", "_infer_RotaryEmbedding")}
    originals = {name: method for name, method in contrib.items() if method is not None}

    def by_domain(method: Any) -> Any:
        def infer(inference: Any, node: Any) -> Any:
            if node.domain in onnx_graph.DEFAULT_DOMAINS:
                return inference._onnx_infer_single_node(node)
            return method(inference, node)

        return infer

    for name, method in originals.items():
        setattr(Inference, name, by_domain(method))
    try:
        yield
    finally:
        for name, method in originals.items():
            setattr(Inference, name, method)


class _Complaints(logging.Handler):
    """Collects what ``quant_pre_process`` logs when its graph optimization fails."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.optimization = ""
        self._failed = False
        self._logger = logging.getLogger("onnxruntime.quantization.shape_inference")

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if "Model Optimization Failed" in text:
            self.optimization = "ONNX Runtime's optimizer failed"
        elif self.optimization:
            # The traceback comes as a record of its own; its last line is the reason.
            self.optimization = model_file.first_line(Exception(re.sub(r"^[\w.]+: ", "", text.splitlines()[-1])))

    def __enter__(self) -> None:
        self._logger.addHandler(self)

    def __exit__(self, *exception: object) -> None:
        self._logger.removeHandler(self)
