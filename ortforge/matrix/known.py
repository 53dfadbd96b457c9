"""What plugins offer to a matrix file: the names and schemes that it may use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ortforge.api import Pass

__all__ = ["Known"]


@dataclass(frozen=True, slots=True)
class Known:
    """Everything that a matrix file may name and that comes from plugins.

    :param backends: short names of EPs.
    :param passes: passes by name.
    :param model_schemes: what may stand before the colon of a model's ``path``.
    :param dataset_schemes: the same for datasets. :param source_schemes: the same for ONNX Runtime sources.
    :param metrics: what ``tasks`` may name. :param allocators: what a source target may name.
    :param digest_schemes: model schemes that need a ``sha256`` beside the reference.
    """

    backends: Collection[str]
    passes: Mapping[str, Pass]
    model_schemes: Collection[str]
    dataset_schemes: Collection[str]
    source_schemes: Collection[str] = ()
    metrics: Collection[str] = ()
    allocators: Collection[str] = ()
    digest_schemes: Collection[str] = ("https",)
