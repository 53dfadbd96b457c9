"""Tells whose fault a failure is: the model's, which no pass can help, or the execution provider's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .classify import classify
from .protocol import JobError

__all__ = ["of_the_ep", "on_the_model"]

CPU = "CPUExecutionProvider"


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
        if refusal := _refusal(model, ep_name) or _refusal_by(ep_name, failure):
            raise refusal from failure
        raise


def _refusal_by(ep_name: str, failure: RuntimeError) -> JobError | None:
    """Return what another EP than the CPU's said when it refused the model, if that is what the pass failed of."""
    if ep_name in ("", CPU) or not isinstance(failure.__cause__, Exception):
        return None
    why = classify(failure.__cause__, "load")
    return JobError(why.kind, why.message) if why.kind == "unsupported" and ep_name in str(failure) else None


def _refusal(model: Path, ep_name: str) -> JobError | None:
    """Return why the CPU EP does not support a model, or ``None``; missing kernels count for its own cells alone."""
    problem = _load_error(str(model))
    if problem is None or (type(problem).__name__ == "NotImplemented" and ep_name not in ("", CPU)):
        return None
    why = classify(problem, "load")
    if why.kind == "unsupported":
        return JobError(why.kind, f"this runtime does not load the model that the pass was given: {why.message}")
    return None


def of_the_ep(model: str, ep_name: str, error: Exception) -> str:
    """Say that an EP is to blame for a model that does not load, or return ``""``.

    An EP takes parts out of a graph and puts nodes of its own there. What it breaks thereby is reported as an invalid
    model, though the same file loads on the CPU EP.
    """
    why = classify(error, "load")
    if ep_name in ("", CPU) or why.kind != "model" or _load_error(model) is not None:
        return ""
    if "acyclic" in why.message:
        cause = " (the parts that the provider took out of the graph wait for each other)"
        advice = "For 8 bits, QDQ as quantize-static writes it may pass in place of dynamic quantization"
    else:
        cause, advice = "", "Another form of the model may pass: other types, formats or op_types of what made it"
    return (
        f"{ep_name} does not load this model, which the CPU EP loads, so the provider is at fault and not the model: "
        f"{why.message.rstrip('.')}{cause}. {advice}"
    )


def _load_error(model: str) -> Exception | None:
    """Return what the CPU EP says when it does not load a model as it is."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model, options, providers=[CPU])
    except Exception as problem:
        return problem
    return None
