"""Environments, made with the real uv: what is in them, when they are made anew, and what is refused with which words.

Wheels made here stand for runtimes wherever the network would be needed; one test installs a real one.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ortforge.errors import ProvisionError, nearest
from ortforge.runtime import uv, uv_errors
from ortforge.runtime.distributions import LockedPackage, LockedWheel, damaged, read_distributions, wheel_of
from ortforge.runtime.environment import (
    Environment,
    EnvironmentRequest,
    provision,
    same_runtime,
    tools_request,
    verify,
)
from ortforge.store.hashing import sha256_file


def wheel(folder: Path, name: str, version: str, files: Mapping[str, str], tag: str = "py3-none-any") -> Path:
    """Write a wheel as a builder would, with a RECORD that is true."""
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    lines = []
    for path, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(text)}\n")
    made = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in {**content, f"{info}/RECORD": "".join([*lines, f"{info}/RECORD,,\n"])}.items():
            archive.writestr(path, text)
    return made


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A wheel that stands for a runtime: a module and a "native library"."""
    files = {"standin/__init__.py": "VALUE = 1\n", "standin/libstandin.so": "machine code"}
    return wheel(tmp_path / "wheels", "standin", "1.0", files)


def make(tmp_path: Path, *wheels: Path) -> tuple[Environment, list[str]]:
    said: list[str] = []
    return provision(EnvironmentRequest((), wheels=wheels), tmp_path / "envs", say=said.append), said


def run(environment: Environment, code: str) -> str:
    done = subprocess.run([str(environment.python), "-I", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


# What is made.


def test_a_real_runtime_and_its_tools(tmp_path: Path) -> None:
    request = EnvironmentRequest(("onnxruntime==1.32.0",))
    bare = provision(request, tmp_path)
    assert bare.version("onnxruntime") == "1.32.0"
    assert not {"pip", "setuptools", "ortforge", "pytest", "onnx"} & {package.name for package in bare.packages}
    assert all(len(package.sha256) == 64 and package.wheel.endswith(".whl") for package in bare.packages)
    assert verify(bare) == ""
    assert Environment.from_json(json.loads(json.dumps(bare.to_json()))) == bare

    tools = provision(tools_request(request, bare, ["packaging"]), tmp_path)
    assert same_runtime(bare, tools, request) == ""
    assert {package.name: package.sha256 for package in tools.packages} == {
        package.name: package.sha256 for package in bare.packages
    }
    assert run(tools, "import onnxruntime, packaging; print(onnxruntime.__version__)") == "1.32.0"


def test_a_second_request_is_served_from_the_first(tmp_path: Path, runtime: Path) -> None:
    first, said = make(tmp_path, runtime)
    again, silence = make(tmp_path, runtime)
    assert said == ["Making the environment of standin-1.0-py3-none-any.whl."]
    assert silence == []
    assert again == first
    assert run(first, "import standin; print(standin.VALUE)") == "1"


def test_a_fresh_run_resolves_again_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(tmp_path / "wheels", "standin", "1.0", {"standin/__init__.py": ""})
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    request = EnvironmentRequest(("standin",))
    first = provision(request, tmp_path / "envs")
    wheel(tmp_path / "wheels", "standin", "2.0", {"standin/__init__.py": ""})
    assert provision(request, tmp_path / "envs") == first
    began = time.time()
    second = provision(request, tmp_path / "envs", since=began)
    assert (first.version("standin"), second.version("standin")) == ("1.0", "2.0")
    (package,) = second.packages
    assert package.sha256 == sha256_file(tmp_path / "wheels" / package.wheel), "of a folder, the lock states no digest"
    assert second.identity != first.identity
    assert verify(first) == "it was made anew with other content"
    said: list[str] = []
    assert provision(request, tmp_path / "envs", since=began, say=said.append) == second
    assert said == [], "two steps of one run that ask for the same share one environment"


def test_packages_know_the_wheel_they_came_from(tmp_path: Path, runtime: Path) -> None:
    environment, _ = make(tmp_path, runtime)
    (package,) = environment.packages
    assert (package.name, package.version, package.wheel) == ("standin", "1.0", runtime.name)
    assert package.sha256 == sha256_file(runtime)


def test_two_builds_of_one_version_never_share_an_identity(tmp_path: Path, runtime: Path) -> None:
    first, _ = make(tmp_path, runtime)
    rebuilt = wheel(tmp_path / "rebuilt", "standin", "1.0", {"standin/__init__.py": "VALUE = 2\n"})
    second, _ = make(tmp_path, rebuilt)
    assert second.folder != first.folder
    assert second.identity != first.identity
    assert (
        run(first, "import standin; print(standin.VALUE)"),
        run(second, "import standin; print(standin.VALUE)"),
    ) == (
        "1",
        "2",
    )


def test_the_same_content_has_the_same_identity_in_another_place(tmp_path: Path, runtime: Path) -> None:
    here, _ = make(tmp_path / "a", runtime)
    there, _ = make(tmp_path / "b", runtime)
    assert here.folder != there.folder
    assert here.identity == there.identity


def test_nothing_of_the_surroundings_leaks_in(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leak = tmp_path / "leak"
    leak.mkdir()
    (leak / "leaked.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(leak))
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    monkeypatch.setenv("UV_LINK_MODE", "symlink")
    environment, _ = make(tmp_path, runtime)
    library = next(environment.folder.rglob("libstandin.so"))
    assert not library.is_symlink()
    assert library.stat().st_nlink == 1
    assert (
        run(environment, "import importlib.util as u; print(u.find_spec('pytest'), u.find_spec('leaked'))")
        == "None None"
    )


# When it is made anew.


def test_a_changed_library_is_noticed_and_made_anew(tmp_path: Path, runtime: Path) -> None:
    before, _ = make(tmp_path, runtime)
    library = next(before.folder.rglob("libstandin.so"))
    library.write_text("other code!!")
    assert verify(before) == "standin/libstandin.so was changed"
    after, said = make(tmp_path, runtime)
    assert "standin/libstandin.so was changed" in said[0]
    assert after.identity == before.identity
    assert verify(after) == ""
    assert next(after.folder.rglob("libstandin.so")).read_text() == "machine code"


def test_a_package_put_into_it_is_noticed(tmp_path: Path, runtime: Path) -> None:
    environment, _ = make(tmp_path, runtime)
    other = wheel(tmp_path / "wheels", "intruder", "2.0", {"intruder.py": ""})
    subprocess.run(
        [str(uv.find_uv()), "pip", "install", "--quiet", "--offline", "--python", str(environment.python), str(other)],
        check=True,
    )
    assert verify(environment) == "intruder-2.0.dist-info was added"


def test_use_is_no_change(tmp_path: Path, runtime: Path) -> None:
    environment, _ = make(tmp_path, runtime)
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([str(environment.python), "-c", "import standin"], check=True, env=surroundings)
    assert list(environment.folder.rglob("standin/__pycache__"))
    assert verify(environment) == ""


def test_a_half_made_one_is_made_again(tmp_path: Path, runtime: Path) -> None:
    whole, _ = make(tmp_path, runtime)
    (whole.folder / "environment.json").unlink()
    next(whole.folder.rglob("libstandin.so")).unlink()
    again, said = make(tmp_path, runtime)
    assert len(said) == 1
    assert again.identity == whole.identity
    assert verify(again) == ""


def test_processes_that_ask_at_once_share_one(tmp_path: Path, runtime: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from ortforge.runtime.environment import EnvironmentRequest, provision\n"
        "request = EnvironmentRequest((), wheels=(Path(sys.argv[1]),))\n"
        "print(provision(request, Path(sys.argv[2]), say=lambda sentence: print('made')).identity)"
    )
    command = [sys.executable, "-c", code, str(runtime), str(tmp_path / "envs")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    lines = [line for process in processes for line in process.communicate()[0].split()]
    assert lines.count("made") == 1
    assert len(set(lines)) == 2


# What is refused.


def test_two_distributions_that_overwrite_each_other_are_named(tmp_path: Path) -> None:
    first = wheel(tmp_path / "w", "onnxruntime", "9.0", {"onnxruntime/__init__.py": "A = 1\n"})
    second = wheel(tmp_path / "w", "onnxruntime-gpu", "9.0", {"onnxruntime/__init__.py": "B = 2\n"})
    with pytest.raises(ProvisionError, match="onnxruntime and onnxruntime-gpu cannot be in one environment"):
        make(tmp_path, first, second)


def test_so_are_those_whose_names_say_nothing(tmp_path: Path) -> None:
    first = wheel(tmp_path / "w", "onnxruntime", "9.0", {"onnxruntime/__init__.py": "A = 1\n"})
    second = wheel(tmp_path / "w", "our-build", "9.0", {"onnxruntime/__init__.py": "B = 2\n"})
    with pytest.raises(ProvisionError, match="onnxruntime and our-build") as caught:
        make(tmp_path, first, second)
    assert "onnxruntime/__init__.py" in caught.value.meant
    assert not list((tmp_path / "envs").glob("*/"))


def test_damaged_misnamed_and_missing_wheels(tmp_path: Path, runtime: Path) -> None:
    cut = runtime.with_name("cut-1.0-py3-none-any.whl")
    cut.write_bytes(runtime.read_bytes()[:200])
    with pytest.raises(ProvisionError, match="is damaged"):
        make(tmp_path, cut)
    misnamed = runtime.with_name("latest.whl")
    misnamed.write_bytes(runtime.read_bytes())
    with pytest.raises(ProvisionError, match=r"latest\.whl is not named as a wheel"):
        make(tmp_path, misnamed)
    with pytest.raises(ProvisionError, match="There is no file"):
        make(tmp_path, tmp_path / "gone-1.0-py3-none-any.whl")


def test_content_that_belies_its_record_is_refused(tmp_path: Path, runtime: Path) -> None:
    lying = runtime.parent / "lying" / runtime.name
    lying.parent.mkdir()
    with zipfile.ZipFile(runtime) as source, zipfile.ZipFile(lying, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data.replace(b"machine", b"damaged") if name.endswith(".so") else data)
    with pytest.raises(
        ProvisionError, match=r"standin/libstandin\.so of standin 1\.0 is not what the wheel's RECORD says"
    ):
        make(tmp_path, lying)


def test_a_wheel_for_another_platform_is_refused(tmp_path: Path) -> None:
    other = wheel(tmp_path / "w", "standin", "1.0", {"standin.py": ""}, tag="cp39-cp39-win_amd64")
    with pytest.raises(ProvisionError, match="standin") as caught:
        make(tmp_path, other)
    assert "another Python or another platform" in caught.value.meant


def test_without_network_and_cache_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    said: list[str] = []
    with pytest.raises(ProvisionError, match="There is no network") as caught:
        provision(EnvironmentRequest(("onnxruntime==1.32.0",)), tmp_path / "envs", say=said.append)
    assert "127.0.0.1" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert any("package cache" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("python", "words"),
    [("3.9", "too old"), ("/nowhere/python", "There is no Python"), ("three", "There is no Python three")],
)
def test_pythons_that_cannot_be_had(tmp_path: Path, runtime: Path, python: str, words: str) -> None:
    with pytest.raises(ProvisionError, match=words):
        provision(EnvironmentRequest((), python=python, wheels=(runtime,)), tmp_path)


@pytest.mark.parametrize("text", ["onnxruntime=1.32.0", "-r secrets.txt", "--index-url http://x", "onnx runtime"])
def test_what_is_no_requirement(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProvisionError, match="is not a requirement"):
        provision(EnvironmentRequest((text,)), tmp_path)


def test_uv_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ProvisionError, match="uv was not found"):
        uv.find_uv()


# uv's words (version 0.13), understood.

UNSOLVED = "error: No solution found when resolving dependencies\n  cause: Because "
NO_NAME = (
    UNSOLVED + "onnxruntme was not found in the package registry and you require onnxruntme, we can conclude that …"
)
NO_VERSION = (
    UNSOLVED + "there is no version of onnxruntime==1.23.9 and you require onnxruntime==1.23.9, we can conclude …"
)
NO_RANGE = UNSOLVED + "only onnxruntime<=1.32.0 is available and you require onnxruntime>=99, we can conclude that …"
NO_TAG = (
    UNSOLVED + "onnxruntime-openvino==1.24.1 has no wheels with a matching Python ABI tag (e.g., `cp314`) and you …\n\n"
    "hint: You require CPython 3.14 (`cp314`), but we only found wheels for `onnxruntime-openvino` (v1.24.1) with the "
    "following Python ABI tags: `cp311`, `cp312`, `cp313`"
)
NO_PLATFORM = (
    UNSOLVED
    + "onnxruntime-directml==1.24.1 has no wheels with a matching platform tag (e.g., `manylinux_2_36_x86_64`)\n"
    "hint: Wheels are available for `onnxruntime-directml` (v1.24.1) on the following platform: `win_amd64`"
)
NO_WHEEL = UNSOLVED + "all versions of docopt have no usable wheels and you require docopt, we can conclude that …"
CLASH = (
    UNSOLVED
    + "onnxruntime>=1.32.0 depends on numpy>=1.21.6 and you require onnxruntime==1.32.0, we can conclude that …\n"
    "         And because you require numpy<1.20, we can conclude that your requirements are unsatisfiable."
)
FULL = "error: Failed to install: x.whl\n  cause: failed to copy file: No space left on device (os error 28)"
CHANGED = (
    "error: Failed to download `onnxruntime==1.32.0`\n  cause: Hash mismatch for `onnxruntime==1.32.0`\n\n  Expected:"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NO_NAME, ["no package called onnxruntme", "Perhaps onnxruntime was meant"]),
        (NO_VERSION, ["onnxruntime has no version 1.23.9", "1.23.2 and 1.24.1"]),
        (NO_RANGE, ["No version satisfies onnxruntime>=99", "onnxruntime <= 1.32.0"]),
        (
            NO_TAG,
            ["onnxruntime-openvino 1.24.1 has wheels for Python 3.11–3.13; you asked for 3.14", 'python = "3.13"'],  # noqa: RUF001
        ),
        (NO_PLATFORM, ["onnxruntime-directml 1.24.1 has no wheel for this platform", "win_amd64"]),
        (NO_WHEEL, ["docopt has no wheel"]),
        (CLASH, ["cannot be had together", "you require numpy<1.20"]),
        (FULL, ["The disk is full"]),
        (CHANGED, ["onnxruntime==1.32.0 is not what its sha256 says"]),
    ],
)
def test_what_uv_says_is_understood(text: str, words: list[str]) -> None:
    error = uv_errors.explain(uv_errors.clean(text), wanted=["WANTED"], python="3.14", near=["1.24.1", "1.23.2"])
    assert all(word in str(error) for word in words), str(error)
    assert error.todo


def test_addresses_warnings_and_colours_are_left_out() -> None:
    text = (
        "warning: Failed to inspect Python\n  cause: shim\n\n  [stderr]\n"
        "\x1b[31merror\x1b[0m: Failed to fetch: https://user:secret@mirror.example/simple/onnx/\n"
    )
    assert uv_errors.clean(text) == "Failed to fetch: the package index"


def test_pyenvs_shims_give_way_to_real_interpreters(tmp_path: Path) -> None:
    shims, real = tmp_path / ".pyenv" / "shims", tmp_path / ".pyenv" / "versions" / "3.12.1" / "bin"
    shims.mkdir(parents=True)
    real.mkdir(parents=True)
    kept = uv.surroundings(
        {"PATH": os.pathsep.join([str(shims), "/usr/bin"]), "UV_PYTHON": "3.9", "UV_CACHE_DIR": "/c"}
    )
    assert kept["PATH"] == os.pathsep.join(["/usr/bin", str(real)])
    assert "UV_PYTHON" not in kept
    assert kept["UV_CACHE_DIR"] == "/c"


# Pure parts.


def test_the_wheel_is_found_by_its_tags(tmp_path: Path, runtime: Path) -> None:
    environment, _ = make(tmp_path, runtime)
    (installed,) = read_distributions(Path(site) for site in environment.interpreter.sites)
    fitting, other = (
        LockedWheel("standin-1.0-py3-none-any.whl", "a" * 64),
        LockedWheel("standin-1.0-cp310-abi3-any.whl", "b"),
    )
    assert wheel_of(installed, [LockedPackage("standin", "1.0", (other, fitting))]) == fitting
    assert wheel_of(installed, [LockedPackage("standin", "1.0", (other,))]) == other
    assert wheel_of(installed, [LockedPackage("standin", "1.0", (other, replace(other, sha256="c")))]).sha256 == ""
    assert damaged(installed) == ""


def test_tools_are_pinned_to_the_bare_environment(tmp_path: Path, runtime: Path) -> None:
    bare, _ = make(tmp_path, runtime)
    request = tools_request(
        EnvironmentRequest(("standin[fast]>=0.5", "absent"), "", (runtime,)), bare, ["onnx", "onnx"]
    )
    assert request.requires == ("standin[fast]==1.0", "absent")
    assert request.python == bare.interpreter.binaries[0]
    assert (request.wheels, request.extra, request.prefer) == ((runtime,), ("onnx",), ("standin==1.0",))


def test_every_known_variant_is_its_own_nearest_name() -> None:
    assert nearest("onnxruntme", uv_errors.ORT_DISTRIBUTIONS) == "onnxruntime"
    assert nearest("onnxruntime-opnvino", uv_errors.ORT_DISTRIBUTIONS) == "onnxruntime-openvino"


@pytest.mark.skipif(sys.platform == "win32", reason="the lock is passed on as a descriptor")
def test_a_killed_provisioning_leaves_its_folder_locked_until_uv_ends(tmp_path: Path) -> None:
    """What uv still writes after its parent was killed must not land in the next environment."""
    slow = tmp_path / "uv"
    slow.write_text('#!/bin/sh\necho started > "$UV_TEST_FOLDER/started"\nsleep 3\n')
    slow.chmod(0o755)
    lock = tmp_path / "lock"
    code = (
        "import sys; from pathlib import Path; from ortforge.runtime import environment, uv\n"
        f"uv.find_uv = lambda: Path({str(slow)!r})\n"
        f"with environment._alone(Path({str(lock)!r})):\n"
        f"    uv.make_venv(Path(sys.executable), Path({str(tmp_path)!r}) / 'venv')\n"
    )
    started = tmp_path / "started"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "UV_TEST_FOLDER": str(tmp_path)})
    while not started.exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    began = time.monotonic()
    with lock.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    assert time.monotonic() - began > 1.0
