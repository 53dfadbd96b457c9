"""From a reference to a source object: archives, repositories, and what is said of those that cannot be used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from source_sample import write_tree

from ortforge.api import Fetched, SourceResolver, Task, TaskOutcome, git, git_address, git_revision
from ortforge.build.source import same_version, store_tree, tree_version
from ortforge.engine import work
from ortforge.engine.steps.source import SourceFetcher
from ortforge.engine.work import run_task
from ortforge.errors import ConfigurationError, FetchError
from ortforge.plugin_manager import Plugins
from ortforge.store import open_store

PLUGINS = Plugins(third_party=False)


@pytest.fixture(autouse=True)
def known_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(work._shared, "plugins", PLUGINS)
    work.ready.cache_clear()
    yield
    work.ready.cache_clear()


def archive_of(tree: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as out:
        out.add(tree, "onnxruntime-1.21.0")
    return archive


def fetch(reference: str, base: Path, *, version: str = "1.21.0", sha256: str = "") -> TaskOutcome:
    """Run the step ``source`` as the engine does."""
    scheme, _, rest = reference.partition(":")
    task = Task(
        step_id=f"source:{reference}",
        kind="source",
        key="0" * 40,
        parameters={"scheme": scheme, "sha256": sha256, "version": version},
        inputs=(),
        store=str(base / "store"),
        context={"base": str(base), "reference": rest},
    )
    return run_task(task)


def failure(reference: str, base: Path, **given: str) -> tuple[str, int]:
    outcome = fetch(reference, base, **given)
    assert outcome.status == "failed", outcome
    return outcome.reason, outcome.result["exit_code"]


def members(source: Path) -> list[tuple[str, int, float, int, str]]:
    with tarfile.open(source / "source.tar") as tar:
        return [(m.name, m.mode, m.mtime, m.uid, m.linkname) for m in tar]


def run_git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    allowed = ["-c", "protocol.file.allow=always"]
    done = subprocess.run(
        ["git", *identity, *allowed, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit_all(tree: Path, tag: str = "") -> str:
    if not (tree / ".git").exists():
        run_git(tree, "init", "-q", "-b", "main")
    run_git(tree, "add", "-A")
    run_git(tree, "commit", "-q", "-m", "a commit")
    if tag:
        run_git(tree, "tag", "-a", tag, "-m", tag)
    return run_git(tree, "rev-parse", "HEAD")


def object_of(outcome: TaskOutcome, base: Path) -> Path:
    assert outcome.status == "ok", outcome.reason
    return open_store(base / "store").objects.get(outcome.identity)


# The object


def test_the_same_files_give_the_same_object_whatever_their_times_owners_and_order(tmp_path: Path) -> None:
    first = write_tree(tmp_path / "first")
    (first / "link").symlink_to("onnxruntime/core")
    second = tmp_path / "second"
    shutil.copytree(first, second, symlinks=True)
    for number, path in enumerate(sorted(second.rglob("*"), reverse=True)):
        if not path.is_symlink():
            os.utime(path, (number, number))
            path.chmod(0o700 if path.is_dir() or path.name == "build.sh" else 0o600)
    (second / ".git").mkdir()
    (second / ".git" / "HEAD").write_text("ref: refs/heads/main")
    one = store_tree(first, tmp_path / "one", version="1.21.0")
    two = store_tree(second, tmp_path / "two", version="1.21")
    assert one == two
    assert (tmp_path / "one" / "source.tar").read_bytes() == (tmp_path / "two" / "source.tar").read_bytes()
    found = members(tmp_path / "one")
    assert [name for name, *_ in found if name.startswith("tools")] == [
        "tools",
        "tools/ci_build",
        "tools/ci_build/build.py",
    ]
    assert {(mtime, uid) for _, _, mtime, uid, _ in found} == {(315532800, 0)}
    assert {mode for name, mode, *_ in found if name == "build.sh"} == {0o755}
    assert [target for name, *_, target in found if name == "link"] == ["onnxruntime/core"]


def test_the_object_has_what_later_steps_read(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree")
    (tree / "tools/ci_build/build_args.py").write_text("# since 1.23\n")
    index = store_tree(tree, tmp_path / "out", version="1.21.0")
    assert sorted(path.name for path in (tmp_path / "out" / "parser").iterdir()) == ["build.py", "build_args.py"]
    assert (tmp_path / "out" / "deps.txt").read_text().startswith("#Name")
    assert index == json.loads((tmp_path / "out" / "index.json").read_text())
    content = [path for path in tree.rglob("*") if path.is_file()]
    assert (index["files"], index["bytes"]) == (len(content), sum(path.stat().st_size for path in content))
    assert (index["version"], index["licence"], index["stripped"]) == ("1.21.0", "MIT", False)
    assert index["sha256"] == hashlib.sha256((tmp_path / "out" / "source.tar").read_bytes()).hexdigest()
    (tree / "onnxruntime/test/testdata/mul_1.onnx").unlink()
    assert store_tree(tree, tmp_path / "stripped", version="1.21.0")["stripped"]


def test_another_version_than_the_target_says_is_refused(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", "1.20.1")
    with pytest.raises(ConfigurationError) as refused:
        store_tree(tree, tmp_path / "out", version="1.21.0")
    assert refused.value.what == "The source is ONNX Runtime 1.20.1, and the target says version = '1.21.0'."
    assert 'version = "1.20.1"' in refused.value.todo
    assert not (tmp_path / "out").exists()
    assert same_version("1.21", "1.21.0")
    assert not same_version("1.21.0", "1.21.0-rc1")
    (tree / "VERSION_NUMBER").write_text("<html>")
    with pytest.raises(FetchError, match="is no version"):
        tree_version(tree)


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("", "one folder further down: onnxruntime"),
        ("onnxruntime/cmake", "further up"),
        ("onnxruntime/onnxruntime", "further up"),
        ("onnxruntime/tools/ci_build", "further up"),
    ],
)
def test_a_folder_too_high_or_too_low_is_recognized(tmp_path: Path, place: str, meant: str) -> None:
    write_tree(tmp_path / "x" / "onnxruntime")
    with pytest.raises(FetchError, match="no source tree") as refused:
        store_tree(tmp_path / "x" / place, tmp_path / "out", version="1.21.0")
    assert meant in refused.value.meant


@pytest.mark.parametrize(
    ("file", "meant"),
    [
        ("include/onnxruntime_c_api.h", "a binary release"),
        ("onnxruntime/capi/x.so", "an unpacked wheel"),
        ("core/session/x.cc", "a folder of the tree"),
        ("README", "It holds README."),
    ],
)
def test_what_else_people_give_for_a_source_is_recognized(tmp_path: Path, file: str, meant: str) -> None:
    path = tmp_path / "given" / file
    path.parent.mkdir(parents=True)
    path.write_text("x")
    with pytest.raises(FetchError) as refused:
        tree_version(tmp_path / "given")
    assert meant in refused.value.meant


def test_a_tree_with_a_link_to_the_outside_or_a_pipe_is_refused(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree")
    (tree / "cmake" / "outside").symlink_to("../../secret")
    with pytest.raises(FetchError, match=r"cmake/outside in the source is a link to \.\./\.\./secret"):
        store_tree(tree, tmp_path / "one", version="1.21.0")
    (tree / "cmake" / "outside").unlink()
    os.mkfifo(tree / "pipe")
    with pytest.raises(FetchError, match="pipe in the source is neither"):
        store_tree(tree, tmp_path / "two", version="1.21.0")


# archive:


def test_an_archive_becomes_a_source_object(tmp_path: Path) -> None:
    archive = archive_of(write_tree(tmp_path / "tree"), tmp_path / "ort.tar.gz")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    outcome = fetch("archive:ort.tar.gz", tmp_path, sha256=digest.upper())
    assert ("VERSION_NUMBER") in [name for name, *_ in members(object_of(outcome, tmp_path))]
    assert outcome.result["archive_sha256"] == digest
    assert outcome.result["reference"] == "archive:ort.tar.gz"
    again = fetch("archive:ort.tar.gz", tmp_path)
    assert again.identity == outcome.identity


def test_an_archive_with_another_digest_is_refused(tmp_path: Path) -> None:
    archive_of(write_tree(tmp_path / "tree"), tmp_path / "ort.tar.gz")
    reason, code = failure("archive:ort.tar.gz", tmp_path, sha256="ab" * 32)
    assert f"is not what its sha256 says: {'ab' * 32} was required" in reason
    assert code == 4


def test_a_hostile_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../../../../evil"))
    reason, code = failure("archive:evil.tar", tmp_path)
    assert "'../../../../evil' is not safe" in reason
    assert code == 4
    assert not list(tmp_path.rglob("evil"))


def test_what_is_wrong_with_an_archive_reference_is_said(tmp_path: Path) -> None:
    archive_of(write_tree(tmp_path / "tree"), tmp_path / "ort.tar.gz")
    reason, code = failure("archive:otr.tar.gz", tmp_path)
    assert (f"Perhaps {tmp_path / 'ort.tar.gz'} was meant" in reason, code) == (True, 4)
    reason, code = failure("archive:tree", tmp_path)
    assert ("is a folder" in reason, "git:PATH@TAG" in reason, code) == (True, True, 4)
    reason, code = failure("archive:https://example.org/ort.tar.gz", tmp_path)
    assert ("needs a sha256" in reason, code) == (True, 2)
    reason, code = failure("archive:http://example.org/ort.tar.gz", tmp_path, sha256="ab" * 32)
    assert ("not the https address" in reason, code) == (True, 2)
    reason, code = failure("archive:file:///etc/passwd", tmp_path, sha256="ab" * 32)
    assert ("not the https address" in reason, code) == (True, 2)
    resolver = PLUGINS.sources["archive"]
    with pytest.raises(FetchError, match="does not exist"):
        resolver.fingerprint("nothing.tar", tmp_path)


def test_a_changed_archive_has_another_fingerprint(tmp_path: Path) -> None:
    archive = tmp_path / "ort.tar"
    archive.write_bytes(b"one")
    before = PLUGINS.sources["archive"].fingerprint("ort.tar", tmp_path)
    archive.write_bytes(b"two")
    assert PLUGINS.sources["archive"].fingerprint("ort.tar", tmp_path) != before
    address = "https://example.org/ort.tar"
    assert PLUGINS.sources["archive"].fingerprint(address, tmp_path) == address


@contextmanager
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve a folder over https, with a certificate made for it."""
    import ssl

    key, certificate = folder.parent / "key.pem", folder.parent / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    making = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(key), "-out", str(certificate), "-days", "2"]
    subprocess.run([*making, *files, *subject], check=True, capture_output=True)

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("localhost", 0), Quiet)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("no_proxy", "localhost")
    try:
        yield f"https://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_an_archive_at_an_address_is_held_to_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "www").mkdir()
    archive = archive_of(write_tree(tmp_path / "tree"), tmp_path / "www" / "ort.tar.gz")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    with served(tmp_path / "www", monkeypatch) as address:
        outcome = fetch(f"archive:{address}/ort.tar.gz", tmp_path, sha256=digest)
        wrong, code = failure(f"archive:{address}/ort.tar.gz", tmp_path, sha256="cd" * 32)
        absent, _ = failure(f"archive:{address}/none.tar.gz", tmp_path, sha256=digest)
    assert outcome.result["url"] == f"{address}/ort.tar.gz"
    assert object_of(outcome, tmp_path)
    assert ("is not what its sha256 says" in wrong, code) == (True, 4)
    assert "does not exist (HTTP 404)" in absent
    reason, _ = failure(f"archive:{address}/ort.tar.gz", tmp_path, sha256=digest)
    assert "could not be reached" in reason


# git:


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, str]:
    """A bare repository with the tag v1.21.0 on its first commit and a second commit on main; and the first's name."""
    tree = write_tree(tmp_path / "work")
    first = commit_all(tree, "v1.21.0")
    (tree / "VERSION_NUMBER").write_text("1.22.0\n")
    commit_all(tree)
    run_git(tmp_path, "clone", "-q", "--bare", "work", "ort.git")
    return tmp_path / "ort.git", first


def test_a_tag_is_fetched_without_history_and_without_its_repository(
    tmp_path: Path, repository: tuple[Path, str]
) -> None:
    path, commit = repository
    outcome = fetch("git:ort.git@v1.21.0", tmp_path)
    names = [name for name, *_ in members(object_of(outcome, tmp_path))]
    assert "VERSION_NUMBER" in names
    assert not [name for name in names if ".git" in name]
    assert (outcome.result["commit"], outcome.result["revision"]) == (commit, "v1.21.0")
    assert outcome.result["repository"] == path.as_uri()
    same = fetch(f"git:{path.as_uri()}@{commit}", tmp_path)
    assert same.identity == outcome.identity


def test_a_commit_that_no_ref_names_is_found_in_the_history(tmp_path: Path, repository: tuple[Path, str]) -> None:
    path, commit = repository
    run_git(path, "tag", "-d", "v1.21.0")
    outcome = fetch(f"git:ort.git@{commit}", tmp_path)
    assert outcome.result["commit"] == commit


def test_an_archive_and_a_repository_of_the_same_tree_are_one_object(
    tmp_path: Path, repository: tuple[Path, str]
) -> None:
    archive_of(write_tree(tmp_path / "tree"), tmp_path / "ort.tar.gz")
    assert fetch("git:ort.git@v1.21.0", tmp_path).identity == fetch("archive:ort.tar.gz", tmp_path).identity


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("v1.12.0", "Perhaps v1.21.0 was meant"),
        ("1.21.0", "Perhaps v1.21.0 was meant"),
        ("main", "main is a branch"),
        ("0123456789", "too short for a commit"),
        ("f" * 40, "There is no commit ffff"),
        ("--upload-pack=touch${IFS}evil", "neither a tag nor a commit"),
        ("v1.21.0;touch evil", "neither a tag nor a commit"),
        ("a..b", "neither a tag nor a commit"),
        ("", "neither a tag nor a commit"),
    ],
)
def test_revisions_that_cannot_be_used_are_explained(
    tmp_path: Path, repository: tuple[Path, str], revision: str, message: str
) -> None:
    reason, code = failure(f"git:ort.git@{revision}", tmp_path)
    assert message in reason
    assert code == 4
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("address", ["ext::sh -c 'touch evil'", "--upload-pack=x", "fd::3", "ftp://host/x.git", ""])
def test_addresses_that_would_run_programs_are_refused(tmp_path: Path, address: str) -> None:
    reason, code = failure(f"git:{address}@v1", tmp_path)
    assert "is not the address of a git repository" in reason
    assert code == 4
    assert git_address("https://example.org/a.git") == "https://example.org/a.git"
    assert git_revision("rel-1.21/x+y") == "rel-1.21/x+y"


def test_a_moved_tag_of_a_local_repository_is_seen_when_planning(tmp_path: Path, repository: tuple[Path, str]) -> None:
    fingerprint = PLUGINS.sources["git"].fingerprint
    before = fingerprint("ort.git@v1.21.0", tmp_path)
    assert repository[1] in before
    run_git(repository[0], "tag", "-f", "v1.21.0", "main")
    assert fingerprint("ort.git@v1.21.0", tmp_path) != before
    assert fingerprint("v1.21.0", tmp_path) == "https://github.com/microsoft/onnxruntime.git@v1.21.0"
    with pytest.raises(FetchError, match="There is no repository"):
        fingerprint("nowhere.git@v1", tmp_path)
    with pytest.raises(FetchError, match="names no tag or commit"):
        fingerprint("https://example.org/a.git", tmp_path)


def test_submodules_come_for_versions_that_need_them_alone(tmp_path: Path) -> None:
    onnx = tmp_path / "onnx"
    onnx.mkdir()
    (onnx / "onnx.proto").write_text("syntax")
    commit_all(onnx)
    for name, deps in (("old", ""), ("new", "#Name;Url;SHA1\n")):
        tree = write_tree(tmp_path / name, deps=deps)
        run_git(tree, "init", "-q", "-b", "main")
        for place in ("onnx", "emsdk"):
            run_git(tree, "submodule", "--quiet", "add", "../onnx", f"cmake/external/{place}")
        commit_all(tree, "v1")
    (tmp_path / "store").mkdir()
    old, new = fetch("git:old@v1", tmp_path), fetch("git:new@v1", tmp_path)
    names = [name for name, *_ in members(object_of(old, tmp_path))]
    assert "cmake/external/onnx/onnx.proto" in names
    assert "cmake/external/emsdk/onnx.proto" not in names  # for the web alone
    assert old.result["submodules"] == "cmake/external/onnx"
    assert not [name for name in names if name.endswith(".git")]
    assert "cmake/external/onnx/onnx.proto" not in [name for name, *_ in members(object_of(new, tmp_path))]


def test_nothing_of_the_users_configuration_or_of_the_repository_runs(
    tmp_path: Path, repository: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for hook in ("post-checkout", "reference-transaction"):
        (hooks / hook).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (hooks / hook).chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(f'[core]\nhooksPath = {hooks}\n[url "file:///nowhere/"]\ninsteadOf = file:///\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.hooksPath")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(hooks))
    assert fetch("git:ort.git@v1.21.0", tmp_path).status == "ok"
    assert not (tmp_path / "ran").exists()


def test_a_host_that_cannot_be_reached_is_an_error_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    started = time.monotonic()
    reason, code = failure("git:https://127.0.0.1:1/ort.git@v1.21.0", tmp_path)
    assert "git ls-remote failed" in reason
    assert "archive:FILE" in reason
    assert code == 4
    assert time.monotonic() - started < 20


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(FetchError, match="did not end within 1 s"):
            git(["ls-remote", "--", f"git://127.0.0.1:{port}/x.git"], tmp_path, seconds=1.0)
    assert time.monotonic() - started < 10


def test_a_password_in_an_address_is_not_shown(tmp_path: Path) -> None:
    reason, _ = failure("git:https://me:secret@127.0.0.1:1/ort.git@v1.21.0", tmp_path)
    assert "secret" not in reason


def test_a_repository_of_another_user_on_this_machine_is_taken(tmp_path: Path, repository: tuple[Path, str]) -> None:
    if os.getuid() == 0:
        for path in (repository[0], *repository[0].rglob("*")):
            os.chown(path, 12345, 12345)
    assert fetch("git:ort.git@v1.21.0", tmp_path).result["commit"] == repository[1]


def test_a_sha256_does_not_belong_to_a_repository(tmp_path: Path, repository: tuple[Path, str]) -> None:
    reason, code = failure("git:ort.git@v1.21.0", tmp_path, sha256="ab" * 32)
    assert ("takes no sha256" in reason, code) == (True, 2)


# debian:, as far as it goes without a container; and resolvers of others


@pytest.mark.parametrize("suite", ["trixie main", "../x", "$(id)", "", "Trixie", "trixie;id"])
def test_a_suite_is_a_name(tmp_path: Path, suite: str) -> None:
    reason, code = failure(f"debian:{suite}", tmp_path)
    assert ("is no name of a Debian suite" in reason, code) == (True, 2)


def test_dependencies_come_with_the_source_that_they_suit() -> None:
    assert {name: resolver.dependencies for name, resolver in PLUGINS.sources.items()} == {
        "archive": "download",
        "debian": "system",
        "git": "download",
    }


def test_a_resolver_that_fails_is_named(tmp_path: Path) -> None:
    from ortforge.engine.steps.source import _fetch

    def broken(reference: str, context: Any) -> Fetched:
        raise KeyError(reference)

    def nothing(reference: str, context: Any) -> Fetched:
        return Fetched(tmp_path / "nowhere", tmp_path, {})

    context = SourceFetcher(workdir=tmp_path, base=tmp_path)
    resolver = SourceResolver("mine", "", "", lambda *_: "", broken)
    with pytest.raises(FetchError, match="mine:x could not be fetched: KeyError"):
        _fetch(resolver, "x", context)
    with pytest.raises(FetchError, match="nowhere is not there"):
        _fetch(SourceResolver("mine", "", "", lambda *_: "", nothing), "x", context)
    with pytest.raises(ConfigurationError, match="needs a sha256"):
        _fetch(SourceResolver("mine", "", "", lambda *_: "", nothing, sha256_required=True), "x", context)
