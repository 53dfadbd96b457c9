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

__all__ = ["pack_libraries"]

_MTIME: Final = 315_532_800


def pack_libraries(compiled: Path, out: Path, request: BuildRequest) -> dict[str, Any]:
    """Write ``onnxruntime-VERSION-TARGET.tar.gz`` and ``audit.json`` into ``out``; return the step's facts.

    :param compiled: the compile step's object, with ORT's installation in ``install/``.
    :raises BuildError: a library that the build must have is not there.
    """
    tree = compiled / "install"
    files = sorted(path for path in tree.rglob("*") if path.is_file() or path.is_symlink())
    libraries = [path for path in files if ".so" in path.name or path.suffix == ".a"]
    wanted = ["libonnxruntime.so*" if request.flags.get("build_shared_lib") else "libonnxruntime_session.a"]
    missing = [name for name in wanted if not any(fnmatchcase(path.name, name) for path in libraries)]
    if missing:
        raise BuildError(
            f"target {request.target}: the installation has no {', '.join(missing)}.",
            meant="ORT installs what was built only: a static build has no shared library.",
            todo="Set build_shared_lib = true in the target's flags, or look at the log.",
        )
    name = f"onnxruntime-{request.version}-{request.target}"
    archive = out / f"{name}.tar.gz"
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=_MTIME) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in files:
            member = tar.gettarinfo(path, f"{name}/{path.relative_to(tree).as_posix()}")
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = _MTIME
            if member.isreg():
                with path.open("rb") as content:
                    tar.addfile(member, content)
            else:
                tar.addfile(member)
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    sizes = {path.name: path.stat().st_size for path in libraries if not path.is_symlink()}
    write_json(out / "audit.json", [])
    for extra in sorted((compiled / "bundle").glob("*")):
        shutil.copyfile(extra, out / extra.name)
    return {
        "artifact": archive.name,
        "kind": "cxx",
        "sha256": digest,
        "bytes": archive.stat().st_size,
        "python": "",
        "libraries": sizes,
        "findings": [],
        "changes": 0,
        "grafted": {},
        "notes": [],
    }
