"""The packaging of a build in two halves, with the repair, which needs a container, between them.

:func:`prepare` mends what ORT's packaging forgot, so that the repair sees all libraries; :func:`finish` names the
repaired wheel, audits it and lays everything beside it that a user, an index or an auditor wants.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from ortforge.build.package.archive import EARLIEST, open_wheel
from ortforge.build.package.audit import audit, refuse_errors
from ortforge.build.package.findings import Expectation, Finding
from ortforge.build.package.index import write_index
from ortforge.build.package.provenance import Material, provenance
from ortforge.build.package.repair import superfluous_copies
from ortforge.build.package.rewrite import Change, Changes, WheelChanges, final_name, rewrite
from ortforge.build.package.sbom import AUDITWHEELS_NAME, SBOM_NAME, Materials, sbom
from ortforge.build.request import BuildRequest
from ortforge.errors import BuildError
from ortforge.store.atomic import write_json

__all__ = ["Packaged", "expectation_of", "finish", "only_wheel", "prepare"]

CAPI: Final = "onnxruntime/capi"


@dataclass(frozen=True, slots=True)
class Packaged:
    """A finished wheel. ``findings`` holds no error."""

    wheel: Path
    sha256: str
    size: int
    changes: tuple[Change, ...] = ()
    findings: tuple[Finding, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "wheel": self.wheel.name,
            "sha256": self.sha256,
            "size": self.size,
            "changes": [asdict(change) for change in self.changes],
            "findings": [finding.to_json() for finding in self.findings],
        }


def only_wheel(folder: Path) -> Path:
    """Return the one wheel of a folder.

    :raises BuildError: there is none, or more than one.
    """
    found = sorted(folder.glob("*.whl"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise BuildError(f"There has to be one wheel in {folder.name}, and there is: {names}.", todo="Build it again.")
    return found[0]


def expectation_of(request: BuildRequest, *, machine: str = "", telemetry_allowed: bool = False) -> Expectation:
    """Return what a build's request lets one expect of its wheel."""
    return Expectation(
        must_hold=request.must_hold,
        must_not_hold=request.must_not_hold,
        external_libraries=request.external_libraries,
        python=request.python,
        machine=machine,
        eps=request.ep_names,
        telemetry_allowed=telemetry_allowed,
    )


def prepare(raw: Path, bundle: Sequence[Path], out: Path, *, timestamp: int = EARLIEST) -> Changes:
    """Write the raw wheel into ``out``, with the libraries in it that ORT's packaging forgot, and no copies of copies.

    :param bundle: the libraries that belong into ``onnxruntime/capi``.
    :raises BuildError: the wheel is damaged.
    """
    with open_wheel(raw) as opened:
        copies = superfluous_copies(opened)
    added = {f"{CAPI}/{path.name}": path for path in bundle}
    remove = [name for name in copies if name not in added]
    return rewrite(raw, out, WheelChanges(add_files=added, remove=remove), timestamp=timestamp)


def finish(
    repaired: Path,
    out: Path,
    request: BuildRequest,
    *,
    materials: Materials,
    inputs: Sequence[Material],
    image: str,
    expectation: Expectation,
    earlier: Sequence[Change] = (),
    commands: Mapping[str, Sequence[str]] | None = None,
    tools: Mapping[str, str] | None = None,
    run: Mapping[str, Any] | None = None,
    timestamp: int = EARLIEST,
) -> Packaged:
    """Name, document, audit and index a repaired wheel.

    Writes into ``out``: the wheel with its index ``simple/``, and ``sbom.cdx.json``, ``provenance.json``,
    ``audit.json``, ``changes.json``.

    :param earlier: what :func:`prepare` changed, for ``changes.json``.
    :raises BuildError: the audit found an error; ``audit.json`` is written nevertheless, everything else that names
        the wheel as a result is not.
    """
    wanted = WheelChanges(distribution=request.distribution, local_version=request.local_version)
    distribution, version = final_name(repaired, wanted)
    inside = sbom(repaired, materials, distribution=distribution, version=version, timestamp=timestamp)
    with open_wheel(repaired) as opened:
        theirs = f"{opened.dist_info}/{AUDITWHEELS_NAME}" in opened.names
    remove = [f"*.dist-info/{AUDITWHEELS_NAME}"] if theirs else []  # it states the old name, and ours what it knows
    added = {SBOM_NAME: inside}
    done = rewrite(repaired, out, replace(wanted, remove=remove, add_dist_info=added), timestamp=timestamp)
    findings = audit(done.wheel, expectation)
    write_json(out / "audit.json", [finding.to_json() for finding in findings])
    try:
        refuse_errors(done.wheel.name, findings)
    except BuildError:
        done.wheel.unlink()
        raise
    beside = sbom(
        repaired, materials, distribution=distribution, version=version, sha256=done.sha256, timestamp=timestamp
    )
    (out / "sbom.cdx.json").write_bytes(beside)
    statement = provenance(done.wheel, request, image=image, materials=inputs, commands=commands, tools=tools, run=run)
    (out / "provenance.json").write_text(json.dumps(statement, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    packaged = Packaged(done.wheel, done.sha256, done.wheel.stat().st_size, (*earlier, *done.changes), tuple(findings))
    write_json(out / "changes.json", packaged.to_json()["changes"])
    write_index(out)
    return packaged
