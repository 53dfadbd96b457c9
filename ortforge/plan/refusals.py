"""What can be said of a cell before anything is installed: why it cannot run here."""

from __future__ import annotations

from collections.abc import Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from ortforge.api import Device, Pass, PassUse
from ortforge.matrix import CellSpec, Matrix, SourceTarget, TargetConfig
from ortforge.plan.graph import VersionConflict
from ortforge.plan.pass_order import UsedPass, why_not_after
from ortforge.plugin_manager import Plugins
from ortforge.runtime import device as devices
from ortforge.runtime.published import published_problem
from ortforge.worker.session import laid_over

__all__ = ["Refusals", "stated_version"]


def stated_version(requires: Sequence[str]) -> str:
    """Return the ORT version that requirements pin, or ``""`` when it is known only after resolving.

    >>> stated_version(["onnxruntime-openvino==1.24.1", "numpy<3"])
    '1.24.1'
    """
    for text in requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.name.lower().replace("_", "-").startswith("onnxruntime"):
            for specifier in requirement.specifier:
                if specifier.operator == "==" and not specifier.version.endswith("*"):
                    return specifier.version
    return ""


def _version_of(target: TargetConfig) -> str:
    return target.version if isinstance(target, SourceTarget) else stated_version(target.requires)


class Refusals:
    """Why cells cannot run on a device, found once for each target, EP and device, and each recipe there."""

    def __init__(self, matrix: Matrix, plugins: Plugins, device: Device) -> None:
        self._matrix = matrix
        self._plugins = plugins
        self._device = device
        self._known: dict[tuple[str, ...], str] = {}

    def of(self, spec: CellSpec) -> str:
        """Return why a cell cannot run here, or ``""``."""
        key = (spec.model, spec.recipe, spec.target, spec.ep.label, spec.device)
        for part in ((spec.target, spec.ep.label, spec.device), key):
            if part not in self._known:
                self._known[part] = self._why_not_here(spec) if len(part) == 3 else self._why_not_passes(spec)
            if self._known[part]:
                return self._known[part]
        return ""

    def _why_not_here(self, spec: CellSpec) -> str:
        mismatch = devices.matches(self._device, self._matrix.devices[spec.device].model_dump())
        if mismatch:
            return mismatch
        backend = self._plugins.backends[spec.ep.name]
        answer = backend.availability(self._device)
        if not answer.usable:
            return answer.reason
        objection = backend.objection({**backend.options, **spec.ep.options}, spec.ep.session, self._device)
        if objection:
            return objection
        target = self._matrix.targets[spec.target]
        if isinstance(target, SourceTarget) and target.artifact == "cxx":
            return f"target {spec.target} is a C++ library: it is built and proven, and no Python runs models on it"
        version = _version_of(target)
        if backend.versions and version and version not in SpecifierSet(backend.versions, prereleases=True):
            return VersionConflict(
                f"{backend.ep} needs ONNX Runtime {backend.versions}; target {spec.target} has {version}"
            )
        return published_problem(backend, target.requires) if target.from_ == "package" else ""

    def _why_not_passes(self, spec: CellSpec) -> str:
        version = _version_of(self._matrix.targets[spec.target])
        if own := self._matrix.recipes[spec.recipe].session.given():
            backend = self._plugins.backends[spec.ep.name]
            options = {**backend.options, **spec.ep.options}
            if objection := backend.objection(options, laid_over(spec.ep.session, own), self._device):
                return f"session: {objection}"
        before: list[UsedPass] = []
        for use in self._matrix.recipes[spec.recipe].passes:
            used = UsedPass(self._plugins.passes[use.use], use.typed)
            kinds = tuple(one.known.kind for one in before)
            reason = why_not_after(before, used) or self._objection(used.known, use.typed, kinds, version, spec)
            if reason:
                return f"{use.use}: {reason}"
            before.append(used)
        return ""

    def _objection(self, known: Pass, parameters: object, before: tuple[str, ...], version: str, spec: CellSpec) -> str:
        if known.versions and version and version not in SpecifierSet(known.versions, prereleases=True):
            return f"needs ONNX Runtime {known.versions}; target {spec.target} has {version}"
        has_calibration = self._matrix.models[spec.model].calibration is not None
        use = PassUse(parameters, before, version, spec.ep.name, has_calibration)
        try:
            return known.objection(use)
        except Exception as error:
            return f"its plugin failed: {type(error).__name__}: {error}"
