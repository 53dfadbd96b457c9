"""``optimize``: ONNX Runtime's own graph optimizations, done once, saved, and stamped with their conditions.

It gains load time, not speed: a session would make the same graph each time it loads the model. What the saved graph
depends on (EP, CPU, version) is written into the stamp; see ``ortforge.plan.stamp`` for what is refused where.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING or __package__:
    from . import _graph, _model_file
else:
    import _graph
    import _model_file

if TYPE_CHECKING:
    from onnx import ModelProto

    from ortforge.api import Pass, PassJob, PassUse

STAMP_KEY: Final = "ortforge.stamp"
"""Name of the stamp in the model's ``metadata_props``."""

MATTERING_CPU_FLAGS: Final = frozenset(
    {
        "amx_bf16",
        "amx_int8",
        "amx_tile",
        "asimddp",
        "avx",
        "avx2",
        "avx512_bf16",
        "avx512_vnni",
        "avx512bw",
        "avx512f",
        "avx512vl",
        "avx_vnni",
        "bf16",
        "i8mm",
        "sve",
    }
)
"""The same as in ``ortforge.plan.stamp``, which cannot be imported in a runtime."""

LAYOUT_SINCE: Final = (1, 22)
"""The first ONNX Runtime that has ORT_ENABLE_LAYOUT as a level of its own; before it, layout came with "all"."""


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
    if wanted.level == "layout" and use.ort_version and _version(use.ort_version) < LAYOUT_SINCE:
        return f"ONNX Runtime {use.ort_version} has no level 'layout'; use 'all', which does the same there"
    return ""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def apply(job: PassJob) -> dict[str, Any]:
    """Optimize ``job.model`` for ``job.ep`` and save the result with its stamp.

    :raises ValueError: the level does not exist in this ONNX Runtime, or the model cannot be read.
    :raises RuntimeError: ONNX Runtime cannot load, optimize or save the model for this EP.
    """
    wanted = Parameters(**job.parameters)
    source, output = Path(job.model), Path(job.output)
    model = _model_file.load(source)
    warnings: list[str] = []
    stamp = {
        "ort_version": job.ort_version,
        "ep": job.ep,
        "level": wanted.level,
        "cpu_flags": sorted(MATTERING_CPU_FLAGS.intersection(job.cpu_flags)),
    }
    saved = output.with_suffix(f".{wanted.format}")
    split = wanted.format == "onnx" and _model_file.needs_external_data(model)
    _save_optimized(job, wanted, source, saved, split=split)
    after: dict[str, int] = {}
    if wanted.format == "onnx":
        after = _stamp_onnx(saved, model, stamp)
    elif wanted.level in ("basic", "extended"):
        warnings.append(
            f"A model in ORT format is optimized no further when it is loaded: saved at level {wanted.level}, it stays "
            "without the CPU's memory layout and can be much slower. Use level = 'all'."
        )
    result: dict[str, Any] = {
        "nodes_before": len(list(_graph.nodes(model))),
        "bytes_before": _model_file.size(source),
        "bytes_after": _model_file.size(saved),
        "stamp": stamp,
        "warnings": warnings,
        "file": saved.name,
    }
    if after:
        before = _graph.op_counts(model)
        result["nodes_after"] = sum(after.values())
        result["added"] = {op: n - before.get(op, 0) for op, n in after.items() if n > before.get(op, 0)}
        result["removed"] = {op: n - after.get(op, 0) for op, n in before.items() if n > after.get(op, 0)}
    return result


def _save_optimized(job: PassJob, wanted: Parameters, source: Path, saved: Path, *, split: bool) -> None:
    """Let a session write the graph it made. Basic optimizations that an EP cannot save are made by the CPU EP."""
    import onnxruntime

    named = f"ORT_ENABLE_{wanted.level.upper()}"
    if not hasattr(onnxruntime.GraphOptimizationLevel, named):
        raise ValueError(
            f"ONNX Runtime {job.ort_version} has no level {wanted.level!r}. Use 'all', which does the same there."
        )
    if job.ep_name not in onnxruntime.get_available_providers():
        raise ValueError(
            f"This ONNX Runtime has no {job.ep_name}; it has {', '.join(onnxruntime.get_available_providers())}. "
            "Use a target whose runtime holds it."
        )
    try:
        _session(source, saved, named, [(job.ep_name, dict(job.ep_options))], split=split)
    except Exception as problem:
        why = _model_file.first_line(problem)
        if "compiled nodes" not in str(problem):
            raise RuntimeError(f"ONNX Runtime could not optimize the model for {job.ep_name}: {why}") from problem
        if wanted.level != "basic":
            raise NotImplementedError(
                f"{job.ep_name} compiles parts of the graph for itself, and such a graph cannot be saved ({why}). "
                "Use level = 'basic', or leave this pass out for this EP."
            ) from problem
        _session(source, saved, named, [("CPUExecutionProvider", {})], split=split)
    else:
        if wanted.level == "basic" and job.ep != "cpu" and wanted.format == "onnx" and _bound_to_ep(saved):
            _session(source, saved, named, [("CPUExecutionProvider", {})], split=split)


def _session(
    source: Path, saved: Path, level: str, providers: list[tuple[str, dict[str, str]]], *, split: bool
) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(saved)
    if saved.suffix == ".ort":
        options.add_session_config_entry("session.save_model_format", "ORT")
    if split:
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{saved.name}.data"
        )
    onnxruntime.InferenceSession(str(source), options, providers=providers)


def _bound_to_ep(path: Path) -> bool:
    """Whether a graph holds copies between devices, which ORT adds for an EP that is not the CPU's."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return any(node.op_type.startswith("Memcpy") for node in _graph.nodes(model))


def _stamp_onnx(saved: Path, before: ModelProto, stamp: dict[str, Any]) -> dict[str, int]:
    """Write the stamp into the file, with the input's IR version and only the imports it needs; count its operators."""
    import onnx

    # External data stays where it is: only the file that names it is written again.
    model = onnx.load(str(saved), load_external_data=False)
    for entry in [entry for entry in model.metadata_props if entry.key == STAMP_KEY]:
        model.metadata_props.remove(entry)
    model.metadata_props.add(key=STAMP_KEY, value=json.dumps(stamp, sort_keys=True))
    model.ir_version = max(before.ir_version, _model_file.OLDEST_IR)
    _graph.fit_imports(model)
    onnx.save_model(model, str(saved))
    return _graph.op_counts(model)
