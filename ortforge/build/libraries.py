"""C++ builds: headers, libraries and CMake files as ORT installs them, in one deterministic tar with its facts."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from ortforge.build.request import BuildRequest
from ortforge.errors import BuildError
from ortforge.store.atomic import write_json

__all__ = ["INSTALLED", "fold", "pack_libraries"]

INSTALLED: Final = "install.tar"
"""ORT's installation in the compile step's object: a tar, as libraries come with links, and the store keeps none."""

_MTIME: Final = 315_532_800


def fold(tree: Path, archive: Path) -> None:
    """Turn an installation into a tar, the same for the same files, and remove it."""
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(entry for entry in tree.rglob("*") if entry.is_file() or entry.is_symlink()):
            member = tar.gettarinfo(path, path.relative_to(tree).as_posix())
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = _MTIME
            if member.isreg():
                with path.open("rb") as content:
                    tar.addfile(member, content)
            else:
                tar.addfile(member)
    shutil.rmtree(tree)


def pack_libraries(compiled: Path, out: Path, request: BuildRequest) -> dict[str, Any]:
    """Write ``onnxruntime-VERSION-TARGET.tar.gz`` and ``audit.json`` into ``out``; return the step's facts.

    :param compiled: the compile step's object, with ORT's installation in :data:`INSTALLED`.
    :raises BuildError: a library that the build must have is not there.
    """
    name = f"onnxruntime-{request.version}-{request.target}"
    archive = out / f"{name}.tar.gz"
    libraries: dict[str, int] = {}
    with (
        tarfile.open(compiled / INSTALLED) as given,
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=_MTIME) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for member in given:
            base = member.name.rpartition("/")[2]
            if ".so" in base or base.endswith(".a"):
                libraries[base] = member.size
            member.name = f"{name}/{member.name}"
            tar.addfile(member, given.extractfile(member) if member.isreg() else None)
    wanted = "libonnxruntime.so*" if request.flags.get("build_shared_lib") else "libonnxruntime_session.a"
    if not any(fnmatchcase(library, wanted) for library in libraries):
        raise BuildError(
            f"target {request.target}: the installation has no {wanted}.",
            meant="ORT installs what was built only: a static build has no shared library.",
            todo="Set build_shared_lib = true in the target's flags, or look at the log.",
        )
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    write_json(out / "audit.json", [])
    for extra in sorted((compiled / "bundle").glob("*")):
        shutil.copyfile(extra, out / extra.name)
    return {
        "artifact": archive.name,
        "kind": "cxx",
        "sha256": digest,
        "bytes": archive.stat().st_size,
        "python": "",
        "libraries": {library: size for library, size in libraries.items() if size},
        "findings": [],
        "changes": 0,
        "grafted": {},
        "notes": [],
    }
