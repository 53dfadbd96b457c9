"""What needs no engine: archives, the kernel's figures, output that comes in pieces, and engines out of reach."""

from __future__ import annotations

import io
import socket
import struct
import sys
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.container import ContainerSpec, caller, connect
from ortforge.container.archives import owned, tar_of_files, unpack
from ortforge.container.cgroup import Usage, outside, read_usage
from ortforge.container.failures import failures, lost, unreachable
from ortforge.container.images import machine_of
from ortforge.container.stream import Lines, Stream
from ortforge.errors import BuildError, EnvironmentLacksError


class TestUnreachableEngines:
    """Each its own message, and exit code 4."""

    @pytest.mark.parametrize(
        ("host", "said", "todo"),
        [
            ("unix:///nowhere/docker.sock", "no Docker engine at unix:///nowhere/docker.sock", "docker.io"),
            ("tcp://127.0.0.1:9", "connection is refused", "Start it"),
            ("nonsense", "cannot be spoken to", "docker info"),
        ],
    )
    def test_nobody_answers(self, host: str, said: str, todo: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(EnvironmentLacksError, match=said) as caught:
            connect()
        assert todo in caught.value.todo
        assert caught.value.exit_code == 4

    def test_a_socket_that_one_may_not_use(self) -> None:
        refusal = PermissionError(13, "Permission denied")
        error = unreachable(RuntimeError("Error while fetching server API version", refusal), "")
        assert "may not use the Docker engine at unix:///var/run/docker.sock" in error.what
        assert "usermod" in error.todo

    def test_no_sdk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "docker", None)
        with pytest.raises(EnvironmentLacksError, match="SDK") as caught:
            connect()
        assert "pip install 'ortforge[build]'" in caught.value.todo

    def test_what_answers_is_no_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

            threading.Thread(target=answer, daemon=True).start()
            monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.getsockname()[1]}")
            with pytest.raises(EnvironmentLacksError, match="cannot be spoken to"):
                connect()


class TestFailures:
    def test_nothing_of_the_client_gets_past(self) -> None:
        import docker.errors
        import requests.exceptions
        import urllib3.exceptions

        for error in (
            docker.errors.APIError("x", explanation="whatever"),
            docker.errors.InvalidVersion("x"),
            requests.exceptions.ConnectionError("x"),
            requests.exceptions.ReadTimeout("x"),
            urllib3.exceptions.ProtocolError("x"),
            urllib3.exceptions.ReadTimeoutError(None, "", "x"),  # type: ignore[arg-type]
            ConnectionResetError("x"),
            TimeoutError("x"),
        ):
            with pytest.raises(EnvironmentLacksError, match="a test runs"), failures("a test runs"):
                raise error

    @pytest.mark.parametrize(
        ("explanation", "said"),
        [
            ("write /data/x: no space left on device", "disk is full"),
            ("No such image: sha256:00", "image is gone"),
        ],
    )
    def test_refusals_that_are_known(self, explanation: str, said: str) -> None:
        import docker.errors

        with pytest.raises(EnvironmentLacksError, match=said) as caught, failures("a test runs"):
            raise docker.errors.APIError("x", explanation=explanation)
        assert caught.value.todo

    def test_each_way_of_losing_a_container_is_told_apart(self) -> None:
        errors = [lost(why, "ninja ran") for why in ("killed", "removed", "memory", "daemon", "stopped")]
        assert len({error.what for error in errors}) == 5
        assert all("ninja ran" in error.what and "goes on" in error.todo for error in errors)
        assert all(error.exit_code == 3 for error in errors)


def tar(*members: tarfile.TarInfo, content: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.uid, info.uname = kind, link, 4711, "somebody"
    return info


BAD = [
    member("../out"),
    member("/etc/out"),
    member("a/../../out"),
    member("link", tarfile.SYMTYPE, "/etc/passwd"),
    member("link", tarfile.SYMTYPE, "../../../../out"),
    member("hard", tarfile.LNKTYPE, "../out"),
    member("device", tarfile.CHRTYPE),
    member("pipe", tarfile.FIFOTYPE),
]


class TestArchives:
    @pytest.mark.parametrize("bad", BAD, ids=lambda info: f"{info.name}-{info.linkname}")
    def test_members_that_leave_go_neither_in_nor_out(self, bad: tarfile.TarInfo, tmp_path: Path) -> None:
        archive = tar(member("good"), bad)
        with pytest.raises(BuildError, match="leave the folder"):
            owned(archive, (1, 1))
        if bad.name.startswith("/"):
            return  # on the way out the filter takes the slash away
        with pytest.raises(BuildError, match="leave the folder"):
            unpack([archive], tmp_path / "into")
        assert [path.name for path in tmp_path.rglob("*")] == ["into", "good"]

    def test_an_absolute_name_stays_below_the_folder_on_the_way_out(self, tmp_path: Path) -> None:
        unpack([tar(member("/etc/out"))], tmp_path)
        assert (tmp_path / "etc/out").read_bytes() == b"x"

    @pytest.mark.parametrize("cut", [b"", b"no tar at all" * 100, tar(member("a"), content=b"x" * 5000)[:2000]])
    def test_what_is_cut_off_or_no_tar(self, cut: bytes, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="no tar archive, or it is cut off"):
            owned(cut, (1, 1))
        with pytest.raises(BuildError, match="no tar archive, or it is cut off"):
            unpack([cut], tmp_path)

    def test_a_compressed_file_becomes_a_plain_tar_of_the_owner_s(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(__file__, "folder/test.py")
        with owned(path, (1234, 5678)) as data, tarfile.open(fileobj=data) as archive:
            (found,) = archive.getmembers()
            assert (found.name, found.uid, found.gid, found.uname) == ("folder/test.py", 1234, 5678, "")
            content = archive.extractfile(found)
            assert content is not None
            assert content.read() == Path(__file__).read_bytes()

    @given(
        st.dictionaries(
            st.from_regex(r"([a-z]{1,2}/){0,2}[a-z]{1,2}\.txt", fullmatch=True), st.binary(max_size=2000), max_size=6
        ),
        st.integers(100, 20_000),
    )
    def test_files_survive_the_way_there_and_back_in_pieces_of_any_size(
        self, files: dict[str, bytes], size: int
    ) -> None:
        import tempfile

        data = tar_of_files(files)
        assert data == tar_of_files(dict(reversed(files.items()))), "the same files, the same bytes"
        with tempfile.TemporaryDirectory() as folder:
            unpack([data[at : at + size] for at in range(0, len(data), size)], Path(folder))
            found = {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
        assert found == files

    @pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", ""])
    def test_files_with_names_that_leave(self, name: str) -> None:
        with pytest.raises(BuildError, match="leave the folder"):
            tar_of_files({name: b""})


class TestKernelFigures:
    def test_both_versions_of_control_groups_are_read(self) -> None:
        assert read_usage(["usage_usec 2500000\nuser_usec 1\n", "low 0\noom 3\noom_kill 2\n"]) == Usage(2.5, 2)
        assert read_usage(["oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", "2500000000\n"]) == Usage(2.5, 4)
        assert read_usage([]) == Usage(0.0, 0)

    def test_files_are_found_where_the_engine_runs_on_this_machine(self, tmp_path: Path) -> None:
        proc, mount = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "7").mkdir(parents=True)
        second = mount / "system.slice/docker-abc.scope"
        first = mount / "memory/docker/abc"
        for folder, name in ((second, "cpu.stat"), (second, "memory.events"), (first, "memory.oom_control")):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("")
        (proc / "7/cgroup").write_text("0::/system.slice/docker-abc.scope\n")
        assert outside("abc", 7, proc, mount) == [second / "cpu.stat", second / "memory.events"]
        (proc / "7/cgroup").write_text("8:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n")
        assert outside("abc", 7, proc, mount) == [first / "memory.oom_control"]

    def test_a_process_of_that_number_that_is_another_s_is_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "7").mkdir()
        (tmp_path / "7/cgroup").write_text("0::/user.slice\n")
        assert outside("abc", 7, tmp_path, tmp_path) == []
        assert outside("abc", 8, tmp_path, tmp_path) == []


class TestOutput:
    @given(st.lists(st.tuples(st.sampled_from((1, 2)), st.binary(max_size=300)), max_size=8), st.integers(1, 50))
    def test_frames_are_put_together_however_they_are_cut(self, frames: list[tuple[int, bytes]], size: int) -> None:
        data = b"".join(struct.pack(">BxxxI", kind, len(piece)) + piece for kind, piece in frames)
        ours, theirs = socket.socketpair()
        stream = Stream(ours)
        with theirs:
            for at in range(0, len(data), size):
                theirs.sendall(data[at : at + size])
        assert stream.rest(1.0) == b"".join(piece for _, piece in frames)
        assert stream.over
        stream.close()

    def test_what_came_with_the_reply_s_header_is_not_lost(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.sendall(b"header\r\n" + struct.pack(">BxxxI", 1, 5) + b"early")
        buffer = ours.makefile("rb")
        assert buffer.readline() == b"header\r\n"  # reads more than it returns, as the SDK's HTTP client does
        given = SimpleNamespace(
            _sock=ours, _response=SimpleNamespace(raw=SimpleNamespace(_fp=SimpleNamespace(fp=buffer))), close=ours.close
        )
        stream = Stream(given)
        assert stream.read(1.0) == (1, b"early")
        theirs.sendall(struct.pack(">BxxxI", 2, 4) + b"late")
        assert stream.read(1.0) == (2, b"late")
        assert stream.read(0.01) == (0, b"")
        assert not stream.over
        theirs.close()
        stream.close()

    def test_lines_are_whole_whatever_the_pieces(self) -> None:
        heard: list[str] = []
        lines = Lines(heard.append)
        for piece in (b"on", b"e\ntw", b"o\r\n", b"10%\r50%\r100%\n", "ü".encode()[:1], "ü".encode()[1:], b"\n\nlast"):
            lines.add(1, piece)
        lines.end()
        assert heard == ["one", "two", "100%", "ü", "", "last"]

    def test_errors_never_get_into_the_middle_of_another_line(self) -> None:
        lines = Lines(None)
        for kind, piece in ((1, b"[1/2] comp"), (2, b"warning: x\nand"), (1, b"iling\nend"), (2, b" y")):
            lines.add(kind, piece)
        lines.end()
        assert list(lines.tail) == ["warning: x", "[1/2] compiling", "end", "and y"]

    def test_a_line_without_end_does_not_fill_the_memory(self) -> None:
        lines = Lines(None)
        for _ in range(100):
            lines.add(1, b"x" * 10_000)
        lines.end()
        assert max(len(line) for line in lines.tail) < 100_000

    def test_only_the_last_lines_are_kept(self) -> None:
        lines = Lines(None)
        lines.add(1, b"".join(b"%d\n" % number for number in range(1000)))
        assert list(lines.tail) == [str(number) for number in range(600, 1000)]


def test_a_container_is_the_caller_s_without_network_unless_said() -> None:
    spec = ContainerSpec(image="debian")
    assert spec.user == caller()
    assert (spec.network, spec.pids, spec.read_only) == (False, 4096, False)


@given(st.sampled_from(["amd64", "AMD64", "x86_64"]))
def test_architectures_have_one_name(name: str) -> None:
    assert machine_of(name) == "x86_64"
