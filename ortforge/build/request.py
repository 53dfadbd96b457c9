"""What a build is made from, as plain data: composed from the target and its plugins, before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ortforge.store.hashing import digest_json

__all__ = ["BuildRequest", "PatchText"]


@dataclass(frozen=True, slots=True)
class PatchText:
    """A patch as it is applied: its name, why it is needed, its sha256 and the unified diff."""

    name: str
    why: str
    sha256: str
    text: str


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """One build of one version of ONNX Runtime.

    :param eps: backends' names. :param ep_names: the same as ORT names them. :param flags: build.py's, by name without
        dashes: ``True`` for a switch, a tuple for several values. :param defines: CMake definitions.
    :param packages: system packages beside the toolchain's. :param source_files: put into the tree: path to text.
    :param must_hold: file name patterns that the wheel must contain; :param must_not_hold: and must not.
    :param bundle: libraries that belong into the wheel though ORT's packaging forgets them.
    :param external_libraries: sonames that the wheel may need without containing them.
    :param preload: soname of an allocator that processes load first, or ``""``.
    :param operators: text of a reduced-operator configuration, or ``""`` for all operators.
    :param python: of the wheel, ``""`` for the image's own. :param base: base image, ``""`` for the default.
    """

    target: str
    version: str
    artifact: str = "wheel"
    eps: tuple[str, ...] = ("cpu",)
    ep_names: tuple[str, ...] = ("CPUExecutionProvider",)
    allocator: str = ""
    preload: str = ""
    flags: Mapping[str, Any] = field(default_factory=dict)
    defines: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    patches: tuple[PatchText, ...] = ()
    source_files: Mapping[str, str] = field(default_factory=dict)
    must_hold: tuple[str, ...] = ()
    must_not_hold: tuple[str, ...] = ()
    bundle: tuple[str, ...] = ()
    external_libraries: tuple[str, ...] = ()
    dependencies: str = "download"
    image: str = "debian"
    base: str = ""
    python: str = ""
    distribution: str = ""
    local_version: str = ""
    operators: str = ""

    def compile_parameters(self) -> dict[str, Any]:
        """Return, as JSON, what can change what is compiled; how the wheel is named and audited is not part of it."""
        return {
            "version": self.version,
            "artifact": self.artifact,
            "flags": {name: list(value) if isinstance(value, tuple) else value for name, value in self.flags.items()},
            "defines": dict(self.defines),
            "environment": dict(self.environment),
            "patches": [[patch.name, patch.sha256] for patch in self.patches],
            "source_files": dict(self.source_files),
            "bundle": list(self.bundle),
            "dependencies": self.dependencies,
            "python": self.python,
            "operators": self.operators,
        }

    def package_parameters(self) -> dict[str, Any]:
        """Return, as JSON, what can change how a compiled tree becomes a wheel and what is demanded of it."""
        return {
            "eps": list(self.eps),
            "artifact": self.artifact,
            "must_hold": list(self.must_hold),
            "must_not_hold": list(self.must_not_hold),
            "external_libraries": list(self.external_libraries),
            "distribution": self.distribution,
            "local_version": self.local_version,
            "allocator": self.allocator,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the request as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BuildRequest:
        """Make a request of what :meth:`to_json` gave, also after it went through JSON."""
        given: dict[str, Any] = {}
        given.update((name, tuple(entry) if isinstance(entry, list) else entry) for name, entry in value.items())
        given["patches"] = tuple(PatchText(**patch) for patch in value["patches"])
        given["flags"] = {name: tuple(e) if isinstance(e, list) else e for name, e in value["flags"].items()}
        return cls(**given)

    def tree(self) -> str:
        """Return a name for the build tree: the same for builds that can go on from each other's object files.

        Another Python, or another set of operators, only changes some of the objects.
        """
        shared = self.compile_parameters()
        for name in ("python", "operators", "bundle"):
            del shared[name]
        return digest_json([self.image, self.base, list(self.packages), shared])[:16]
