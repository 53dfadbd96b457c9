"""package: what was compiled becomes a wheel that can be handed on, with all that belongs beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ortforge.api import Task, TaskOutcome
from ortforge.build import layout
from ortforge.build.package.archive import parse_name
from ortforge.build.package.pack import Packaged, expectation_of, finish, only_wheel, prepare
from ortforge.build.package.provenance import Material
from ortforge.build.package.repair import exclusions, plan_of_repair, read_report, repair_argv, show_argv
from ortforge.build.package.sbom import Materials, read_deps
from ortforge.build.request import BuildRequest
from ortforge.build.room import disk_is_full, stopping
from ortforge.container import ContainerSpec, connect
from ortforge.engine.work import Work
from ortforge.errors import BuildError, OrtforgeError

_IN: Final = "/tmp/wheel"  # noqa: S108 - in a container of its own
_OUT: Final = "/tmp/repaired"  # noqa: S108
_PLAIN: Final = ("env", "-u", "LD_LIBRARY_PATH")
"""An image may name folders for its compilers there; where the wheel runs, the loader does not look into them."""


def run(task: Task, work: Work) -> TaskOutcome:
    """Complete, repair, name, document, audit and index it; the identity is the digest of the whole folder."""
    (_, compiled, facts), (_, source, source_facts), (_, image, toolchain) = task.inputs
    request = BuildRequest.from_json(task.context["request"])
    with work.store.objects.scratch() as scratch:
        out = scratch / "package"
        out.mkdir()
        folder = work.store.objects.get(compiled)
        if request.artifact == "cxx":
            found = _libraries(folder, out, request)
        else:
            bundle = sorted((folder / "bundle").glob("*")) if request.bundle else []
            prepared = prepare(only_wheel(folder / "dist"), bundle, scratch / "prepared")
            repaired, notes, grafted = _repair(request, prepared.wheel, scratch / "repaired", image, compiled, work)
            tree = work.store.objects.get(source)
            deps = tree / "deps.txt"
            static = request.dependencies != "system" and deps.is_file()
            done = finish(
                repaired,
                out,
                request,
                materials=Materials(
                    version=request.version,
                    source={"blake2b": source},
                    source_url=str(source_facts.get("reference", "")),
                    dependencies=read_deps(deps.read_text(encoding="utf-8")) if static else (),
                    patches={patch.name: patch.sha256 for patch in request.patches},
                ),
                inputs=(Material(str(source_facts.get("reference", "source")), {"blake2b": source}, {}),),
                image=image,
                expectation=expectation_of(request, machine=toolchain["machine"]),
                earlier=prepared.changes,
                commands=facts["argv"],
                tools={},
                run={name: facts.get(name) for name in ("phases", "jobs", "halved", "ccache")},
            )
            found = _wheel_facts(done, notes, grafted)
        shutil.copyfile(folder / "build.log", out / "build.log")
        found |= {"base": toolchain["base"], "image": image, "preload": request.preload}
        found |= {"jobs": facts["jobs"], "halved": facts.get("halved", 0)}
        return TaskOutcome("ok", work.store.objects.put(out), found)


def _wheel_facts(done: Packaged, notes: Sequence[str], grafted: Mapping[str, str]) -> dict[str, Any]:
    name = parse_name(done.wheel.name)
    return {
        "artifact": done.wheel.name,
        "kind": "wheel",
        "sha256": done.sha256,
        "bytes": done.size,
        "python": name.python,
        "findings": [finding.to_json() for finding in done.findings],
        "changes": len(done.changes),
        "grafted": dict(grafted),
        "notes": list(notes),
    }


def _repair(
    request: BuildRequest, wheel: Path, out: Path, image: str, compiled: str, work: Work
) -> tuple[Path, Sequence[str], Mapping[str, str]]:
    """Copy the libraries that a wheel needs into it, where they lie: in the toolchain image.

    What is bundled lies in the wheel already, where it is loaded from: it is no library of the image to be copied.
    """
    exclude = exclusions((*request.external_libraries, *request.bundle))
    engine = connect()
    engine.sweep(layout.PACKAGING, compiled, ended=True)  # left by a killed ortforge
    spec = ContainerSpec(image=image, environment={"HOME": _IN}, labels={layout.PACKAGING: compiled})
    with engine.open(spec) as container, stopping(container, work.cancel):
        inside = f"{_IN}/{wheel.name}"
        container.put_files({wheel.name: wheel.read_bytes()}, _IN)
        lines: list[str] = []
        shown = container.run([*_PLAIN, *show_argv(inside)], on_line=lines.append)
        if shown.code != 0:
            raise _failed(f"auditwheel could not read {wheel.name} (exit {shown.code}).", shown.tail)
        plan = plan_of_repair(read_report(lines), exclude=exclude)
        if not plan.platform:
            return wheel, plan.notes, plan.graft
        argv = repair_argv(inside, _OUT, exclude=exclude, platform=plan.platform, isa_check=plan.isa_check)
        done = container.run([*_PLAIN, *argv])
        if done.code != 0:
            raise _failed(f"auditwheel could not repair {wheel.name} (exit {done.code}).", done.tail)
        container.get(_OUT, out)
    return only_wheel(next(path.parent for path in out.rglob("*.whl"))), plan.notes, plan.graft


def _failed(what: str, tail: Sequence[str]) -> OrtforgeError:
    from ortforge.build.diagnose import diagnose

    full = disk_is_full("\n".join(tail))
    if full is not None:
        return full
    if causes := diagnose("\n".join(tail)):
        first = causes[0]
        return BuildError(f"{what} {first.title}\n{first.evidence}", meant=first.cause, todo=first.remedy)
    return BuildError(
        "\n".join([what, *tail[-10:]]),
        meant="ortforge does not know this failure.",
        todo="If there is no auditwheel in the toolchain image: dockerfiles/debian.Dockerfile shows how it gets there.",
    )


def _libraries(folder: Path, out: Path, request: BuildRequest) -> dict[str, Any]:
    """Take a C++ build as it was installed: headers, libraries and CMake files, as one deterministic tar."""
    from ortforge.build.libraries import pack_libraries

    return pack_libraries(folder, out, request)
