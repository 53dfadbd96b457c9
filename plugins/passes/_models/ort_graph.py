"""Lets ONNX Runtime write the graph that a session would run, and states the conditions that such a graph is bound to.

Runs inside a runtime beside the passes that import it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import json
import mmap
from typing import TYPE_CHECKING, Any, Final

from . import model_file, onnx_graph, outlines, wire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from ortforge.api import PassJob

__all__ = [
    "LAYOUT_SINCE",
    "LEVELS",
    "MATTERING_CPU_FLAGS",
    "STAMP_KEY",
    "holds_device_copies",
    "put_stamp",
    "save_all_but_graph",
    "save_graph",
    "stamp_in",
    "stamp_of",
    "stamped_copy",
    "stricter",
    "version_of",
]

STAMP_KEY: Final = "ortforge.stamp"
"""Name of the stamp in the model's ``metadata_props``."""

LEVELS: Final = ("basic", "extended", "layout", "all")
"""Graph optimization levels, the one that binds a model the least first."""

LAYOUT_SINCE: Final = (1, 23)
"""The first ONNX Runtime that has ORT_ENABLE_LAYOUT as a level of its own (1.22.1 has not, 1.23.2 has)."""

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


def version_of(text: str) -> tuple[int, ...]:
    """Return a version's first two numbers.

    >>> version_of("1.23.2")
    (1, 23)
    """
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def save_graph(
    source: Path,
    saved: Path,
    *,
    level: str,
    providers: Sequence[tuple[str, Mapping[str, str]]],
    split: bool = False,
    disabled: Sequence[str] = (),
) -> None:
    """Make a session of ``source`` and let it write its graph to ``saved``; the suffix ``.ort`` gives ORT's format.

    :param split: weights go to ``<name>.data`` beside it. :param disabled: names of optimizations to leave out.
    :raises Exception: whatever ONNX Runtime raises.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    options.optimized_model_filepath = str(saved)
    if saved.suffix == ".ort":
        options.add_session_config_entry("session.save_model_format", "ORT")
    else:
        # The graph is written before weights are packed for kernels, and the session goes at once.
        options.add_session_config_entry("session.disable_prepacking", "1")
    if split:
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{saved.name}.data"
        )
    more = {"disabled_optimizers": list(disabled)} if disabled else {}
    wanted = [(name, dict(given)) for name, given in providers]
    onnxruntime.InferenceSession(str(source), options, providers=wanted, **more)


def holds_device_copies(path: Path) -> bool:
    """Whether a graph holds copies between devices, which ORT adds for an EP that is not the CPU's."""
    return any(node.op_type.startswith("Memcpy") for node in onnx_graph.nodes(outlines.outline_of(path)))


def stamp_of(job: PassJob, level: str, ep: str = "") -> dict[str, Any]:
    """Return the stamp of a graph that is saved here, at a level, for the job's EP or another."""
    return {
        "ort_version": job.ort_version,
        "ep": ep or job.ep,
        "level": level,
        "cpu_flags": sorted(MATTERING_CPU_FLAGS.intersection(job.cpu_flags)),
    }


def stamp_in(model: ModelProto) -> dict[str, Any]:
    """Return the stamp that a model carries, or ``{}``; one that cannot be read binds as much as any."""
    for entry in model.metadata_props:
        if entry.key == STAMP_KEY:
            try:
                found = json.loads(entry.value)
            except ValueError:
                found = None
            return found if isinstance(found, dict) else {"level": "all"}
    return {}


def stricter(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stamp of a model that was saved under both: optimizing a bound graph again does not set it free."""
    if not old or old.get("level") == "basic" or _rank(new) > _rank(old):
        return dict(new)
    return dict(old)


def _rank(stamp: Mapping[str, Any]) -> int:
    level = stamp.get("level")
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def put_stamp(model: ModelProto, stamp: Mapping[str, Any]) -> None:
    """Write a stamp into a model's metadata, in the place of one that is there."""
    for entry in [entry for entry in model.metadata_props if entry.key == STAMP_KEY]:
        model.metadata_props.remove(entry)
    model.metadata_props.add(key=STAMP_KEY, value=json.dumps(dict(stamp), sort_keys=True))


def save_all_but_graph(model: ModelProto, path: Path) -> None:
    """Save what a model, read from ``path`` with or without its weights, has beside its graph, which stays as it is.

    A graph is nearly all of a file, and writing it again takes as long as making it did. In a protocol buffer the last
    value of a field holds, so what stands before the graph may stay.
    """
    import onnx

    rest = type(model)(ir_version=model.ir_version)
    for field, values in model.ListFields():
        if field.number > outlines.GRAPH:
            getattr(rest, field.name).extend(values)
    if end := _end_of_graph(path):
        with path.open("r+b") as file:
            file.truncate(end)
            file.seek(end)
            file.write(rest.SerializeToString())
        return
    whole = onnx.load(str(path), load_external_data=False)
    for field, _ in whole.ListFields():
        if field.number > outlines.GRAPH:
            whole.ClearField(field.name)
    whole.MergeFrom(rest)
    onnx.save_model(whole, str(path))


def _end_of_graph(path: Path) -> int:
    """Return where a model's graph ends in its file; 0 when a list of the model comes before it, or it comes twice."""
    end = 0
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        for field in wire.fields(data, 0, len(data)):
            if (field.number == outlines.GRAPH and end) or (field.number > outlines.GRAPH and not end):
                return 0
            if field.number == outlines.GRAPH:
                end = field.end
    return end


def stamped_copy(source: Path, target: Path, stamp: Mapping[str, Any]) -> None:
    """Write a copy of a model that carries the stamp, with its external data, for a session to read.

    A session writes the metadata of what it reads into a file in ORT format, and nobody can write it there later.
    """
    import onnx

    model = onnx.load(str(source), load_external_data=False)
    if model_file.external_files(model):
        model_file.copy(source, target)
        target.unlink()
    put_stamp(model, stamp)
    onnx.save_model(model, str(target))
