"""Makes environments for the Python of an image.

Wheels are chosen, checked and unpacked here, by the same uv with the same indexes and cache as for environments of this
machine, for the interpreter and the C library that the image has. So nothing is installed inside, containers need
no network, no image is made for each environment, and what is in one is known as exactly as for any other.
The folder is a virtual environment whose interpreter exists in the image alone; containers see it at the same path.
"""

from __future__ import annotations

import csv
import io
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from ortforge.container.attached import Attached, Bind, ProcessSpec, ProgramMissingError
from ortforge.errors import EnvironmentLacksError, ProvisionError, UnfitError
from ortforge.runtime import uv, uv_errors
from ortforge.runtime.container_fit import platform_misfit, platforms_of, python_misfit
from ortforge.runtime.interpreter import QUESTION, Interpreter, read_answer
from ortforge.runtime.resolution import LOCK, OLDEST_PYTHON, EnvironmentRequest, refuse_variants, resolve_for

if TYPE_CHECKING:
    from ortforge.container import Engine

__all__ = ["ImagePlace", "NoPythonError", "examine"]

_MEMORY: Final = 1 << 30
_LOOK_S: Final = 60.0

_NEWEST_GLIBC: Final = 40
_KNOWN_GLIBC: Final = (17, 28, *range(31, _NEWEST_GLIBC + 1))
"""Minor versions of glibc 2 that uv takes as a platform (``uv pip install --help``, uv 0.9)."""

_WARM: Final = """
import importlib
for name in ("numpy", "onnxruntime", "onnx"):
    try:
        importlib.import_module(name)
    except Exception:
        pass
"""
"""Leaves compiled files of what every worker imports: later, the folder is read-only. Failures show in the probe."""

_LOOK: Final = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "answer").write_text((folder / "question").read_text()[::-1])
for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
    if pathlib.Path(place).exists():
        print(pathlib.Path(place).read_text().strip())
        break
else:
    print("unknown")
"""


class NoPythonError(ProvisionError):
    """An image has no Python that a worker can run on."""


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """An image with a Python.

    :param image: its id. :param reference: how users name it. :param interpreter: its Python.
    """

    image: str
    reference: str
    interpreter: Interpreter
    engine: Engine

    def install(
        self, request: EnvironmentRequest, folder: Path, say: Callable[[str], None]
    ) -> tuple[Path, Interpreter]:
        """Make the environment in ``folder``; return its interpreter (in the image) and facts about that.

        :raises UnfitError: the wheels, or the wish for a Python, do not fit the image.
        :raises ProvisionError: it cannot be made.
        """
        self._check(request)
        platform = _uv_platform(self.interpreter)
        aliased, names = self._alias(request, folder)
        python, site = _make_venv(self.interpreter, folder / "venv")
        resolve_for(aliased, folder, self.interpreter.version, platform, say)
        refuse_variants(aliased, folder, self.interpreter.version)
        try:
            uv.install_elsewhere(folder / LOCK, site, python_version=self.interpreter.version, platform=platform)
        except uv.UvError as error:
            raise uv_errors.explain(error.text, wanted=request.wanted, python=self.interpreter.version) from None
        _unalias(folder, names)
        _drop_scripts(site)
        seen = self._run([str(python), "-I", "-c", QUESTION + _WARM], [Bind(str(folder), writable=True)], folder)
        try:
            return python, read_answer(seen.partition("\n")[0])
        except ValueError:
            raise ProvisionError(
                f"The Python of the image {self.reference} does not start in the environment that was made for it.",
                meant=seen.strip().splitlines()[-1] if seen.strip() else "",
                todo="Give the target another image.",
            ) from None

    def _check(self, request: EnvironmentRequest) -> None:
        own = self.interpreter.version
        if request.python and not f"{own}.".startswith(f"{request.python}."):
            raise UnfitError(
                f"The image {self.reference} has Python {own}, and the target asks for {request.python}.",
                todo='Leave out `python`, or give another image, such as container = "python:3.12-slim".',
            )
        platforms = platforms_of(_machine(self.interpreter), self.interpreter.libc)
        for wheel in request.wheels:
            why = platform_misfit(wheel.name, platforms) or python_misfit(wheel.name, own)
            if why:
                has = f"Python {own} and {self.interpreter.libc or 'a C library that it does not name'}"
                raise UnfitError(
                    f"{wheel.name} {why}, and the image {self.reference} has {has}.",
                    todo="Give the target another image, or build the wheel for this one.",
                )

    def _alias(self, request: EnvironmentRequest, folder: Path) -> tuple[EnvironmentRequest, dict[str, str]]:
        """Give local wheels a name with a platform that uv takes for any Linux: it knows no glibc beyond 2.40.

        Whether they fit has been checked. Return the request for them, and their own names by the new ones.
        """
        machine = _machine(self.interpreter)
        names = {}
        wheels = []
        for number, wheel in enumerate(request.wheels):
            rest, _, platform = wheel.name.removesuffix(".whl").rpartition("-")
            name = wheel.name if platform == "any" else f"{rest}-linux_{machine}.whl"
            place = folder / "wheels" / str(number)
            place.mkdir(parents=True)
            shutil.copyfile(wheel, place / name)
            names[name] = wheel.name
            wheels.append(place / name)
        return replace(request, wheels=tuple(wheels)), names

    def _run(self, argv: Sequence[str], binds: Sequence[Bind], workdir: Path) -> str:
        """Run a program in the image; return what it wrote, standard output first."""
        return _outputs(self.engine, self.image, argv, binds, workdir)[0]


def examine(engine: Engine, image: str, reference: str, scratch: Path, pythons: Collection[str] = ()) -> ImagePlace:
    """Look into an image: which Python it has, and whether workers can run in containers of it.

    :param image: its id. :param scratch: an empty folder of the store. :param pythons: versions (``3.12``), one of
        which is wanted. An image may have several, as those of manylinux do; where none is of these, it is ``python3``.
    :raises NoPythonError: it has none that is new enough.
    :raises EnvironmentLacksError: containers do not see this machine's folders, cannot write there, or have no limits.
    """
    refused: ProvisionError | None = None
    places = []
    for binary in _binaries(pythons):
        try:
            place = _examine(engine, image, reference, scratch, binary)
        except NoPythonError as error:
            refused = refused or error
            continue
        if not pythons or ".".join(place.interpreter.version.split(".")[:2]) in pythons:
            return place
        places.append(place)
    if places:
        return places[0]
    assert refused is not None
    raise refused


def _binaries(pythons: Collection[str]) -> tuple[str, ...]:
    """Return where an image may have a Python, the likeliest first.

    >>> _binaries(["3.12"])
    ('python3', 'python3.12', '/opt/python/cp312-cp312/bin/python3')
    """
    tags = {version: f"cp{version.replace('.', '')}" for version in pythons}
    folders = (f"/opt/python/{tag}-{tag}/bin/python3" for tag in tags.values())
    return ("python3", *(f"python{version}" for version in tags), *folders)


def _examine(engine: Engine, image: str, reference: str, scratch: Path, binary: str) -> ImagePlace:
    word = secrets.token_hex(8)
    (scratch / "question").write_text(word, encoding="utf-8")
    argv = [binary, "-I", "-c", QUESTION + _LOOK, str(scratch)]
    try:
        text, errors = _outputs(engine, image, argv, [Bind(str(scratch), writable=True)], scratch)
    except ProgramMissingError:
        text = errors = ""
    first, _, limit = text.partition("\n")
    try:
        interpreter = read_answer(first)
    except ValueError:
        last = errors.strip().splitlines()[-1:] or [""]
        raise NoPythonError(
            f"The image {reference} has no Python that starts.", meant=last[0], todo="Give the target another image."
        ) from None
    if tuple(map(int, interpreter.version.split(".")[:2])) < OLDEST_PYTHON:
        raise NoPythonError(
            f"The image {reference} has Python {interpreter.version}, which is too old.",
            todo="Workers need Python 3.10 or newer: give the target another image.",
        )
    answer = scratch / "answer"
    if not answer.is_file() or answer.read_text(encoding="utf-8") != word[::-1]:
        raise EnvironmentLacksError(
            f"What a container wrote into {scratch.parent} is not there.",
            meant="The container engine runs on another machine, or maps users to others.",
            todo="Workers need an engine that runs on this machine, with the caller's own user.",
        )
    answer.unlink()
    if limit.strip() != str(_MEMORY):
        raise EnvironmentLacksError(
            "The container engine does not limit memory: a cell could take the whole machine down.",
            meant=f"A limit of {_MEMORY} bytes was asked for, and the container has {limit.strip() or 'none'}.",
            todo="Give the engine the memory controller of control groups (see 'docker info'), and run again.",
        )
    return ImagePlace(image, reference, interpreter, engine)


def _outputs(engine: Engine, image: str, argv: Sequence[str], binds: Sequence[Bind], workdir: Path) -> tuple[str, str]:
    user = f"{os.getuid()}:{os.getgid()}"
    variables = {"HOME": "/tmp", "PYTHONUTF8": "1", "ORT_DISABLE_TELEMETRY": "1"}  # noqa: S108 - the container's own
    spec = ProcessSpec(
        image=image, argv=argv, user=user, workdir=str(workdir), binds=binds, environment=variables, memory=_MEMORY
    )
    parts: dict[int, Any] = {1: bytearray(), 2: bytearray()}
    with Attached(engine.api, spec) as process:
        watch = threading.Timer(_LOOK_S, process.kill)
        watch.start()
        try:
            for stream, data in process.output():
                parts[stream] += data
            process.wait()
        finally:
            watch.cancel()
    return parts[1].decode("utf-8", "replace"), parts[2].decode("utf-8", "replace")


def _machine(interpreter: Interpreter) -> str:
    """Return ``x86_64`` of ``linux-x86_64``."""
    return interpreter.platform.partition("-")[2].replace("-", "_")


def _uv_platform(interpreter: Interpreter) -> str:
    """Return the platform of an interpreter as uv names it, or the newest older one that uv knows.

    :raises ProvisionError: uv knows none.
    """
    machine = _machine(interpreter)
    if interpreter.libc.startswith("musl"):
        return f"{machine}-unknown-linux-musl"
    found = re.match(r"glibc 2\.(\d+)", interpreter.libc)
    known = [minor for minor in _KNOWN_GLIBC if found and minor <= int(found[1])]
    if not known or not interpreter.platform.startswith("linux-"):
        raise ProvisionError(
            f"There are no wheels for {interpreter.platform} with {interpreter.libc or 'an unknown C library'}.",
            todo="Give the target an image with glibc 2.17 or newer.",
        )
    return f"{machine}-manylinux_2_{known[-1]}"


def _make_venv(interpreter: Interpreter, venv: Path) -> tuple[Path, Path]:
    """Lay out a virtual environment for an interpreter of an image; return its Python and its site-packages."""
    binary = PurePosixPath(interpreter.binaries[0])
    short = ".".join(interpreter.version.split(".")[:2])
    site = venv / "lib" / f"python{short}" / "site-packages"
    site.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin" / "python").symlink_to(binary)
    # What CPython's site module reads (PEP 405).
    text = f"home = {binary.parent}\ninclude-system-site-packages = false\nversion = {interpreter.version}\n"
    (venv / "pyvenv.cfg").write_text(text, encoding="utf-8")
    return venv / "bin" / "python", site


def _unalias(folder: Path, names: dict[str, str]) -> None:
    """Let the lock name local wheels as they were called, and remove their copies."""
    lock = folder / LOCK
    text = lock.read_text(encoding="utf-8")
    for alias, name in names.items():
        text = text.replace(alias, name)
    lock.write_text(text, encoding="utf-8")
    shutil.rmtree(folder / "wheels", ignore_errors=True)


def _drop_scripts(site: Path) -> None:
    """Remove the scripts that uv put beside the packages: they start this machine's Python, and no worker runs any.

    They leave the RECORD files too, which otherwise would differ from folder to folder.
    """
    scripts = {f"bin/{path.name}" for path in (site / "bin").glob("*") if path.is_file() and path.suffix != ".py"}
    for record in site.glob("*.dist-info/RECORD"):
        with record.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        kept = [row for row in rows if row and row[0] not in scripts]
        if len(kept) != len(rows):
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(kept)
            record.write_text(text.getvalue(), encoding="utf-8")
    for script in scripts:
        (site / script).unlink()
