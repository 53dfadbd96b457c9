"""Advice for a quantization that failed: other settings are tried, and only those that work are recommended.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .._models import loading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ortforge.api import PassJob

__all__ = ["MissingKernelError", "QuantizerError", "advice", "quantized"]

BUDGET_S: Final = 60.0
"""Seconds after which no further setting is tried."""


class QuantizerError(RuntimeError):
    """ONNX Runtime's quantizer failed, or what it wrote does not load; other settings may help."""


class MissingKernelError(NotImplementedError):
    """The runtime has no kernel for what its quantizer wrote; other settings may help."""


def quantized(
    job: PassJob,
    wanted: Any,
    quantize: Callable[[PassJob, Any], dict[str, Any]],
    changes: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Quantize a model; where that fails, try other settings and say which of them works.

    :param wanted: the parameters of the pass, a dataclass.
    :param quantize: quantizes ``job.model`` into ``job.output`` with given parameters, and returns the pass's result.
    :param changes: by the change that the user would make to the recipe: the fields of ``wanted`` that differ.
    :raises QuantizerError: as ``quantize`` does, with the advice.
    :raises MissingKernelError: likewise.
    """

    def attempt(changed: Mapping[str, Any]) -> Callable[[], object]:
        return lambda: quantize(trial_job(job, "-".join(changed)), dataclasses.replace(wanted, **changed))

    try:
        return quantize(job, wanted)
    except (QuantizerError, MissingKernelError) as problem:
        trials: dict[str, Callable[[], object]] = {
            "preprocess before this pass": lambda: preprocessed(job, lambda one: quantize(one, wanted)),
            **{change: attempt(changed) for change, changed in changes.items()},
        }
        raise advised(job, problem, trials) from (problem.__cause__ or problem)


def advised(
    job: PassJob, problem: QuantizerError | MissingKernelError, trials: Mapping[str, Callable[[], object]]
) -> QuantizerError | MissingKernelError:
    """Return the error with a sentence about what helps; as it is where the model itself does not load."""
    if loading.load_error(job.model, job, kernels=False):
        return problem
    return type(problem)(f"{problem} {advice(trials)}".rstrip())


def advice(trials: Mapping[str, Callable[[], object]], *, budget_s: float = BUDGET_S) -> str:
    """Try settings until one works; return a sentence about the outcome.

    :param trials: by the change that the user would make to the recipe: a call that raises where it does not help.
    :param budget_s: seconds after which no further trial starts.
    """
    began, failed = time.monotonic(), list[str]()
    for change, attempt in trials.items():
        if failed and time.monotonic() - began > budget_s:
            break
        try:
            attempt()
        except Exception:
            failed.append(change)
        else:
            return f"With {change} it works (tried here)."
    if not failed:
        return ""
    listed = failed[0] if len(failed) == 1 else f"{', '.join(failed[:-1])} or {failed[-1]}"
    return f"It fails in the same way with {listed} (tried here). Leave this pass out for this model."


def trial_job(job: PassJob, name: str, model: Path | None = None) -> PassJob:
    """Return a job like another one, with a work folder and an output of its own below the other's work folder."""
    folder = Path(job.workdir) / f"try-{name}"
    (folder / "work").mkdir(parents=True, exist_ok=True)
    (folder / "out").mkdir(exist_ok=True)
    changed: Any = job
    made: PassJob = dataclasses.replace(
        changed, model=model or job.model, output=folder / "out" / "model.onnx", workdir=folder / "work"
    )
    return made


def preprocessed(job: PassJob, attempt: Callable[[PassJob], object]) -> None:
    """Put the pass ``preprocess`` before an attempt.

    :raises Exception: preprocess fails, or the attempt does.
    """
    from .. import preprocess

    first: Any = dataclasses.replace(
        trial_job(job, "preprocess"),  # type: ignore[type-var]
        parameters={},
    )
    preprocess.apply(first)
    attempt(trial_job(job, "preprocessed", first.output))
