"""A build under fire: whatever ends it is said, and the next one goes on. Real source, real compilers, real signals."""

from __future__ import annotations

import json
import os
import re
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from engine import BASE, LABEL, ApartDaemon, UnavailableError, required

from ortforge.build import layout
from ortforge.build.compile import Compilation, compile_source
from ortforge.build.request import BuildRequest, PatchText
from ortforge.cli.shared import known
from ortforge.container import ContainerLostError, ContainerSpec, Engine, connect
from ortforge.errors import BuildError, EnvironmentLacksError
from ortforge.matrix import SourceTarget, load
from ortforge.plan.building import build_request
from ortforge.plugin_manager import Plugins
from ortforge.runtime import device
from ortforge.store import open_store

GOAL = "onnxruntime_common"
ODD = "a b; $(touch /work/shell) `touch /work/shell` && touch /work/shell | \"quoted\" 'too'"
"""A CMake definition's value that a shell would read as commands."""

MATRIX = f"""
[models.m]
path = "path:m.onnx"

[targets."t-1.x_y+z"]
from = "source"
source = "archive:source.tar"
version = "1.21.0"
dependencies = "system"
jobs = 2
defines = {{ ORTFORGE_ODD = {json.dumps(ODD)}, ORTFORGE_RUN = "{secrets.token_hex(4)}" }}
"""
"""Another run of these tests beside this one has another tree."""

TARGET = "t-1.x_y+z"
COMPILED = re.compile(r"^\[\d+/(\d+)\] Building C", re.MULTILINE)
"""A file that ninja had compiled, and how many steps there were."""


@dataclass
class Site:
    """A folder with a matrix file and a store, and a build that is configured."""

    engine: Engine
    folder: Path
    shown: dict[str, Any] = field(default_factory=dict)
    left: int = 1_000_000
    """How many steps were left when a build was last ended."""

    @property
    def tree(self) -> str:
        return str(self.shown["configure"]["tree"])

    def argv(self, *more: str) -> list[str]:
        return [sys.executable, "-m", "ortforge.cli.main", "build", TARGET, "--store", "store", *more]

    def run(self, *more: str) -> tuple[int, str, str]:
        done = subprocess.run(self.argv(*more), cwd=self.folder, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    def containers(self) -> list[dict[str, Any]]:
        """Return the build's containers, whether they run or not."""
        found: list[dict[str, Any]] = self.engine.api.containers(
            all=True, filters={"label": f"{layout.LABEL}={self.tree}"}
        )
        return found

    def compilation(self, log: str, **given: Any) -> Compilation:
        """Return a compilation in the same tree as the command's."""
        keys = {step["id"].partition(":")[0]: step["key"] for step in self.shown["steps"]}
        plugins = Plugins(third_party=False)
        matrix = load(self.folder / "matrix.toml", known(plugins))
        target = matrix.targets[TARGET]
        assert isinstance(target, SourceTarget)
        with open_store(self.folder / "store") as store:
            identities = {kind: store.ledger.done(key) for kind, key in keys.items()}
            source, image = (found.identity for kind in ("source", "image") if (found := identities[kind]))
            build = Compilation(
                self.engine,
                build_request(TARGET, target, matrix, plugins, device.probe()),
                store.objects.get(source),
                source,
                image,
                self.folder / log,
                **{"jobs": 2, "until": "compile", "goal": GOAL, **given},
            )
        assert build.tree == self.tree
        return build

    def inside(self, *argv: str, user: str = "") -> tuple[str, ...]:
        """Run a command where the build tree is; return what it prints."""
        spec = ContainerSpec(image=BASE, volumes={self.tree: layout.WORK}, labels={LABEL: "1"})
        with self.engine.open(spec) as container:
            ran = container.run(argv, user=user)
        assert ran.code == 0, ran.tail
        return tuple(ran.tail)


@pytest.fixture(scope="module")
def site(
    engine: Engine, toolchain_image: str, real_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A target whose configuration the command has shown, and nothing of which is compiled."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "matrix.toml").write_text(MATRIX)
    (folder / "source.tar").symlink_to(real_source / "source.tar")
    site = Site(engine, folder)
    code, out, err = site.run("--until", "configure", "--json")
    assert code == 0, out + err
    site.shown = json.loads(out)["targets"][0]
    yield site
    engine.sweep(layout.LABEL, site.tree)
    engine.remove_volume(site.tree)


class Building:
    """``ortforge build --until compile``, as a user runs it. ``with`` sees to its end, and that it went on."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.earlier = self.text()
        self.process = subprocess.Popen(
            site.argv("--until", "compile"),
            cwd=site.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Whoever runs tests in the background may ignore this signal, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def __enter__(self) -> Building:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        if kind is None:
            done, total = self.last()
            # Ninja shows a step before it notes it: the last one may be done again.
            assert total <= self.site.left + 1, "it goes on from what was compiled"
            assert self.text().startswith(self.earlier), "the whole log is kept"
            self.site.left = total - done

    def text(self) -> str:
        """Return the log."""
        found = list((self.site.folder / "store/logs").glob("build-*.log"))
        return found[0].read_text() if found else ""

    def last(self) -> tuple[int, int]:
        """Return how many steps are done, and how many there were to do."""
        found = re.findall(r"^\[(\d+)/(\d+)\] [A-Z]", self.text()[len(self.earlier) :], re.MULTILINE)
        return (int(found[-1][0]), int(found[-1][1])) if found else (0, 0)

    def steps(self, count: int) -> None:
        """Wait until so many files are compiled."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and self.process.poll() is None:
            if len(COMPILED.findall(self.text()[len(self.earlier) :])) >= count:
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.text()[-2000:]}\n{self.process.poll()}: no {count} files were compiled")

    def ends(self, within_s: float) -> tuple[int, str]:
        """Wait for its end; return its exit code and all that it said."""
        said, _ = self.process.communicate(timeout=within_s)
        assert "Traceback" not in said
        return self.process.returncode, said


class TestTheCommand:
    def test_what_is_in_force_is_shown_without_a_wheel(self, site: Site) -> None:
        shown = site.shown["configure"]
        assert site.shown["status"] == "ok"
        assert site.shown["package"] is None
        assert site.shown["folder"] is None
        assert shown["in_force"]["files"] > 400
        assert shown["in_force"]["defines"]["PLATFORM_POSIX"] == shown["in_force"]["files"]
        assert shown["in_force"]["options"]["-O3"] == shown["in_force"]["files"]
        assert "--update" in shown["argv"]["configure"]
        assert shown["argv"]["compile"][6:9] == ["--build", "--parallel", "2"]
        code, out, _ = site.run("--until", "configure")
        assert code == 0
        assert f"{TARGET}: configured (known)" in out
        assert "PLATFORM_POSIX" in out.split("defines for all")[1].splitlines()[0]
        assert "  compile: python3 /work/source/tools/ci_build/build.py" in out
        assert not (site.folder / "dist").exists()

    def test_when_nothing_changed_no_container_starts(self, site: Site) -> None:
        began, took = time.time(), []
        for _ in range(3):  # other work on the machine makes it slower, and nothing faster
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            code, out, _ = site.run("--until", "configure", "--json")
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            assert code == 0
            assert all(step["cached"] for step in json.loads(out)["targets"][0]["steps"])
        filters = {"type": "container", "event": "create", "label": f"{layout.LABEL}={site.tree}"}
        events = site.engine.api.events(since=int(began), until=int(time.time()) + 1, decode=True, filters=filters)
        assert [event["id"] for event in events] == []
        assert min(took) < 2, "seconds of processor time; benchmarks/build_whole.py has the clock's"

    def test_no_shell_reads_what_the_matrix_says(self, site: Site) -> None:
        cache = site.inside("grep", "^ORTFORGE_ODD", f"{layout.BUILD}/{layout.CONFIG}/CMakeCache.txt")
        assert cache == (f"ORTFORGE_ODD:UNINITIALIZED={ODD}",)
        assert not [path for path in site.inside("ls", layout.WORK) if "shell" in path]

    def test_a_tree_of_another_python_is_configured_for_this_one(self, site: Site) -> None:
        cache = f"{layout.BUILD}/{layout.CONFIG}/CMakeCache.txt"
        other = "s|^(Python_EXECUTABLE:.*=).*|\\1/other/python|; s|^(_Python_NumPy_INCLUDE_DIR:.*=).*|\\1/other/numpy|"
        site.inside("sed", "-i", "-E", other, cache)
        site.inside("rm", f"{layout.WORK}/configured")
        code, out, err = site.run("--until", "configure", "--fresh")
        assert code == 0, out + err
        (found,) = site.inside("grep", "^_Python_NumPy_INCLUDE_DIR:", cache)
        assert found.endswith(("numpy/_core/include", "numpy/core/include")), found


class TestABuildThatIsEnded:
    """Each goes on in the tree in which the one before was ended."""

    def test_ortforge_is_killed(self, site: Site) -> None:
        with Building(site) as build:
            build.steps(4)
            build.process.kill()
        deadline = time.monotonic() + 10
        while any(found["State"] == "running" for found in site.containers()):
            assert time.monotonic() < deadline, "compilers run for nobody"
            time.sleep(0.1)
        assert len(site.containers()) == 1

    def test_the_container_is_killed(self, site: Site) -> None:
        with Building(site) as build:
            build.steps(1)
            (container,) = site.containers()  # the one of before is gone
            site.engine.api.kill(container["Id"])
            code, said = build.ends(60)
        assert code == 3
        assert "The container was killed from outside while python3 ran." in said
        assert "Run again: it goes on from what is done." in said
        assert site.containers() == []
        assert not (site.folder / "dist").exists()

    def test_an_interruption_ends_the_container_at_once(self, site: Site) -> None:
        with Building(site) as build:
            build.steps(1)
            build.process.send_signal(signal.SIGINT)
            code, _ = build.ends(40)
        assert code == 130
        assert site.containers() == []

    def test_two_builds_take_turns_in_one_tree(self, site: Site) -> None:
        """Also such of two stores, which know nothing of each other."""
        other = site.compilation("other.log")
        refused: list[BuildError] = []

        def build_too() -> None:
            try:
                compile_source(other, site.folder / "other")
            except BuildError as error:
                refused.append(error)

        with Building(site) as build:
            build.steps(1)
            mine = site.containers()
            waiting = threading.Thread(target=build_too)
            waiting.start()
            time.sleep(1)
            assert [found["Id"] for found in site.containers()] == [mine[0]["Id"]], "it is no left-over"
            assert not other.log.exists()
            other.cancel.set()
            waiting.join(5)
        assert "was stopped while it waited for another" in refused[0].what


class TestALibraryOfOrt:
    def test_it_is_compiled_once(self, site: Site, tmp_path: Path) -> None:
        # With a warm compiler cache, the builds that were ended above may have come to it already.
        objects = f"{layout.BUILD}/{layout.CONFIG}/CMakeFiles/{GOAL}.dir"
        site.inside("find", objects, "-name", "*.o", "-delete")
        build = site.compilation("library.log")
        facts = compile_source(build, tmp_path / "out")
        assert facts["jobs"] == 2
        compiled = COMPILED.findall(build.log.read_text())
        assert facts["steps"] == [int(compiled[0])]
        assert len(compiled) > 10
        assert sum(facts["ccache"].values()) == len(compiled), "of this build alone, whoever else uses the cache"
        library = f"{layout.BUILD}/{layout.CONFIG}/lib{GOAL}.a"
        assert site.inside("head", "-c", "7", library) == ("!<arch>",)
        assert not list((tmp_path / "out").rglob("*.whl"))
        again = site.compilation("again.log")
        assert sum(compile_source(again, tmp_path / "again")["ccache"].values()) == 0
        assert COMPILED.findall(again.log.read_text()) == [], "no compiler was started"

    def test_too_little_memory_halves_the_jobs_once_and_it_goes_on(self, site: Site, tmp_path: Path) -> None:
        need_memory(site, millions=1)
        said: list[str] = []
        facts = compile_source(site.compilation("little.log", memory=640 << 20, say=said.append), tmp_path)
        halved = [text for text in said if "want of memory" in text]
        assert halved == ["a compiler was killed for want of memory: going on with 1 at a time"]
        assert (facts["jobs"], facts["halved"], len(facts["steps"])) == (1, 1, 2)
        assert f"ortforge: {halved[0]}" in (site.folder / "little.log").read_text()

    def test_one_compiler_that_needs_more_than_there_is(self, site: Site, tmp_path: Path) -> None:
        need_memory(site, millions=2)
        said: list[str] = []
        with pytest.raises(BuildError, match=r"though no other ran beside it: the container has 0\.3 GiB") as refused:
            compile_source(site.compilation("less.log", memory=320 << 20, say=said.append), tmp_path)
        assert "more `memory`" in refused.value.todo
        assert [text for text in said if "at a time" in text] == [
            "a compiler was killed for want of memory: going on with 1 at a time"
        ]


def need_memory(site: Site, millions: int) -> None:
    """Let two files of the library take some 150 MB more for each million, and be compiled anew."""
    name = f"greedy_{secrets.token_hex(4)}"  # no compiler cache has seen it
    lines = [f"#define {name}_0 1"]
    lines += [f"#define {name}_{power} {','.join([f'{name}_{power - 1}'] * 10)}" for power in range(1, 7)]
    for file in ("logging/logging.cc", "threadpool.cc"):
        array = f"{name}_{file.partition('.')[0].replace('/', '_')}"
        values = ",".join([f"{name}_6"] * millions)
        text = "\n".join(["", *lines, f"extern const long {array}[];", f"const long {array}[] = {{{values}}};", ""])
        path = f"{layout.SOURCE}/onnxruntime/core/common/{file}"
        site.inside("sh", "-euc", 'test -s "$2"; printf %s "$1" >> "$2"', "sh", text, path)


@pytest.fixture(scope="module")
def few_files(real_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What of the real source a configuration begins with: the rest takes seconds to unpack, and is not come to."""
    folder = tmp_path_factory.mktemp("few")
    shutil.copytree(real_source / "parser", folder / "parser")
    with tarfile.open(real_source / "source.tar") as whole, tarfile.open(folder / "source.tar", "w") as few:
        for member in whole:
            if re.match(r"(\./)?(cmake|tools/ci_build|tools/python|VERSION_NUMBER)(/|$)", member.name):
                few.addfile(member, whole.extractfile(member) if member.isreg() else None)
    return folder


@dataclass
class Fresh:
    """Builds in trees of their own."""

    site: Site
    source: Path
    folder: Path
    trees: list[str] = field(default_factory=list)

    def build(self, name: str, **given: Any) -> Compilation:
        """Return a build in a new tree."""
        build = self.site.compilation(f"{name}.log", until="configure")
        request = replace(build.request, defines={**build.request.defines, "ORTFORGE_FRESH": name}, **given)
        build = replace(build, request=request, source=self.source, source_digest="few")
        self.trees.append(build.tree)
        return build


@pytest.fixture
def fresh(site: Site, few_files: Path, tmp_path: Path) -> Iterator[Fresh]:
    fresh = Fresh(site, few_files, tmp_path)
    yield fresh
    for tree in fresh.trees:
        site.engine.remove_volume(tree)


class TestWhatFails:
    def test_a_patch_that_does_not_apply(self, fresh: Fresh) -> None:
        diff = "--- a/VERSION_NUMBER\n+++ b/VERSION_NUMBER\n@@ -1 +1 @@\n-0.0.1\n+0.0.2\n"
        build = fresh.build("patch", patches=(PatchText("older", "GCC 9 wants it", "0" * 64, diff),))
        with pytest.raises(BuildError, match=r"the patch older \(GCC 9 wants it\) does not apply") as refused:
            compile_source(build, fresh.folder)
        assert "Hunk #1 FAILED" in refused.value.what
        assert "for another version than 1.21.0" in refused.value.meant
        assert fresh.site.containers() == []

    def test_a_configuration_that_fails(self, fresh: Fresh) -> None:
        diff = (
            "--- a/cmake/CMakeLists.txt\n+++ b/cmake/CMakeLists.txt\n@@ -1,2 +1,3 @@\n"
            " # Copyright (c) Microsoft Corporation. All rights reserved.\n"
            '+message(FATAL_ERROR "the moon is in the wrong house")\n'
            " # Licensed under the MIT License.\n"
        )
        build = fresh.build("configure", patches=(PatchText("breaks", "a test", "1" * 64, diff),))
        with pytest.raises(BuildError, match="configure failed") as refused:
            compile_source(build, fresh.folder)
        assert "the moon is in the wrong house" in f"{refused.value}{build.log.read_text()}"
        assert str(build.log) in refused.value.todo

    @pytest.mark.parametrize("room", ["for nothing", "for the source alone"])
    def test_a_full_disk(self, room: str, fresh: Fresh) -> None:
        build = fresh.build(room.replace(" ", "-"))
        with tarfile.open(fresh.source / "source.tar") as archive:
            pages = sum(member.size // 4096 + 1 for member in archive)
        size = 64 if room == "for nothing" else 4 * pages + 2048
        small = {"type": "tmpfs", "device": "tmpfs", "o": f"size={size}k"}
        fresh.site.engine.api.create_volume(build.tree, driver_opts=small, labels={LABEL: "1"})
        with pytest.raises(EnvironmentLacksError, match="disk is full") as refused:
            compile_source(build, fresh.folder)
        assert "docker system df" in refused.value.todo
        assert ("$ python3" in build.log.read_text()) == (room == "for the source alone")


@pytest.fixture
def daemon(engine: Engine, proof_image: str) -> Iterator[ApartDaemon]:
    """An engine of our own, which has an image with Python."""
    if os.geteuid() != 0:
        pytest.skip("an engine of our own needs root")
    folder = Path(tempfile.mkdtemp(prefix="ortforge-engine-"))  # pytest's own folders make its socket's path too long
    daemon = ApartDaemon(folder)
    try:
        daemon.start()
        yield daemon
        daemon.end()
    except UnavailableError as reason:
        if required():
            raise
        pytest.skip(str(reason))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class TestTheEngineGoesAway:
    def test_in_the_middle_and_the_next_build_begins_where_it_has_to(
        self,
        daemon: ApartDaemon,
        engine: Engine,
        proof_image: str,
        few_files: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("DOCKER_HOST", daemon.host)
        monkeypatch.delenv("ORTFORGE_DOCKER_NETWORK", raising=False)
        own = connect()
        own.api.load_image(b"".join(engine.api.get_image(proof_image)))

        def build(say: Callable[[str], None]) -> Compilation:
            request = BuildRequest("t", "1.21.0", dependencies="system")
            return Compilation(connect(), request, few_files, "few", proof_image, tmp_path / "log", say=say)

        def kill(text: str) -> None:
            if text == "unpacking the source":
                daemon.end(signal.SIGKILL)

        with pytest.raises(ContainerLostError, match="The Docker engine went away") as lost:
            compile_source(build(kill), tmp_path)
        assert lost.value.why == "daemon"
        assert "goes on from what is done" in lost.value.todo
        with pytest.raises(EnvironmentLacksError, match=r"no Docker engine|refused"):
            connect()
        daemon.start()
        said: list[str] = []
        with pytest.raises(BuildError, match="configure failed"):  # this image has no CMake
            compile_source(build(said.append), tmp_path)
        assert "unpacking the source" in said, "half a source is none"
        assert connect().api.containers(all=True) == []
