"""Where a wheel comes from: an in-toto statement with a SLSA provenance predicate, beside the wheel.

(https://in-toto.io/Statement/v1, https://slsa.dev/spec/v1.0/provenance). It is not put into the wheel: an image that
was built again has another id, and would give the same code other bytes. Everything is determined by what was built,
except ``runDetails.metadata``: when, where and how long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ortforge import __version__
from ortforge.build.request import BuildRequest
from ortforge.store.hashing import sha256_file

__all__ = ["BUILD_TYPE", "Material", "provenance"]

BUILD_TYPE: Final = "urn:ortforge:build:1"
"""What the parameters mean: version 1 of :class:`~ortforge.build.request.BuildRequest`."""

_SECRET: Final = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Material:
    """Something that the build was made from.

    :param uri: where it came from, or what it is. :param digest: algorithm to hexadecimal.
    """

    uri: str
    digest: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as a resource descriptor."""
        given: dict[str, Any] = {"uri": self.uri, "digest": dict(self.digest)}
        return given | ({"annotations": dict(self.annotations)} if self.annotations else {})


def provenance(
    wheel: Path,
    request: BuildRequest,
    *,
    image: str,
    materials: Sequence[Material] = (),
    commands: Mapping[str, Sequence[str]] | None = None,
    tools: Mapping[str, str] | None = None,
    run: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the provenance of a finished wheel as JSON values.

    :param image: id of the toolchain image. :param materials: source, vendored archives …; the request's patches and
        the image are added. :param commands: phase to argv, as they were started. :param tools: name to version.
    :param run: what differs from run to run (times, host); left out, the result depends on the build alone.
    :raises OSError: the wheel cannot be read.
    """
    patches = [
        Material(f"patch:{patch.name}", {"sha256": patch.sha256}, {"why": patch.why}) for patch in request.patches
    ]
    toolchain = Material(f"docker-image:{request.image}", {"sha256": image.removeprefix("sha256:")})
    asked = request.to_json()
    del asked["patches"]
    asked["environment"] = _without_secrets(request.environment)
    details: dict[str, Any] = {"builder": {"id": "urn:ortforge:builder:docker", "version": {"ortforge": __version__}}}
    details["builder"]["version"] |= dict(sorted((tools or {}).items()))
    if run is not None:
        details["metadata"] = dict(run)
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": wheel.name, "digest": {"sha256": sha256_file(wheel)}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": asked,
                "internalParameters": {"commands": {name: list(argv) for name, argv in (commands or {}).items()}},
                "resolvedDependencies": [material.to_json() for material in (*materials, *patches, toolchain)],
            },
            "runDetails": details,
        },
    }


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Keep names, hide values that must not be handed on with a wheel."""
    return {name: "(hidden)" if _SECRET.search(name) else value for name, value in sorted(environment.items())}
