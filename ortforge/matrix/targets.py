"""Targets: what the user asks to have, and how its execution providers are offered to a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ortforge.matrix.fields import (
    AllocatorName,
    BackendName,
    Bytes,
    ContainerUse,
    Count,
    Defines,
    DistributionName,
    Environment,
    Flags,
    ImageName,
    LocalVersion,
    Options,
    OrtVersion,
    PythonVersion,
    Requirements,
    SessionEntries,
    Sha256,
    SourceReference,
    Table,
    WheelFile,
    name_problem,
)
from ortforge.matrix.positions import Path
from ortforge.matrix.problems import refuse_all
from ortforge.worker.session import laid_over

_FROM: Final = 'Where it comes from: "package" (published wheels), "wheel" (a file) or "source" (built in Docker).'

__all__ = ["EpConfig", "EpUse", "PackageTarget", "SessionConfig", "SourceTarget", "TargetConfig", "WheelTarget"]


@dataclass(frozen=True, slots=True)
class EpUse:
    """An EP as a cell uses it.

    :param label: names it within its target: the EP's name, ``NAME#2`` for a second use of it, or what the user says.
    :param options: provider options, all strings.
    :param session: the target's session options with the EP's own on top.
    """

    name: str
    label: str
    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    session: Mapping[str, Any] = field(default_factory=dict, hash=False)


class SessionConfig(Table):
    """Session options, as ONNX Runtime has them."""

    intra_op_threads: int | None = Field(
        default=None,
        ge=0,
        strict=True,
        description="Threads inside one operator; 0 leaves it to ONNX Runtime. Default: the device's cores.",
    )
    inter_op_threads: int | None = Field(
        default=None, ge=0, strict=True, description="Operators that run side by side when execution_mode is parallel."
    )
    execution_mode: Literal["sequential", "parallel"] | None = Field(
        default=None, description="Whether independent operators may run side by side."
    )
    graph_optimization_level: Literal["all", "disable", "basic", "extended", "layout"] | None = Field(
        default=None, description="How far ONNX Runtime rewrites the graph when it loads a model. Default: all."
    )
    enable_cpu_mem_arena: bool | None = Field(
        default=None,
        strict=True,
        description="Keep freed CPU memory in an arena for the next run. Default: true, as ONNX Runtime has it.",
    )
    enable_mem_pattern: bool | None = Field(
        default=None,
        strict=True,
        description="Plan memory ahead for inputs of shapes seen before. Default: true, as ONNX Runtime has it.",
    )
    io_binding: bool | None = Field(
        default=None,
        strict=True,
        description="Bind inputs and outputs in the EP's memory while it is timed, so that no copies are in the times. "
        "Default: true for EPs on NVIDIA's GPUs; the others have nothing to bind.",
    )
    config: SessionEntries = Field(
        default_factory=dict,
        description='Entries by ONNX Runtime\'s names, e.g. { "session.intra_op.allow_spinning" = false }.',
    )

    def given(self) -> dict[str, Any]:
        """Return the options that the user set."""
        return self.model_dump(exclude_none=True, exclude=None if self.config else {"config"})

    def over(self, general: SessionConfig) -> dict[str, Any]:
        """Return ``general``'s options with these on top; configuration entries are merged one by one."""
        return laid_over(general.given(), self.given())


class EpConfig(Table):
    """One execution provider of a target. The name alone stands for a table with only a name."""

    name: BackendName = Field(
        description="Short name of the EP, e.g. \"openvino\"; 'ortforge plugins list' knows them."
    )
    label: str = Field(
        default="",
        description="What cells of this use are called. Default: NAME, then NAME#2 and so on.",
    )
    options: Options = Field(
        default_factory=dict, description='Provider options by ONNX Runtime\'s names, e.g. device_type = "CPU".'
    )
    session: SessionConfig = Field(
        default=SessionConfig(), description="Session options for this EP, on top of the target's."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


def _labelled(eps: tuple[EpConfig, ...]) -> tuple[EpConfig, ...]:
    """Refuse uses of EPs that cannot be told apart."""
    bad: list[tuple[Path, str, str | None]] = []
    for number, ep in enumerate(eps):
        before = eps[:number]
        if ep.label and (reason := name_problem(ep.label)):
            bad.append(((number, "label"), reason, ep.label))
        elif ep.label and any(ep.label in {other.label, other.name} for other in before):
            bad.append(((number, "label"), "this label is taken: each must be unique in its target", ep.label))
        elif ep.model_copy(update={"label": ""}) in [other.model_copy(update={"label": ""}) for other in before]:
            bad.append(((number,), f'"{ep.name}" is given twice with the same options', None))
    refuse_all("eps", bad)
    return eps


EpItem = Annotated[EpConfig, BeforeValidator(lambda value: value, json_schema_input_type=str | EpConfig)]


class _Target(Table):
    """What every kind of target has."""

    python: PythonVersion | None = Field(
        default=None,
        description='Python version of its environment, e.g. "3.12". Default: one that the wheels are made for.',
    )
    eps: Annotated[tuple[EpItem, ...], Field(min_length=1), AfterValidator(_labelled)] = Field(
        default=(EpConfig(name="cpu"),),
        description='Execution providers: names, or tables with options; each makes its own cells. Default: ["cpu"].',
    )
    session: SessionConfig = Field(default=SessionConfig(), description="Session options for all EPs of this target.")
    environment: Environment = Field(
        default_factory=dict, description="Environment variables for the processes of this target."
    )
    container: ContainerUse = Field(
        default="auto",
        description='Whether its processes run in a container: "auto" (where the wheels do not fit this machine), '
        '"never", or the name of a base image.',
    )

    @cached_property
    def ep_uses(self) -> tuple[EpUse, ...]:
        """The EPs in order, each with a label that no other one of this target has."""
        taken = {ep.label for ep in self.eps if ep.label}
        uses = []
        for ep in self.eps:
            label, number = ep.label or ep.name, 1
            while not ep.label and label in taken:
                number += 1
                label = f"{ep.name}#{number}"
            taken.add(label)
            uses.append(EpUse(ep.name, label, ep.options, ep.session.over(self.session)))
        return tuple(uses)


class PackageTarget(_Target):
    """Published wheels, installed from the package index."""

    from_: Literal["package"] = Field(
        alias="from",
        description=_FROM,
    )
    requires: Annotated[Requirements, Field(min_length=1)] = Field(
        description='What to install, e.g. ["onnxruntime==1.32.0"].'
    )


class WheelTarget(_Target):
    """A wheel file, with what else must be installed beside it."""

    from_: Literal["wheel"] = Field(
        alias="from",
        description=_FROM,
    )
    wheel: WheelFile = Field(
        description='The wheel, relative to this file, e.g. "dist/onnxruntime-1.32.0-cp312-cp312-linux_x86_64.whl".'
    )
    requires: Requirements = Field(default=(), description="What to install beside the wheel.")
    sha256: Sha256 | None = Field(default=None, description="Digest that the wheel must have.")


class SourceTarget(_Target):
    """An ONNX Runtime built from source, in Docker."""

    from_: Literal["source"] = Field(
        alias="from",
        description=_FROM,
    )
    source: SourceReference = Field(description='The source tree, e.g. "git:v1.21.0", "archive:FILE", "debian:trixie".')
    sha256: Sha256 | None = Field(default=None, description="Digest that an archive must have.")
    version: OrtVersion = Field(description='The version of ONNX Runtime that the source is, e.g. "1.21.0".')
    allocator: AllocatorName | None = Field(
        default=None, description='Memory allocator to build in or load, e.g. "jemalloc". Default: the system\'s.'
    )
    flags: Flags = Field(
        default_factory=dict,
        description="Flags of build.py without the dashes, e.g. { enable_lto = true, parallel = 4 }.",
    )
    defines: Defines = Field(
        default_factory=dict, description='CMake definitions beside the flags, e.g. { onnxruntime_USE_VCPKG = "OFF" }.'
    )
    dependencies: Literal["download", "system", "vendored"] | None = Field(
        default=None,
        description='Where ORT\'s dependencies come from: "download", "system" (the image\'s packages) or "vendored" '
        "(a folder that 'ortforge vendor' gathered). Default: what suits the source.",
    )
    vendor: str | None = Field(
        default=None, description="Folder that 'ortforge vendor' gathered, relative to this file."
    )
    image: ImageName = Field(
        default="debian",
        description="Toolchain image: the name of a Dockerfile of ortforge (debian, manylinux, cuda …), or the path of "
        "your own.",
    )
    base: str | None = Field(
        default=None,
        description='Base image of the toolchain, best with its digest, e.g. "debian:trixie-slim@sha256:…".',
    )
    operators: str | None = Field(
        default=None,
        description='"from-models": build only the operators that the matrix\'s models need, or a file lists.',
    )
    artifact: Literal["wheel", "cxx"] = Field(
        default="wheel", description="What to build: a Python wheel, or the C++ library."
    )
    requires: Requirements = Field(
        default=(), description='What to install beside the wheel, e.g. ["nvidia-cudnn-cu12==9.5.1.17"].'
    )
    distribution: DistributionName | None = Field(
        default=None, description="Name of the wheel's distribution, e.g. \"onnxruntime-dnnl\". Default: ORT's own."
    )
    local_version: LocalVersion | None = Field(
        default=None, description='Local version, e.g. "dnnl.1" for 1.21.0+dnnl.1. Default: none.'
    )
    memory: Bytes | None = Field(
        default=None,
        description='Memory of the build container, e.g. "12 GiB". Default: what the engine has, less a tenth.',
    )
    jobs: Count | None = Field(
        default=None, description="Compilers side by side. Default: from the container's cores and memory."
    )


TargetConfig = PackageTarget | WheelTarget | SourceTarget
