"""A C++ build is handed on as one tar that is the same for the same files, links and all."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from ortforge.build.libraries import INSTALLED, fold, pack_libraries
from ortforge.build.request import BuildRequest
from ortforge.errors import BuildError


def installation(folder: Path, library: str = "libonnxruntime.so.1.21.0") -> Path:
    tree = folder / "install"
    (tree / "lib").mkdir(parents=True)
    (tree / "include").mkdir()
    (tree / "lib" / library).write_bytes(b"\x7fELF" + b"\0" * 100)
    (tree / "lib" / "libonnxruntime.so").symlink_to(library)
    (tree / "include" / "onnxruntime_c_api.h").write_text("#define ORT_API_VERSION 21\n")
    return tree


def test_the_same_files_give_the_same_tar(tmp_path: Path) -> None:
    request = BuildRequest("cxx", "1.21.0", artifact="cxx", flags={"build_shared_lib": True})
    digests = set()
    for number in range(2):
        compiled, out = tmp_path / f"c{number}", tmp_path / f"o{number}"
        compiled.mkdir()
        out.mkdir()
        fold(installation(compiled), compiled / INSTALLED)
        assert not (compiled / "install").exists()
        facts = pack_libraries(compiled, out, request)
        digests.add(facts["sha256"])
    assert len(digests) == 1
    assert facts["libraries"] == {"libonnxruntime.so.1.21.0": 104}
    with tarfile.open(out / facts["artifact"]) as tar:
        names = {member.name: member.linkname for member in tar}
    assert names["onnxruntime-1.21.0-cxx/lib/libonnxruntime.so"] == "libonnxruntime.so.1.21.0"


def test_an_installation_without_the_library_is_refused(tmp_path: Path) -> None:
    tree = installation(tmp_path)
    for path in (tree / "lib").iterdir():
        path.unlink()
    fold(tree, tmp_path / INSTALLED)
    request = BuildRequest("cxx", "1.21.0", artifact="cxx", flags={"build_shared_lib": True})
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match=r"the installation has no libonnxruntime\.so"):
        pack_libraries(tmp_path, tmp_path / "out", request)
