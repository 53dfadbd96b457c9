"""Passes: one model-to-model change each, as plugins describe them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = ["Pass", "PassJob", "PassUse"]


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

    def feeds(self) -> Iterator[dict[str, Any]]:
        """Yield the calibration samples one by one, as dicts from input name to array."""


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
    :param needs_calibration: static quantization and the like.
    :param per_ep: the result depends on the EP (graph optimization does), so it is made once per EP.
    :param suffix: ``.onnx`` or ``.ort``.
    :param versions: PEP 440 specifier of the ORT versions it works on.
    :param objection: says why it cannot be used here, or ``""``; asked before anything runs.

    The ``job`` that ``apply`` gets (:class:`PassJob`) has ``model`` and ``output`` (paths; ``output`` does not exist
    yet, its folder is its own, so external data can lie beside it), ``parameters`` (a dict), ``samples`` (paths of
    calibration samples, each an ``.npz``), ``feeds()`` (iterates them as dicts, streamed), ``ep``, ``ep_name``,
    ``ep_options``, ``ort_version``, ``cpu_flags`` and ``workdir``. What it returns is kept with the artefact: JSON
    only. The keys ``warnings`` (a list of sentences), ``stamp`` (conditions that must hold where the artefact runs)
    and ``file`` (name of the model written beside ``output`` instead of it, for a pass that can write ``.ort`` too)
    are understood. What the runtime or EP cannot do is raised as ``NotImplementedError`` (the cell is
    ``unsupported``), any other failure as ``ValueError`` or ``RuntimeError``, with a sentence that says what to do.
    """

    name: str
    summary: str
    parameters: type
    module: str
    kind: Literal["optimize", "quantize", "convert", "prepare"]
    requires: tuple[str, ...] = ()
    needs_calibration: bool = False
    per_ep: bool = False
    suffix: str = ".onnx"
    versions: str = ""
    objection: Callable[[PassUse], str] = _no_objection
    example: Mapping[str, Any] | None = None
