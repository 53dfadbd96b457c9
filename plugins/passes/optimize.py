"""``optimize``: ONNX Runtime's own graph optimizations, done once, saved, and stamped with their conditions.

It gains load time, not speed: a session would make the same graph each time it loads the model. What the saved graph
depends on (EP, CPU, version) is written into the stamp; see ``ortforge.plan.stamp`` for what is refused where.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ._models import model_file, onnx_graph, ort_graph, outlines

if TYPE_CHECKING:
    from onnx import ModelProto

    from ortforge.api import Pass, PassJob, PassUse


@dataclass(frozen=True)
class Parameters:
    """What ``optimize`` can be told."""

    level: Literal["basic", "extended", "layout", "all"] = field(
        default="all",
        metadata={
            "doc": "basic runs anywhere; extended is bound to the EP; layout and all also to the CPU and version"
        },
    )
    format: Literal["onnx", "ort"] = field(
        default="onnx",
        metadata={"doc": "ort: ORT's flat file, quick to load; no pass can follow, and ORT optimizes it no further"},
    )


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="optimize",
            summary="ONNX Runtime's graph optimizations, saved ahead of time (gains load time)",
            parameters=Parameters,
            module=__file__,
            kind="optimize",
            per_ep=True,
            objection=_objection,
            example={"level": "extended"},
        )
    ]


def _objection(use: PassUse) -> str:
    wanted: Parameters = use.parameters
    if wanted.level == "layout" and use.ort_version and ort_graph.version_of(use.ort_version) < ort_graph.LAYOUT_SINCE:
        return (
            f"ONNX Runtime {use.ort_version} has no level 'layout' (it is there since "
            f"{'.'.join(map(str, ort_graph.LAYOUT_SINCE))}); use 'all', which does the same there"
        )
    return ""


def apply(job: PassJob) -> dict[str, Any]:
    """Optimize ``job.model`` for ``job.ep`` and save the result with its stamp.

    :raises ValueError: the model cannot be read.
    :raises NotImplementedError: this ONNX Runtime lacks the level or the EP, or the EP's graphs cannot be saved.
    :raises RuntimeError: ONNX Runtime cannot load, optimize or save the model for this EP.
    """
    wanted = Parameters(**job.parameters)
    source, output = Path(job.model), Path(job.output)
    model = outlines.outline_of(source)
    stamp = ort_graph.stricter(ort_graph.stamp_in(model), ort_graph.stamp_of(job, wanted.level))
    saved = output.with_suffix(f".{wanted.format}")
    given = source
    if wanted.format == "ort":
        given = Path(job.workdir) / "stamped.onnx"
        ort_graph.stamped_copy(source, given, stamp)
    # A session leaves references to the source's own files in what it writes, unless it is told of another one.
    outside = model_file.needs_external_data(model) or model_file.has_external_data(source)
    _save_optimized(job, wanted, given, saved, split=wanted.format == "onnx" and outside)
    result: dict[str, Any] = {
        "nodes_before": len(list(onnx_graph.nodes(model))),
        "bytes_before": model_file.size(source),
        "stamp": stamp,
        "warnings": _warnings(wanted, model),
        "file": saved.name,
    }
    if wanted.format == "onnx":
        before, after = onnx_graph.op_counts(model), _finish_onnx(saved, model, stamp)
        result["nodes_after"] = sum(after.values())
        result["added"] = {op: n - before.get(op, 0) for op, n in after.items() if n > before.get(op, 0)}
        result["removed"] = {op: n - after.get(op, 0) for op, n in before.items() if n > after.get(op, 0)}
    return {**result, "bytes_after": model_file.size(saved)}


def _warnings(wanted: Parameters, model: ModelProto) -> list[str]:
    if wanted.format == "ort" and wanted.level in ("basic", "extended"):
        return [
            f"A model in ORT format is optimized no further when it is loaded: saved at level {wanted.level}, it stays "
            "without the CPU's memory layout and can be much slower. Use level = 'all'."
        ]
    return []


def _save_optimized(job: PassJob, wanted: Parameters, source: Path, saved: Path, *, split: bool) -> None:
    """Let a session write the graph it made. Basic optimizations that an EP cannot save are made by the CPU EP."""
    import onnxruntime

    if not hasattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{wanted.level.upper()}"):
        raise NotImplementedError(
            f"ONNX Runtime {job.ort_version} has no level {wanted.level!r}. Use 'all', which does the same there."
        )
    if job.ep_name not in onnxruntime.get_available_providers():
        raise NotImplementedError(
            f"This ONNX Runtime has no {job.ep_name}; it has {', '.join(onnxruntime.get_available_providers())}. "
            "Use a target whose runtime holds it."
        )

    def save(ep: str, options: dict[str, str]) -> None:
        ort_graph.save_graph(source, saved, level=wanted.level, providers=[(ep, options)], split=split)

    if wanted.level == "basic" and wanted.format == "ort":
        return save("CPUExecutionProvider", {})
    try:
        save(job.ep_name, dict(job.ep_options))
    except Exception as problem:
        why = model_file.first_line(problem)
        if "compiled nodes" not in str(problem):
            raise RuntimeError(f"ONNX Runtime could not optimize the model for {job.ep_name}: {why}") from problem
        if wanted.level != "basic":
            raise NotImplementedError(
                f"{job.ep_name} compiles parts of the graph for itself, and such a graph cannot be saved ({why}). "
                "Use level = 'basic', or leave this pass out for this EP."
            ) from problem
        save("CPUExecutionProvider", {})
    else:
        if wanted.level == "basic" and job.ep != "cpu" and ort_graph.holds_device_copies(saved):
            save("CPUExecutionProvider", {})
    return None


def _finish_onnx(saved: Path, before: ModelProto, stamp: dict[str, Any]) -> dict[str, int]:
    """Write the stamp into the file, with the input's IR version and only the imports it needs; count its operators."""
    model = outlines.outline_of(saved)
    ort_graph.put_stamp(model, stamp)
    model.ir_version = max(before.ir_version, model_file.OLDEST_IR)
    onnx_graph.fit_imports(model)
    ort_graph.save_all_but_graph(model, saved)
    return onnx_graph.op_counts(model)
