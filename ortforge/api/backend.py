"""Execution providers, devices and allocators, as plugins describe them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Allocator",
    "Availability",
    "Backend",
    "BuildContext",
    "BuildContribution",
    "Device",
    "Gpu",
    "Patch",
    "PluginEp",
    "available",
    "unavailable",
]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as its driver names it. ``memory`` is in bytes."""

    vendor: str
    name: str
    driver: str
    memory: int
    compute_capability: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """The hardware that cells run on: probed, never typed in by hand.

    ``system`` and ``machine`` are as :mod:`platform` gives them, lower-cased (``linux``, ``x86_64``).
    ``cores`` is what this process may use after affinity and cgroup quota; ``memory`` is in bytes.
    """

    name: str
    system: str
    machine: str
    cpu_model: str
    cpu_flags: frozenset[str]
    cores: int
    quota: float
    memory: int
    gpus: tuple[Gpu, ...] = ()
    npus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether an EP can run on a device; ``reason`` says why not."""

    usable: bool
    reason: str = ""


def available() -> Availability:
    """Return the answer "yes"."""
    return Availability(True)


def unavailable(reason: str) -> Availability:
    """Return the answer "no", with the reason that the cell's ``unsupported`` verdict will carry."""
    return Availability(False, reason)


@dataclass(frozen=True, slots=True)
class Patch:
    """A change to ORT's source, or to what it is built against.

    :param versions: PEP 440 specifier of the ORT versions that need it; ``""`` for all.
    :param file: a unified diff (``-p1``), as a path: of this patch alone.
    :param why: a sentence; provenance and ``ortforge plan`` show it.
    """

    name: str
    versions: str
    file: str
    why: str


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What a contribution to a build may depend on.

    :param version: of ONNX Runtime. :param dependencies: ``download`` (ORT's own, from the network), ``system`` (the
        image's packages) or ``vendored`` (a folder gathered before). :param image: name of the toolchain image.
    :param base: the image that it is made on, ``""`` for its own default.
    :param artifact: ``wheel`` or ``cxx``. :param system: ``linux``; :param machine: ``x86_64``, ``aarch64``.
    """

    version: str
    dependencies: str = "download"
    image: str = "debian"
    artifact: str = "wheel"
    system: str = "linux"
    machine: str = "x86_64"
    base: str = ""


@dataclass(frozen=True, slots=True)
class BuildContribution:
    """What a backend or allocator adds to one build of one ORT version.

    :param flags: build.py flags without the dashes; ``True`` for a switch.
    :param cmake_defines: ``-D`` definitions.
    :param packages: system packages that the toolchain image needs.
    :param environment: variables for the build container.
    :param dockerfile: name of a toolchain image under ``dockerfiles/``, or ``""`` for the target's own.
    :param patches: changes to the source, each with the versions it is for.
    :param must_hold: file name patterns that the wheel must contain.
    :param must_not_hold: file name patterns that the wheel must not contain.
    :param external_libraries: sonames that the wheel may need without containing them.
    :param bundle: file name patterns of libraries, in the build tree or the image, that belong into the wheel's
        ``onnxruntime/capi`` though ORT's own packaging forgets them.
    :param source_files: files to put into the source tree before it is configured: path to text.
    """

    flags: Mapping[str, str | int | bool | tuple[str, ...]] = field(default_factory=dict)
    cmake_defines: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    dockerfile: str = ""
    patches: tuple[Patch, ...] = ()
    must_hold: tuple[str, ...] = ()
    must_not_hold: tuple[str, ...] = ()
    external_libraries: tuple[str, ...] = ()
    bundle: tuple[str, ...] = ()
    source_files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PluginEp:
    """An EP that comes as a library of its own, registered at run time (ORT 1.23 and newer).

    :param distribution: the package that brings it, e.g. ``onnxruntime-ep-webgpu``; its module gives
        ``get_library_path()``. :param registration: the name to register it under.
    """

    distribution: str
    module: str
    registration: str


def _always(device: Device) -> Availability:
    return available()


def _no_software(device: Device) -> str:
    return ""


def _no_objection(options: Mapping[str, str], session: Mapping[str, Any], device: Device) -> str:
    return ""


def _no_build(context: BuildContext) -> BuildContribution | None:
    return None


@dataclass(frozen=True, slots=True)
class Backend:
    """One execution provider: how to build it, install it and offer it to a session.

    :param name: short name used in ``matrix.toml`` (``eps = ["openvino"]``).
    :param ep: ORT's name (``OpenVINOExecutionProvider``).
    :param published: distributions on the package index whose wheels hold this EP.
    :param versions: PEP 440 specifier of the ORT versions that have it.
    :param options: default provider options, as ORT takes them (strings).
    :param availability: says whether a device can run it. Must not start processes or touch the network.
    :param build: what a source build needs, or ``None`` where it cannot be built.
    :param plugin: set for EPs that are registered as a library at run time.
    :param address_space_limit: ``False`` for EPs that reserve huge virtual ranges (CUDA), so that only
        resident memory is limited.
    :param environment: variables for processes that use the EP.
    :param variables: names, or prefixes that end in ``*``, of the user's environment variables that change what the EP
        does, such as those that ``availability`` reads; those in ``ortforge.runtime.driver_variables`` are known.
    :param memory: ORT's name of the memory that the EP computes in (``cuda``), where inputs and outputs can be bound;
        ``""`` for host memory. :param objection: says why it cannot be used with these provider options and session
        options on a device, or ``""``.
    :param threads_option: the provider option with the number of threads, for an EP that has threads of its own: it
        gets the session's number unless the matrix says otherwise.
    :param software: says why times measured on a device are not those of the EP's hardware (it is emulated, or a
        software adapter stands in for a GPU), or ``""``. Such cells are checked and not timed.
    """

    name: str
    ep: str
    summary: str
    published: tuple[str, ...] = ()
    versions: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    availability: Callable[[Device], Availability] = _always
    build: Callable[[BuildContext], BuildContribution | None] = _no_build
    plugin: PluginEp | None = None
    address_space_limit: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    threads_option: str = ""
    memory: str = ""
    software: Callable[[Device], str] = _no_software
    objection: Callable[[Mapping[str, str], Mapping[str, Any], Device], str] = _no_objection
    variables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Allocator:
    """A memory allocator: how it gets into a build (``build``) or a process (``preload``: a soname)."""

    name: str
    summary: str
    build: Callable[[BuildContext], BuildContribution | None] = _no_build
    preload: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
