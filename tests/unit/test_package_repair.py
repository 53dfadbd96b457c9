"""Repairing with the real auditwheel, and everything that lies beside a wheel: SBOM, provenance, index."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
from package_sample import CAPI, compile_library, make_wheel

from ortforge.build.package.archive import open_wheel
from ortforge.build.package.audit import Expectation, audit
from ortforge.build.package.index import write_index
from ortforge.build.package.pack import Packaged, expectation_of, finish, only_wheel, prepare
from ortforge.build.package.provenance import Material, provenance
from ortforge.build.package.repair import (
    exclusions,
    plan_of_repair,
    read_report,
    repair_argv,
    show_argv,
    superfluous_copies,
)
from ortforge.build.package.sbom import AUDITWHEELS_NAME, Materials, StaticDependency, SystemPackage, read_deps, sbom
from ortforge.build.request import BuildRequest, PatchText
from ortforge.errors import BuildError, EnvironmentLacksError

PYTHON = f"cp{sys.version_info[0]}{sys.version_info[1]}"
EXTENSION = f"{CAPI}/onnxruntime_pybind11_state.cpython-{PYTHON[2:]}-x86_64-linux-gnu.so"
TAG = f"{PYTHON}-{PYTHON}-linux_x86_64"
AUDITWHEEL = (sys.executable, "-m", "auditwheel")
DEPS = """# name;url;sha1
onnx;https://github.com/onnx/onnx/archive/refs/tags/v1.17.0.zip;13a60ac5217c104139ce0fd024f48628e7bcf5bc
eigen;https://gitlab.com/libeigen/eigen/-/archive/1d8b82b/eigen-1d8b82b.zip;5ea4d05e62d7f954a46b3213f9b2535bdd866803
googletest;https://github.com/google/googletest/archive/refs/tags/v1.15.0.zip;9d2d0af8d77ac726ea55d44a8fa727ec98311349

protoc_win64;https://github.com/protocolbuffers/protobuf/releases/download/v21.12/protoc-21.12-win64.zip;b4521f7ada5b260380f94c4bd7f1b7684c76969a
"""
SOURCE = {"sha256": "ab" * 32, "blake2b": "cd" * 20}
IMAGE = "sha256:" + "ef" * 32


def call(argv: list[str], *libraries: Path) -> str:
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, libraries))
    done = subprocess.run(argv, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def needy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel whose library needs one that lies in a folder of the system; and that folder."""
    folder = tmp_path_factory.mktemp("needy")
    system = folder / "system"
    lent = compile_library(system / "liblent.so.4", "int lent(void) { return 1; }", "-Wl,-soname,liblent.so.4")
    library = compile_library(
        folder / "x.so",
        "#include <string.h>\nextern int lent(void); int f(char *a, char *b) { memcpy(a, b, *a); return lent(); }",
        str(lent),
    )
    files = {EXTENSION: library, f"{CAPI}/build_and_package_info.py": b"package_name = 'onnxruntime'\n"}
    return make_wheel(folder, files, tag=TAG, metadata="Requires-Dist: numpy>=1.26"), system


@pytest.fixture(scope="module")
def repaired(needy: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    wheel, system = needy
    out = tmp_path_factory.mktemp("repaired")
    call(repair_argv(str(wheel), str(out), exclude=exclusions([]), auditwheel=AUDITWHEEL), system)
    return only_wheel(out)


# Repair


def test_what_is_needed_is_grafted_and_the_tag_says_what_it_runs_on(needy: tuple[Path, Path], repaired: Path) -> None:
    wheel, system = needy
    assert [one.code for one in audit(wheel, Expectation()) if one.severity == "error"] == ["unresolved-needed"]

    printed = call(show_argv(str(wheel), auditwheel=AUDITWHEEL), system)
    plan = plan_of_repair(read_report(["INFO:auditwheel: a line of its log", *printed.splitlines()]))
    assert (plan.platform, dict(plan.graft)) == ("auto", {"liblent.so.4": str(system / "liblent.so.4")})

    assert audit(repaired, Expectation()) == []
    assert "manylinux" in repaired.name
    with open_wheel(repaired) as opened:
        assert [name for name in opened.names if name.startswith("onnxruntime.libs/liblent-")]


def test_excluded_libraries_stay_outside(needy: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, system = needy
    exclude = exclusions(["liblent.so.*"])
    report = json.loads(call(show_argv(str(wheel), auditwheel=AUDITWHEEL), system))
    plan = plan_of_repair(report, exclude=exclude)
    assert (dict(plan.graft), plan.excluded) == ({}, ("liblent.so.4",))

    call(repair_argv(str(wheel), str(tmp_path), exclude=exclude, platform=plan.platform, auditwheel=AUDITWHEEL), system)
    done = only_wheel(tmp_path)
    with open_wheel(done) as opened:
        assert not [name for name in opened.names if "liblent" in name]
    assert audit(done, Expectation(external_libraries=("liblent.so.*",))) == []


def test_drivers_are_never_grafted() -> None:
    assert "libcuda.so.*" in exclusions(["libcudnn*.so.9"])
    argv = repair_argv("x.whl", "out", exclude=["libcuda.so.*"], isa_check=False)
    assert argv[-3:] == ["--exclude", "libcuda.so.*", "x.whl"]
    assert "--disable-isa-ext-check" in argv


def test_a_library_that_is_nowhere_is_named_before_the_repair(needy: tuple[Path, Path]) -> None:
    report = json.loads(call(show_argv(str(needy[0]), auditwheel=AUDITWHEEL)))
    with pytest.raises(BuildError, match=r"needs liblent\.so\.4, which is nowhere in the toolchain image") as caught:
        plan_of_repair(report)
    assert "external_libraries" in caught.value.todo


def test_a_glibc_that_auditwheel_does_not_know() -> None:
    report = {"pure": False, "sym_tag": "linux_x86_64", "external_libs": {}}
    plan = plan_of_repair(report)
    assert plan.platform == ""
    assert "no policy" in plan.notes[0]
    with pytest.raises(EnvironmentLacksError, match=r"newer than auditwheel knows, so libonnx\.so\.1 cannot be put"):
        plan_of_repair({**report, "external_libs": {"libonnx.so.1": "/usr/lib/libonnx.so.1"}})


@pytest.mark.parametrize(
    ("report", "note"),
    [
        ({"pure": True}, "no compiled library"),
        ({"sym_tag": "manylinux_2_28_x86_64", "unsupported_isa": True}, "instructions that not every machine"),
        ({"sym_tag": "manylinux_2_28_x86_64", "external_libs": {"libpython3.13.so.1.0": None}}, "is taken away"),
    ],
)
def test_a_plan_says_what_is_special(report: dict[str, object], note: str) -> None:
    assert note in plan_of_repair(report).notes[0]


def test_no_report_is_an_error_with_the_last_lines() -> None:
    with pytest.raises(BuildError, match="did not say what the wheel needs:\nusage: auditwheel"):
        read_report(["usage: auditwheel [-h]"])


def test_an_unreadable_wheel_has_no_plan() -> None:
    with pytest.raises(BuildError, match="auditwheel cannot read the wheel: no ELF"):
        plan_of_repair({"error": "no ELF"})


def test_copies_of_a_library_are_superfluous_where_one_bears_its_soname(tmp_path: Path) -> None:
    """As in published OpenVINO wheels."""
    library = compile_library(tmp_path / "x.so", "int a;", "-Wl,-soname,libopenvino.so.2541")
    plugin = compile_library(tmp_path / "y.so", "int b;")
    names = ("libopenvino.so", "libopenvino.so.2541", "libopenvino.so.2025.4.1")
    files = {f"{CAPI}/{name}": library for name in names} | {f"{CAPI}/{name}.so": plugin for name in "pq"}
    wheel = make_wheel(tmp_path, files, tag=TAG)
    with open_wheel(wheel) as opened:
        assert superfluous_copies(opened) == (f"{CAPI}/libopenvino.so", f"{CAPI}/libopenvino.so.2025.4.1")
    done = prepare(wheel, [], tmp_path / "out")
    assert [change.path for change in done.changes] == [f"{CAPI}/libopenvino.so", f"{CAPI}/libopenvino.so.2025.4.1"]


# Bill of materials, provenance


def test_the_bill_of_materials_names_everything_that_is_in_the_wheel(repaired: Path) -> None:
    materials = Materials(
        "1.21.0",
        SOURCE,
        "git:v1.21.0",
        dependencies=read_deps(DEPS),
        linked={"onnx", "eigen"},
        packages=(SystemPackage("libdnnl3", "3.6.2-2", files=("libdnnl.so.3",)),),
        patches={"gcc14": "12" * 32},
    )
    text = sbom(repaired, materials, sha256="34" * 32)
    assert sbom(repaired, materials, sha256="34" * 32) == text
    written = json.loads(text)

    assert (written["bomFormat"], written["specVersion"]) == ("CycloneDX", "1.6")
    assert written["metadata"]["timestamp"].startswith("1980-01-01")
    wheel = written["metadata"]["component"]
    assert (wheel["name"], wheel["version"]) == ("onnxruntime", "1.21.0")
    assert wheel["hashes"] == [{"alg": "SHA-256", "content": "34" * 32}]
    parts = {part["bom-ref"]: part for part in written["components"]}
    assert parts["deps/onnx"]["purl"] == "pkg:github/onnx/onnx@v1.17.0"
    assert parts["deps/onnx"]["externalReferences"][0]["hashes"][0]["alg"] == "SHA-1"
    assert parts["deps/eigen"]["version"] == "1d8b82b"
    assert "deps/googletest" not in parts
    assert parts["debian/libdnnl3"]["purl"] == "pkg:deb/debian/libdnnl3@3.6.2-2"
    assert parts["requires/numpy>=1.26"]["purl"] == "pkg:pypi/numpy"
    assert parts["source"]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert {"name": "ortforge:patch:gcc14", "value": "sha256:" + "12" * 32} in parts["source"]["properties"]
    with open_wheel(repaired) as opened:
        for name in opened.names:
            if ".so" in name:
                assert parts[f"file/{name}"]["hashes"][0]["content"] == opened.digest(name)[0]
    grafted = [part for name, part in parts.items() if "liblent" in name]
    assert grafted[0]["properties"] == [{"name": "ortforge:grafted", "value": "true"}]
    (whole,) = [one for one in written["dependencies"] if one["ref"] == "wheel"]
    assert set(whole["dependsOn"]) == set(parts)


def test_another_content_has_another_serial_number(repaired: Path) -> None:
    one, other = (json.loads(sbom(repaired, Materials(version))) for version in ("1.21.0", "1.21.1"))
    assert one["serialNumber"] != other["serialNumber"]


def test_what_is_not_known_to_be_linked_is_optional_and_tools_are_left_out(repaired: Path) -> None:
    written = json.loads(sbom(repaired, Materials("1.21.0", dependencies=read_deps(DEPS))))
    static = {part["bom-ref"]: part["scope"] for part in written["components"] if part["bom-ref"].startswith("deps/")}
    assert static == {"deps/onnx": "optional", "deps/eigen": "optional"}


def test_auditwheels_own_bill_is_taken_over(tmp_path: Path) -> None:
    """It knows which packages of the system the grafted libraries came from."""
    theirs = {"components": [{"name": "onnxruntime", "purl": "pkg:pypi/onnxruntime@1"}]}
    theirs["components"].append(
        {"name": "libonnx1t64", "version": "1.17.0-3", "purl": "pkg:deb/debian/libonnx1t64@1.17.0-3"}
    )
    wheel = make_wheel(
        tmp_path, {"onnxruntime-1.21.0.dist-info/sboms/auditwheel.cdx.json": json.dumps(theirs).encode()}
    )
    parts = {part["bom-ref"]: part for part in json.loads(sbom(wheel, Materials("1.21.0")))["components"]}
    assert parts["debian/libonnx1t64"]["version"] == "1.17.0-3"
    assert set(parts) == {"source", "debian/libonnx1t64"}

    done = package(wheel, tmp_path / "out")
    removed = [change.path for change in done.changes if change.kind == "removed"]
    assert removed == [f"onnxruntime_dnnl-1.21.0+dnnl.dist-info/{AUDITWHEELS_NAME}"]
    beside = json.loads((tmp_path / "out" / "sbom.cdx.json").read_text())
    assert "debian/libonnx1t64" in {part["bom-ref"] for part in beside["components"]}


@pytest.mark.parametrize("line", ["onnx;https://x", "onnx;https://x;notahash", "just text"])
def test_another_deps_txt_is_refused(line: str) -> None:
    with pytest.raises(BuildError, match=r"line 2 of deps\.txt is not name;url;sha1"):
        read_deps(f"# comment\n{line}\n")


def test_versions_come_from_addresses() -> None:
    versions = {one.name: one.version for one in read_deps(DEPS)}
    assert versions == {"onnx": "v1.17.0", "eigen": "1d8b82b", "googletest": "v1.15.0", "protoc_win64": "v21.12"}
    assert StaticDependency("x", "https://example.org/x.zip", "0" * 40).version == ""


REQUEST = BuildRequest(
    target="dnnl",
    version="1.21.0",
    flags={"use_dnnl": True, "cmake_generator": ("Ninja",)},
    environment={"CC": "gcc", "MY_TOKEN": "geheim"},
    patches=(PatchText("gcc14", "GCC 14 needs one include", "12" * 32, "--- a\n+++ b\n"),),
    distribution="onnxruntime-dnnl",
    local_version="dnnl",
)


def test_provenance_names_inputs_argv_image_and_result(repaired: Path) -> None:
    given = provenance(
        repaired,
        REQUEST,
        image=IMAGE,
        materials=[Material("git:v1.21.0", SOURCE)],
        commands={"configure": ["python3", "build.py", "--update"]},
        tools={"gcc": "14.2"},
    )
    predicate = given["predicate"]
    assert given["subject"][0]["name"] == repaired.name
    assert predicate["buildDefinition"]["internalParameters"]["commands"]["configure"][-1] == "--update"
    assert [one["uri"] for one in predicate["buildDefinition"]["resolvedDependencies"]] == [
        "git:v1.21.0",
        "patch:gcc14",
        "docker-image:debian",
    ]
    assert predicate["buildDefinition"]["resolvedDependencies"][2]["digest"] == {"sha256": "ef" * 32}
    assert predicate["buildDefinition"]["externalParameters"]["environment"] == {"CC": "gcc", "MY_TOKEN": "(hidden)"}
    assert predicate["runDetails"]["builder"]["version"]["gcc"] == "14.2"
    assert "geheim" not in json.dumps(given)
    assert "metadata" not in predicate["runDetails"]
    with_run = provenance(repaired, REQUEST, image=IMAGE, run={"startedOn": "2026-11-22T21:00:00Z"})
    assert with_run["predicate"]["runDetails"]["metadata"] == {"startedOn": "2026-11-22T21:00:00Z"}


# All of it


def package(repaired: Path, out: Path, **changes: object) -> Packaged:
    materials = Materials("1.21.0", SOURCE, dependencies=read_deps(DEPS), linked={"onnx"})
    request = replace(REQUEST, **changes)  # type: ignore[arg-type]
    expectation = replace(expectation_of(request), eps=())
    return finish(repaired, out, request, materials=materials, inputs=[], image=IMAGE, expectation=expectation)


def test_packaging_twice_gives_the_same_bytes(repaired: Path, tmp_path: Path) -> None:
    one, other = package(repaired, tmp_path / "one"), package(repaired, tmp_path / "other")
    assert one.wheel.name.startswith("onnxruntime_dnnl-1.21.0+dnnl-")
    assert one.sha256 == other.sha256
    written = {
        path.relative_to(tmp_path / "one"): path.read_bytes()
        for path in (tmp_path / "one").rglob("*")
        if path.is_file()
    }
    again = {
        path.relative_to(tmp_path / "other"): path.read_bytes()
        for path in (tmp_path / "other").rglob("*")
        if path.is_file()
    }
    assert written == again
    assert {str(path) for path in written} == {
        one.wheel.name,
        f"{one.wheel.name}.metadata",
        "audit.json",
        "changes.json",
        "provenance.json",
        "sbom.cdx.json",
        "simple/index.html",
        "simple/onnxruntime-dnnl/index.html",
    }


def test_the_bill_lies_in_the_wheel_and_beside_it(repaired: Path, tmp_path: Path) -> None:
    done = package(repaired, tmp_path)
    with open_wheel(done.wheel) as opened:
        inside = json.loads(opened.read(f"{opened.dist_info}/sboms/ortforge.cdx.json"))
    beside = json.loads((tmp_path / "sbom.cdx.json").read_text())
    assert inside["metadata"]["component"]["name"] == beside["metadata"]["component"]["name"] == "onnxruntime-dnnl"
    assert inside["metadata"]["component"]["version"] == "1.21.0+dnnl"
    assert beside["metadata"]["component"]["hashes"][0]["content"] == done.sha256
    assert json.loads((tmp_path / "provenance.json").read_text())["subject"][0]["digest"]["sha256"] == done.sha256


def test_a_wheel_that_fails_its_audit_is_none(repaired: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"did not pass its audit:\n- missing-library: There is no libdnnl\.so\.3"):
        package(repaired, tmp_path, must_hold=("libdnnl.so.3",))
    assert [path.name for path in tmp_path.iterdir()] == ["audit.json"]
    assert json.loads((tmp_path / "audit.json").read_text())[0]["code"] == "missing-library"


def test_a_folder_without_one_wheel(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="there is: none"):
        only_wheel(tmp_path)


# The index


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder with wheels and their index; its path has a blank in it."""
    folder = tmp_path / "an index"
    pure = "Requires-Dist: nothing-of-that-name\n"
    for version in ("1.0", "1.1+local.1"):
        make_wheel(
            folder,
            {"tiny/__init__.py": b"x = 1"},
            name="tiny_thing",
            version=version,
            tag="py3-none-any",
            metadata=pure,
        )
    old = make_wheel(folder, {"other.py": b""}, name="other", version="2", tag="py3-none-any")
    write_index(folder)
    old.unlink()
    (folder / f"{old.name}.metadata").unlink()
    return write_index(folder)


def test_the_index_lists_what_is_there(index: Path) -> None:
    assert sorted(path.name for path in index.iterdir()) == ["index.html", "tiny-thing"]
    page = (index / "tiny-thing" / "index.html").read_text()
    assert 'href="../../tiny_thing-1.1%2Blocal.1-py3-none-any.whl#sha256=' in page
    assert 'data-requires-python="&gt;=3.10"' in page
    assert page.count('data-core-metadata="sha256=') == 2
    assert "Version: 1.0" in (index.parent / "tiny_thing-1.0-py3-none-any.whl.metadata").read_text()


def test_pip_installs_from_it_without_a_network(index: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    url = index.as_uri()
    argv = [str(tmp_path / "venv/bin/python"), "-m", "pip", "--isolated", "install", "--quiet", "--no-deps"]
    call([*argv, "--disable-pip-version-check", "--index-url", url, "tiny-thing"])
    shown = call(
        [str(tmp_path / "venv/bin/python"), "-c", "import importlib.metadata as m; print(m.version('tiny_thing'))"]
    )
    assert shown.strip() == "1.1+local.1"


def test_uv_installs_from_it_without_a_network(index: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    argv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-config", "--no-deps"]
    argv += ["--python", sys.executable, "--default-index", index.as_uri(), "--target", str(target), "tiny-thing==1.0"]
    call(argv)
    assert (target / "tiny" / "__init__.py").read_bytes() == b"x = 1"
