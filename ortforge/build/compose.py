"""Composes a build from the target and what its backends and allocator contribute; pure, and says who wanted what."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from ortforge.api import BuildContribution, Patch
from ortforge.build.request import BuildRequest, PatchText
from ortforge.errors import ConfigurationError

__all__ = ["Contributor", "compose"]


@dataclass(frozen=True, slots=True)
class Contributor:
    """Who adds what to a build: ``name`` as a message can say it, e.g. ``the dnnl backend``."""

    name: str
    contribution: BuildContribution


@dataclass(slots=True)
class _Merged:
    """Settings with their owners, so that two who disagree can be named."""

    what: str
    target: str
    values: dict[str, Any] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)

    def add(self, owner: str, given: Mapping[str, Any]) -> None:
        for name, value in given.items():
            if name in self.values and self.values[name] != value:
                raise ConfigurationError(
                    f"target {self.target}: {self.owners[name]} sets the {self.what} {name} to {self.values[name]!r}, "
                    f"{owner} to {value!r}.",
                    meant="One build has one value of it.",
                    todo=f"Remove {name} from the target, or build two targets.",
                )
            self.values[name] = value
            self.owners.setdefault(name, owner)


def compose(asked: BuildRequest, contributors: Sequence[Contributor]) -> BuildRequest:
    """Return the whole build: what the target asks for, with what its plugins add.

    :param asked: the target's own flags, definitions and environment; one that is ``False`` is not given to build.py.
    :raises ConfigurationError: two of them want different values of one setting; or a plugin's patch cannot be read.
    """
    flags = _Merged("flag", asked.target)
    defines = _Merged("CMake definition", asked.target)
    environment = _Merged("variable", asked.target)
    files = _Merged("source file", asked.target)
    everyone = [
        Contributor(
            "the target",
            BuildContribution(
                flags=asked.flags,
                cmake_defines=asked.defines,
                environment=asked.environment,
                packages=asked.packages,
                source_files=asked.source_files,
            ),
        ),
        *contributors,
    ]
    for one in everyone:
        flags.add(one.name, one.contribution.flags)
        defines.add(one.name, one.contribution.cmake_defines)
        environment.add(one.name, one.contribution.environment)
        files.add(one.name, one.contribution.source_files)
    parts = [one.contribution for one in everyone]
    return replace(
        asked,
        flags=dict(sorted(flags.values.items())),
        defines=dict(sorted(defines.values.items())),
        environment=dict(sorted(environment.values.items())),
        source_files=dict(sorted(files.values.items())),
        packages=_together(part.packages for part in parts),
        must_hold=_together((asked.must_hold, *(part.must_hold for part in parts))),
        must_not_hold=_together((asked.must_not_hold, *(part.must_not_hold for part in parts))),
        bundle=_together((asked.bundle, *(part.bundle for part in parts))),
        external_libraries=_together((asked.external_libraries, *(part.external_libraries for part in parts))),
        patches=_patches(asked, contributors),
    )


def _together(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(sorted({item for group in groups for item in group}))


def _patches(asked: BuildRequest, contributors: Sequence[Contributor]) -> tuple[PatchText, ...]:
    """Return the patches for this version, each once, in the order of the plugins: later ones may build on earlier."""
    chosen: dict[str, PatchText] = {}
    for one in contributors:
        for patch in one.contribution.patches:
            if patch.name not in chosen and _is_for(patch, asked.version, one.name):
                chosen[patch.name] = _read(patch, one.name)
    return tuple(chosen.values())


def _is_for(patch: Patch, version: str, owner: str) -> bool:
    try:
        return not patch.versions or version in SpecifierSet(patch.versions, prereleases=True)
    except InvalidSpecifier:
        raise ConfigurationError(
            f"patch {patch.name} of {owner} is for versions {patch.versions!r}, which is no version specifier.",
            meant="Something like '>=1.20,<1.22'.",
            todo="Correct the plugin.",
        ) from None


def _read(patch: Patch, owner: str) -> PatchText:
    try:
        content = Path(patch.file).read_bytes()
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"patch {patch.name} of {owner} cannot be read: {error}.", todo="Install the plugin again."
        ) from None
    return PatchText(patch.name, patch.why, hashlib.sha256(content).hexdigest(), text)
