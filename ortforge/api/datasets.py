"""Datasets: real inputs for a model, as plugins describe their making."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DatasetSource"]


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """Makes samples for references that start with ``scheme:``.

    :param module: path of a Python file that defines ``materialize(job) -> dict``, run in a tools environment (numpy
        and onnx are there, ortforge is not). ``job`` has ``reference`` (without the scheme), ``base``, ``options``
        (from ``matrix.toml``), ``inputs`` (the model's inputs: name, dtype, shape with ``None`` or a symbol where it is
        dynamic), ``limit`` (most samples wanted) and ``write(feeds, label=None)``, which keeps one sample.
    :param fingerprint: ``(reference, base) -> str``: what identifies the content before it is made.
    :param random: the samples are made up. They are labelled so everywhere, and are never enough for
        ``pass`` on a statically quantized model.
    :param runs_user_code: ``materialize`` calls code of the user, whose reads no fingerprint can know. ortforge records
        the files that it reads, makes the samples again when one of them changed, and compares a second call.
    """

    scheme: str
    summary: str
    example: str
    module: str
    fingerprint: Callable[[str, Path], str]
    random: bool = False
    runs_user_code: bool = False
