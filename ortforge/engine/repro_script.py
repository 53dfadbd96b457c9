"""Runs one model on one execution provider and compares it with the reference: needs numpy and onnxruntime alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

here = Path(__file__).resolve().parent
case = json.loads((here / "case.json").read_text("utf-8"))
os.environ.update(case["environment"])

import numpy as np  # noqa: E402 - the environment comes first
import onnxruntime as ort  # noqa: E402

LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
}


def make_session() -> Any:
    """Make the session of the cell, a plugin EP's included."""
    wanted = case["session"]
    options = ort.SessionOptions()
    level = LEVELS.get(wanted.get("graph_optimization_level", "all"), "ORT_ENABLE_ALL")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = wanted.get("intra_op_threads", 0)
    options.inter_op_num_threads = wanted.get("inter_op_threads", 0)
    if wanted.get("execution_mode") == "parallel":
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    for name in ("enable_cpu_mem_arena", "enable_mem_pattern"):
        if name in wanted:
            setattr(options, name, wanted[name])
    for name, value in wanted.get("config", {}).items():
        options.add_session_config_entry(name, value)
    model = here / case["model"]
    providers = [
        (name, {key: str(value).replace("{model_folder}", str(model.parent)) for key, value in given.items()})
        for name, given in case["providers"]
    ]
    if not (wanted.get("library") or wanted.get("module")):
        return ort.InferenceSession(str(model), options, providers=providers, enable_fallback=0)
    library = wanted.get("library")
    if not library:
        library = __import__(wanted["module"], fromlist=["x"]).get_library_path()
    registration = wanted.get("registration") or Path(library).name
    ort.register_execution_provider_library(registration, str(library))
    name, given = providers[0]
    devices = [device for device in ort.get_ep_devices() if device.ep_name in (name, registration)]
    options.add_provider_for_devices(devices[:1], given)
    return ort.InferenceSession(str(model), options, enable_fallback=0)


def samples(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the arrays of each sample of a folder, by name."""
    index = json.loads((folder / "index.json").read_text("utf-8"))
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            yield path.name, {index["names"][int(key)]: arrays[key] for key in arrays.files}


def flat(name: str, value: Any) -> dict[str, Any]:
    """Return the tensors inside an output: elements of a sequence are ``name/0``, ``name/1`` …"""
    if value is None:
        return {}
    if isinstance(value, dict):
        return {f"{name}/0": np.asarray([value[key] for key in sorted(value)])}
    if isinstance(value, (list, tuple)):
        return {
            key: array for number, item in enumerate(value) for key, array in flat(f"{name}/{number}", item).items()
        }
    return {name: np.asarray(value)}


def difference(left: Any, right: Any) -> str:
    """Return in words how an output differs from the reference's."""
    if left.shape != right.shape:
        return f"shape {list(right.shape)}, and the reference has {list(left.shape)}"
    if left.dtype.kind not in "fiub" or right.dtype.kind not in "fiub":
        return "equal" if np.array_equal(left, right) else f"{int((left != right).sum())} of {left.size} values differ"
    a, b = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    if np.array_equal(a, b, equal_nan=True):
        return "bitwise the same"
    finite = np.isfinite(a) & np.isfinite(b)
    strange = int((np.isfinite(a) != np.isfinite(b)).sum())
    a, b = a[finite], b[finite]
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = f"{float(a @ b) / length:.6f}" if length else "-"
    largest, spread = (float(np.abs(a - b).max()), float(np.ptp(a))) if a.size else (0.0, 0.0)
    share = f" ({largest / spread:.2%} of the range)" if spread else ""
    text = f"largest error {largest:.4g}{share}, cosine {cosine}"
    return text + (f"; {strange} values are finite on one side alone" if strange else "")


print("cell", case["cell"], "status", case["status"])
print("onnxruntime", ort.__version__, "providers", ort.get_available_providers())
session = make_session()
print("session providers", session.get_providers())
names = [output.name for output in session.get_outputs()]
types = case["session"].get("inputs", {})
kept_as = case["session"].get("outputs", {})
reference = dict(samples(here / "reference")) if (here / "reference").is_dir() else {}
for name, feeds in samples(here / "samples"):
    feeds = {key: array.astype(types[key]) if key in types else array for key, array in feeds.items()}
    answered = {}
    for output, value in zip(names, session.run(None, feeds), strict=True):
        answered.update(flat(output, value))
    answered = {key: array.astype(kept_as[key]) if key in kept_as else array for key, array in answered.items()}
    if name not in reference:
        print(name, {key: list(array.shape) for key, array in answered.items()}, "(no reference was kept)")
        continue
    for key in sorted({*answered, *reference[name]}):
        if key in answered and key in reference[name]:
            print(name, key, difference(reference[name][key], answered[key]))
        else:
            print(name, key, "is in the", "answer" if key in answered else "reference", "alone")
