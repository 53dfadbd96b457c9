"""Reading, writing and rewriting wheels: names, versions, forgotten files; the same bytes every time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from package_sample import CAPI, make_wheel

from ortforge.build.package.archive import Entry, open_wheel, parse_name, write_wheel
from ortforge.build.package.audit import Expectation, audit
from ortforge.build.package.rewrite import Change, WheelChanges, rewrite
from ortforge.errors import BuildError, ConfigurationError

INFO = b"package_name = 'onnxruntime'\n__version__ = '1.21.0'\n"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    files = {
        f"{CAPI}/build_and_package_info.py": INFO,
        f"{CAPI}/old.txt": b"old",
        "onnxruntime/__init__.py": b"",
        "onnxruntime-1.21.0.data/scripts/tool": b"#!python\n",
    }
    return make_wheel(tmp_path / "raw", files, metadata="Requires-Dist: numpy")


def headers(wheel: Path, name: str) -> list[tuple[str, str]]:
    with open_wheel(wheel) as opened:
        return [(key, str(value)) for key, value in opened.headers(name).items()]


def test_everything_is_renamed_together(wheel: Path, tmp_path: Path) -> None:
    done = rewrite(wheel, tmp_path, WheelChanges(distribution="onnxruntime-dnnl", local_version="dnnl.Jemalloc"))

    assert done.wheel.name == "onnxruntime_dnnl-1.21.0+dnnl.jemalloc-cp313-cp313-linux_x86_64.whl"
    assert ("Name", "onnxruntime-dnnl") in headers(done.wheel, "METADATA")
    assert ("Version", "1.21.0+dnnl.jemalloc") in headers(done.wheel, "METADATA")
    with open_wheel(done.wheel) as opened:
        assert opened.dist_info == "onnxruntime_dnnl-1.21.0+dnnl.jemalloc.dist-info"
        assert "onnxruntime_dnnl-1.21.0+dnnl.jemalloc.data/scripts/tool" in opened.names
        assert b"package_name = 'onnxruntime-dnnl'\n__version__ = '1.21.0'" in opened.read(
            f"{CAPI}/build_and_package_info.py"
        )
        assert b"\nName: not this\n" in opened.read(f"{opened.dist_info}/METADATA")  # the description stays
    assert audit(done.wheel, Expectation()) == []
    kinds = {(change.kind, change.path): (change.before, change.after) for change in done.changes}
    assert kinds["renamed", "Name"] == ("onnxruntime", "onnxruntime-dnnl")
    assert kinds["version", "Version"] == ("1.21.0", "1.21.0+dnnl.jemalloc")
    assert ("edited", f"{CAPI}/build_and_package_info.py") in kinds
    assert len(done.changes) == 4  # and the folder


def test_forgotten_files_come_in_and_others_go(wheel: Path, tmp_path: Path) -> None:
    library = tmp_path / "libdnnl.so.3"
    library.write_bytes(b"a library")
    other = tmp_path / "old.txt"
    other.write_bytes(b"new")

    done = rewrite(
        wheel,
        tmp_path / "out",
        WheelChanges(
            add_files={f"{CAPI}/libdnnl.so.3": library, f"{CAPI}/old.txt": other},
            add_dist_info={"sboms/x.cdx.json": b"{}"},
            remove=["onnxruntime/__init__.py"],
            tag="cp313-cp313-manylinux_2_27_x86_64.manylinux_2_28_x86_64",
        ),
    )

    assert [(change.kind, change.path) for change in done.changes] == [
        ("added", "onnxruntime-1.21.0.dist-info/sboms/x.cdx.json"),
        ("added", f"{CAPI}/libdnnl.so.3"),
        ("removed", "onnxruntime/__init__.py"),
        ("replaced", f"{CAPI}/old.txt"),
        ("tag", "WHEEL"),
    ]
    assert [value for key, value in headers(done.wheel, "WHEEL") if key == "Tag"] == [
        "cp313-cp313-manylinux_2_27_x86_64",
        "cp313-cp313-manylinux_2_28_x86_64",
    ]
    with open_wheel(done.wheel) as opened:
        assert opened.read(f"{CAPI}/libdnnl.so.3") == b"a library"
        assert "onnxruntime/__init__.py" not in opened.names


def test_nothing_asked_nothing_changed(wheel: Path, tmp_path: Path) -> None:
    assert rewrite(wheel, tmp_path / "out", WheelChanges()).changes == ()


def test_the_same_inputs_give_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    """Also in another process, with another umask, time zone and hash seed, from a wheel in another order."""
    files = {name: tmp_path / name for name in ("b.txt", "a.txt")}
    for name, path in files.items():
        path.write_text(name)
    changes = WheelChanges(distribution="x", add_files={f"{CAPI}/{name}": path for name, path in files.items()})
    first = rewrite(wheel, tmp_path / "first", changes)

    turned = tmp_path / "turned" / wheel.name
    turned.parent.mkdir()
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(turned, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as sink:
        for entry in reversed(source.infolist()):
            sink.writestr(zipfile.ZipInfo(entry.filename, time.localtime()[:6]), source.read(entry))
    for path in files.values():
        path.chmod(0o777)
        os.utime(path, (1, 1))
    code = (
        "import os, sys; os.umask(0o077)\n"
        "from pathlib import Path\n"
        "from ortforge.build.package.rewrite import WheelChanges, rewrite\n"
        "files = {'onnxruntime/capi/' + Path(name).name: Path(name) for name in sys.argv[3:]}\n"
        "print(rewrite(Path(sys.argv[1]), Path(sys.argv[2]), WheelChanges(distribution='x', add_files=files)).sha256)"
    )
    argv = [sys.executable, "-c", code, str(turned), str(tmp_path / "second"), *map(str, reversed(files.values()))]
    environment = {**os.environ, "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7"}
    second = subprocess.run(argv, env=environment, text=True, capture_output=True, check=True).stdout.strip()

    assert second == first.sha256
    assert (tmp_path / "second" / first.wheel.name).read_bytes() == first.wheel.read_bytes()


def test_times_and_modes_are_fixed(wheel: Path, tmp_path: Path) -> None:
    library = tmp_path / "libdnnl.so.3"
    library.write_bytes(b"a library")
    changes = WheelChanges(add_files={f"{CAPI}/{library.name}": library})
    done = rewrite(wheel, tmp_path / "out", changes, timestamp=1_700_000_000)
    with zipfile.ZipFile(done.wheel) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        assert {entry.date_time for entry in entries.values()} == {(2023, 11, 14, 22, 13, 20)}
        modes = {name: entry.external_attr >> 16 & 0o7777 for name, entry in entries.items()}
        assert modes[f"{CAPI}/libdnnl.so.3"] == modes["onnxruntime-1.21.0.data/scripts/tool"] == 0o755
        assert modes["onnxruntime/__init__.py"] == 0o644
        assert list(entries)[-1] == "onnxruntime-1.21.0.dist-info/RECORD"
    early = rewrite(wheel, tmp_path / "early", WheelChanges(), timestamp=0)
    with zipfile.ZipFile(early.wheel) as archive:
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


NAMES = st.from_regex(r"[a-z]{1,6}(/[a-zA-Zäß,\" ]{1,8}){0,2}\.(py|so|txt)", fullmatch=True)


@settings(max_examples=40, deadline=None)
@given(files=st.dictionaries(NAMES, st.binary(max_size=2000), max_size=8), seed=st.randoms(use_true_random=False))
def test_what_is_written_can_be_read_back(
    files: dict[str, bytes], seed: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("wheel")
    info = "x-1.dist-info"
    headers = {"METADATA": b"Name: x\nVersion: 1\n\n", "WHEEL": b"Root-Is-Purelib: true\nTag: py3-none-any\n"}
    content = {**files, **{f"{info}/{name}": data for name, data in headers.items()}}
    entries = [Entry.of_bytes(name, data) for name, data in content.items()]
    wheel = folder / "x-1-py3-none-any.whl"
    first = write_wheel(wheel, info, entries)
    seed.shuffle(entries)  # type: ignore[attr-defined]
    assert write_wheel(wheel, info, entries) == first
    with open_wheel(wheel) as opened:
        assert {name: opened.read(name) for name in opened.names if name != f"{info}/RECORD"} == content
    assert audit(wheel, Expectation()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (WheelChanges(distribution="a b"), "'a b' is no name for a distribution"),
        (WheelChanges(distribution="../x"), "'../x' is no name for a distribution"),
        (WheelChanges(local_version="dnnl jemalloc"), "'dnnl jemalloc' is no local version"),
        (WheelChanges(tag="manylinux_2_28_x86_64"), "'manylinux_2_28_x86_64' is no wheel tag"),
    ],
)
def test_wrong_names_are_configuration_errors(changes: WheelChanges, message: str, wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        rewrite(wheel, tmp_path / "out", changes)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (WheelChanges(add_files={"x.so": Path("/nowhere/x.so")}), "/nowhere/x.so is to be added to the wheel as x.so"),
        (WheelChanges(add_dist_info={"../../x": b""}), "'../../x' is no path inside a wheel"),
        (WheelChanges(remove=["*.dll"]), "has nothing that *.dll matches"),
    ],
)
def test_impossible_changes_are_refused(changes: WheelChanges, message: str, wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=re.escape(message)):
        rewrite(wheel, tmp_path / "out", changes)


def broken(tmp_path: Path) -> Iterator[tuple[str, bytes, str]]:
    whole = make_wheel(tmp_path / "whole", {"a.py": b"x" * 3000, "b.py": b"y" * 3000}).read_bytes()
    yield "cut in the middle", whole[: len(whole) // 2], "its end, with the list of its files, is missing"
    yield "cut at the end", whole[:-8], "its end, with the list of its files, is missing"
    yield "an error page", b"<html>404</html>", "is not a zip file"
    yield "empty", b"", "is not a zip file"
    damaged = whole.replace(b"x" * 3000, b"x" * 2000 + b"z" * 1000)
    yield "damaged inside", damaged, "a.py cannot be read: Bad CRC-32"


def test_truncated_and_damaged_wheels_are_named(tmp_path: Path) -> None:
    path = tmp_path / f"onnxruntime-1.21.0-{'cp313-cp313-linux_x86_64'}.whl"
    for case, content, message in broken(tmp_path):
        path.write_bytes(content)
        findings = audit(path, Expectation())
        assert [(one.severity, one.code) for one in findings] == [("error", "unreadable-wheel")], case
        assert message in findings[0].what, case
        with pytest.raises(BuildError, match=re.escape(message)):
            rewrite(path, tmp_path / "out", WheelChanges())
    path.unlink()
    assert "No such file" in audit(path, Expectation())[0].what


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil.py", "would be unpacked outside of its place"),
        ("/etc/evil.py", "would be unpacked outside of its place"),
        ("a/../../evil.py", "would be unpacked outside of its place"),
        ("C:/evil.py", "would be unpacked outside of its place"),
    ],
)
def test_paths_that_leave_the_wheel_are_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=message):
        open_wheel(make_wheel(tmp_path, {name: b""}))


def test_links_and_repeated_names_are_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, {"a.py": b""})
    with zipfile.ZipFile(wheel, "a") as archive:
        link = zipfile.ZipInfo("link.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BuildError, match=r"holds a link, link\.py"):
        open_wheel(wheel)
    wheel = make_wheel(tmp_path, {"a.py": b""})
    with zipfile.ZipFile(wheel, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a.py", "other")
    with pytest.raises(BuildError, match=r"holds a\.py twice"):
        open_wheel(wheel)


@pytest.mark.parametrize("name", ["onnxruntime.whl", "a-1-py3-none.whl", "a-1-py3-none-any.zip", "a--py3-none-any.whl"])
def test_other_file_names_are_no_wheels(name: str) -> None:
    with pytest.raises(BuildError, match="is not the name of a wheel"):
        parse_name(name)


def test_a_build_number_is_kept(tmp_path: Path) -> None:
    name = parse_name("onnxruntime-1.21.0-2-cp313-cp313-linux_x86_64.whl")
    assert (name.build, str(name)) == ("2", "onnxruntime-1.21.0-2-cp313-cp313-linux_x86_64.whl")


def test_changes_are_plain_data(wheel: Path, tmp_path: Path) -> None:
    done = rewrite(wheel, tmp_path / "out", WheelChanges(local_version="x"))
    assert {"kind": "version", "path": "Version", "before": "1.21.0", "after": "1.21.0+x"} in done.to_json()
    assert Change("version", "Version", "1.21.0", "1.21.0+x") in done.changes
