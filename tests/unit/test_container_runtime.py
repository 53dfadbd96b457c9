"""Which runtimes run in containers, and what their workers are given. Nothing here needs an engine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import stub_runtime
from pydantic import TypeAdapter, ValidationError

from ortforge.api import Task
from ortforge.engine.steps.provision import _first
from ortforge.engine.work import ready, run_task
from ortforge.errors import EnvironmentLacksError, ProvisionError, UnfitError
from ortforge.matrix.fields import ContainerUse
from ortforge.runtime.container_fit import (
    DEFAULT_IMAGE,
    image_for,
    platform_misfit,
    platforms_of,
    python_misfit,
    pythons_of,
)
from ortforge.runtime.container_relay import binds_of
from ortforge.runtime.container_setting import VARIABLE, Setting
from ortforge.runtime.environment import Environment, EnvironmentRequest, Place
from ortforge.runtime.interpreter import Interpreter as Facts
from ortforge.runtime.supervisor import Interpreter

BOOKWORM = platforms_of("x86_64", "glibc 2.36")
TRIXIE = platforms_of("x86_64", "glibc 2.41")
HERE = f"{sys.version_info[0]}{sys.version_info[1]}"


def wheel(tags: str) -> str:
    return f"onnxruntime-1.21.0+dnnl.1-{tags}.whl"


# Does a wheel fit?


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ("py3-none-any", ""),
        ("cp311-cp311-linux_x86_64", ""),
        ("cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64", ""),
        ("cp311-cp311-manylinux2014_x86_64", ""),
        ("cp311-cp311-manylinux1_x86_64", ""),
        ("cp313-cp313-manylinux_2_41_x86_64", "needs glibc 2.41"),
        ("cp313-cp313-manylinux_2_41_x86_64.manylinux_2_39_x86_64", "needs glibc 2.39"),
        ("cp311-cp311-musllinux_1_2_x86_64", "needs musl, another C library"),
        ("cp311-cp311-manylinux_2_28_aarch64", "is for manylinux_2_28_aarch64"),
        ("cp311-cp311-win_amd64", "is for win_amd64"),
        ("cp311-cp311-macosx_13_0_universal2", "is for macosx_13_0_universal2"),
    ],
)
def test_a_wheel_and_a_system(tags: str, why: str) -> None:
    assert platform_misfit(wheel(tags), BOOKWORM) == why


def test_musl_takes_its_own_wheels_and_no_others() -> None:
    alpine = platforms_of("aarch64", "musl 1.2.5")
    assert platform_misfit(wheel("cp312-cp312-musllinux_1_1_aarch64"), alpine) == ""
    assert platform_misfit(wheel("cp312-cp312-manylinux_2_17_aarch64"), alpine) == "needs glibc 2.17"


@given(needs=st.integers(5, 60), has=st.integers(5, 60))
def test_a_wheel_fits_every_glibc_that_is_not_older(needs: int, has: int) -> None:
    name = wheel(f"cp312-cp312-manylinux_2_{needs}_x86_64")
    assert (platform_misfit(name, platforms_of("x86_64", f"glibc 2.{has}")) == "") == (needs <= has)


def test_this_machine_is_described_as_packaging_describes_it() -> None:
    from packaging.tags import platform_tags

    libc, version = platform.libc_ver()
    if libc != "glibc":
        return
    assert set(platform_tags()) == set(platforms_of(platform.machine(), f"{libc} {version}"))


@pytest.mark.parametrize(
    ("tags", "version", "why"),
    [
        ("cp313-cp313-linux_x86_64", "3.13.5", ""),
        ("cp313-cp313-linux_x86_64", "3.11.2", "is for cp313, not for Python 3.11"),
        ("cp310-abi3-linux_x86_64", "3.13.5", ""),
        ("cp313-abi3-linux_x86_64", "3.12.1", "is for cp313, not for Python 3.12"),
        ("py3-none-any", "3.14.0", ""),
        ("cp313-cp313t-linux_x86_64", "3.13.5", "is for cp313, not for Python 3.13"),
        ("pp310-pypy310_pp73-linux_x86_64", "3.10.1", "is for pp310, not for Python 3.10"),
    ],
)
def test_a_wheel_and_a_python(tags: str, version: str, why: str) -> None:
    assert python_misfit(wheel(tags), version) == why


def test_the_pythons_of_a_wheel() -> None:
    assert pythons_of(wheel("cp312.cp313-none-linux_x86_64")) == ("3.12", "3.13")
    assert pythons_of(wheel("cp310-abi3-linux_x86_64")) == ()
    assert pythons_of(wheel("py3-none-any")) == ()


@pytest.mark.parametrize(
    ("tags", "pythons", "image"),
    [
        (["cp313-cp313-manylinux_2_41_x86_64"], [], DEFAULT_IMAGE),
        (["cp312-cp312-linux_x86_64"], [], "python:3.12-slim"),
        (["py3-none-any"], [], DEFAULT_IMAGE),
        ([], ["3.13"], DEFAULT_IMAGE),
        ([], ["3.9", "3.10"], "python:3.10-slim"),
        (["cp312-cp312-linux_x86_64"], ["3.13"], ""),
        (["cp312-cp312-linux_x86_64", "cp313-cp313-linux_x86_64"], [], ""),
        (["cp313-cp313-win_amd64"], [], ""),
        (["cp313-cp313-manylinux_2_99_x86_64"], [], ""),
    ],
)
def test_the_image_that_wheels_fit(tags: list[str], pythons: list[str], image: str) -> None:
    assert image_for([wheel(tag) for tag in tags], pythons, "x86_64") == image


# Where a runtime is made


class Places:
    """Environments that are never installed: what matters is where each was asked for."""

    def __init__(self, here: ProvisionError | None = None, there: Exception | None = None) -> None:
        self.here, self.there = here, there
        self.pythons: list[str] = []
        self.images: list[str] = []

    def make(self, request: EnvironmentRequest, place: Place | None) -> Environment:
        self.pythons.append(request.python)
        if place is None and self.here is not None:
            raise self.here
        image = place.image if place else ""
        facts = Facts("3.13.5", "cpython", "", "linux-x86_64", "glibc 2.41", "", (), ())
        return Environment(Path("/env"), Path("/env/bin/python"), "identity", (), facts, "", image)

    def look_into(self, reference: str) -> Place:
        self.images.append(reference)
        if self.there is not None:
            raise self.there

        class Image:
            image = f"sha256:{reference}"

            def install(
                self, request: EnvironmentRequest, folder: Path, say: Callable[[str], None]
            ) -> tuple[Path, Facts]:
                raise NotImplementedError

        return Image()


def request(*tags: str, requires: tuple[str, ...] = (), python: str = "") -> EnvironmentRequest:
    return EnvironmentRequest(requires, python, tuple(Path(wheel(tag)) for tag in tags))


MACHINE = platform.machine().lower()


def test_wheels_that_fit_run_here() -> None:
    places = Places()
    made = _first(request(f"cp{HERE}-cp{HERE}-linux_{MACHINE}"), "auto", "", places.make, places.look_into)
    assert (made.environment.image, dict(made.container), places.images) == ("", {}, [])


def test_a_wheel_for_a_newer_glibc_runs_in_a_container_and_says_why() -> None:
    places = Places()
    made = _first(request(f"cp313-cp313-manylinux_2_41_{MACHINE}"), "auto", "", places.make, places.look_into)
    if platform_misfit(wheel(f"cp313-cp313-manylinux_2_41_{MACHINE}"), frozenset(_own_platforms())):
        assert made.container["reference"] == DEFAULT_IMAGE
        assert made.environment.image == made.container["image"] == f"sha256:{DEFAULT_IMAGE}"
        assert "needs glibc 2.41, and this machine has" in made.container["why"]
    else:
        assert made.environment.image == ""


def _own_platforms() -> list[str]:
    from packaging.tags import platform_tags

    return list(platform_tags())


def test_a_wheel_for_another_python_runs_on_that_python_where_it_can_be_had() -> None:
    places = Places()
    made = _first(request(f"cp399-cp399-linux_{MACHINE}"), "auto", "", places.make, places.look_into)
    assert (made.environment.image, places.pythons) == ("", ["3.99"])


def test_a_wheel_for_a_python_that_is_not_here_runs_in_a_container() -> None:
    places = Places(here=UnfitError("Python 3.13 is not on this machine, and could not be fetched."))
    made = _first(request("cp313-cp313-linux_x86_64"), "auto", "", places.make, places.look_into)
    assert made.container["reference"] == DEFAULT_IMAGE
    assert made.container["why"] == "Python 3.13 is not on this machine, and could not be fetched."


def test_a_built_wheel_runs_on_the_image_it_was_built_on() -> None:
    places = Places(here=UnfitError("There is no such Python."))
    made = _first(request("cp313-cp313-linux_x86_64"), "auto", "ubuntu:24.04", places.make, places.look_into)
    assert made.container["reference"] == "ubuntu:24.04"


def test_an_image_that_is_asked_for_is_taken_even_where_wheels_fit() -> None:
    places = Places()
    made = _first(request(requires=("onnxruntime==1.21.1",)), "python:3.12-slim", "", places.make, places.look_into)
    assert dict(made.container) == {
        "reference": "python:3.12-slim",
        "image": "sha256:python:3.12-slim",
        "why": "the target asks for it",
    }


def test_never_means_never() -> None:
    places = Places(here=UnfitError("It fits nothing here."))
    with pytest.raises(UnfitError, match="It fits nothing here"):
        _first(request("cp313-cp313-linux_x86_64"), "never", "", places.make, places.look_into)
    assert places.images == []


def test_a_wish_that_no_wheel_fits_starts_no_container() -> None:
    refused = UnfitError("onnxruntime 1.32.0 has wheels for Python 3.11–3.14; you asked for 3.10.", pythons=("3.11",))  # noqa: RUF001
    places = Places(here=refused)
    with pytest.raises(UnfitError) as raised:
        _first(request(requires=("onnxruntime==1.32.0",), python="3.10"), "auto", "", places.make, places.look_into)
    assert raised.value is refused
    assert places.images == []


def test_a_wheel_for_another_system_starts_no_container() -> None:
    places = Places()
    with pytest.raises(UnfitError, match="is for win_amd64, and this machine has"):
        _first(request("cp313-cp313-win_amd64"), "auto", "", places.make, places.look_into)
    assert places.images == []


def test_without_an_engine_the_first_reason_stays_the_first() -> None:
    places = Places(
        here=UnfitError("Python 3.13 is not on this machine, and could not be fetched.", meant="There is Python 3.11."),
        there=EnvironmentLacksError("There is no Docker engine at unix:///x.", todo="Install and start it."),
    )
    with pytest.raises(ProvisionError) as raised:
        _first(request("cp313-cp313-linux_x86_64"), "auto", "", places.make, places.look_into)
    assert raised.value.what == "Python 3.13 is not on this machine, and could not be fetched."
    assert raised.value.meant == (
        "There is Python 3.11. It cannot run in a container of debian:trixie-slim either: "
        "There is no Docker engine at unix:///x."
    )
    assert raised.value.todo == "Install and start it."


def test_other_troubles_start_no_container() -> None:
    places = Places(here=ProvisionError("The disk is full."))
    with pytest.raises(ProvisionError, match="The disk is full"):
        _first(request(requires=("onnxruntime==1.32.0",)), "auto", "", places.make, places.look_into)
    assert places.images == []


# What a worker in a container is given


def test_a_worker_sees_the_folders_of_its_job_and_writes_its_own(tmp_path: Path) -> None:
    for name in ("model", "samples", "plugin", "env", "job", "libs"):
        (tmp_path / name).mkdir()
    (tmp_path / "model/model.onnx").touch()
    (tmp_path / "plugin/pass.py").touch()
    (tmp_path / "libs/ep.so").touch()
    job = {
        "op": "run",
        "model": str(tmp_path / "model/model.onnx"),
        "samples": str(tmp_path / "samples"),
        "module": str(tmp_path / "plugin/pass.py"),
        "output": str(tmp_path / "out/outputs"),
        "session": {"library": str(tmp_path / "libs/ep.so")},
    }
    binds = binds_of(job, [str(tmp_path / "env")], tmp_path / "job")
    seen = {Path(bind.path).name: bind.writable for bind in binds}
    assert seen == {
        "env": False,
        "job": True,
        "libs": False,
        "model": False,
        "out": True,
        "plugin": False,
        "samples": False,
    }


def test_a_folder_inside_another_is_given_once(tmp_path: Path) -> None:
    (tmp_path / "scratch/job").mkdir(parents=True)
    (tmp_path / "project/data").mkdir(parents=True)
    job = {
        "output": str(tmp_path / "scratch/outputs"),
        "base": str(tmp_path / "project"),
        "samples": str(tmp_path / "project/data"),
    }
    binds = binds_of(job, [], tmp_path / "scratch/job")
    assert [(bind.path, bind.writable) for bind in binds] == [
        (str(tmp_path / "project"), False),
        (str(tmp_path / "scratch"), True),
    ]


def test_what_is_no_path_of_this_machine_is_not_given(tmp_path: Path) -> None:
    job = {"model": "relative.onnx", "samples": None, "session": None}
    assert [bind.path for bind in binds_of(job, [], tmp_path)] == [str(tmp_path)]


def test_a_worker_in_a_container_gets_none_of_the_callers_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "of the caller")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    interpreter = Interpreter.container(
        "sha256:abc",
        Path("/env/venv/bin/python"),
        worker=Path("/store/worker/x"),
        folder=Path("/env"),
        environment={"LD_PRELOAD": "/env/lib.so", "PYTHONPATH": "/more"},
    )
    setting = Setting.from_json(interpreter.environment[VARIABLE])
    assert Setting.from_json(setting.to_json()) == setting
    assert setting.folders == ("/env", "/store/worker/x")
    assert setting.environment == {
        "HOME": "/tmp",
        "LD_PRELOAD": "/env/lib.so",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": "/store/worker/x:/more",
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
    }
    assert not any("A_SECRET" in word or "lib.so" in word for word in interpreter.argv), "arguments are public"


def test_an_environment_keeps_its_image_through_json() -> None:
    facts = Facts("3.13.5", "cpython", "abi", "linux-x86_64", "glibc 2.41", "sha", ("/usr/bin/python3.13",), ("/s",))
    here = Environment(Path("/e"), Path("/e/bin/python"), "id", (), facts, "key")
    there = Environment(Path("/e"), Path("/e/bin/python"), "id", (), facts, "key", "sha256:abc")
    assert (here.to_json()["kind"], there.to_json()["kind"]) == ("venv", "container")
    for environment in (here, there):
        assert Environment.from_json(json.loads(json.dumps(environment.to_json()))) == environment
    before = {name: value for name, value in here.to_json().items() if name not in ("kind", "image")}
    assert Environment.from_json(before) == here, "one that an earlier version recorded"


# An allocator that a wheel brings

COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler to make an allocator with")

ALLOCATOR = """
#include <stddef.h>
void *__libc_malloc(size_t);
void *malloc(size_t size) { return __libc_malloc(size); }
"""


@pytest.fixture(scope="module")
def allocator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest library that takes malloc's place."""
    folder = tmp_path_factory.mktemp("allocator")
    (folder / "allocator.c").write_text(ALLOCATOR)
    made = folder / "liballocator.so"
    assert COMPILER
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", str(made), str(folder / "allocator.c")], check=True)
    return made


def malloc_of(variables: Mapping[str, str]) -> str:
    code = "from ortforge.worker.probe import malloc_library; print(malloc_library())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@needs_compiler
def test_a_process_knows_whose_malloc_it_uses(allocator: Path) -> None:
    assert malloc_of({}).startswith("libc.")
    assert malloc_of({"LD_PRELOAD": str(allocator)}) == "liballocator.so"


def with_library(path: Path, name: str, content: bytes) -> Path:
    """Add a file to a wheel's onnxruntime/capi, as packaging a build with an allocator does."""
    import base64
    import hashlib
    import zipfile

    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    made = path.with_name("with-library") / path.name
    made.parent.mkdir()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(made, "w") as target:
        for member in source.namelist():
            text = source.read(member).decode()
            if member.endswith("/RECORD"):
                text = f"onnxruntime/capi/{name},sha256={digest},{len(content)}\n{text}"
            target.writestr(member, text)
        target.writestr(f"onnxruntime/capi/{name}", content)
    return made


def provisioned(tmp_path: Path, wheel_path: Path, soname: str) -> tuple[str, str, Mapping[str, object], str]:
    """Provision what a package step made: a folder with a wheel, and the allocator that its processes load."""
    store = str(tmp_path / "store")
    folder = tmp_path / "package"
    folder.mkdir()
    shutil.copyfile(wheel_path, folder / wheel_path.name)
    digest = ready(store).store.objects.put(folder)
    context = {"requires": [], "python": "", "wheels": [], "refused": ""}
    inputs = (("package:x", digest, {"preload": soname}),)
    outcome = run_task(Task("provision:x", "provision", "key", {"container": "never"}, inputs, store, context))
    return outcome.status, outcome.reason, outcome.result, outcome.identity


@needs_compiler
def test_the_allocator_that_a_wheel_brings_is_loaded_first_and_seen(tmp_path: Path, allocator: Path) -> None:
    plain = stub_runtime(tmp_path / "wheels", "hang")
    repaired = with_library(plain, "libjemalloc-0a1b2c3d.so.2", allocator.read_bytes())
    status, reason, result, identity = provisioned(tmp_path, repaired, "libjemalloc.so.2")
    assert (status, reason) == ("ok", "")
    probe, environment = result["probe"], result["environment"]
    assert isinstance(probe, dict)
    assert isinstance(environment, dict)
    assert environment["preload"].endswith("onnxruntime/capi/libjemalloc-0a1b2c3d.so.2")
    assert probe["allocators"] == ["libjemalloc-0a1b2c3d.so.2"]
    assert probe["malloc"] == "libjemalloc-0a1b2c3d.so.2"
    assert identity != environment["identity"], "the same wheel without it is another runtime"
    interpreter = ready(str(tmp_path / "store")).interpreter(environment, {"LD_PRELOAD": "/other.so"})
    assert interpreter.environment["LD_PRELOAD"] == f"{environment['preload']}:/other.so"


def test_an_allocator_that_the_wheel_forgot_is_missed(tmp_path: Path) -> None:
    status, reason, _, _ = provisioned(tmp_path, stub_runtime(tmp_path / "wheels", "hang"), "libjemalloc.so.2")
    assert status == "failed"
    assert "The allocator's library libjemalloc.so.2 has to be loaded first, and the wheel does not bring it." in reason


def test_a_library_that_is_no_allocator_is_found_out(tmp_path: Path) -> None:
    plain = stub_runtime(tmp_path / "wheels", "hang")
    empty = with_library(plain, "libjemalloc.so.2", b"this is no library")
    status, reason, _, _ = provisioned(tmp_path, empty, "libjemalloc.so.2")
    assert status == "failed"
    assert "libjemalloc.so.2 is loaded first, and yet libc.so.6 answers malloc" in reason


@pytest.mark.parametrize("text", ["; rm -rf /", "debian:trixie slim", "$(id)", "-v/:/host", "Debian", ""])
def test_what_is_no_image_is_refused_in_the_matrix(text: str) -> None:
    with pytest.raises(ValidationError, match='must be "auto", "never" or an image'):
        TypeAdapter(ContainerUse).validate_python(text)
