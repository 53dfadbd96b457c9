"""Compiles ONNX Runtime in a container: a tree that a killed build goes on from, and nothing half-made for a wheel.

Everything that takes long lies in two volumes: the compiler cache, and the build tree. Both outlive the container, so
killing ortforge, the container or the engine loses the files that were being compiled at that moment. What leaves the
container is taken only after every command ended with 0.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ortforge.build import commands, layout
from ortforge.build.dependencies import dependencies
from ortforge.build.effective import Difference, differences
from ortforge.build.flags import Flag, problems_of, read_parser
from ortforge.build.in_force import in_force
from ortforge.build.libraries import INSTALLED, fold
from ortforge.build.ninja import Meter, cache_counts
from ortforge.build.request import BuildRequest
from ortforge.build.room import Room, stopping
from ortforge.build.vendor import digest as vendor_digest
from ortforge.container import ContainerSpec, Engine, caller
from ortforge.errors import BuildError, ConfigurationError
from ortforge.store.hashing import digest_json

__all__ = ["Compilation", "compile_source"]

_READY: Final = f"{layout.WORK}/source.ready"
_LAID: Final = f"{layout.WORK}/cmake.ready"
_CONFIGURED: Final = f"{layout.WORK}/configured"

_FORGET: Final = r"""
import pathlib, re, sys
cache = pathlib.Path(sys.argv[1])
entry = r"^(//.*\n)*_*(FIND_PACKAGE_MESSAGE_DETAILS_)?(Python3?|PYTHON|pybind11)(_\w*)?(-\w+)?:.*\n"
cache.write_text(re.sub(entry, "", cache.read_text(), flags=re.MULTILINE))
"""
"""Removes what CMake's cache says of Python, each entry with the comment before it."""

_DYING_S: Final = 10.0
"""How long a container may take to end after the process that opened it; one that runs longer has a living owner."""


@dataclass(slots=True)
class Compilation:
    """One build, on its way.

    :param source: the source object's folder. :param image: id of the toolchain image. :param log: the whole output is
        added to this file.
    :param jobs: compilers side by side, 0 for what the container's cores and memory allow; :param memory: of the
        container in bytes, 0 for what the engine has, less a tenth. :param vendored: folder that was gathered before.
    :param until: ``configure`` or ``compile``: stop after it, with nothing packaged. :param goal: one of the build
        system's targets, all when none is named. :param say: is told how far it is. :param cancel: ends it when set.
    """

    engine: Engine
    request: BuildRequest
    source: Path
    source_digest: str
    image: str
    log: Path
    jobs: int = 0
    memory: int = 0
    vendored: str = ""
    until: str = ""
    goal: str = ""
    say: Callable[[str], None] = lambda text: None
    cancel: threading.Event = field(default_factory=threading.Event)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def tree(self) -> str:
        """The name of the volume that holds the build tree; one build at a time goes on in it."""
        return layout.tree_volume(self.source_digest, self.image, self.request.tree(), caller())


def compile_source(build: Compilation, out: Path) -> dict[str, Any]:
    """Compile, and leave in ``out`` what the packaging needs: wheels or the C++ tree, libraries to bundle, facts.

    :returns: facts: argv of every command, seconds and CPU seconds of every phase, jobs and how often they were halved,
        ``steps`` (ninja's, of each attempt), compiler cache hits; with ``until`` also what is in force.
    :raises BuildError: a command failed (its cause is named where it is known), what was asked is not in force, or the
        container or the engine went away. :raises EnvironmentLacksError: no engine, no space.
    :raises ConfigurationError: the source has no such flag, the image no such Python.
    """
    shapes = _parser(build)
    engine, tree = build.engine, build.tree
    memory = build.memory or int(engine.facts.memory * 0.9)
    cores = float(engine.facts.cores)
    jobs = build.jobs or commands.jobs_for(cores, memory, cuda=bool(build.request.flags.get("use_cuda")))
    labels = {layout.LABEL: tree, "ortforge.target": build.request.target}
    _wait_for_others(build)
    engine.volume(tree, labels)
    cache = layout.ccache_volume(caller())
    engine.volume(cache, {layout.CACHE_LABEL: "1"})
    spec = ContainerSpec(
        image=build.image,
        environment={
            "HOME": layout.HOME,
            "CCACHE_DIR": layout.CCACHE,
            "CCACHE_STATSLOG": layout.CCACHE_LOG,
            "ORT_DISABLE_TELEMETRY": "1",
            "SOURCE_DATE_EPOCH": "315532800",
            **build.request.environment,
        },
        volumes={tree: layout.WORK, cache: layout.CCACHE},
        network=build.request.dependencies == "download",
        memory=memory,
        cpus=cores,
        workdir=layout.WORK,
        labels=labels,
    )
    build.facts |= {"tree": tree, "memory": memory, "cores": cores}
    with (
        build.log.open("a", encoding="utf-8", buffering=1) as log,  # line by line: what a killed build said is there
        engine.open(spec) as container,
        stopping(container, build.cancel),
    ):
        room = Room(container, build.request.target, log, build.log, build.say)
        build.facts |= {"phases": room.phases, "argv": room.argv}
        _Work(build, room, shapes, jobs).go(out)
    return build.facts


def _parser(build: Compilation) -> Mapping[str, Flag]:
    """Read the tree's own parser, and hold the target's flags against it before anything is started."""
    folder = build.source / "parser"
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    shapes = read_parser(texts)
    request = build.request
    found = problems_of(request.flags, request.version, system="linux", artifact=request.artifact, parser=shapes)
    if found:
        raise ConfigurationError(
            f"target {request.target} asks for what its source does not have:\n"
            + "\n".join(f"- {text}" for text in found),
            todo="'ortforge flags list' shows what a version has.",
        )
    return shapes


def _wait_for_others(build: Compilation) -> None:
    """Let a killed build's container end, and wait for a build of another store in the same tree."""
    began, told = time.monotonic(), False
    while build.engine.running(layout.LABEL, build.tree):
        if build.cancel.is_set():
            raise BuildError("The build was stopped while it waited for another one.")
        if not told and time.monotonic() - began > _DYING_S:
            build.say("another ortforge builds in the same tree: waiting for it")
            told = True
        time.sleep(0.1)
    build.engine.sweep(layout.LABEL, build.tree, ended=True)


@dataclass(slots=True)
class _Work:
    """What is done in the container, one after the other."""

    build: Compilation
    room: Room
    shapes: Mapping[str, Flag]
    jobs: int
    python: str = ""

    def go(self, out: Path) -> None:
        build, request = self.build, self.build.request
        self.room.quick(["mkdir", "-p", layout.HOME, layout.CMAKE, layout.BUILD], "its folders cannot be made")
        self.python = self.interpreter()
        self.lay_source()
        self.lay_cmake()
        self.configure()
        entries = self.check_effective(out)
        build.facts["jobs"] = self.jobs
        if build.until:
            build.facts["in_force"] = in_force(entries)
            self.room.argv.setdefault("compile", self.compile_argv())
        if build.until == "configure":
            return
        if request.dependencies == "download":
            self.room.container.isolate()
        self.compile()
        if build.until == "compile":
            return
        self.package(out)
        self.take_libraries(out)

    # The tree

    def interpreter(self) -> str:
        """Return the interpreter that the wheel is for.

        :raises ConfigurationError: the image has none of that version.
        """
        wanted = self.build.request.python
        if not wanted:
            return "python3"
        short = ".".join(wanted.split(".")[:2])
        tag = "cp" + short.replace(".", "")
        for candidate in (f"python{short}", f"/opt/python/{tag}-{tag}/bin/python", f"/work/python/{short}/bin/python3"):
            if self.room.lines([candidate, "-c", "import sysconfig"]) is not None:
                return candidate
        raise ConfigurationError(
            f"target {self.build.request.target}: there is no Python {short} in the image {self.build.request.image}.",
            todo="Leave `python` out for the image's own, or choose another image.",
        )

    def lay_source(self) -> None:
        """Put the patched source there, once: the marker is written last."""
        request, room = self.build.request, self.room
        mark = digest_json(
            [self.build.source_digest, [patch.sha256 for patch in request.patches], dict(request.source_files)]
        )
        if room.read(_READY) == mark:
            return
        self.build.say("unpacking the source")
        fresh = f"{layout.SOURCE}.new"
        room.quick(["rm", "-rf", fresh, layout.SOURCE, _READY, _LAID, _CONFIGURED], "what is old cannot be removed")
        room.container.put(self.build.source / "source.tar", fresh)
        for number, patch in enumerate(request.patches):
            name = f"{number:02d}-{patch.name}.patch"
            room.container.put_files({name: patch.text.encode()}, f"{layout.WORK}/patches")
            room.quick(
                ["patch", "--batch", "--forward", "-p1", "-d", fresh, "-i", f"{layout.WORK}/patches/{name}"],
                f"the patch {patch.name} ({patch.why}) does not apply",
                meant=f"It is for another version than {request.version}, or the source has the change already.",
            )
        for path, text in request.source_files.items():
            parent, _, name = path.rpartition("/")
            room.container.put_files({name: text.encode()}, f"{fresh}/{parent}")
        room.quick(["mv", fresh, layout.SOURCE], "the source cannot be put in its place")
        room.write(_READY, mark)

    def lay_cmake(self) -> None:
        """Put ortforge's CMake files, the list of operators and vendored archives where the commands expect them.

        Only when they changed, and with the time of now: whatever was made of them is made again then.
        """
        files, vendored = self.cmake_files(), self.build.vendored
        mark = digest_json([files, vendor_digest(vendored)])
        if self.room.read(_LAID) == mark:
            return
        container = self.room.container
        if files:
            container.put_files({name: text.encode() for name, text in files.items()}, layout.CMAKE)
            self.room.quick(["touch", *(f"{layout.CMAKE}/{name}" for name in files)], "files cannot be written")
        if vendored:
            with tempfile.TemporaryDirectory(prefix="ortforge-") as folder:
                archive = Path(folder) / "mirror.tar"
                with tarfile.open(archive, "w") as tar:
                    tar.add(Path(vendored) / "mirror", arcname=".")
                container.put(archive, layout.VENDORED)
        self.room.write(_LAID, mark)

    def cmake_files(self) -> dict[str, str]:
        """Return the files that lie below ``layout.CMAKE``."""
        request = self.build.request
        files = dict(dependencies(request.dependencies, request.eps).files)
        return {**files, layout.OPERATORS: request.operators} if request.operators else files

    # The commands

    def configure(self) -> None:
        request = self.build.request
        argv = commands.configure_argv(request, self.python, self.jobs, self.shapes)
        # The number of jobs is no part of what is configured; what the files say is, under the same names.
        same = commands.configure_argv(request, self.python, 1, self.shapes)
        mark = digest_json([same, self.cmake_files()])
        if self.room.read(_CONFIGURED) == mark:
            self.room.argv["configure"] = argv
            return
        self.build.say("configuring")
        self.forget_other_python()
        self.room.phase("configure", argv)
        self.room.write(_CONFIGURED, mark)

    def forget_other_python(self) -> None:
        """Let CMake look for Python again where the tree was configured for another one.

        Its cache keeps the headers and NumPy of the one before, which the new interpreter then does not fit. Nothing
        else is looked for again, so what is compiled without Python stays compiled.
        """
        cache = f"{layout.BUILD}/{layout.CONFIG}/CMakeCache.txt"
        before = self.room.lines(["grep", "^Python_EXECUTABLE:", cache])
        now = self.room.lines([self.python, "-c", "import sys; print(sys.executable)"])
        if before and now and before[0].partition("=")[2] != now[0]:
            self.room.quick([self.python, "-c", _FORGET, cache], "the other Python cannot be forgotten")

    def check_effective(self, out: Path) -> list[dict[str, Any]]:
        """Compare what was asked with what is in force in the compile commands, and return those.

        :raises BuildError: something that was asked for is not in force.
        """
        out.mkdir(parents=True, exist_ok=True)
        for name in ("compile_commands.json", "CMakeCache.txt"):
            self.room.container.get(f"{layout.BUILD}/{layout.CONFIG}/{name}", out)
        entries: list[dict[str, Any]] = json.loads((out / "compile_commands.json").read_text(encoding="utf-8"))
        cache = (out / "CMakeCache.txt").read_text(encoding="utf-8", errors="replace")
        request = self.build.request
        found = [*differences(request.flags, request.defines, entries, cache), *self.types_left_out()]
        self.build.facts["effective"] = [
            {"what": one.what, "asked": one.asked, "found": one.found, "why": one.why} for one in found
        ]
        if found:
            lines = "\n".join(f"- {one.what}: asked {one.asked}, in force {one.found}. {one.why}" for one in found)
            raise BuildError(
                f"target {request.target}: ORT's build system accepted what it then does not do:\n{lines}",
                todo="Remove it from the target, or ask for it in the way that works.",
            )
        return entries

    def types_left_out(self) -> list[Difference]:
        """Say whether the generated files name types of kernels, where types were to be reduced."""
        flag = "enable_reduced_operator_type_support"
        if not self.build.request.flags.get(flag):
            return []
        places = [f"{layout.BUILD}/{layout.CONFIG}", f"{layout.SOURCE}/onnxruntime/core/providers"]
        named = "^ORT_SPECIFY_OP_KERNEL_(GLOBAL|ARG)_ALLOWED_TYPES"
        if self.room.lines(["grep", "-rlE", "--include=op_kernel_type_control_overrides.inc", named, *places]):
            return []
        why = (
            "ORT's build reads them only if the list of operators has types in it, and the Python that runs it has the "
            "package flatbuffers."
        )
        return [Difference(f"--{flag}", "on", "kernels of all types", why)]

    def compile_argv(self) -> list[str]:
        return commands.compile_argv(self.build.request, self.python, self.jobs, self.shapes, self.build.goal)

    def compile(self) -> None:
        """Compile; a compiler that was killed for memory halves the number of jobs, and it goes on from there."""
        from ortforge.build.diagnose import ran_out_of_memory

        facts = self.build.facts
        facts |= {"steps": [], "halved": 0}
        self.room.quick(["rm", "-f", layout.CCACHE_LOG], "the compiler cache's log cannot be removed")
        while True:
            meter = Meter()
            done = self.room.attempt("compile", self.compile_argv(), meter.read)
            facts["steps"].append(meter.most)
            facts["jobs"] = self.jobs
            facts["ccache"] = cache_counts(self.room.lines(["cat", layout.CCACHE_LOG]) or [])
            if done.ran.code == 0:
                return
            if not (done.ran.out_of_memory or ran_out_of_memory(done.text)):
                raise self.room.failure("compile", done)
            if self.jobs == 1:
                raise self.starved()
            self.jobs //= 2
            facts["halved"] += 1
            news = f"a compiler was killed for want of memory: going on with {self.jobs} at a time"
            self.room.note(f"ortforge: {news}")
            self.build.say(news)

    def starved(self) -> BuildError:
        """Return the error for a compiler that is killed though it runs alone."""
        memory = self.build.facts["memory"] / (1 << 30)
        return BuildError(
            f"target {self.build.request.target}: a compiler was killed for want of memory, though no other ran beside "
            f"it: the container has {memory:.1f} GiB.",
            meant="One of ORT's files, or the linking, needs more. Most need less than 2 GiB, a few of CUDA's 8.",
            todo="Give the target more `memory`, or leave it out for all that the engine has, less a tenth. "
            f"The whole log: {self.build.log}",
        )

    # What comes out

    def package(self, out: Path) -> None:
        """Take the wheel, or the installed C++ tree, without what earlier builds in the same tree left there."""
        request, top = self.build.request, f"{layout.BUILD}/{layout.CONFIG}"
        if request.artifact == "wheel":
            self.room.quick(["rm", "-rf", f"{top}/dist", f"{top}/build"], "an older wheel cannot be removed")
            self.room.phase("package", commands.package_argv(request, self.python, self.jobs, self.shapes))
            self.room.container.get(f"{top}/dist", out)
        else:
            self.room.quick(["rm", "-rf", layout.INSTALL], "an older installation cannot be removed")
            self.room.phase("install", commands.install_argv())
            self.room.container.get(layout.INSTALL, out)
            fold(out / "install", out / INSTALLED)

    def take_libraries(self, out: Path) -> None:
        """Take the libraries that belong into the wheel though ORT's packaging forgets them."""
        for pattern in self.build.request.bundle:
            for place in (f"{layout.BUILD}/{layout.CONFIG}", "/usr/lib", "/usr/local/lib", "/opt"):
                argv = ["find", "-L", place, "-name", pattern, "-type", "f", "-print", "-quit"]
                found = [line for line in self.room.container.run(argv).tail if line.startswith("/")]
                if found:
                    self.room.container.get(found[0], out / "bundle")
                    break
            else:
                raise BuildError(
                    f"target {self.build.request.target}: no library {pattern} is in the build tree or the image.",
                    meant="The build did not make it, or the image lacks the package that brings it.",
                    todo=f"The whole log: {self.build.log}",
                )
