"""A first look at a quantized model before it is handed on: calibration samples through it and through the float one.

The cell's own comparison, on validation data, is what counts; this one says in the pass's own result that a model was
ruined, where the cause is still at hand.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import loading, model_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ortforge.api import PassJob

__all__ = ["RUINED_COSINE", "against_float"]

SAMPLES: Final = 2
RUINED_COSINE: Final = 0.9
"""An output turned by more than 26 degrees on the very data that the ranges were made for."""


def against_float(float_model: Path, job: PassJob, feeds: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], str]:
    """Compare the outputs of both models on the first samples.

    Returns the worst cosine and SQNR (in dB) over outputs and samples, for the result, and a sentence if the model is
    ruined or does not run. The quantized model is loaded with all optimizations, on the cell's EP, as it will be run.

    :param job: the pass's, whose ``output`` is the quantized model.
    """
    samples: list[dict[str, Any]] = []
    try:
        samples.extend(dict(feed) for feed in itertools.islice(feeds, SAMPLES))
        reference = loading.session_of(float_model, job)
        kinds = ("tensor(float)", "tensor(float16)", "tensor(double)")
        names = [output.name for output in reference.get_outputs() if output.type in kinds]
        if not names:  # ONNX Runtime takes an empty list for all outputs
            return {}, ""
        expected = [reference.run(names, feed) for feed in samples]
        del reference
    except Exception as problem:
        return {}, f"The quantized model was not compared with the float one, which does not run here: {_text(problem)}"
    try:
        candidate = loading.session_of(Path(job.output), job)
        answered = [candidate.run(names or None, feed) for feed in samples]
    except Exception as problem:
        return {}, _why_not(job, samples, _text(problem))
    worst: dict[str, Any] = {}
    for number, (wanted, found) in enumerate(zip(expected, answered, strict=True)):
        for name, left, right in zip(names, wanted, found, strict=False):
            measured = _measure(left, right)
            if measured and measured["cosine"] < worst.get("cosine", 2.0):
                worst = {"output": name, "sample": number, **measured}
    if not worst or worst["cosine"] >= RUINED_COSINE:
        return worst, ""
    return worst, (
        f"RUINED: output {worst['output']} has cosine {worst['cosine']:.3f} to the float model's on calibration "
        f"sample {worst['sample']}, which the ranges were made for. Leave the nodes that cause it out "
        "(ortforge explain ranks them), or use other types or op_types."
    )


def _why_not(job: PassJob, samples: Sequence[Mapping[str, Any]], problem: str) -> str:
    """Say whether a quantized model that does not run with graph optimizations runs without them."""
    try:
        plain = loading.session_of(Path(job.output), job, optimized=False)
        for feed in samples:
            plain.run(None, dict(feed))
    except Exception as also:
        second = _text(also)
        same = "" if second == problem else f" With them: {problem}"
        return f"The quantized model does not run, with or without graph optimizations: {second}{same}"
    return f"The quantized model runs without graph optimizations and fails with them: {problem}"


def _text(problem: Exception) -> str:
    return f"{model_file.first_sentence(problem).rstrip('.')}."


def _measure(reference: Any, candidate: Any) -> dict[str, float]:
    """Return cosine and SQNR of one output; nothing where the reference is silent or not finite."""
    import numpy as np

    left, right = reference.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
    energy = float(left @ left)
    if left.shape != right.shape or left.size < 2 or not energy or not np.isfinite(energy):
        return {}
    if not np.isfinite(right).all():
        return {"cosine": 0.0, "sqnr_db": -200.0}
    error = float(np.square(left - right).sum())
    length = float(np.linalg.norm(right))
    cosine = float(left @ right) / (energy**0.5 * length) if length else 0.0
    return {"cosine": round(cosine, 6), "sqnr_db": round(10 * float(np.log10(energy / error)), 2) if error else 200.0}
