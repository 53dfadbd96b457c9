"""Dependencies are gathered over real sockets, held to their digests, and found damaged when they are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from source_sample import write_tree
from typer.testing import CliRunner

from ortforge.build import vendor
from ortforge.build.gathering import Gathered, Repository, SourceNeeds, Wheel, gather, needs_of, repositories_in
from ortforge.build.layout import VENDORED
from ortforge.build.source import store_tree
from ortforge.cli.main import app
from ortforge.engine.vendoring import _download
from ortforge.errors import ConfigurationError, FetchError, OrtforgeError

ARCHIVES = {
    "re2": ("https://github.com/google/re2/archive/refs/tags/2024-07-02.zip", b"re2" * 1000),
    "eigen": ("https://gitlab.com/libeigen/eigen/-/archive/1d8b/eigen-1d8b.zip", b"eigen" * 1000),
    "json": ("https://github.com/nlohmann/json/archive/refs/tags/v3.11.3.zip", b"json" * 1000),
}


def deps_of(archives: dict[str, tuple[str, bytes]]) -> str:
    rows = [f"{name};{url};{hashlib.sha1(data).hexdigest()}" for name, (url, data) in archives.items()]
    return "\n".join(["#Name;Url;SHA1", *rows, ""])


class Server:
    """A mirror on this machine, laid out as ``mirror/`` is, and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *given: Any) -> None:
                super().__init__(*given, directory=str(folder))

            def do_GET(self) -> None:
                outer.asked.append(self.path)
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def put(self, url: str, data: bytes) -> Path:
        path = self.folder / url.removeprefix("https://")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = Server(tmp_path / "www")
    for url, data in ARCHIVES.values():
        found.put(url, data)
    yield found
    found.close()


def fill(server: Server, out: Path, *, deps: str | None = None, **given: Any) -> tuple[Gathered, list[str]]:
    """Gather from the server, which stands for the hosts that deps.txt names."""
    said: list[str] = []
    needs = SourceNeeds("1.21.0", deps_of(ARCHIVES) if deps is None else deps, given.pop("repositories", ()), ())

    def address(url: str) -> str:
        return f"{server.address}/{url.removeprefix('https://')}"

    done = gather(needs, out, download=_download, address=given.pop("address", address), say=said.append, **given)
    return done, said


# What a source needs


def test_the_form_of_deps_txt_is_demanded() -> None:
    found = vendor.read_deps(deps_of(ARCHIVES) + "\n# a comment; with; semicolons\n\n")
    assert [(one.name, one.url) for one in found] == [(name, url) for name, (url, _) in ARCHIVES.items()]
    for line in ("re2;https://x/re2.zip", "re2;https://x/re2.zip;abc", "a b;https://x/a.zip;" + "0" * 40):
        with pytest.raises(FetchError, match=r"Line 2 of deps\.txt"):
            vendor.read_deps(f"#\n{line}\n")
    with pytest.raises(FetchError, match="a second time"):
        vendor.read_deps(2 * f"re2;https://x/re2.zip;{'0' * 40}\n")


@pytest.mark.parametrize(
    "url",
    [
        "https://x/../../etc/passwd",
        "https://../x",
        "https://x//y",
        "https://x/./y",
        "https://python/x.whl",
        "https://x/",
    ],
)
def test_an_address_that_leads_out_of_the_folder_is_refused(tmp_path: Path, server: Server, url: str) -> None:
    with pytest.raises(FetchError, match="cannot be a path"):
        vendor.place_of(url)
    with pytest.raises(FetchError, match="cannot be a path"):
        fill(server, tmp_path / "out", deps=f"evil;{url};{'0' * 40}\n")
    assert not list((tmp_path / "out").rglob("*.whl"))


def test_repositories_are_read_from_cmake_modules() -> None:
    dnnl = """
    set(DNNL_URL https://github.com/oneapi-src/onednn.git)
    set(DNNL_TAG v3.0.1)
    # GIT_REPOSITORY https://example.org/old.git GIT_TAG v1
    ExternalProject_Add(project_dnnl
      PREFIX dnnl
      GIT_REPOSITORY ${DNNL_URL}
      # PATCH_COMMAND x
      GIT_TAG ${DNNL_TAG})
    """
    odd = "ExternalProject_Add(a GIT_REPOSITORY ${UNKNOWN} GIT_TAG v1)"
    assert repositories_in({"dnnl": dnnl, "odd": odd}) == (
        Repository("dnnl", "https://github.com/oneapi-src/onednn.git", "v3.0.1"),
    )


def test_needs_are_read_from_a_source_object(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", deps=deps_of(ARCHIVES))
    (tree / "cmake/external").mkdir()
    (tree / "cmake/external/dnnl.cmake").write_text("GIT_REPOSITORY https://h/a.git\nGIT_TAG v1")
    requirements = tree / "tools/ci_build/requirements/pybind/requirements.txt"
    requirements.parent.mkdir(parents=True)
    requirements.write_text("-r other.txt\nflatbuffers # for tests\n\nnumpy>=1.19.0\nwheel\n")
    store_tree(tree, tmp_path / "object", version="1.21.0")
    needs = needs_of(tmp_path / "object", "1.21.0")
    assert needs.deps == deps_of(ARCHIVES)
    assert needs.repositories == (Repository("dnnl", "https://h/a.git", "v1"),)
    assert needs.requirements == ("flatbuffers", "numpy>=1.19.0", "wheel", "numpy", "packaging", "setuptools")
    with pytest.raises(ConfigurationError, match="takes no vendored dependencies"):
        needs_of(tmp_path / "object", "1.17.3")


# Gathering


def test_files_lie_where_orts_cmake_looks_for_them(tmp_path: Path, server: Server) -> None:
    out = tmp_path / "out"
    done, said = fill(server, out)
    assert (done.fetched, done.kept, done.bytes) == (3, 0, sum(len(data) for _, data in ARCHIVES.values()))
    for url, data in ARCHIVES.values():
        assert (out / re.sub("^https://", "mirror/", url)).read_bytes() == data  # the replacement of ORT's own CMake
    index = json.loads((out / "index.json").read_text())
    assert index["version"] == "1.21.0"
    for name, (url, data) in ARCHIVES.items():
        entry = index["files"][vendor.place_of(url)]
        assert (entry["name"], entry["url"]) == (name, url)
        assert (entry["sha1"], entry["sha256"]) == (hashlib.sha1(data).hexdigest(), hashlib.sha256(data).hexdigest())
    assert vendor.check(out) == vendor.Checked(3, done.bytes, ())
    assert said == ["[1/3] re2: fetched", "[2/3] eigen: fetched", "[3/3] json: fetched"]


def test_a_second_gathering_goes_on_where_the_first_one_ended(tmp_path: Path, server: Server) -> None:
    out, (url, data) = tmp_path / "out", ARCHIVES["eigen"]
    served = server.put(url, b"a page that says to sign in")
    with pytest.raises(FetchError) as failed:
        fill(server, out)
    assert "1 of 3 dependencies could not be gathered:\n- eigen: it is not what its sha1 says" in failed.value.what
    assert "run again" in failed.value.todo
    assert vendor.check(out).problems == ("eigen could not be had when the folder was filled.",)
    with pytest.raises(FetchError, match="eigen could not be had"):
        vendor.digest(str(out))
    served.write_bytes(data)
    server.asked.clear()
    (out / "mirror" / "github.com" / ".json.zip.part").write_bytes(b"of a process that was killed")
    done, _ = fill(server, out)
    assert (done.fetched, done.kept) == (1, 2)
    assert server.asked == [f"/{url.removeprefix('https://')}"]
    assert vendor.check(out).problems == ()


def test_what_an_older_source_needed_is_removed(tmp_path: Path, server: Server) -> None:
    out = tmp_path / "out"
    fill(server, out)
    fewer = {name: ARCHIVES[name] for name in ("re2", "json")}
    done, _ = fill(server, out, deps=deps_of(fewer))
    assert (done.fetched, done.kept) == (0, 2)
    assert vendor.check(out) == vendor.Checked(2, done.bytes, ())
    assert vendor.lacking(out, deps_of(ARCHIVES)) == ["eigen"]
    assert vendor.lacking(out, deps_of({"re2": (ARCHIVES["re2"][0], b"another")})) == ["re2"]
    assert vendor.lacking(out, deps_of(fewer)) == []


def test_a_host_that_is_gone_is_not_asked_for_everything(tmp_path: Path, server: Server) -> None:
    many = {f"d{number}": (f"https://h/{number}.zip", b"x") for number in range(9)}
    with pytest.raises(FetchError) as failed:
        fill(
            server,
            tmp_path / "out",
            deps=deps_of(many),
            address=lambda url: url.replace("https://h", "http://127.0.0.1:1"),
        )
    assert "3 of 9 dependencies could not be gathered" in failed.value.what
    assert "could not be reached" in failed.value.what
    assert "6 more were not tried" in failed.value.what
    assert failed.value.exit_code == 4


def test_a_dependency_that_is_no_https_address_is_left_out_and_said(tmp_path: Path, server: Server) -> None:
    deps = deps_of(ARCHIVES) + f"mine;third_party/mine.zip;{'0' * 40}\n"
    done, said = fill(server, tmp_path / "out", deps=deps)
    assert "third_party/mine.zip is no https address" in done.left_out["mine"]
    assert said[-1] == "[4/4] mine: left out"


def test_wheels_are_held_to_the_digest_of_the_index(tmp_path: Path, server: Server) -> None:
    server.put("https://index/numpy.whl", b"a wheel")
    wheel = Wheel(
        "numpy-2.0-py3-none-any.whl", f"{server.address}/index/numpy.whl", hashlib.sha256(b"a wheel").hexdigest()
    )
    fill(server, tmp_path / "out", wheels=[wheel])
    assert (tmp_path / "out" / vendor.PYTHON / wheel.filename).read_bytes() == b"a wheel"
    server.put("https://index/numpy.whl", b"another")
    with pytest.raises(FetchError, match="is not what its sha256 says"):
        fill(server, tmp_path / "new", wheels=[wheel])


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, server: Server) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigurationError, match="was not gathered by"):
        fill(server, tmp_path)
    with pytest.raises(ConfigurationError, match="is a file"):
        fill(server, tmp_path / "thesis.txt")


# Repositories


def commit(folder: Path) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "init", "-q", "-b", "master", str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), "add", "-A"], check=True)
    subprocess.run(["git", *identity, "-C", str(folder), "commit", "-q", "-m", "one"], check=True)
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def onednn(tmp_path: Path) -> tuple[Path, str]:
    """A repository with the tag v3.0.1, and its commit."""
    folder = tmp_path / "onednn"
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text("project(dnnl)\n")
    made = commit(folder)
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, "-C", str(folder), "tag", "-a", "v3.0.1", "-m", "three"], check=True)
    return folder, made


@pytest.mark.parametrize("by_commit", [False, True])
def test_git_clones_from_a_gathered_repository_without_a_network(
    tmp_path: Path, server: Server, onednn: tuple[Path, str], by_commit: bool
) -> None:
    revision = onednn[1] if by_commit else "v3.0.1"
    repository = Repository("dnnl", "https://github.com/oneapi-src/onednn.git", revision)
    out = tmp_path / "out"
    given: dict[str, Any] = {"deps": "#\n", "repositories": [repository], "address": lambda _: onednn[0].as_uri()}
    assert fill(server, out, **given)[0].fetched == 0, "nothing that is built needs it"
    done, _ = fill(server, out, eps=["cpu", "dnnl"], **given)
    assert done.fetched == 1
    assert vendor.check(out).problems == ()
    assert fill(server, out, eps=["dnnl"], **given)[0].kept == 1

    # What ExternalProject_Add does with GIT_REPOSITORY and GIT_TAG, where the container has the folder.
    environment = {**os.environ, **vendor.environment(str(out / "mirror")), "GIT_CONFIG_GLOBAL": os.devnull}
    for words in (["clone", "--no-checkout", repository.url, "src"], ["-C", "src", "checkout", revision, "--"]):
        subprocess.run(["git", *words], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "src" / "CMakeLists.txt").read_text() == "project(dnnl)\n"


def test_a_damaged_repository_is_fetched_again(tmp_path: Path, server: Server, onednn: tuple[Path, str]) -> None:
    repository = Repository("dnnl", "https://h/onednn.git", "v3.0.1")
    given: dict[str, Any] = {"deps": "#\n", "repositories": [repository], "eps": ["dnnl"]}
    given["address"] = lambda _: onednn[0].as_uri()
    out = tmp_path / "out"
    fill(server, out, **given)
    pack = next(out.rglob("*.pack"))
    pack.chmod(0o644)
    pack.write_bytes(pack.read_bytes()[:-1])
    assert "cut short" in vendor.check(out).problems[0]
    assert fill(server, out, **given)[0].fetched == 1
    assert vendor.check(out).problems == ()
    given["address"] = lambda _: (tmp_path / "nowhere").as_uri()
    shutil.rmtree(out)
    with pytest.raises(FetchError, match="dnnl: git fetch failed"):
        fill(server, out, **given)
    assert not list(out.rglob("*.part"))


# What a folder holds


def test_a_digest_is_fast_when_nothing_changed_and_another_when_content_did(tmp_path: Path, server: Server) -> None:
    out = tmp_path / "out"
    fill(server, out)
    first = vendor.digest(str(out))
    assert vendor.digest("") == ""
    assert re.fullmatch("[0-9a-f]{40}", first)
    seen = (out / ".seen.json").stat()
    started = time.process_time()
    assert vendor.digest(str(out)) == first
    assert time.process_time() - started < 0.5
    again = (out / ".seen.json").stat()
    assert (again.st_ino, again.st_mtime_ns) == (seen.st_ino, seen.st_mtime_ns), "what is known was not written again"
    changed = out / vendor.place_of(ARCHIVES["re2"][0])
    content, facts = changed.read_bytes(), changed.stat()
    changed.write_bytes(content[:-1] + b"!")
    os.utime(changed, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert vendor.digest(str(out)) == first, "size, time and inode are as before: nothing is read"
    assert vendor.check(out).problems, "a check reads everything"
    changed.write_bytes(content)
    elsewhere = shutil.copytree(out, tmp_path / "elsewhere")
    assert vendor.digest(str(elsewhere)) == first
    other = dict(ARCHIVES, json=(ARCHIVES["json"][0], b"a newer json"))
    server.put(*other["json"])
    fill(server, out, deps=deps_of(other))
    assert vendor.digest(str(out)) != first


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "add", "link"])
def test_a_damaged_folder_is_an_error_that_names_the_file(tmp_path: Path, server: Server, damage: str) -> None:
    out = tmp_path / "out"
    fill(server, out)
    vendor.digest(str(out))
    path = out / vendor.place_of(ARCHIVES["re2"][0])
    data = path.read_bytes()
    told = {
        "flip": "was changed: its sha256 is not",
        "cut": "has 10 bytes, and not 3,000: it is cut short or changed",
        "remove": "is missing",
        "add": "evil.zip was not gathered",
        "link": "is cut short or changed",
    }[damage]
    if damage == "flip":
        path.write_bytes(data[:-1] + b"!")
    elif damage == "cut":
        path.write_bytes(data[:10])
    elif damage == "add":
        (path.parent / "evil.zip").write_bytes(b"x")
    else:
        path.unlink()
    if damage == "link":
        (tmp_path / "same").write_bytes(data)
        path.symlink_to(tmp_path / "same")
    name = "evil.zip" if damage == "add" else path.name
    with pytest.raises(FetchError, match="are not whole") as refused:
        vendor.digest(str(out))
    assert told in refused.value.what
    assert name in refused.value.what
    assert "ortforge vendor TARGET --out" in refused.value.todo
    assert told in vendor.check(out).problems[0]


def test_a_folder_that_was_not_gathered_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "vendored").mkdir()
    with pytest.raises(ConfigurationError, match=r"it has no index\.json"):
        vendor.digest(str(tmp_path / "vendored"))
    with pytest.raises(ConfigurationError, match="does not exist") as refused:
        vendor.digest(str(tmp_path / "vendord"))
    assert "vendored was meant" in refused.value.meant
    index = tmp_path / "vendored" / "index.json"
    evil = {"schema": 1, "files": {"mirror/../../etc/passwd": {"bytes": 1, "sha256": "0" * 64}}}
    for text in ("", "[]", '{"schema": 2, "files": {}}', '{"schema": 1}', json.dumps(evil)):
        index.write_text(text)
        with pytest.raises(ConfigurationError, match="cannot be read as the index"):
            vendor.check(tmp_path / "vendored")


def test_git_and_pip_are_told_where_to_look() -> None:
    assert vendor.environment(VENDORED) == {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "url./work/source/mirror/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://",
        "PIP_FIND_LINKS": "/work/source/mirror/python",
        "PIP_NO_INDEX": "1",
    }


# The verb


def ortforge(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the verb in this process; an error is what :func:`ortforge.cli.main.main` makes of it."""
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, ["vendor", *arguments, "--store", "store"])
    if isinstance(done.exception, OrtforgeError):
        return int(done.exception.exit_code), done.stdout, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A matrix file with a target from an archive of a small tree, and one from a package."""
    tree = write_tree(tmp_path / "tree", deps=deps_of(ARCHIVES))
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.make_archive(str(folder / "ort"), "gztar", tmp_path, tree.name)
    (folder / "net.onnx").write_bytes(b"a model")
    (folder / "matrix.toml").write_text(
        '[models.net]\npath = "path:net.onnx"\n'
        '[targets.fast]\nfrom = "source"\nsource = "archive:ort.tar.gz"\nversion = "1.21.0"\n'
        '[targets.stock]\nfrom = "package"\nrequires = ["onnxruntime==1.21.1"]\n'
    )
    return folder


def test_the_verb_gathers_and_checks(project: Path, server: Server) -> None:
    code, out, err = ortforge(project, "fast", "--out", "deps", "--no-python", "--from", server.address)
    assert (code, err.count("fetched")) == (0, 3), err
    assert 'vendor = "deps"' in out
    code, out, _ = ortforge(project, "--out", "deps", "--no-python", "--from", server.address, "--json")
    assert (code, json.loads(out)["kept"], json.loads(out)["version"]) == (0, 3, "1.21.0")
    assert ortforge(project, "--check", "deps")[:2] == (0, "deps: 3 files are whole, 12,000 bytes; 0 problems\n")
    (project / "deps" / vendor.place_of(ARCHIVES["re2"][0])).unlink()
    code, out, _ = ortforge(project, "fast", "--check", "deps", "--json")
    assert (code, len(json.loads(out)["problems"])) == (4, 1)


def test_the_verb_says_what_is_wrong(project: Path) -> None:
    code, _, err = ortforge(project, "fats")
    assert (code, "Perhaps you meant 'fast'" in err) == (2, True)
    code, _, err = ortforge(project, "stock")
    assert (code, "it comes from a package" in err) == (2, True)
    code, _, err = ortforge(project, "fast", "--python", "3.x")
    assert (code, "is no version of Python" in err) == (2, True)
    code, _, err = ortforge(project, "--check", "nowhere")
    assert (code, "does not exist" in err) == (2, True)
    text = (project / "matrix.toml").read_text().replace("1.21.0", "1.22.0")
    (project / "matrix.toml").write_text(text)
    code, _, err = ortforge(project, "fast")
    assert (code, "The source is ONNX Runtime 1.21.0" in err) == (2, True)
