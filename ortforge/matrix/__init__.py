"""matrix.toml to a typed, validated Matrix."""

from ortforge.matrix.config import (
    DatasetConfig,
    DeviceConfig,
    EntryConfig,
    ExpectConfig,
    LimitsConfig,
    ModelConfig,
    PassConfig,
    RecipeConfig,
    ReferenceConfig,
    Selection,
    ToleranceConfig,
)
from ortforge.matrix.expansion import CellSpec, cells
from ortforge.matrix.known import Known
from ortforge.matrix.loader import NO_RECIPE, load
from ortforge.matrix.matrix import Baseline, Matrix
from ortforge.matrix.targets import (
    EpConfig,
    EpUse,
    PackageTarget,
    SessionConfig,
    SourceTarget,
    TargetConfig,
    WheelTarget,
)

__all__ = [
    "NO_RECIPE",
    "Baseline",
    "CellSpec",
    "DatasetConfig",
    "DeviceConfig",
    "EntryConfig",
    "EpConfig",
    "EpUse",
    "ExpectConfig",
    "Known",
    "LimitsConfig",
    "Matrix",
    "ModelConfig",
    "PackageTarget",
    "PassConfig",
    "RecipeConfig",
    "ReferenceConfig",
    "Selection",
    "SessionConfig",
    "SourceTarget",
    "TargetConfig",
    "ToleranceConfig",
    "WheelTarget",
    "cells",
    "load",
]
