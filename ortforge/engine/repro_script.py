"""Runs one model on one execution provider and compares it with the reference: needs numpy and onnxruntime alone.

It uses the worker that ortforge itself runs in a runtime, a copy of which lies in this folder.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

here = Path(__file__).resolve().parent
case = json.loads((here / "case.json").read_text("utf-8"))
os.environ.update(case["environment"])
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(here))

import numpy as np  # noqa: E402 - the environment comes first
import onnxruntime as ort  # noqa: E402
from ortforge_worker.worker import custom_ops  # noqa: E402
from ortforge_worker.worker.exchange import Exchange  # noqa: E402
from ortforge_worker.worker.host_values import HostValues  # noqa: E402
from ortforge_worker.worker.samples import Samples  # noqa: E402
from ortforge_worker.worker.session import open_session  # noqa: E402
from ortforge_worker.worker.structure import flatten_all  # noqa: E402


def difference(left: Any, right: Any) -> str:
    """Return in words how an output differs from the reference's."""
    if left.shape != right.shape:
        return f"shape {list(right.shape)}, and the reference has {list(left.shape)}"
    if left.dtype.kind not in "fiub" or right.dtype.kind not in "fiub":
        return "equal" if np.array_equal(left, right) else f"{int((left != right).sum())} of {left.size} values differ"
    a, b = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    if np.array_equal(a, b, equal_nan=True):
        return "the same"
    finite = np.isfinite(a) & np.isfinite(b)
    strange = int((np.isfinite(a) != np.isfinite(b)).sum())
    a, b = a[finite], b[finite]
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = f"{float(a @ b) / length:.6f}" if length else "-"
    largest, spread = (float(np.abs(a - b).max()), float(np.ptp(a))) if a.size else (0.0, 0.0)
    share = f" ({largest / spread:.2%} of the range)" if spread else ""
    text = f"largest error {largest:.4g}{share}, cosine {cosine}"
    return text + (f"; {strange} values are finite on one side alone" if strange else "")


def main() -> None:
    """Run all samples and print how each output differs."""
    print("cell", case["cell"], "status", case["status"])
    print("onnxruntime", ort.__version__, "providers", ort.get_available_providers())
    model = str(here / case["model"])
    custom_ops.register_everywhere(custom_ops.libraries_of({"model": model}))
    session = open_session(ort, model, case["providers"], case["session"]).session
    print("session providers", session.get_providers())
    samples = Samples(here / "samples")
    reference = Samples(here / "reference") if (here / "reference").is_dir() else None
    exchange, values = Exchange(samples, session, case["session"]), HostValues(ort, session)
    for number in range(len(samples)):
        kept = exchange.kept(values.answer(values.hold(exchange.feeds(number))))
        answered = {name: np.asarray(value) for name, value in flatten_all(kept, exchange.output_types).items()}
        if reference is None:
            shapes = {name: list(array.shape) for name, array in answered.items()}
            print("sample", number, shapes, "(no reference was kept)")
            continue
        expected = reference[number]
        for name in sorted({*answered, *expected}):
            if name in answered and name in expected:
                print("sample", number, name, difference(expected[name], answered[name]))
            else:
                print("sample", number, name, "is in the", "answer" if name in answered else "reference", "alone")


main()
