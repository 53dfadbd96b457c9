"""Containers of a real engine: commands, files, limits, and every way of losing one."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import docker.errors
import pytest
from engine import BASE, LABEL, ApartDaemon, UnavailableError, required
from typer.testing import CliRunner

from ortforge.build import layout
from ortforge.cli.main import app
from ortforge.container import ContainerLostError, ContainerSpec, Engine, connect
from ortforge.container.removal import remove_container
from ortforge.errors import BuildError, EnvironmentLacksError


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    name = f"ortforge-test-{os.getpid()}-{time.monotonic_ns()}"
    engine.volume(name, {LABEL: "1"})
    yield name
    engine.remove_volume(name)


def alive(engine: Engine, container: str) -> bool:
    """Tell whether a container is there, when it has had the time to go."""
    for _ in range(50):
        if all(found["Id"] != container for found in engine.api.containers(all=True)):
            return False
        time.sleep(0.1)
    return True


class TestCommands:
    def test_output_comes_line_by_line_with_the_exit_code(self, engine: Engine, spec: ContainerSpec) -> None:
        heard: list[tuple[str, float]] = []
        with engine.open(spec) as container:
            ran = container.run(
                ["sh", "-c", "echo one; sleep 0.2; echo two >&2; sleep 1; printf 'ünd\\n25%%\\r100%%\\nlast'; exit 3"],
                on_line=lambda line: heard.append((line, time.monotonic())),
            )
        assert [line for line, _ in heard] == ["one", "two", "ünd", "100%", "last"] == list(ran.tail)
        assert ran.code == 3
        assert heard[2][1] - heard[1][1] > 0.5, "lines come while the command runs"
        assert not ran.out_of_memory

    def test_no_shell_comes_between(self, engine: Engine, spec: ContainerSpec) -> None:
        with engine.open(spec) as container:
            ran = container.run(["printf", "%s\n", "$HOME; rm -rf / `id` 'q' \"d\""], environment={"HOME": "/secret"})
        assert ran.tail == ("$HOME; rm -rf / `id` 'q' \"d\"",)

    @pytest.mark.parametrize("argv", [["no-such-command"], ["/etc/passwd"]])
    def test_a_command_that_does_not_exist(self, argv: list[str], engine: Engine, spec: ContainerSpec) -> None:
        with engine.open(spec) as container:
            ran = container.run(argv)
            assert ran.code in (126, 127)
            assert argv[0] in "".join(ran.tail)
            assert container.run(["true"]).code == 0

    def test_a_lot_of_output_is_kept_in_part_and_heard_in_whole(self, engine: Engine, spec: ContainerSpec) -> None:
        heard: list[str] = []
        with engine.open(spec) as container:
            ran = container.run(["seq", "200000"], on_line=heard.append)
        assert heard == [str(number) for number in range(1, 200001)]
        assert ran.tail == tuple(heard[-400:])

    def test_environment_folder_and_user(self, engine: Engine, spec: ContainerSpec) -> None:
        with engine.open(replace(spec, environment={"A": "1", "B": "1"}, workdir="/usr")) as container:
            ran = container.run(["sh", "-c", "echo $A $B; pwd; id -u"], environment={"B": "2"})
            assert ran.tail == ("1 2", "/usr", "1234")
            ran = container.run(["sh", "-c", "pwd; id -u"], workdir="/tmp", user="77:77")
            assert ran.tail == ("/tmp", "77")

    def test_cpu_time_is_the_command_s_own(self, engine: Engine, spec: ContainerSpec) -> None:
        busy = ["sh", "-c", "x=0; while [ $x -lt 300000 ]; do x=$((x+1)); done"]
        with engine.open(spec) as container:
            worked = container.run(busy)
            slept = container.run(["sleep", "0.5"])
        assert 0.05 < worked.cpu_s < worked.seconds + 0.1
        assert slept.cpu_s < worked.cpu_s / 2
        assert slept.seconds > 0.5

    def test_time_that_is_up_ends_the_command_and_no_file(self, engine: Engine, spec: ContainerSpec) -> None:
        with engine.open(spec) as container:
            ran = container.run(["sh", "-c", "echo begun > /tmp/kept; echo begun; sleep 60"], timeout_s=1)
            assert (ran.code, ran.timed_out, ran.tail) == (124, True, ("begun",))
            assert ran.seconds < 10
            assert container.run(["cat", "/tmp/kept"]).tail == ("begun",)
            assert "sleep" not in "".join(container.run(["sh", "-c", "cat /proc/*/comm"]).tail)


class TestLimits:
    def test_no_capabilities_no_new_privileges_no_network(self, engine: Engine, spec: ContainerSpec) -> None:
        with engine.open(replace(spec, user="0:0")) as container:
            status = "\n".join(container.run(["cat", "/proc/self/status"]).tail)
            network = container.run(["cat", "/proc/net/dev"]).tail[2:]
        for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"):
            assert line in status
        assert [line.split(":")[0].strip() for line in network] == ["lo"]

    def test_memory_that_runs_out_is_told_even_when_the_command_goes_on(
        self, engine: Engine, spec: ContainerSpec
    ) -> None:
        with engine.open(replace(spec, memory=100 << 20)) as container:
            ran = container.run(["tail", "/dev/zero"])
            assert (ran.code, ran.out_of_memory) == (137, True)
            ran = container.run(["sh", "-c", "tail /dev/zero; exit 1"])  # as ninja does when a compiler is killed
            assert (ran.code, ran.out_of_memory) == (1, True)
            ran = container.run(["sh", "-c", "kill -9 $$"])
            assert (ran.code, ran.out_of_memory) == (137, False)

    def test_too_many_processes(self, engine: Engine, spec: ContainerSpec) -> None:
        with engine.open(replace(spec, pids=20)) as container:
            ran = container.run(["sh", "-c", "for i in $(seq 40); do sleep 2 & done; wait"])
        assert "fork" in "".join(ran.tail).lower()

    def test_the_caller_is_the_user_unless_another_is_asked_for(self, engine: Engine, base_image: str) -> None:
        with engine.open(ContainerSpec(image=base_image, labels={LABEL: "1"})) as container:
            assert container.run(["id", "-u"]).tail == (str(os.getuid()),)

    def test_more_processors_than_there_are(self, engine: Engine, spec: ContainerSpec) -> None:
        with pytest.raises(EnvironmentLacksError, match="CPUs"):
            engine.open(replace(spec, cpus=engine.facts.cores + 1.0))


class TestFiles:
    def test_what_goes_in_belongs_to_the_user_and_comes_out(
        self, engine: Engine, spec: ContainerSpec, volume: str, tmp_path: Path
    ) -> None:
        with engine.open(replace(spec, volumes={volume: "/work"})) as container:
            container.put_files({"a/b.txt": b"hello", "run": b"#!/bin/sh\necho ran\n"}, "/work/in", mode=0o755)
            assert container.run(["/work/in/run"]).tail == ("ran",)
            assert container.run(["touch", "/work/in/a/mine", "/work/mine"]).code == 0
            container.get("/work/in", tmp_path)
        assert (tmp_path / "in/a/b.txt").read_bytes() == b"hello"
        assert (tmp_path / "in/a/b.txt").stat().st_uid == os.getuid()

    def test_volumes_outlive_their_container(self, engine: Engine, spec: ContainerSpec, volume: str) -> None:
        kept = replace(spec, volumes={volume: "/work"})
        with engine.open(kept) as container:
            container.put_files({"object.o": b"compiled"}, "/work/build")
        with engine.open(kept) as container:
            assert container.run(["cat", "/work/build/object.o"]).tail == ("compiled",)
        assert volume in [found.name for found in engine.volumes(LABEL)]

    def test_a_compressed_archive_from_a_file(self, engine: Engine, spec: ContainerSpec, tmp_path: Path) -> None:
        path = tmp_path / "source.tar.xz"
        with tarfile.open(path, "w:xz") as archive:
            add(archive, "top/file", b"x" * 100_000)
            add(archive, "top/link", link="file")
        with engine.open(spec) as container:
            container.put(path, "/tmp/source")
            ran = container.run(["stat", "-c", "%u %s %N", "/tmp/source/top/file", "/tmp/source/top/link"])
        assert ran.tail == ("1234 100000 '/tmp/source/top/file'", "1234 4 '/tmp/source/top/link' -> 'file'")

    @pytest.mark.parametrize(
        "member", [("../out", ""), ("/etc/cron.d/out", ""), ("link", "/etc/passwd"), ("link", "../../out")]
    )
    def test_members_that_leave_are_refused(self, member: tuple[str, str], engine: Engine, spec: ContainerSpec) -> None:
        name, link = member
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            add(archive, name, b"bad", link=link)
        with engine.open(spec) as container, pytest.raises(BuildError, match="leave the folder"):
            container.put(buffer.getvalue(), "/tmp/in")

    def test_links_that_leave_are_refused_on_the_way_out(
        self, engine: Engine, spec: ContainerSpec, tmp_path: Path
    ) -> None:
        with engine.open(spec) as container:
            container.run(["mkdir", "/tmp/out"])
            container.run(["ln", "-s", "/etc/passwd", "/tmp/out/link"])
            with pytest.raises(BuildError, match="leave the folder"):
                container.get("/tmp/out", tmp_path)

    def test_a_library_behind_links_comes_out_under_its_own_name(
        self, engine: Engine, spec: ContainerSpec, tmp_path: Path
    ) -> None:
        with engine.open(spec) as container:
            container.run(["ln", "-s", "/usr/bin/dash", "/tmp/libthing.so.2"])
            container.get("/tmp/libthing.so.2", tmp_path / "bundle")
        assert (tmp_path / "bundle/libthing.so.2").read_bytes().startswith(b"\x7fELF")

    def test_a_file_that_is_not_there(self, engine: Engine, spec: ContainerSpec, tmp_path: Path) -> None:
        with engine.open(spec) as container:
            with pytest.raises(BuildError, match="no /tmp/nothing in the container"):
                container.get("/tmp/nothing", tmp_path)
            with pytest.raises(BuildError, match="cannot be made"):
                container.put_files({"a": b""}, "/etc/mine")
            with pytest.raises(BuildError, match="cut off"):
                container.put(b"no tar at all", "/tmp/in")

    def test_a_full_disk(self, engine: Engine, spec: ContainerSpec, tmp_path: Path) -> None:
        name = f"ortforge-test-small-{os.getpid()}"
        small = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
        engine.api.create_volume(name, driver_opts=small, labels={LABEL: "1"})
        try:
            with (
                engine.open(replace(spec, volumes={name: "/work"})) as container,
                pytest.raises(EnvironmentLacksError, match="disk is full") as caught,
            ):
                container.put_files({"big": bytes(2 << 20)}, "/work/in")
        finally:
            engine.remove_volume(name)
        assert "docker system df" in caught.value.todo


class TestNetwork:
    def test_it_is_there_when_asked_for_until_it_is_taken_away(
        self, engine: Engine, spec: ContainerSpec, volume: str
    ) -> None:
        with engine.open(replace(spec, network=True, volumes={volume: "/work"})) as container:
            before = container.run(["cat", "/proc/net/dev"]).tail
            container.put_files({"fetched": b"archive"}, "/work")
            first = container.id
            container.isolate()
            after = container.run(["cat", "/proc/net/dev"]).tail
            assert container.run(["cat", "/work/fetched"]).tail == ("archive",)
        assert len(before) > len(after) == 3
        assert not alive(engine, first)

    def test_the_user_knows_the_machine_s_networks_better(
        self, engine: Engine, spec: ContainerSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ORTFORGE_DOCKER_NETWORK", "none")
        with connect().open(replace(spec, network=True)) as container:
            assert len(container.run(["cat", "/proc/net/dev"]).tail) == 3


class TestLosing:
    @pytest.mark.parametrize(
        ("how", "why"), [(("kill",), "killed"), (("stop", "--time=0"), "killed"), (("rm", "--force"), "removed")]
    )
    def test_from_outside(self, how: tuple[str, ...], why: str, engine: Engine, spec: ContainerSpec) -> None:
        with engine.open(spec) as container:
            argv = ["docker", *how, container.id]
            threading.Timer(0.5, subprocess.run, [argv], {"capture_output": True}).start()
            started = time.monotonic()
            with pytest.raises(ContainerLostError, match="sleep ran") as caught:
                container.run(["sleep", "60"])
            assert time.monotonic() - started < 10
            with pytest.raises(ContainerLostError):
                container.run(["true"])
        assert caught.value.why == why
        assert caught.value.exit_code == 3
        assert "Run again" in caught.value.todo
        assert not alive(engine, container.id)

    def test_not_when_only_the_connection_that_waits_for_its_end_is_cut(
        self, engine: Engine, spec: ContainerSpec
    ) -> None:
        with engine.open(spec) as container:
            waiting = container._end._reply.raw._fp.fp.raw._sock
            threading.Timer(0.3, waiting.shutdown, [socket.SHUT_RDWR]).start()
            ran = container.run(["sh", "-c", "sleep 1.5; echo done; exit 4"])
            assert (ran.code, ran.tail) == (4, ("done",))
            engine.api.kill(container.id)
            with pytest.raises(ContainerLostError, match="killed"):
                container.run(["true"])

    def test_by_ourselves(self, engine: Engine, spec: ContainerSpec) -> None:
        with engine.open(spec) as container:
            threading.Timer(0.5, container.kill).start()
            with pytest.raises(ContainerLostError, match="was stopped"):
                container.run(["sleep", "60"])

    def test_an_error_of_ours_leaves_nothing_behind(self, engine: Engine, spec: ContainerSpec) -> None:
        with pytest.raises(KeyboardInterrupt), engine.open(spec) as container:
            container.run(["echo", "x"], on_line=lambda line: (_ for _ in ()).throw(KeyboardInterrupt))
        assert not alive(engine, container.id)

    def test_a_removal_that_is_refused_is_asked_for_again(
        self, engine: Engine, spec: ContainerSpec, volume: str
    ) -> None:
        refused: list[int] = []

        class Watched:
            """The engine; what it refuses is written down."""

            def remove_container(self, container: str, **how: bool) -> None:
                try:
                    connect().api.remove_container(container, **how)
                except docker.errors.APIError as error:
                    refused.append(error.response.status_code)
                    raise

        for _ in range(10):
            opened = engine.open(replace(spec, volumes={volume: "/work"}))
            with ThreadPoolExecutor(4) as several:
                for removal in [several.submit(remove_container, Watched(), opened.id) for _ in range(4)]:
                    removal.result()
            assert not alive(engine, opened.id)
            opened.close()
            if 409 in refused:
                break
        assert 409 in refused, "nothing was refused, and nothing tried"
        engine.remove_volume(volume)

    def test_killed_ourselves_the_container_ends_and_is_swept(
        self, engine: Engine, spec: ContainerSpec, volume: str
    ) -> None:
        code = f"""
            from ortforge.container import ContainerSpec, connect
            spec = ContainerSpec(image={spec.image!r}, labels={{{LABEL!r}: "1", "ortforge.test.tree": {volume!r}}})
            with connect().open(spec) as container:
                print(container.id, flush=True)
                container.run(["sleep", "600"])
        """
        argv = [sys.executable, "-c", textwrap.dedent(code)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            container = process.stdout.readline().strip()
            time.sleep(0.5)
            process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while engine.api.inspect_container(container)["State"]["Running"]:
            assert time.monotonic() < deadline, "what it ran burns the processors for nobody"
            time.sleep(0.1)
        assert engine.sweep("ortforge.test.tree", "another") == 0
        assert engine.sweep("ortforge.test.tree", volume) == 1
        assert not alive(engine, container)


class TestImages:
    def test_no_such_image(self, engine: Engine) -> None:
        with pytest.raises(EnvironmentLacksError, match="image is gone"):
            engine.open(ContainerSpec(image="sha256:" + "0" * 64))
        assert engine.image_id("ortforge-no-such-image:1") == ""

    def test_an_image_that_cannot_wait(self, engine: Engine, tmp_path: Path) -> None:
        archive = tmp_path / "root.tar"
        with tarfile.open(archive, "w") as root:
            add(root, "empty", b"")
        image = engine.import_root(archive, "ortforge-test-empty:1")
        try:
            with pytest.raises(BuildError, match="exec cat failed"):
                engine.open(ContainerSpec(image=image, labels={LABEL: "1"}))
        finally:
            engine.api.remove_image(image, force=True)
        assert engine.sweep(LABEL) == 0, "it was removed though it never ran"

    def test_another_architecture_s_programs(self, engine: Engine, tmp_path: Path) -> None:
        archive = tmp_path / "root.tar"
        foreign = bytearray(Path("/bin/true").read_bytes())
        foreign[18:20] = (243).to_bytes(2, "little")  # e_machine: RISC-V
        with tarfile.open(archive, "w") as root:
            add(root, "bin/cat", bytes(foreign), mode=0o755)
            add(root, "bin/sh", bytes(foreign), mode=0o755)
        image = engine.import_root(archive, "ortforge-test-foreign:1")
        try:
            with pytest.raises(BuildError, match="another architecture"):
                engine.open(ContainerSpec(image=image, labels={LABEL: "1"}))
        finally:
            engine.api.remove_image(image, force=True)


@pytest.fixture(scope="module")
def daemon(engine: Engine, base_image: str) -> Iterator[ApartDaemon]:
    if os.geteuid() != 0:
        pytest.skip("an engine of our own needs root")
    folder = Path(tempfile.mkdtemp(prefix="ortforge-engine-"))  # pytest's own folders make its socket's path too long
    daemon = ApartDaemon(folder)
    try:
        daemon.start()
        yield daemon
        daemon.end(signal.SIGKILL)
    except UnavailableError as reason:
        if required():
            raise
        pytest.skip(str(reason))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class TestTheEngineGoesAway:
    """With an engine of our own: the machine's has other work."""

    @pytest.fixture
    def own(self, daemon: ApartDaemon, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
        monkeypatch.setenv("DOCKER_HOST", daemon.host)
        monkeypatch.delenv("ORTFORGE_DOCKER_NETWORK", raising=False)
        own = connect()
        if not own.image_id(BASE):
            own.api.load_image(b"".join(engine.api.get_image(BASE)))
        return own

    def test_without_a_bridge_the_machine_s_network_is_used(self, own: Engine) -> None:
        assert own.facts.network == "host"
        with own.open(ContainerSpec(image=BASE, network=True)) as container:
            assert own.api.inspect_container(container.id)["HostConfig"]["NetworkMode"] == "host"
            container.isolate()
            assert own.api.inspect_container(container.id)["HostConfig"]["NetworkMode"] == "none"
            assert container.run(["true"]).code == 0

    def test_what_builds_left_is_cleaned_away_and_what_they_use_is_not(self, own: Engine) -> None:
        trees = {name: f"ortforge-tree-{name}" for name in ("unused", "ended", "used")}
        labels = {name: {layout.LABEL: tree} for name, tree in trees.items()}
        for name, tree in trees.items():
            own.volume(tree, labels[name])
        own.volume("ortforge-ccache", {layout.CACHE_LABEL: "1"})
        specs = {name: ContainerSpec(image=BASE, labels=labels[name], volumes={trees[name]: "/work"}) for name in trees}
        runner = CliRunner()
        with own.open(specs["ended"]) as ended, own.open(specs["used"]) as used:
            own.api.kill(ended.id)
            result = runner.invoke(app, ["cache", "builds", "--clean", "--all"], catch_exceptions=False)
            assert result.exit_code == 0
            ends = [line.rsplit("  ", 1)[-1] for line in result.output.splitlines()[:-1]]
            kept, removed = "kept: a build runs in it", "removed"
            assert ends == [removed, removed, kept, kept], result.output  # ended, unused, used; and the compiler cache
            assert used.run(["true"]).code == 0
        again = json.loads(runner.invoke(app, ["cache", "builds", "--clean", "--all", "--json"]).output)
        assert [(row["name"], row["removed"]) for row in again["rows"]] == [
            (trees["used"], True),
            ("ortforge-ccache", True),
        ]
        assert own.volumes(layout.LABEL) == own.volumes(layout.CACHE_LABEL) == []

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
    def test_while_a_command_runs(self, how: signal.Signals, own: Engine, daemon: ApartDaemon) -> None:
        with own.open(ContainerSpec(image=BASE, labels={LABEL: "1"})) as container:
            ending = threading.Timer(0.5, daemon.end, [how])
            ending.start()
            with pytest.raises(ContainerLostError, match="engine went away") as caught:
                container.run(["sleep", "60"])
            ending.join()
            assert caught.value.why == "daemon"
        with pytest.raises(EnvironmentLacksError, match=r"no Docker engine|refused"):
            connect()
        daemon.start()
        again = connect()
        assert again.sweep(LABEL) == 1
        with again.open(ContainerSpec(image=BASE)) as container:
            assert container.run(["echo", "goes on"]).tail == ("goes on",)

    def test_and_is_back_before_anybody_looks(self, own: Engine, daemon: ApartDaemon) -> None:
        def restart() -> None:
            daemon.end()
            daemon.start()

        with own.open(ContainerSpec(image=BASE, labels={LABEL: "1"})) as container:
            restarting = threading.Timer(0.5, restart)
            restarting.start()
            with pytest.raises(ContainerLostError) as caught:
                container.run(["sleep", "60"])
            restarting.join()
        assert caught.value.why == "daemon"
        own.sweep(LABEL)


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", *, link: str = "", mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.mode = mode
    if link:
        member.type, member.linkname = tarfile.SYMTYPE, link
        archive.addfile(member)
    else:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
