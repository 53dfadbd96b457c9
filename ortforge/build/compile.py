"""Compiles ONNX Runtime in a container: a tree that a killed build goes on from, and nothing half-made for a wheel.

Everything that takes long lies in two volumes: the compiler cache, and the build tree. Both outlive the container, so
killing ortforge, the container or the engine loses the files that were being compiled at that moment. What leaves the
container is taken only after every command ended with 0.
"""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from ortforge.build import commands, layout
from ortforge.build.dependencies import dependencies
from ortforge.build.effective import differences
from ortforge.build.flags import Flag, problems_of, read_parser
from ortforge.build.ninja import Meter
from ortforge.build.request import BuildRequest
from ortforge.container import Container, ContainerSpec, Engine, Ran, caller
from ortforge.errors import BuildError, ConfigurationError
from ortforge.store.hashing import digest_json

__all__ = ["Compilation", "compile_source"]

_READY: Final = f"{layout.WORK}/source.ready"
_CONFIGURED: Final = f"{layout.WORK}/configured"


@dataclass(slots=True)
class Compilation:
    """One build, on its way.

    :param source: the source object's folder. :param image: id of the toolchain image. :param log: the whole output goes here.
    :param jobs: compilers side by side, 0 for what the container's cores and memory allow; :param memory: of the
        container in bytes, 0 for what the engine has, less a tenth.
    :param until: ``configure`` or ``compile``: stop after it, with nothing packaged. :param goal: one of the build
        system's targets, all when none is named. :param say: is told how far it is. :param cancel: ends it when it is set.
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


def compile_source(build: Compilation, out: Path) -> dict[str, Any]:
    """Compile, and leave in ``out`` what the packaging needs: wheels or the C++ tree, libraries to bundle, facts.

    :returns: facts: argv of every command, seconds and CPU seconds of every phase, jobs, compiler cache hits.
    :raises BuildError: a command failed (its cause is named where it is known), what was asked is not in force, or the
        container or the engine went away. :raises EnvironmentLacksError: no engine, no space.
    """
    request = build.request
    shapes = _parser(build)
    tree = layout.tree_volume(build.source_digest, build.image, request.tree(), caller())
    labels = {layout.LABEL: tree, "ortforge.target": request.target}
    facts = build.engine.facts
    memory = build.memory or int(facts.memory * 0.9)
    cores = float(facts.cores)
    jobs = build.jobs or commands.jobs_for(cores, memory, cuda="cuda" in request.eps)
    build.engine.sweep(layout.LABEL, tree)  # left by a killed ortforge
    build.engine.volume(tree, labels)
    build.engine.volume(layout.CCACHE_VOLUME, {"ortforge.ccache": "1"})
    spec = ContainerSpec(
        image=build.image,
        environment={
            "HOME": layout.HOME,
            "CCACHE_DIR": layout.CCACHE,
            "ORT_DISABLE_TELEMETRY": "1",
            "SOURCE_DATE_EPOCH": "315532800",
            **request.environment,
        },
        volumes={tree: layout.WORK, layout.CCACHE_VOLUME: layout.CCACHE},
        network=request.dependencies == "download",
        memory=memory,
        cpus=cores,
        workdir=layout.WORK,
        labels=labels,
    )
    build.facts |= {"tree": tree, "memory": memory, "cores": cores, "phases": {}, "argv": {}}
    with build.log.open("a", encoding="utf-8") as log, build.engine.open(spec) as container:
        with _stopping(container, build.cancel):
            _Room(build, container, shapes, log, jobs).work(out)
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


@contextmanager
def _stopping(container: Container, cancel: threading.Event) -> Iterator[None]:
    """Stop the container when the run is interrupted."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.3):
            if cancel.is_set():
                container.kill()
                return

    watcher = threading.Thread(target=watch, name="container-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@dataclass(slots=True)
class _Room:
    """A running build container and what goes on in it."""

    build: Compilation
    container: Container
    shapes: Mapping[str, Flag]
    log: IO[str]
    jobs: int
    python: str = ""

    def work(self, out: Path) -> None:
        request = self.build.request
        self.run("prepare", ["mkdir", "-p", layout.HOME, layout.CMAKE, layout.BUILD])
        self.python = self.interpreter()
        self.lay_source()
        self.lay_cmake()
        before = self.cache_counts()
        self.configure()
        self.check_effective(out)
        self.build.facts["jobs"] = self.jobs
        if self.build.until == "configure":
            return
        if request.dependencies == "download":
            self.container.isolate()
        self.compile()
        after = self.cache_counts()
        self.build.facts["ccache"] = {name: after[name] - before.get(name, 0) for name in after}
        self.build.facts["jobs"] = self.jobs
        if self.build.until == "compile":
            return
        if request.artifact == "wheel":
            self.phase("package", commands.package_argv(request, self.python, self.jobs, self.shapes))
            self.container.get(f"{layout.BUILD}/{layout.CONFIG}/dist", out)
        else:
            self.phase("install", commands.install_argv())
            self.container.get(layout.INSTALL, out)
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
            if self.container.run([candidate, "-c", "import sysconfig"]).code == 0:
                return candidate
        raise ConfigurationError(
            f"target {self.build.request.target}: there is no Python {short} in the image {self.build.request.image}.",
            todo="Leave `python` out for the image's own, or choose another image.",
        )

    def lay_source(self) -> None:
        """Put the patched source there, once: the marker is written last."""
        request = self.build.request
        mark = digest_json(
            [self.build.source_digest, [patch.sha256 for patch in request.patches], dict(request.source_files)]
        )
        if self.read(_READY) == mark:
            return
        self.build.say("unpacking the source")
        fresh = f"{layout.SOURCE}.new"
        self.run("prepare", ["rm", "-rf", fresh, layout.SOURCE, _READY, _CONFIGURED])
        self.container.put(self.build.source / "source.tar", fresh)
        for number, patch in enumerate(request.patches):
            name = f"{number:02d}-{patch.name}.patch"
            self.container.put_files({name: patch.text.encode()}, f"{layout.WORK}/patches")
            argv = ["patch", "--batch", "--forward", "-p1", "-d", fresh, "-i", f"{layout.WORK}/patches/{name}"]
            self.run("patch", argv, f"patch {patch.name} ({patch.why}) does not apply")
        for path, text in request.source_files.items():
            parent, _, name = path.rpartition("/")
            self.container.put_files({name: text.encode()}, f"{fresh}/{parent}")
        self.run("prepare", ["mv", fresh, layout.SOURCE])
        self.write(_READY, mark)

    def lay_cmake(self) -> None:
        """Put ortforge's CMake files, the vendored archives and the operator list where the commands expect them."""
        request = self.build.request
        files = dependencies(request.dependencies).files
        self.container.put_files({name: text.encode() for name, text in files.items()}, layout.CMAKE)
        if request.operators:
            self.container.put_files({layout.OPERATORS: request.operators.encode()}, layout.CMAKE)
        if self.build.vendored:
            self.container.put(_folder_as_tar(Path(self.build.vendored) / "mirror"), layout.VENDORED)

    def read(self, path: str) -> str:
        done = self.container.run(["cat", path])
        return "\n".join(done.tail).strip() if done.code == 0 else ""

    def write(self, path: str, text: str) -> None:
        parent, _, name = path.rpartition("/")
        self.container.put_files({name: text.encode()}, parent)

    # The commands

    def configure(self) -> None:
        argv = commands.configure_argv(self.build.request, self.python, self.jobs, self.shapes)
        # The number of jobs is no part of what is configured.
        mark = digest_json([word for word in argv if word != str(self.jobs)])
        self.build.facts["argv"]["configure"] = argv
        if self.read(_CONFIGURED) != mark:
            self.build.say("configuring")
            self.phase("configure", argv)
            self.write(_CONFIGURED, mark)

    def check_effective(self, out: Path) -> None:
        """Compare what was asked with what is in force in the compile commands."""
        import json

        out.mkdir(parents=True, exist_ok=True)
        for name in ("compile_commands.json", "CMakeCache.txt"):
            self.container.get(f"{layout.BUILD}/{layout.CONFIG}/{name}", out)
        entries = json.loads((out / "compile_commands.json").read_text(encoding="utf-8"))
        cache = (out / "CMakeCache.txt").read_text(encoding="utf-8", errors="replace")
        request = self.build.request
        found = differences(request.flags, request.defines, entries, cache)
        self.build.facts["effective"] = [
            {"what": one.what, "asked": one.asked, "found": one.found, "why": one.why} for one in found
        ]
        if found:
            lines = "\n".join(f"- {one.what}: asked {one.asked}, in force {one.found}. {one.why}" for one in found)
            raise BuildError(
                f"target {request.target}: ORT's build system accepted what it then does not do:\n{lines}",
                todo="Remove it from the target, or ask for it in the way that works.",
            )

    def compile(self) -> None:
        """Compile; a compiler that was killed for memory halves the number of jobs, and it goes on from there."""
        from ortforge.build.diagnose import ran_out_of_memory

        while True:
            argv = commands.compile_argv(self.build.request, self.python, self.jobs, self.shapes, self.build.goal)
            self.build.facts["argv"]["compile"] = argv
            meter = Meter()
            done = self.attempt("compile", argv, lambda line, meter=meter: meter.read(line))
            if done.code == 0:
                return
            starved = done.out_of_memory or ran_out_of_memory("\n".join(done.tail))
            if not starved or self.jobs == 1:
                raise self.failure("compile", done)
            self.jobs //= 2
            self.build.facts["halved"] = self.build.facts.get("halved", 0) + 1
            self.build.say(f"a compiler was killed for want of memory: going on with {self.jobs} at a time")

    def phase(self, name: str, argv: Sequence[str]) -> None:
        self.build.facts["argv"][name] = list(argv)
        done = self.attempt(name, argv, lambda line: "")
        if done.code != 0:
            raise self.failure(name, done)

    def attempt(self, name: str, argv: Sequence[str], show: Callable[[str], str]) -> Ran:
        """Run a long command: every line goes to the log, what ``show`` makes of it to whoever watches."""
        self.log.write(f"\n$ {' '.join(argv)}\n")
        self.build.say(name)

        def on_line(line: str) -> None:
            self.log.write(line + "\n")
            if shown := show(line):
                self.build.say(shown)

        done = self.container.run(argv, workdir=layout.WORK, on_line=on_line)
        self.log.flush()
        spent = self.build.facts["phases"].setdefault(name, {"seconds": 0.0, "cpu_s": 0.0, "attempts": 0})
        spent["seconds"] += done.seconds
        spent["cpu_s"] += done.cpu_s
        spent["attempts"] += 1
        return done

    def run(self, name: str, argv: Sequence[str], what: str = "") -> None:
        done = self.container.run(argv)
        if done.code != 0:
            self.log.write(f"\n$ {' '.join(argv)}\n" + "\n".join(done.tail) + "\n")
            raise self.failure(name, done, what)

    def failure(self, phase: str, done: Ran, what: str = "") -> BuildError:
        """Name the cause where the log shows one."""
        from ortforge.build.diagnose import diagnose

        self.log.flush()
        title = what or f"target {self.build.request.target}: {phase} failed (exit {done.code})"
        causes = diagnose("\n".join(done.tail))
        if causes:
            first = causes[0]
            return BuildError(f"{title}: {first.title}\n{first.evidence}", meant=first.cause, todo=first.remedy)
        last = [line for line in done.tail if line.strip()][-15:]
        return BuildError(
            "\n".join([f"{title}.", *last]),
            meant="ortforge does not know this failure.",
            todo=f"The whole log: {self.build.log}",
        )

    # What comes out

    def take_libraries(self, out: Path) -> None:
        """Take the libraries that belong into the wheel though ORT's packaging forgets them."""
        for pattern in self.build.request.bundle:
            for place in (f"{layout.BUILD}/{layout.CONFIG}", "/usr/lib", "/usr/local/lib", "/opt"):
                argv = ["find", "-L", place, "-name", pattern, "-type", "f", "-print", "-quit"]
                found = [line for line in self.container.run(argv).tail if line.startswith("/")]
                if found:
                    self.container.get(found[0], out / "bundle")
                    break
            else:
                raise BuildError(
                    f"target {self.build.request.target}: no library {pattern} is in the build tree or the image.",
                    meant="The build did not make it, or the image lacks the package that brings it.",
                    todo=f"The whole log: {self.build.log}",
                )

    def cache_counts(self) -> dict[str, int]:
        """Return the compiler cache's counters; empty where there is no ccache."""
        done = self.container.run(["ccache", "--print-stats"])
        counts: dict[str, int] = {}
        for line in done.tail if done.code == 0 else ():
            name, _, value = line.partition("\t")
            if name in ("direct_cache_hit", "preprocessed_cache_hit", "cache_miss") and value.isdigit():
                counts[name] = int(value)
        return counts


def _folder_as_tar(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as outer:
        outer.add(folder, arcname=".")
    return buffer.getvalue()
