"""Tells whose fault a failed pass is: when the model that it was given does not load here, no pass can help."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .classify import classify
from .protocol import JobError

__all__ = ["on_the_model"]


@contextlib.contextmanager
def on_the_model(model: Path, ep_name: str) -> Iterator[None]:
    """Do what a pass does; when that fails, look whether the runtime supports the model as it came.

    The advice that a pass gives ("put preprocess before") leads astray where an IR version or an operator set is too
    new for the runtime, and its status too: that is ``unsupported``.

    :raises JobError: the runtime does not support the model itself; otherwise whatever the pass raised.
    """
    try:
        yield
    except RuntimeError as failure:
        # A ValueError is about the file, the data or a parameter, and says so itself.
        if refusal := _refusal(model, ep_name):
            raise refusal from failure
        raise


def _refusal(model: Path, ep_name: str) -> JobError | None:
    """Return why the CPU EP does not support a model, or ``None``; missing kernels count for its own cells alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as problem:
        if type(problem).__name__ == "NotImplemented" and ep_name not in ("", "CPUExecutionProvider"):
            return None
        why = classify(problem, "load")
        if why.kind == "unsupported":
            return JobError(why.kind, f"this runtime does not load the model that the pass was given: {why.message}")
    return None
