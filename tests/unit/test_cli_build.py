"""``ortforge build`` where it goes wrong before any container: the message and the exit code."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from source_sample import write_tree

ODD = "x; touch odd $(touch odd) `touch odd` && touch odd | tee odd"


def archive(folder: Path, name: str, version: str = "1.21.0") -> bytes:
    tree = write_tree(folder / f"tree-{version}", version)
    with tarfile.open(folder / name, "w") as tar:
        tar.add(tree, arcname="onnxruntime")
    return (folder / name).read_bytes()


def build(folder: Path, more: str = "", *arguments: str, source: str = "good.tar", name: str = "t") -> tuple[int, str]:
    """Call the command where no engine is; return its exit code, and all that it says."""
    if source == "good.tar":
        archive(folder, source)
    (folder / "matrix.toml").write_text(
        f'[models.m]\npath = "path:m.onnx"\n\n[targets.\'{name}\']\nfrom = "source"\nsource = "archive:{source}"\n'
        f'version = "1.21.0"\n{more}\n'
    )
    argv = [sys.executable, "-m", "ortforge.cli.main", "build", "--store", "store", *arguments]
    nowhere = {**os.environ, "DOCKER_HOST": f"unix://{folder}/none.sock"}
    done = subprocess.run(argv, cwd=folder, env=nowhere, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert not list(folder.rglob("odd*")), "a shell read it"
    return done.returncode, done.stdout + done.stderr


def test_without_an_engine(tmp_path: Path) -> None:
    code, said = build(tmp_path)
    assert code == 4
    assert f"There is no Docker engine at unix://{tmp_path}/none.sock" in said
    assert "apt-get install docker.io" in said
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (f"flags = {{ use_dnnl = '{ODD}' }}", "--use_dnnl is a switch and takes no value"),
        (f"flags = {{ cmake_generator = 'Ninja{ODD}' }}", "the target sets the flag cmake_generator to"),
        (f"flags = {{ '{ODD}' = true }}", "flags are named as build.py has them"),
        (f"defines = {{ '{ODD}' = true }}", "no name for a CMake variable"),
        (f"image = '{ODD}'", "must be the name of a toolchain"),
        (f"distribution = '{ODD}'", "must be a distribution name"),
        (f"local_version = '{ODD}'", "must be a local version"),
    ],
)
def test_odd_characters_are_refused_where_they_cannot_be_meant(tmp_path: Path, more: str, said: str) -> None:
    code, answer = build(tmp_path, more)
    assert (code, said in answer) == (2, True), answer


@pytest.mark.parametrize("name", ["a/b", "..", ODD])
def test_a_targets_name_becomes_part_of_file_names(tmp_path: Path, name: str) -> None:
    code, said = build(tmp_path, name=name)
    assert code == 2
    assert 'a name has letters, digits, ".", "_", "+" and "-" only' in said


def test_what_can_be_meant_goes_on_as_it_is(tmp_path: Path) -> None:
    """It is a path's or a definition's right to hold anything; test_build.py shows what CMake gets."""
    code, said = build(tmp_path, f"flags = {{ cmake_path = '{ODD}' }}\ndefines = {{ A = '{ODD}' }}", name="t-1.x_y+z")
    assert code == 4
    assert "There is no Docker engine" in said


def test_archives_that_are_cut_off_or_lead_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "cut.tar").write_bytes(archive(tmp_path, "whole.tar")[:3000])
    code, said = build(tmp_path, source="cut.tar")
    assert (code, "cut.tar is no archive, or it is damaged" in said) == (4, True), said
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo("../odd")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"bad"))
    code, said = build(tmp_path, source="evil.tar")
    assert (code, "its entry '../odd' is not safe" in said) == (4, True), said
    archive(tmp_path, "other.tar", "1.20.0")
    code, said = build(tmp_path, source="other.tar")
    assert (code, 'Write version = "1.20.0"' in said) == (2, True), said


def test_a_target_that_is_not_there(tmp_path: Path) -> None:
    code, said = build(tmp_path, "", "tt")
    assert code == 2
    assert "target 'tt' cannot be built: there is no such target." in said
    code, said = build(tmp_path, "", "t", "--until", "wheel")
    assert code == 2
    assert "'configure', 'compile'" in said


def test_an_archive_that_is_not_there_is_no_failed_build(tmp_path: Path) -> None:
    code, said = build(tmp_path, source="lost.tar")
    assert code == 4
    assert "lost.tar does not exist" in said
    assert "Correct the path in matrix.toml" in said
