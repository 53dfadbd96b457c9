"""Environments rest on the wheels' content: indexes that share a name and version share nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ortforge.api import Task
from ortforge.cli.main import app
from ortforge.engine.steps import provision as provision_step
from ortforge.engine.unchanged import files_below, refuse_changed
from ortforge.engine.work import Work
from ortforge.errors import ConfigurationError, FetchError, OrtforgeError, ProvisionError
from ortforge.plan.graph import Step
from ortforge.plan.recorded_files import why_outdated
from ortforge.plugin_manager import Plugins
from ortforge.runtime.driver_variables import driver_variables
from ortforge.runtime.environment import EnvironmentRequest, local_wheels, provision
from ortforge.runtime.index_settings import index_digest, index_settings, project_settings
from ortforge.runtime.resolution import LockedPin
from ortforge.runtime.wheel_lock import WheelLock, environment_key, read_wheel_lock
from ortforge.store import open_store
from ortforge.store.hashing import sha256_file

from .test_environment import wheel

REQUEST = EnvironmentRequest(("standin==1.0",))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two folders with different wheels of one name and version; uv looks into the first."""
    made = [
        wheel(tmp_path / f"index{number}", "standin", "1.0", {"standin/__init__.py": f"VALUE = {number}\n"})
        for number in (1, 2)
    ]
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(made[0].parent))
    return made[0].parent, made[1].parent


def only_wheel(folder: Path) -> Path:
    return next(folder.glob("*.whl"))


def test_two_indexes_share_no_environment(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = provision(REQUEST, tmp_path / "envs")
    monkeypatch.setenv("UV_FIND_LINKS", str(folders[1]))
    second = provision(REQUEST, tmp_path / "envs")
    assert first.identity != second.identity
    assert first.folder != second.folder
    for environment, folder in ((first, folders[0]), (second, folders[1])):
        (package,) = environment.packages
        assert package.sha256 == sha256_file(only_wheel(folder))
    monkeypatch.setenv("UV_FIND_LINKS", str(folders[0]))
    assert provision(REQUEST, tmp_path / "envs") == first


def test_a_wheel_that_is_replaced_under_its_name_is_noticed(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    first = provision(REQUEST, tmp_path / "envs")
    ((path, digest),) = local_wheels(first).items()
    assert (path, digest) == (only_wheel(folders[0]), sha256_file(only_wheel(folders[0])))
    result = {"files": [{"path": str(path), "kind": "wheel", "sha256": digest}]}
    step = Step("provision:a", "provision", {})
    assert why_outdated(step, result) == ""
    path.write_bytes(only_wheel(folders[1]).read_bytes())
    os.utime(path, ns=(1, 1))
    assert "changed since the environment was made" in why_outdated(step, result)
    said: list[str] = []
    second = provision(REQUEST, tmp_path / "envs", say=said.append)
    assert "was replaced" in said[0]
    assert second.identity != first.identity
    path.unlink()
    assert why_outdated(step, result) == "", "what was installed from it stays what it is"
    assert provision(REQUEST, tmp_path / "envs") == second


def test_settings_of_indexes_are_known_without_their_passwords(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert index_digest(home) == ""
    plain = index_settings({**home, "UV_DEFAULT_INDEX": "https://example.org/simple"})
    secret = index_settings(
        {**home, "UV_DEFAULT_INDEX": "https://me:secret@example.org/simple", "UV_INDEX_MINE_PASSWORD": "x"}
    )
    assert plain == secret
    assert "secret" not in json.dumps(secret)
    names = ("UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INDEX_STRATEGY", "UV_EXCLUDE_NEWER", "UV_INDEX")
    digests = {index_digest({**home, name: "a"}) for name in names}
    assert len(digests | {""}) == len(names) + 1
    assert index_digest({**home, "UV_CACHE_DIR": "/tmp/cache", "UV_HTTP_TIMEOUT": "9"}) == ""

    (tmp_path / ".config/uv").mkdir(parents=True)
    config = tmp_path / ".config/uv/uv.toml"
    config.write_text('cache-dir = "/tmp/x"\n')
    assert index_digest(home) == ""
    config.write_text('cache-dir = "/tmp/x"\n[[index]]\nurl = "https://example.org/simple"\n')
    one = index_digest(home)
    config.write_text('[[index]]\nurl = "https://other.example.org/simple"\n')
    assert len({"", one, index_digest(home)}) == 3
    assert index_digest({**home, "UV_NO_CONFIG": "1"}) not in ("", one)


def test_settings_of_a_project_around_the_store_are_known(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    envs = tmp_path / "project" / "store" / "envs"
    first = provision(REQUEST, envs)
    assert set(project_settings(envs).values()) == {""}
    (tmp_path / "project" / "pyproject.toml").write_text("[project]\nname = 'a'\n")
    assert provision(REQUEST, envs) == first
    (tmp_path / "project" / "uv.toml").write_text(f"find-links = ['{folders[1]}']\n")
    assert provision(REQUEST, envs).folder != first.folder
    assert len([sha256 for sha256 in project_settings(envs).values() if sha256]) == 1


def test_variables_are_known_with_the_files_that_they_name(tmp_path: Path) -> None:
    library = tmp_path / "libfirst.so"
    library.write_text("one")
    environ = {
        "LD_PRELOAD": str(library),
        "HOME": "/root",
        "ORT_DISABLE_TELEMETRY": "1",
        "ORTFORGE_X": "1",
        "QNN_A": "b",
    }
    before = driver_variables(environ)
    assert list(before) == ["LD_PRELOAD", "QNN_A"]
    library.write_text("another")
    assert driver_variables(environ)["LD_PRELOAD"] != before["LD_PRELOAD"]
    assert driver_variables({"MY_DRIVER": "x", "MY_OTHER": "y"}, ("MY_DRIVER",)) == {"MY_DRIVER": "x"}
    assert driver_variables({"OMP_NUM_THREADS": "1"}, (), ("OMP_NUM_THREADS",)) == {}
    search = {"LD_LIBRARY_PATH": str(tmp_path)}
    earlier = driver_variables(search)
    (tmp_path / "libsecond.so.1").write_text("new")
    assert driver_variables(search) != earlier


def test_a_wheel_that_changes_after_planning_is_refused(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    path = only_wheel(folders[0])
    context = {"wheels": [str(path)], "requires": [], "python": ""}
    task = Task(
        "provision:a", "provision", "k", {"wheels": [[path.name, "0" * 64]]}, (), str(tmp_path), context=context
    )
    with (
        open_store(tmp_path / "store") as store,
        pytest.raises(FetchError, match=r"changed while the run used it") as error,
    ):
        provision_step.run(task, Work(store, Plugins(), tmp_path))
    assert str(path) in error.value.what


def test_data_that_changes_after_planning_is_named(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.npy").write_text("x")
        os.utime(tmp_path / f"{number}.npy", (number % 2, number % 2))
    refuse_changed("a", "a", "path:x", lambda: files_below(tmp_path))
    with pytest.raises(FetchError, match=r"path:x changed while the run used it: .*1\.npy was written"):
        refuse_changed("a", "b", "path:x", lambda: files_below(tmp_path))


# Locks


def pin(folder: Path) -> LockedPin:
    path = only_wheel(folder)
    return LockedPin("standin", "1.0", ((path.name, sha256_file(path)),))


def test_a_locked_environment_holds_exactly_the_locked_wheels(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = EnvironmentRequest(("standin",), locked=(pin(folders[0]),))
    assert provision(locked, tmp_path / "envs").version("standin") == "1.0"
    wheel(folders[0], "standin", "2.0", {"standin/__init__.py": "VALUE = 3\n"})
    assert provision(locked, tmp_path / "other").version("standin") == "1.0", "newer versions do not count"
    monkeypatch.setenv("UV_FIND_LINKS", str(folders[1]))
    with pytest.raises(ProvisionError, match="lock file does not allow standin") as error:
        provision(locked, tmp_path / "envs")
    assert "ortforge lock" in error.value.todo


def invoke(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [*arguments])
    if isinstance(done.exception, OrtforgeError):
        return int(done.exception.exit_code), done.stdout, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.stdout, done.stderr


MATRIX = """
[models.m]
path = "path:m.onnx"

[reference]
requires = ["standin"]

[targets.stock]
from = "package"
requires = ["standin"]
"""


def test_a_lock_is_written_checked_and_kept_stable(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, path = tmp_path / "matrix.toml", tmp_path / "matrix.lock"
    file.write_text(MATRIX)
    assert invoke("lock", "--check", "--matrix", str(file))[0] == 1
    assert not path.exists()
    assert invoke("lock", "--matrix", str(file))[0] == 0
    text = path.read_text()
    assert sha256_file(only_wheel(folders[0])) in text
    assert str(tmp_path) not in text
    assert invoke("lock", "--matrix", str(file))[1].strip().endswith("is up to date.")
    assert path.read_text() == text
    assert invoke("lock", "--check", "--matrix", str(file))[0] == 0

    other = {"environments": {"linux-arm64-python3.12": []}, "requires": ["standin"]}
    content = json.loads(text)
    content["targets"]["stock"]["environments"] |= other["environments"]  # type: ignore[operator]
    path.write_text(json.dumps(content))
    monkeypatch.setenv("UV_FIND_LINKS", str(folders[1]))
    code, out, _ = invoke("lock", "--check", "--json", "--matrix", str(file))
    assert (code, len(json.loads(out)["changed"])) == (1, 2)
    assert invoke("lock", "--matrix", str(file))[0] == 0
    assert "linux-arm64-python3.12" in path.read_text(), "entries of other machines are kept"
    assert sha256_file(only_wheel(folders[1])) in path.read_text()


def test_a_lock_for_other_requirements_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    lock = WheelLock(tmp_path / "matrix.lock")
    key = environment_key("linux", "x86_64", "3.13")
    assert key == "linux-x86_64-python3.13"
    lock.put("stock", ["b", "a"], key, (LockedPin("a", "1", (("a.whl", "0" * 64),)),))
    lock.path.write_text(lock.to_text())
    read = read_wheel_lock(lock.path)
    assert read.of("stock", ["a", "b"], key) == lock.pins["stock"][key]
    assert read.of("stock", ["a", "b"], "other") == ()
    assert read.of("another", ["c"], key) == ()
    with pytest.raises(ConfigurationError, match="other requirements of the target stock") as error:
        read.of("stock", ["a==2"], key)
    assert "ortforge lock" in error.value.todo
    for text in ("", "[]", '{"schema": 2}', '{"schema": 1, "targets": {"a": 1}}'):
        lock.path.write_text(text)
        with pytest.raises(ConfigurationError, match="cannot be used"):
            read_wheel_lock(lock.path)
