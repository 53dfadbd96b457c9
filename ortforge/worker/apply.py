"""apply: one pass, from model to model."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import blame, function_nesting, nvidia
from .module import load_module
from .protocol import Channel, JobError

if TYPE_CHECKING:
    from .samples import Array
    from .trials import Trial

__all__ = ["PassJob", "run"]


def _to_nobody(text: str) -> None:
    """Say something where nobody watches, as in a pass that is called by hand."""


@dataclass(frozen=True)
class PassJob:
    """What a pass is given.

    :param output: does not exist yet; its folder is its own. :param parameters: as the recipe has them.
    :param samples: calibration samples, each an .npz; prefer :meth:`feeds`.
    :param ep: the EP's short name; :param ep_name: ORT's name of it; :param ep_options: its provider options.
    :param workdir: an empty folder for anything that is not kept.
    :param inputs: numpy's name of the type that earlier passes gave an input; samples are cast to it.
    :param tolerance: the model's limits, for a pass that measures; :param providers: and :param session: how the cell's
        session is made, for :meth:`trial`. :param say: tells whoever watches how far the pass is, in a few words.
    :param other_arithmetic: how required CPU tiers add 8-bit products where this CPU does not (see ``tiers``).
    """

    model: Path
    output: Path
    parameters: Mapping[str, Any]
    samples: tuple[Path, ...]
    folder: Path | None
    ep: str
    ep_name: str
    ep_options: Mapping[str, str]
    ort_version: str
    cpu_flags: tuple[str, ...]
    workdir: Path
    tolerance: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    providers: Sequence[Sequence[Any]] = (("CPUExecutionProvider", {}),)
    session: Mapping[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = _to_nobody
    other_arithmetic: str = ""
    _waiting: list[Any] = field(default_factory=list, repr=False, compare=False)

    def feeds(self) -> Iterator[dict[str, Array]]:
        """Read the calibration samples one at a time, as dicts from input name to array, in the model's own types.

        :raises JobError: kind ``input``, when a sample cannot be read.
        :raises ValueError: a value does not fit the type that an earlier pass gave its input.
        """
        if self.folder is None:
            return
        from .samples import Samples
        from .tensors import cast_feeds

        for number, sample in enumerate(Samples(self.folder)):
            try:
                feeds = cast_feeds(sample, self.inputs, number)
            except JobError as misfit:
                raise ValueError(str(misfit)) from misfit
            yield feeds

    def broken_limits(
        self, reference: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        """Return what the verdict would have against a candidate's answers, one sentence for each limit it breaks."""
        from ..portable.comparison.limits import GivenLimits, exceeded
        from ..portable.comparison.parity import compare

        found = compare(reference, candidate)
        return [*found["problems"], *exceeded(found, GivenLimits(self.tolerance))]

    def trial(
        self,
        model: Path,
        samples: Sequence[int],
        *,
        reference: bool = False,
        session: Mapping[str, Any] | None = None,
        ep_options: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
    ) -> Trial:
        """Load a model as the cell would, in a process of its own, to answer and to be timed.

        :param samples: numbers of the calibration samples that it is tried on.
        :param reference: load it as the reference is instead: on the CPU EP, without graph optimizations.
        :param session: session options, and :param ep_options: provider options, to try on top of the cell's own.
        :param timeout_s: longest wait for any one answer.
        :raises RuntimeError: the model does not load or run, or the process died; the text says how.
        """
        from .session import laid_over
        from .trials import REFERENCE, Trial, job_for

        providers, own = self.providers, self.session
        if reference:
            providers, own = REFERENCE["providers"], laid_over(REFERENCE["session"], {"inputs": dict(self.inputs)})
        if ep_options:
            (name, options), *others = providers
            providers = ((name, {**options, **ep_options}), *others)
        if self.folder is None:
            raise ValueError("There are no samples to try a model on. Give the model a calibration dataset.")
        job = job_for(model, self.folder, samples, providers, laid_over(own, session or {}))
        self.expect_trials(1)
        return Trial(job, self._waiting.pop(0), timeout_s)

    def expect_trials(self, count: int) -> None:
        """Start processes for the next trials now, so that they import ONNX Runtime while the pass makes models.

        A process that no trial needs ends with the pass. Nothing should be timed before the trials have begun.

        :param count: how many processes should wait for a trial; those that wait already count.
        """
        from .trials import TrialProcess

        number = len(list(self.workdir.glob("trial-*")))
        while len(self._waiting) < count:
            while (folder := self.workdir / f"trial-{number}").exists():
                number += 1
            self._waiting.append(TrialProcess(folder))

    def close(self) -> None:
        """End the processes that still wait for a trial."""
        while self._waiting:
            self._waiting.pop().close()

    def elsewhere(self, model: Path, samples: Sequence[int]) -> tuple[list[int], list[dict[str, Any]]] | None:
        """Return what a model answers on required CPU tiers that add 8-bit products in another way than this CPU.

        :param samples: numbers of the calibration samples.
        :returns: which of ``samples`` were computed (positions in it) and the outputs of each, or ``None`` where
            nothing can differ, no tier needs it, or it is not known.
        """
        if not self.other_arithmetic or self.folder is None or self.ep_name not in ("", "CPUExecutionProvider"):
            return None
        from .samples import Samples
        from .tiers import compute

        folder = self.workdir / f"tiers-{len(list(self.workdir.glob('tiers-*')))}"
        folder.mkdir()
        job = {"model": str(model), "samples": str(self.folder), "numbers": list(samples)}
        session = {**self.session, "inputs": dict(self.inputs)}
        output = folder / "out"
        found = compute({**job, "output": str(output), "session": session, "emulate": self.other_arithmetic}, folder)
        if not found["samples"]:
            return None
        return [list(samples).index(number) for number in found["numbers"]], list(Samples(output))


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do an ``apply`` job and finish it."""
    folder = Path(job["samples"]) if job.get("samples") else None
    paths: tuple[Path, ...] = ()
    if folder is not None:
        from .samples import Samples

        samples = Samples(folder)
        paths = tuple(samples.paths)
        _accept_types(samples.types.values())
    module = load_module(job["module"], "apply")
    output = Path(job["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    workdir = Path.cwd() / "work"
    workdir.mkdir()
    pass_job = PassJob(
        model=Path(job["model"]),
        output=output,
        parameters=dict(job.get("parameters") or {}),
        samples=paths,
        folder=folder,
        ep=str(job.get("ep", "")),
        ep_name=str(job.get("ep_name", "")),
        ep_options=dict(job.get("ep_options") or {}),
        ort_version=str(job.get("ort_version") or _ort_version()),
        cpu_flags=tuple(job.get("cpu_flags") or ()),
        workdir=workdir,
        tolerance=dict(job.get("tolerance") or {}),
        inputs=dict(job.get("inputs") or {}),
        providers=tuple((name, dict(options)) for name, options in job.get("providers") or PassJob.providers),
        session=dict(job.get("session") or {}),
        say=channel.say,
        other_arithmetic=str(job.get("other_arithmetic") or ""),
    )
    if pass_job.ep_name in nvidia.EPS:
        import onnxruntime  # the pass's own sessions need its libraries, too

        nvidia.preload(onnxruntime, [(pass_job.ep_name, {})])
    channel.phase("apply")
    if bomb := function_nesting.too_large(pass_job.model):
        raise JobError("model", f"{bomb}. No pass is tried on it: export the model without nested functions.")
    try:
        with blame.on_the_model(pass_job.model, pass_job.ep_name):
            details = module.apply(pass_job)
    finally:
        pass_job.close()
    if not isinstance(details, Mapping):
        raise JobError("failed", f"apply(job) must return a dict, and returned {type(details).__name__}")
    made = output.parent / str(details.get("file", output.name))
    if not made.is_file():
        raise JobError("failed", f"the pass said it was done and wrote no {made.name}")
    channel.finish({"details": dict(details)})


def _accept_types(kinds: Iterable[str]) -> None:
    """Make the sessions that the pass opens take the samples as they are, where numpy lacks an input's type."""
    from .narrow_types import NARROW

    if any(kind in NARROW for kind in kinds):
        import onnxruntime

        from .pass_sessions import accept_narrow_types

        accept_narrow_types(onnxruntime)


def _ort_version() -> str:
    try:
        return importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        import onnxruntime  # another distribution's name, e.g. onnxruntime-gpu

        return str(onnxruntime.__version__)
