"""Archives of anybody's making are unpacked, and nothing outside of the folder is touched by any of them."""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_sample import write_tree

from ortforge.build.unpacking import Bounds, stays_inside, unpack
from ortforge.errors import EnvironmentLacksError, FetchError

Entry = tuple[str, bytes, str]
"""Name, kind (a constant of tarfile), and content or target."""


def tar_of(path: Path, *entries: Entry) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, kind, text in entries:
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, 0o777
            if kind == tarfile.REGTYPE:
                member.size = len(text)
            else:
                member.linkname = text
            tar.addfile(member, io.BytesIO(text.encode()) if kind == tarfile.REGTYPE else None)
    return path


FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip"])
def test_archives_of_every_kind_give_the_same_tree(tmp_path: Path, suffix: str) -> None:
    tree = write_tree(tmp_path / "onnxruntime-1.21.0")
    archive = tmp_path / f"source.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            for path in sorted(tree.rglob("*")):
                out.write(path, path.relative_to(tmp_path))
    elif suffix == "tar.zst":
        plain = tmp_path / "plain.tar"
        with tarfile.open(plain, "w") as out:
            out.add(tree, tree.name)
        subprocess.run(["zstd", "-q", str(plain), "-o", str(archive)], check=True)
    else:
        with tarfile.open(archive, f"w:{suffix.partition('.')[2]}") as out:  # type: ignore[call-overload]
            out.add(tree, tree.name)
    found = unpack(archive, tmp_path / "out")
    assert found == tmp_path / "out" / "onnxruntime-1.21.0"
    names = [path.relative_to(tree) for path in sorted(tree.rglob("*"))]
    assert names == [path.relative_to(found) for path in sorted(found.rglob("*"))]
    assert stat.S_IMODE((found / "build.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((found / "VERSION_NUMBER").stat().st_mode) == 0o644


def test_what_an_archive_is_says_its_content_and_not_its_name(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar.gz", ("top/file", FILE, "text")).rename(tmp_path / "a.zip")
    assert (unpack(archive, tmp_path / "out") / "file").read_text() == "text"


def test_links_inside_the_tree_are_kept(tmp_path: Path) -> None:
    archive = tar_of(
        tmp_path / "a.tar",
        ("top/a/file", FILE, "text"),
        ("top/b/link", LINK, "../a/file"),
        ("top/hard", HARD, "top/a/file"),
        ("top/dangling", LINK, "not/there"),
    )
    top = unpack(archive, tmp_path / "out")
    assert (top / "b" / "link").is_symlink()
    assert (top / "b" / "link").read_text() == (top / "hard").read_text() == "text"
    assert (top / "dangling").is_symlink()


@pytest.mark.parametrize(
    ("entries", "named", "why"),
    [
        ([("../evil", FILE, "x")], "../evil", "outside of the folder"),
        ([("top/../../evil", FILE, "x")], "top/../../evil", "outside of the folder"),
        ([("/evil", FILE, "x")], "/evil", "outside of the folder"),
        ([("//evil", FILE, "x")], "//evil", "outside of the folder"),
        ([("top/..", tarfile.DIRTYPE, "")], "top/..", "outside of the folder"),
        ([("top/link", LINK, "/etc/passwd")], "top/link", "a link to /etc/passwd"),
        ([("top/link", LINK, "../../evil")], "top/link", "a link to ../../evil"),
        ([("link", LINK, "..")], "link", "a link to .."),
        ([("top/link", LINK, "")], "top/link", "a link to nothing"),
        ([("top/link", LINK, "down/../../../evil")], "top/link", "a link to down/"),
        ([("top/dir", LINK, "sub"), ("top/dir/file", FILE, "x")], "top/dir/file", "through a link"),
        ([("top/dir", LINK, "sub"), ("top/dir", FILE, "x")], "top/dir", "through a link"),
        ([("top/file", FILE, "x"), ("top/file", LINK, "sub")], "top/file", "the place of a file"),
        ([("top/a", LINK, "b/.."), ("top/b", LINK, "..")], "top/a", "a link to b/.."),
        ([("top/hard", HARD, "/etc/passwd")], "top/hard", "no file of the archive"),
        ([("top/hard", HARD, "../../etc/passwd")], "top/hard", "no file of the archive"),
        ([("top/link", LINK, "x"), ("top/hard", HARD, "top/link")], "top/hard", "no file of the archive"),
        ([("top/null", tarfile.CHRTYPE, "")], "top/null", "neither file, folder nor link"),
        ([("top/disk", tarfile.BLKTYPE, "")], "top/disk", "neither file, folder nor link"),
        ([("top/pipe", tarfile.FIFOTYPE, "")], "top/pipe", "neither file, folder nor link"),
    ],
)
def test_entries_that_would_leave_the_folder_are_refused_by_name(
    tmp_path: Path, entries: list[Entry], named: str, why: str
) -> None:
    archive = tar_of(tmp_path / "evil.tar.gz", ("top/good", FILE, "fine"), *entries)
    with pytest.raises(FetchError) as refused:
        unpack(archive, tmp_path / "a" / "b" / "out")
    assert repr(named) in refused.value.what
    assert why in refused.value.what
    assert refused.value.exit_code == 4
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    ("name", "mode", "text", "why"),
    [
        ("../evil", 0o100644, "x", "outside of the folder"),
        ("/evil", 0o100644, "x", "outside of the folder"),
        ("top/link", 0o120777, "../../evil", "a link to ../../evil"),
        ("top/link", 0o120777, "/etc/passwd", "a link to /etc/passwd"),
        ("top/pipe", 0o010644, "", "neither file, folder nor link"),
    ],
)
def test_zip_entries_are_refused_in_the_same_way(tmp_path: Path, name: str, mode: int, text: str, why: str) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as out:
        out.writestr("top/good", "fine")
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        out.writestr(member, text)
    with pytest.raises(FetchError, match="is not safe") as refused:
        unpack(tmp_path / "evil.zip", tmp_path / "a" / "b" / "out")
    assert repr(name) in refused.value.what
    assert why in refused.value.what
    assert not list(tmp_path.rglob("evil"))


PARTS = st.lists(st.sampled_from(["..", ".", "a", "b", "", "c"]), min_size=1, max_size=4).map("/".join)
MEMBERS = st.lists(st.tuples(PARTS, st.sampled_from([FILE, LINK, HARD, tarfile.DIRTYPE]), PARTS), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(MEMBERS)
def test_no_archive_reaches_out_of_its_folder(tmp_path: Path, members: list[Entry]) -> None:
    place = tmp_path / "place"
    shutil.rmtree(place, ignore_errors=True)
    inside = place / "x" / "y"
    inside.mkdir(parents=True)
    archive = tar_of(tmp_path / "any.tar", *members)
    with contextlib.suppress(FetchError):
        unpack(archive, inside / "out")
    assert [path.name for path in place.iterdir()] == ["x"]
    assert [path.name for path in (place / "x").iterdir()] == ["y"]
    assert {path.name for path in inside.iterdir()} <= {"out"}
    for path in (inside / "out").rglob("*"):
        try:
            assert path.resolve(strict=True).is_relative_to(inside / "out")
        except (OSError, RuntimeError):
            assert path.is_symlink()  # it leads nowhere


def test_what_stays_inside_depends_on_the_text_of_a_link_alone() -> None:
    assert stays_inside("a/b/c", "../../d/e")
    assert not stays_inside("a/b/c", "../../../d")
    assert not stays_inside("a", "b/../c")
    assert not stays_inside("a", "/b")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip"])
def test_a_truncated_archive_is_never_taken_for_a_whole_one(tmp_path: Path, suffix: str) -> None:
    content = bytes(range(256)) * 64
    whole = tmp_path / f"whole.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(whole, "w") as out:
            for number in range(4):
                out.writestr(f"top/{number}", content)
    else:
        plain = tmp_path / "plain.tar"
        mode = f"w:{suffix.partition('.')[2]}" if suffix != "tar.zst" else "w"
        with tarfile.open(plain if suffix == "tar.zst" else whole, mode) as tar:  # type: ignore[call-overload]
            for number in range(4):
                member = tarfile.TarInfo(f"top/{number}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        if suffix == "tar.zst":
            subprocess.run(["zstd", "-q", str(plain), "-o", str(whole)], check=True)
    data = whole.read_bytes()
    assert len(list(unpack(whole, tmp_path / "good").iterdir())) == 4
    header_and_two_files = 2 * (512 + len(content))
    for number, length in enumerate([1, 5, len(data) // 3, len(data) // 2, len(data) - 11000, len(data) - 4]):
        if suffix == "tar" and length == len(data) - 4:
            continue  # only padding is lost
        if suffix == "tar" and number == 2:
            length = header_and_two_files  # cut exactly where an entry would begin
        cut = tmp_path / f"cut-{number}.{suffix}"
        cut.write_bytes(data[: max(length, 1)])
        with pytest.raises(FetchError, match="damaged") as refused:
            unpack(cut, tmp_path / f"out-{number}")
        assert "interrupted" in refused.value.meant


def test_a_damaged_archive_and_no_archive_are_errors(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar.gz", ("top/file", FILE, "text" * 5000))
    data = bytearray(archive.read_bytes())
    data[-8] ^= 0xFF  # gzip's own checksum
    archive.write_bytes(data)
    with pytest.raises(FetchError, match="damaged"):
        unpack(archive, tmp_path / "one")
    page = tmp_path / "page.tar.gz"
    page.write_text("<!doctype html><title>Sign in</title>" * 100)
    with pytest.raises(FetchError, match="no archive") as refused:
        unpack(page, tmp_path / "two")
    assert "web page" in refused.value.meant
    empty = tmp_path / "empty.tar"
    empty.write_bytes(b"")
    with pytest.raises(FetchError, match="damaged"):
        unpack(empty, tmp_path / "three")
    nothing = tar_of(tmp_path / "nothing.tar")
    with pytest.raises(FetchError, match="is empty"):
        unpack(nothing, tmp_path / "four")


def test_an_archive_that_would_fill_the_disk_is_stopped_early(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.tar.gz"
    with gzip.open(bomb, "wb", compresslevel=9) as out:
        member = tarfile.TarInfo("top/zeros")
        member.size = 64 << 20
        out.write(member.tobuf())
        for _ in range(64):
            out.write(bytes(1 << 20))
        out.write(bytes(10240))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(FetchError, match="unpacks to more than") as refused:
        unpack(bomb, tmp_path / "out", Bounds(free=16 << 20))
    assert "fill the disk" in refused.value.meant
    assert not list((tmp_path / "out").rglob("zeros"))
    zipped = tmp_path / "bomb.zip"
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("top/zeros", bytes(32 << 20))
    with pytest.raises(FetchError, match="unpacks to more than"):
        unpack(zipped, tmp_path / "zip", Bounds(free=16 << 20))


def test_a_zip_that_lies_about_its_sizes_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "liar.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("top/zeros", bytes(1 << 20))
    data = path.read_bytes().replace(struct.pack("<L", 1 << 20), struct.pack("<L", 10))
    path.write_bytes(data)
    with pytest.raises(FetchError, match="damaged"):
        unpack(path, tmp_path / "out")


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "header.tar.gz"
    with gzip.open(path, "wb") as out:
        member = tarfile.TarInfo("long")
        member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 34
        out.write(member.tobuf(tarfile.GNU_FORMAT))
        out.write(bytes(1 << 20))
    with pytest.raises(FetchError, match="a header of 17,179,869,184 bytes"):
        unpack(path, tmp_path / "out")


def test_entries_that_take_each_others_place_are_damage(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar", ("top/a", FILE, "x"), ("top/a/b", FILE, "y"))
    with pytest.raises(FetchError, match="damaged"):
        unpack(archive, tmp_path / "out")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("top/file", "x")
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(FetchError, match="encrypted"):
        unpack(path, tmp_path / "out")


def test_zstd_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tar.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentLacksError, match="zstd"):
        unpack(path, tmp_path / "out")


def test_links_and_modes_of_a_zip_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode, text in [("top/run", 0o100755, "#!"), ("top/sub/link", 0o120777, "../run")]:
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, text)
    top = unpack(path, tmp_path / "out")
    assert (top / "sub" / "link").read_text() == "#!"
    assert (top / "run").stat().st_mode & 0o111
