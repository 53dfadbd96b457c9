"""Passes: one model-to-model change each, as plugins describe them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

__all__ = ["Pass", "PassJob", "PassUse", "Trial"]


class Trial(Protocol):
    """A model that a measuring pass tries out in a process of its own, loaded as the cell loads it.

    Its methods raise ``RuntimeError`` when the process crashed or hung, with a text that says how.
    """

    @property
    def load_s(self) -> float:
        """Seconds that making the session took."""
        ...

    @property
    def first_run_s(self) -> float:
        """Seconds that the first sample took."""
        ...

    def answers(self) -> list[dict[str, Any]]:
        """Run all samples once; return the outputs of each, as dicts from output name to array."""
        ...

    def turn(self, iterations: int, start: int = 0, discard: int = 0) -> list[int]:
        """Run ``discard + iterations`` samples; return nanoseconds of the counted ones, from sample ``start`` on."""
        ...

    def load(self, times: int = 1, discard: int = 0) -> list[int]:
        """Drop the session and make it anew, ``discard + times`` times; return how long the counted ones took, in ns.

        No answers or turns can follow.
        """
        ...

    def close(self) -> None:
        """End the process; leaving a ``with`` block does so."""
        ...

    def __enter__(self) -> Trial: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PassJob(Protocol):
    """What a pass's ``apply`` is given, as type checkers see it (in a runtime the object is the worker's own).

    What ``apply`` makes of it is described at :class:`Pass`.
    """

    @property
    def model(self) -> Path:
        """The model to change."""
        ...

    @property
    def output(self) -> Path:
        """Where the new model goes: it does not exist yet, and its folder is its own."""
        ...

    @property
    def workdir(self) -> Path:
        """An empty folder for anything that is not kept."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """As the recipe has them; those left out have their defaults."""
        ...

    @property
    def samples(self) -> Sequence[Path]:
        """Calibration samples, each an ``.npz``; :meth:`feeds` reads them."""
        ...

    @property
    def ep(self) -> str:
        """Short name of the EP of the cell."""
        ...

    @property
    def ep_name(self) -> str:
        """ORT's name of it."""
        ...

    @property
    def ep_options(self) -> Mapping[str, str]:
        """Its provider options."""
        ...

    @property
    def ort_version(self) -> str:
        """Version of the runtime."""
        ...

    @property
    def cpu_flags(self) -> Sequence[str]:
        """Features of the CPU, as Linux names them."""
        ...

    @property
    def tolerance(self) -> Mapping[str, Any]:
        """The model's limits by name, ``None`` for one that is off; empty unless the pass ``measures``."""
        ...

    def say(self, text: str) -> None:
        """Tell whoever watches the run how far the pass is, in a few words; 200 characters are shown at most."""
        ...

    def feeds(self) -> Iterator[dict[str, Any]]:
        """Yield the calibration samples one by one, as dicts from input name to array."""
        ...

    def broken_limits(
        self, reference: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        """Return what the verdict would have against answers of a candidate, for a pass that ``measures``.

        :param reference: one dict from output name to array for each sample; :param candidate: those of the candidate.
        :returns: one sentence for each limit that they break; none where the cell would be correct on these samples.
        """
        ...

    @property
    def session(self) -> Mapping[str, Any]:
        """Session options of the cell, by the names of a target's ``session`` table, for a pass that ``measures``."""
        ...

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
        """
        ...

    def elsewhere(self, model: Path, samples: Sequence[int]) -> tuple[list[int], list[dict[str, Any]]] | None:
        """Return what a model answers on required CPU tiers that add 8-bit products in another way than this CPU.

        :param samples: numbers of the calibration samples.
        :returns: which of ``samples`` were computed (positions in it) and the outputs of each, or ``None`` where
            nothing can differ, no tier needs it, or it is not known.
        """
        ...

    def expect_trials(self, count: int) -> None:
        """Start processes for the next trials now, so that they import ONNX Runtime while the pass makes models.

        A process that no trial needs ends with the pass. Nothing should be timed before the trials have begun.

        :param count: how many processes should wait for a trial; those that wait already count.
        """
        ...


@dataclass(frozen=True, slots=True)
class PassUse:
    """What a pass is asked to do in one place: for checks before anything runs.

    :param parameters: an instance of the pass's parameter dataclass.
    :param before: kinds of the passes that came before it in the recipe.
    :param ort_version: version of the runtime, or ``""`` while it is not known.
    :param ep: short name of the EP of the cell.
    :param has_calibration: the model has a calibration dataset.
    """

    parameters: Any
    before: tuple[str, ...]
    ort_version: str
    ep: str
    has_calibration: bool


def _no_objection(use: PassUse) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Pass:
    """One change from model to model, run in a runtime's tools environment.

    :param name: the name used in recipes (``use = "quantize-static"``).
    :param parameters: a frozen dataclass; field names and types are checked against ``matrix.toml``.
    :param module: path of a Python file that defines ``apply(job) -> dict``. That file is imported in a runtime
        that does not have ortforge, so it may import onnx, onnxruntime and what ``requires`` names at run
        time, and of ortforge only inside its hook function. Usually ``__file__`` of the plugin itself.
    :param kind: what it does to a model; recipes are checked with it (no quantizing of a quantized model).
    :param requires: distributions that the tools environment needs beside onnx.
    :param needs_calibration: static quantization and the like; a function is given the parameters and whether the
        model has a calibration dataset, and says whether the pass is to get samples.
    :param per_ep: the result depends on the EP (graph optimization does), so it is made once per EP; a function is
        given the parameters and says whether it does with these.
    :param measures: it tries out and times what it makes, on the EP and device of the cell: nothing else of ours runs
        beside it, it is made anew for each EP, session and device, and its job has ``tolerance`` and ``trial()``.
    :param suffix: ``.onnx`` or ``.ort``.
    :param versions: PEP 440 specifier of the ORT versions it works on.
    :param objection: says why it cannot be used here, or ``""``; asked before anything runs.

    The ``job`` that ``apply`` gets (:class:`PassJob`) has ``model`` and ``output`` (paths; ``output`` does not exist
    yet, its folder is its own, so external data can lie beside it), ``parameters`` (a dict), ``samples`` (paths of
    calibration samples, each an ``.npz``), ``feeds()`` (iterates them as dicts, streamed), ``ep``, ``ep_name``,
    ``ep_options``, ``ort_version``, ``cpu_flags`` and ``workdir``. What it returns is kept with the artefact: JSON
    only. The keys ``warnings`` (a list of sentences), ``stamp`` (conditions that must hold where the artefact runs),
    ``inputs`` (numpy's name of the new type of each input whose type changed: samples are cast to it when their values
    fit), ``outputs`` (the name of the old type of each output whose type changed: answers are compared in it),
    ``session`` and ``ep_options`` (session options and provider options to load the artefact with, on top of the cell's
    own: part of what the artefact is) and ``file`` (name of the model written beside ``output`` instead of it, for a
    pass that can write ``.ort`` too) are understood. What the runtime or EP cannot do is raised as
    ``NotImplementedError`` (the cell is ``unsupported``), any other failure as ``ValueError`` or ``RuntimeError``, with
    a sentence that says what to do.
    """

    name: str
    summary: str
    parameters: type
    module: str
    kind: Literal["optimize", "quantize", "convert", "prepare"]
    requires: tuple[str, ...] = ()
    needs_calibration: bool | Callable[[Any, bool], bool] = False
    per_ep: bool | Callable[[Any], bool] = False
    measures: bool = False
    suffix: str = ".onnx"
    versions: str = ""
    objection: Callable[[PassUse], str] = _no_objection
    example: Mapping[str, Any] | None = None

    def calibrates(self, parameters: Any, has_calibration: bool) -> bool:
        """Whether it gets calibration samples when used with these parameters."""
        asked = self.needs_calibration
        return asked(parameters, has_calibration) if callable(asked) else asked
