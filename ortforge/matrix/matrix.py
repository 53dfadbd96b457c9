"""The Matrix: a whole file, validated, with everything that it leaves out filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ortforge.matrix.config import (
    DatasetConfig,
    DeviceConfig,
    EntryConfig,
    ExpectConfig,
    LimitsConfig,
    ModelConfig,
    ProjectConfig,
    RecipeConfig,
    ReferenceConfig,
    ToleranceConfig,
)
from ortforge.matrix.targets import TargetConfig

__all__ = ["Baseline", "Matrix"]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What others are compared with: a target, and the label of one of its EPs."""

    target: str
    ep: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix file, ready to be planned. Mappings keep the order of the file.

    :param path: the file, as it was named. :param base: its folder, where relative references start.
    :param digest: of what the file means: comments, order of keys and spelled-out defaults do not change it.
    :param recipes: with ``none`` first.
    :param devices: at least one; ``here`` when the file has none.
    :param entries: at least one; all with all when the file has none.
    :param expect: expected verdicts, in the order of the file.
    :param warnings: what is probably not meant, as sentences that begin with file and line.
    """

    path: Path
    base: Path
    digest: str
    project: ProjectConfig
    datasets: Mapping[str, DatasetConfig]
    models: Mapping[str, ModelConfig]
    targets: Mapping[str, TargetConfig]
    recipes: Mapping[str, RecipeConfig]
    devices: Mapping[str, DeviceConfig]
    entries: tuple[EntryConfig, ...]
    reference: ReferenceConfig
    baseline: Baseline
    tolerance: ToleranceConfig
    limits: LimitsConfig
    expect: tuple[ExpectConfig, ...] = ()
    warnings: tuple[str, ...] = ()
