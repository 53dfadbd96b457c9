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
    from collections.abc import Iterable, Mapping

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
    try:
        sessions = [loading.session_of(path, job) for path in (float_model, Path(job.output))]
        kinds = ("tensor(float)", "tensor(float16)", "tensor(double)")
        names = [output.name for output in sessions[0].get_outputs() if output.type in kinds]
        if not names:  # ONNX Runtime takes an empty list for all outputs
            return {}, ""
        worst: dict[str, Any] = {}
        for number, feed in enumerate(itertools.islice(feeds, SAMPLES)):
            reference, candidate = (session.run(names, dict(feed)) for session in sessions)
            for name, left, right in zip(names, reference, candidate, strict=True):
                measured = _measure(left, right)
                if measured and measured["cosine"] < worst.get("cosine", 2.0):
                    worst = {"output": name, "sample": number, **measured}
    except Exception as problem:
        reason = model_file.first_line(problem)
        return {}, f"The quantized model loads without optimizations and does not run with them: {reason}"
    if not worst or worst["cosine"] >= RUINED_COSINE:
        return worst, ""
    return worst, (
        f"RUINED: output {worst['output']} has cosine {worst['cosine']:.3f} to the float model's on calibration "
        f"sample {worst['sample']}, which the ranges were made for. Leave the nodes that cause it out "
        "(ortforge explain ranks them), or use other types or op_types."
    )


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
