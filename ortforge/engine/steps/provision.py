"""provision: wheels become an environment with an identity, and ORT inside it is asked what it is.

An environment is one of this machine, or, where the target says so or its wheels fit nothing here, one for the Python
of an image: its workers then run in containers.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from packaging.tags import platform_tags

from ortforge.api import Task, TaskOutcome
from ortforge.engine.unchanged import refuse_changed
from ortforge.engine.work import Work, failed_job
from ortforge.errors import BuildError, OrtforgeError, ProvisionError, UnfitError
from ortforge.runtime.container_fit import image_for, platform_misfit, python_misfit, pythons_of
from ortforge.runtime.environment import (
    Environment,
    EnvironmentRequest,
    Place,
    local_wheels,
    provision,
    same_runtime,
    tools_request,
)
from ortforge.runtime.index_settings import project_settings
from ortforge.runtime.resolution import LockedPin
from ortforge.runtime.supervisor import JobOutcome, Limits, run_job
from ortforge.store.hashing import digest_json, sha256_file

Make = Callable[[EnvironmentRequest, Place | None], Environment]
"""Makes an environment, or finds the one made before: ``None`` for one of this machine."""

_PROBE_LIMITS: Final = Limits(import_s=120, load_s=60, run_s=60, memory=4 << 30)


@dataclass(frozen=True, slots=True)
class _Made:
    """An environment, and which container its workers run in (``reference``, ``image``, ``why``), if any."""

    environment: Environment
    container: Mapping[str, str] = field(default_factory=dict)


def run(task: Task, work: Work) -> TaskOutcome:
    """Make the environment; its identity covers every wheel, the interpreter, the platform and the image."""
    asked = task.context
    is_tools = "extra" in task.parameters
    built = task.inputs[1:] if is_tools else task.inputs
    wheels = [Path(wheel) for wheel in asked["wheels"]]
    for wheel, (_, planned) in zip(wheels, task.parameters.get("wheels", ()), strict=False):
        refuse_changed(planned, sha256_file(wheel), wheel.name, lambda: wheels)
    for _, digest, _ in built:
        wheels += sorted(work.store.objects.get(digest).glob("*.whl"))
    facts = built[0][2] if built else {}  # of the package step
    pins = () if is_tools else asked.get("locked", ())
    locked = tuple(LockedPin(name, version, tuple(map(tuple, files))) for name, version, files in pins)
    request = EnvironmentRequest(tuple(asked["requires"]), asked["python"], tuple(wheels), (), locked=locked)
    preload = ""

    def make(wanted: EnvironmentRequest, place: Place | None) -> Environment:
        return provision(wanted, work.store.envs, say=work.say, since=task.since, place=place)

    if is_tools:
        # The bare runtime's request again, with what passes and datasets need on top, in the same place.
        before = task.inputs[0][2]
        bare = Environment.from_json(before["environment"])
        container = before.get("container") or {}
        # One without a name of its own (a clean room) is found by its id.
        python = bare.interpreter.version
        place = _place(bare.image, work, container.get("reference", ""), python=python) if bare.image else None
        made = _Made(make(tools_request(request, bare, task.parameters["extra"]), place), container)
        difference = same_runtime(bare, made.environment, request)
        if difference:
            return TaskOutcome("failed", reason=f"the tools environment is not the runtime's: {difference}")
    else:
        where = task.parameters.get("container", "auto")

        def look_into(image: str) -> Place:
            return _place(image, work, wheels=request.wheels, python=request.python)

        made = _first(request, where, str(facts.get("base", "")), make, look_into)
        preload = _preloaded(made.environment, str(facts.get("preload", "")))
    return _probed(made, preload, work, frozenset(wheel.name for wheel in wheels))


def in_clean_room(
    wheel: Path, base: str, preload: str, work: Work, requires: tuple[str, ...] = (), *, since: float = 0.0
) -> dict[str, Any]:
    """Install a wheel where only a Python is; return the environment, with what ORT says of itself as ``probe``.

    :param base: image whose Python the wheel is for. :param preload: soname of the allocator that its processes load
        first, or ``""``. :param requires: what is installed beside it. :param since: as for ``provision``.
    :raises BuildError: ORT does not start, or the allocator is not in force.
    :raises ProvisionError: the wheel cannot be installed there, or does not bring the allocator.
    """
    request = EnvironmentRequest(requires, wheels=(wheel,))
    place = _place(base, work, wheels=(wheel,))
    environment = provision(request, work.store.envs, say=work.say, since=since, place=place)
    facts = {**environment.to_json(), "preload": _preloaded(environment, preload)}
    probe = _probe(facts, work)
    if probe.status != "ok":
        raise BuildError(f"{wheel.name} is installed in a clean container, and does not work: {probe.reason}")
    return {**facts, "probe": probe.result}


def _probe(environment: Mapping[str, Any], work: Work) -> JobOutcome:
    """Ask ORT what it is, and the process whether it uses the allocator that was loaded first."""
    with work.store.objects.scratch() as scratch:
        interpreter = work.interpreter(environment)
        probe = run_job(interpreter, {"op": "probe"}, limits=_PROBE_LIMITS, workdir=scratch, cancel=work.cancel)
    library = Path(environment["preload"]).name
    if probe.status == "ok" and library and probe.result["malloc"] != library:
        other = probe.result["malloc"] or "another library"
        return replace(probe, status="failed", reason=f"{library} is loaded first, and yet {other} answers malloc")
    return probe


def _probed(made: _Made, preload: str, work: Work, given_wheels: frozenset[str]) -> TaskOutcome:
    environment = {**made.environment.to_json(), "preload": preload}
    probe = _probe(environment, work)
    if probe.status != "ok":
        return failed_job(probe, "the runtime was installed, and ONNX Runtime does not start in it")
    identity = made.environment.identity
    if preload:  # the same wheels are another runtime with another allocator
        identity = digest_json({"environment": identity, "preload": Path(preload).name})
    result: dict[str, Any] = {"environment": environment, "probe": probe.result, "container": dict(made.container)}
    # A wheel of a local folder may be replaced under its name: it is looked at before this result is used again.
    found = local_wheels(made.environment)
    files = {str(path): sha256 for path, sha256 in found.items() if path.name not in given_wheels}
    result["files"] = [{"path": path, "kind": "wheel", "sha256": sha256} for path, sha256 in sorted(files.items())]
    settings = project_settings(work.store.envs)
    result["files"] += [{"path": path, "kind": "file", "sha256": sha256} for path, sha256 in settings.items()]
    return TaskOutcome("ok", identity, result)


def _first(request: EnvironmentRequest, where: str, base: str, make: Make, look_into: Callable[[str], Place]) -> _Made:
    """Make a bare environment.

    :param where: ``auto``, ``never``, or the image to take. :param base: the image that the wheels were built for, or
        ``""`` when that is not known. :param look_into: returns the place that an image is.
    """
    if where == "never":
        return _Made(make(request, None))

    def inside(reference: str, why: str) -> _Made:
        place = look_into(reference)
        # A lock file has the wheels for this machine's Python.
        return _Made(
            make(replace(request, locked=()), place), {"reference": reference, "image": place.image, "why": why}
        )

    if where != "auto":
        return inside(where, "the target asks for it")
    refused = _unfit(request)
    if refused is None:
        try:
            return _Made(make(_with_python(request), None))
        except UnfitError as error:
            refused = error
    image = base or _image(request, refused)
    if not image:
        raise refused
    try:
        return inside(image, refused.what)
    except OrtforgeError as error:
        note = f"It cannot run in a container of {image} either: {error.what}"
        meant = " ".join(part for part in (refused.meant, note) if part)
        raise ProvisionError(refused.what, meant=meant, todo=error.todo or refused.todo) from error


def _unfit(request: EnvironmentRequest) -> UnfitError | None:
    """Say which local wheel cannot run on this system, whatever the Python."""
    here = frozenset(platform_tags())
    for wheel in request.wheels:
        with suppress(ValueError):  # a name that is no wheel's is said so when the environment is made
            why = platform_misfit(wheel.name, here)
            if why:
                has = " ".join(platform.libc_ver()).strip() or platform.system()
                todo = "Build it for this system, or take one that fits."
                return UnfitError(f"{wheel.name} {why}, and this machine has {has}.", todo=todo)
    return None


def _with_python(request: EnvironmentRequest) -> EnvironmentRequest:
    """Ask for a Python that local wheels fit, where they do not fit the one that ortforge runs on."""
    if request.python:
        return request
    wanted = []
    with suppress(ValueError):
        if any(python_misfit(wheel.name, platform.python_version()) for wheel in request.wheels):
            wanted = [set(made_for) for wheel in request.wheels if (made_for := pythons_of(wheel.name))]
    common = set.intersection(*wanted) if wanted else set()
    newest = max(common, key=lambda version: int(version.partition(".")[2]), default="")
    return replace(request, python=newest)


def _image(request: EnvironmentRequest, refused: UnfitError) -> str:
    """Return an image that a runtime fits, though nothing here does; ``""`` when there is none to be named."""
    asked = re.fullmatch(r"(3\.\d+)(\.\d+)?", request.python)
    if request.python and not asked:
        return ""  # an interpreter of this machine was asked for
    pythons = (asked[1],) if asked else refused.pythons
    if asked and refused.pythons and asked[1] not in refused.pythons:
        return ""  # no wheel fits the wish
    try:
        return image_for([wheel.name for wheel in request.wheels], pythons, platform.machine().lower())
    except ValueError:
        return ""


def _place(reference: str, work: Work, title: str = "", *, wheels: Iterable[Path] = (), python: str = "") -> Place:
    """Look into an image; one without a Python gets the one that its distribution has.

    :param wheels: those that its Python should fit. :param python: the version that it should have, if one was asked
        for.
    """
    from ortforge.build.toolchain import proof_image  # most runtimes need no container
    from ortforge.container import connect
    from ortforge.container.attached import sweep_unstarted
    from ortforge.runtime.container_place import NoPythonError, examine

    engine = connect()
    pythons = [".".join(python.split(".")[:2])] if re.fullmatch(r"3\.\d+(\.\d+)?", python) else []
    for wheel in wheels if not pythons else ():
        with suppress(ValueError):  # said when the environment is made
            pythons += pythons_of(wheel.name)
    sweep_unstarted(engine.api)
    with work.store.objects.scratch() as scratch:
        image = engine.image_id(reference)
        if image:
            with suppress(NoPythonError):
                return examine(engine, image, title or reference, scratch, pythons)
        image = proof_image(engine, reference, work.say)
        return examine(engine, image, reference, scratch, pythons)


def _preloaded(environment: Environment, soname: str) -> str:
    """Return where the wheel keeps a library that processes have to load first; ``""`` for none.

    Repairing a wheel puts a hash into the names of the libraries that it brings (``libjemalloc-0a1b2c3d.so.2``).

    :raises ProvisionError: no file of the wheel is that library.
    """
    if not soname:
        return ""
    stem, dot, version = soname.partition(".so")
    name = re.compile(rf"{re.escape(stem)}(-[0-9a-f]{{8,}})?{re.escape(dot + version)}(\.\d+)*")
    for site in environment.interpreter.sites:
        for pattern in ("onnxruntime/capi/*", "onnxruntime*.libs/*"):
            for path in sorted(Path(site).glob(pattern)):
                if name.fullmatch(path.name):
                    return str(path)
    raise ProvisionError(
        f"The allocator's library {soname} has to be loaded first, and the wheel does not bring it.",
        todo="Build the wheel again; its package step puts the library beside ONNX Runtime's own.",
    )
