"""The bill of materials of a wheel, in CycloneDX: what was compiled in, what was grafted, what Python will fetch.

It goes into the wheel (``.dist-info/sboms/``, PEP 770) and beside it; only the copy beside it can hold the wheel's own
digest. Nothing in it is random or of the moment: its serial number is derived from its content.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from packaging.requirements import InvalidRequirement, Requirement

from ortforge.build.package.archive import EARLIEST, Wheel, is_library, open_wheel
from ortforge.errors import BuildError, EnvironmentLacksError

if TYPE_CHECKING:
    from cyclonedx.model.component import Component, ComponentScope

__all__ = ["AUDITWHEELS_NAME", "SBOM_NAME", "Materials", "StaticDependency", "SystemPackage", "read_deps", "sbom"]

SBOM_NAME: Final = "sboms/ortforge.cdx.json"
"""Where it lies below ``.dist-info``."""

AUDITWHEELS_NAME: Final = "sboms/auditwheel.cdx.json"
"""Where auditwheel writes its own, of the packages whose libraries it grafted."""

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/ortforge")
_GITHUB: Final = re.compile(r"https://github\.com/([^/]+)/([^/]+)/(?:archive|releases/download)/(?:refs/tags/)?([^/]+)")
_GITLAB: Final = re.compile(r"https://gitlab\.[^/]+/.+?/-/archive/([^/]+)/")

_NEVER_LINKED: Final = frozenset(
    {"coremltools", "directx_headers", "google_benchmark", "googletest", "microsoft_wil", "tensorboard"}
)
"""What deps.txt names for tests, training and other systems: in no wheel for Linux."""


@dataclass(frozen=True, slots=True)
class StaticDependency:
    """A source archive that is compiled into the libraries: one line of ORT's ``cmake/deps.txt``."""

    name: str
    url: str
    sha1: str

    @property
    def version(self) -> str:
        """Its tag or commit, as the address has it; ``""`` when it has none.

        >>> StaticDependency("onnx", "https://github.com/onnx/onnx/archive/refs/tags/v1.17.0.zip", "13a6").version
        'v1.17.0'
        """
        for pattern in (_GITHUB, _GITLAB):
            if found := pattern.match(self.url):
                return re.sub(r"\.(zip|tar\.\w+|tgz)$", "", found[found.re.groups])
        return ""


@dataclass(frozen=True, slots=True)
class SystemPackage:
    """A package of the toolchain image that ends up in the wheel: linked statically, or a grafted library's."""

    name: str
    version: str
    distribution: str = "debian"
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Materials:
    """What a wheel was made from, beside what can be read in it.

    :param version: of ONNX Runtime. :param source: digests of its tree or archive: algorithm (``sha256``, ``blake2b``)
        to hexadecimal. :param source_url: where it came from. :param dependencies: from ``deps.txt``.
    :param linked: names of those that this build really used; ``None`` when that is not known.
    :param packages: of the system. :param patches: name to sha256.
    """

    version: str
    source: Mapping[str, str] = field(default_factory=dict)
    source_url: str = ""
    dependencies: Sequence[StaticDependency] = ()
    linked: Collection[str] | None = None
    packages: Sequence[SystemPackage] = ()
    patches: Mapping[str, str] = field(default_factory=dict)


def read_deps(text: str) -> tuple[StaticDependency, ...]:
    """Read ORT's ``cmake/deps.txt``: ``name;url;sha1`` a line, ``#`` begins a comment.

    :raises BuildError: a line has another form.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = [part.strip() for part in line.split(";")]
        if len(parts) != 3 or not re.fullmatch(r"[0-9a-f]{40}", parts[2]):
            raise BuildError(
                f"line {number} of deps.txt is not name;url;sha1: {line.strip()}",
                meant="The file is not ONNX Runtime's cmake/deps.txt, or of a version with another form.",
            )
        found.append(StaticDependency(*parts))
    return tuple(found)


def sbom(
    wheel: Path,
    materials: Materials,
    *,
    distribution: str = "",
    version: str = "",
    sha256: str = "",
    timestamp: int = EARLIEST,
) -> bytes:
    """Return the bill of materials of a wheel as JSON; the same wheel and materials give the same bytes.

    :param distribution: its name, and :param version: where they will differ from what its metadata says now.
    :param sha256: of the finished wheel, for the copy that lies beside it.
    :param timestamp: what it states as its time: ``SOURCE_DATE_EPOCH``.
    :raises BuildError: the wheel is damaged. :raises EnvironmentLacksError: cyclonedx-python-lib is not installed.
    """
    try:
        from cyclonedx.model.bom import Bom, BomMetaData
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError:
        raise EnvironmentLacksError(
            "Writing a bill of materials takes cyclonedx-python-lib, which is not installed.",
            todo="pip install 'ortforge[build]'",
        ) from None
    with open_wheel(wheel) as opened:
        metadata = opened.headers("METADATA")
        root = _wheel_component(distribution or str(metadata["Name"]), version or str(metadata["Version"]), sha256)
        parts = [
            _source_component(materials),
            *_static_components(materials),
            *_system_components(materials),
            *_library_components(opened),
            *_python_components([str(line) for line in metadata.get_all("Requires-Dist", [])]),
        ]
        grafted = _grafted(opened)
    parts += [part for part in grafted if part.bom_ref.value not in {known.bom_ref.value for known in parts}]
    bom = Bom(
        components=parts,
        metadata=BomMetaData(component=root, timestamp=datetime.fromtimestamp(timestamp, UTC)),
        serial_number=_NAMESPACE,
    )
    bom.register_dependency(root, parts)
    draft: str = JsonV1Dot6(bom).output_as_string()
    bom.serial_number = uuid.uuid5(_NAMESPACE, draft)
    text: str = JsonV1Dot6(bom).output_as_string(indent=1)
    return (text + "\n").encode()


def _wheel_component(distribution: str, version: str, sha256: str) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    return Component(
        name=distribution,
        version=version,
        bom_ref="wheel",
        purl=PackageURL("pypi", None, distribution.lower().replace("_", "-"), version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else [],
    )


def _source_component(materials: Materials) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in _sha256(materials.source)]
    stated = {f"ortforge:source:{name}": value for name, value in sorted(materials.source.items()) if name != "sha256"}
    stated |= {f"ortforge:patch:{name}": f"sha256:{digest}" for name, digest in sorted(materials.patches.items())}
    if materials.source_url:
        stated["ortforge:source:from"] = materials.source_url
    return Component(
        name="onnxruntime",
        version=materials.version,
        description="ONNX Runtime's source",
        bom_ref="source",
        purl=PackageURL("github", "microsoft", "onnxruntime", f"v{materials.version}"),
        hashes=hashes,
        properties=[Property(name=name, value=value) for name, value in stated.items()],
    )


def _sha256(digests: Mapping[str, str]) -> list[str]:
    return [digests["sha256"]] if "sha256" in digests else []


def _static_components(materials: Materials) -> list[Component]:
    """What deps.txt names: what was used as required, all of it as optional where that is not known."""
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
    from cyclonedx.model.component import Component, ComponentScope
    from packageurl import PackageURL

    known = materials.linked is not None
    scope = ComponentScope.REQUIRED if known else ComponentScope.OPTIONAL
    found = []
    for dependency in materials.dependencies:
        unused = dependency.name not in materials.linked if materials.linked is not None else _is_tool(dependency.name)
        if unused:
            continue
        github = _GITHUB.match(dependency.url)
        purl = (
            PackageURL("github", github[1].lower(), github[2].lower(), dependency.version)
            if github
            else PackageURL("generic", None, dependency.name, dependency.version, {"download_url": dependency.url})
        )
        origin = ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION,
            url=XsUri(dependency.url),
            hashes=[HashType(alg=HashAlgorithm.SHA_1, content=dependency.sha1)],
        )
        component = Component(
            name=dependency.name,
            version=dependency.version or None,
            bom_ref=f"deps/{dependency.name}",
            purl=purl,
            scope=scope,
            external_references=[origin],
        )
        found.append(component)
    return found


def _is_tool(name: str) -> bool:
    return name in _NEVER_LINKED or name.startswith("protoc_")


def _system_components(materials: Materials) -> list[Component]:
    return [_system_component(package) for package in materials.packages]


def _system_component(package: SystemPackage, scope: ComponentScope | None = None) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    kind = "deb" if package.distribution in ("debian", "ubuntu") else "rpm"
    return Component(
        name=package.name,
        version=package.version,
        bom_ref=f"{package.distribution}/{package.name}",
        purl=PackageURL(kind, package.distribution, package.name, package.version),
        scope=scope,
        properties=[Property(name="ortforge:file", value=name) for name in package.files],
    )


def _library_components(wheel: Wheel) -> list[Component]:
    """Every shared library in the wheel, with its digest; ``ortforge:grafted`` marks those that a repair brought."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    found = []
    for name in wheel.names:
        if is_library(name):
            grafted = name.split("/")[0].endswith(".libs")
            component = Component(
                type=ComponentType.FILE,
                name=name,
                bom_ref=f"file/{name}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=wheel.digest(name)[0])],
                properties=[Property(name="ortforge:grafted", value="true" if grafted else "false")],
            )
            found.append(component)
    return found


def _python_components(requirements: Sequence[str]) -> list[Component]:
    """What the wheel's metadata requires: names and ranges, since versions are chosen when it is installed."""
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentScope
    from packageurl import PackageURL

    found: dict[str, Component] = {}
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise BuildError(f"The wheel requires {text!r}, which is no requirement: {error}.") from None
        optional = requirement.marker is not None and "extra" in str(requirement.marker)
        name = requirement.name
        found[text] = Component(
            name=name,
            bom_ref=f"requires/{text}",
            purl=PackageURL("pypi", None, name.lower().replace("_", "-")),
            scope=ComponentScope.OPTIONAL if optional else ComponentScope.REQUIRED,
            properties=[Property(name="ortforge:requires", value=text)],
        )
    return list(found.values())


def _grafted(wheel: Wheel) -> list[Component]:
    """What auditwheel wrote down of the system packages whose libraries it grafted."""
    name = f"{wheel.dist_info}/{AUDITWHEELS_NAME}"
    if name not in wheel.names:
        return []
    written: Mapping[str, Any] = json.loads(wheel.read(name))
    found: dict[str, SystemPackage] = {}
    for component in written.get("components", []):
        kind = re.match(r"pkg:(?:deb|rpm|apk)/([^/]+)/", component.get("purl", ""))
        if kind:
            package = SystemPackage(component["name"], component.get("version", ""), kind[1])
            found[f"{package.distribution}/{package.name}"] = package
    return [_system_component(package) for _, package in sorted(found.items())]
