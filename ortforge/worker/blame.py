"""Finds out what a failure is due to: the model, the execution provider, the graph optimizations or the versions.

Nothing is concluded from a failure alone. An EP is at fault only where the CPU EP *ran* the same file on the same
sample, and graph optimizations only where the file ran without them. Whoever asks does so in a process of its own
(:mod:`.trials`), so that a crash or a hang there changes nothing of the cell's own fate.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import limits
from .classify import classify
from .protocol import Channel, JobError

__all__ = ["Watched", "of_the_ep", "on_the_model", "runs_on_the_cpu"]

CPU = "CPUExecutionProvider"

PATIENCE_S = 60.0
"""How long the CPU EP may take to load a file and to run one sample, when a failure is looked into."""

_VERSION_KINDS = ("unsupported", "incompatible")


@contextlib.contextmanager
def on_the_model(model: Path, ep_name: str) -> Iterator[None]:
    """Do what a pass does; when that fails, look whether the runtime supports the model as it came.

    The advice that a pass gives ("put preprocess before") leads astray where an IR version or an operator set is too
    new for the runtime, and its status too: that is ``incompatible`` or ``unsupported``.

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
    return JobError(why.kind, why.message) if why.kind in _VERSION_KINDS and ep_name in str(failure) else None


def _refusal(model: Path, ep_name: str) -> JobError | None:
    """Return why the CPU EP does not support a model, or ``None``; missing kernels count for its own cells alone."""
    problem = _load_error(str(model))
    if problem is None or (type(problem).__name__ == "NotImplemented" and ep_name not in ("", CPU)):
        return None
    why = classify(problem, "load")
    if why.kind in _VERSION_KINDS:
        return JobError(why.kind, f"This runtime does not load the model that the pass was given: {why.message}")
    return None


def of_the_ep(
    model: str, ep_name: str, error: Exception, samples: str | None = None, session: Mapping[str, Any] | None = None
) -> JobError | None:
    """Return what a model that an EP did not load fails of, or ``None`` when the EP's own error says it.

    An EP takes parts out of a graph and puts nodes of its own there. What it breaks thereby is reported as an invalid
    model. Whether it broke it, the CPU EP shows, which must run the same file on a sample.

    :param samples: the samples folder of the cell; without it nothing can be run and no blame is given.
    :param session: the job's session options.
    """
    why = classify(error, "load")
    if ep_name in ("", CPU) or why.kind != "model":
        return None
    message = why.message.rstrip(".")
    if samples is None:
        return JobError("model", f"{ep_name} does not load this model: {message}.")
    ran, problem = runs_on_the_cpu(model, samples, session or {})
    if ran is None:
        return JobError("model", f"{ep_name} does not load this model: {message}. {problem}.")
    if not ran:
        return JobError(
            "model",
            f"The CPU EP without graph optimizations fails on this file, too, so nothing shows that {ep_name} is at "
            f"fault: {problem}. {ep_name} does not load it: {message}.",
        )
    cause = " (the parts that the EP took out of the graph wait for each other)" if "acyclic" in message else ""
    text = (
        f"{ep_name} does not load this model, and the CPU EP runs the same file on a validation sample. So the EP is "
        f"at fault and not the model: {message}{cause}."
    )
    if cause and _holds(model, b"DynamicQuantizeLinear"):
        text += " The model is quantized dynamically; a QDQ model, as quantize-static writes it, has no such nodes."
    return JobError("failed", text)


def runs_on_the_cpu(
    model: str, samples: str, session: Mapping[str, Any], number: int = 0, *, optimized: bool = False
) -> tuple[bool | None, str]:
    """Run a model on one sample on the CPU EP, in a process of its own.

    :param session: the job's session options; of these, only what changes inputs or adds operators is kept.
    :param optimized: with all graph optimizations, instead of none.
    :returns: whether it ran (``None``: not known), and why not.
    """
    from .trials import Trial, TrialError, TrialProcess, job_for

    if limits.MEMORY and 2 * limits.peak_rss() > limits.MEMORY[-1]:
        return None, "Whether the CPU EP runs it was not tried: the memory limit leaves no room for a second session"
    if Channel.current is not None:
        Channel.current.begin_again()
    kept = {name: session[name] for name in ("inputs", "custom_ops") if session.get(name)}
    options = {"graph_optimization_level": "all" if optimized else "disable", **kept}
    folder = Path.cwd() / "cpu-ep"
    place = next(path for path in (folder.with_name(f"cpu-ep-{n}") for n in range(1000)) if not path.exists())
    job = job_for(Path(model), Path(samples), [number], [[CPU, {}]], options)
    try:
        with Trial(job, TrialProcess(place), PATIENCE_S):
            return True, ""
    except (TrialError, OSError) as problem:
        if isinstance(problem, OSError) or "did not answer" in str(problem):
            return None, f"Whether the CPU EP runs it is not known: {problem}"
        return False, str(problem).rstrip(".")


class Watched:
    """Answers as what it wraps does; when that fails, adds what the same file does on the CPU EP.

    :param answer: called with a sample's feeds, in the samples' order. :param job: the ``run`` job.
    """

    def __init__(self, answer: Any, job: Mapping[str, Any]) -> None:
        self._answer, self._job = answer, job
        self._feeds: Any = None
        self._number = -1

    @property
    def widened(self) -> tuple[str, ...]:
        """Outputs that are widened, of what is wrapped."""
        names: tuple[str, ...] = self._answer.widened
        return names

    def node_by_node(self, feeds: Mapping[str, Any]) -> Any:
        """Answer so that a profile has the nodes."""
        return self._watch(self._answer.node_by_node, feeds)

    def __call__(self, feeds: Mapping[str, Any]) -> Any:
        """Answer one sample."""
        return self._watch(self._answer, feeds)

    def _watch(self, answer: Any, feeds: Mapping[str, Any]) -> Any:
        if feeds is not self._feeds:
            self._feeds, self._number = feeds, self._number + 1
        try:
            return answer(feeds)
        except JobError:
            raise
        except Exception as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> JobError:
        why = classify(error, "run")
        providers: Sequence[Sequence[Any]] = self._job["providers"]
        session = self._job["session"]
        ep_name = str(providers[0][0]) if providers else CPU
        optimized = session.get("graph_optimization_level") != "disable"
        if why.kind != "failed" or (ep_name == CPU and not optimized):
            return why
        ran, problem = runs_on_the_cpu(self._job["model"], self._job["samples"], session, self._number)
        without = "without graph optimizations" if ep_name == CPU else "on the CPU EP without graph optimizations"
        told = f"The same file runs on this sample {without}."
        if ran is None:
            told = f"{problem}."
        elif not ran:
            told = f"The same file fails on this sample {without}, too"
            told += "." if problem == why.message.rstrip(".") else f": {problem}."
        return JobError(why.kind, f"{why.message.rstrip('.')}. {told}")


def _holds(model: str, word: bytes) -> bool:
    """Whether a model file holds a word, such as the name of an operator."""
    import mmap

    try:
        with open(model, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:  # noqa: PTH123
            return data.find(word) >= 0
    except (OSError, ValueError):
        return False


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
