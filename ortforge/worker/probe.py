"""probe: what this runtime is, asked of the runtime itself."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .protocol import Channel

__all__ = ["run"]

_OURS = ("libonnxruntime", "onnxruntime_pybind11_state")

_ALLOCATORS = re.compile(r"lib(jemalloc|mimalloc|tcmalloc|hoard|rpmalloc|snmalloc)[^/]*\.so")
"""File names of allocators that take malloc's place; packagers add hashes and versions to them."""


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do a ``probe`` job and finish it. With a ``session`` that names a plugin EP, its devices are listed too."""
    import numpy as np
    import onnxruntime as ort

    channel.phase("run")
    session = job.get("session") or {}
    if session.get("library") or session.get("module"):
        from .session import register_plugin

        register_plugin(ort, session)
    channel.finish(
        {
            "ort_version": ort.__version__,
            "providers": list(ort.get_available_providers()),
            "build_info": ort.get_build_info() if hasattr(ort, "get_build_info") else "",
            "python": platform.python_version(),
            "numpy": np.__version__,
            "devices": _devices(ort),
            "libraries": {path.name: _sha256(path) for path in _loaded(ort)},
            "allocators": allocators(),
            "malloc": malloc_library(),
        }
    )


def _devices(ort: Any) -> list[dict[str, Any]]:
    from .session import describe_device

    if not hasattr(ort, "get_ep_devices"):
        return []
    return [describe_device(device) for device in ort.get_ep_devices()]


def _loaded(ort: Any) -> list[Path]:
    """Return ORT's own libraries as they are mapped into this process."""
    if sys.platform == "linux":
        return [path for path in _mapped() if path.name.startswith(_OURS)]
    return sorted(path for path in Path(ort.__file__).parent.rglob("*") if path.name.startswith(_OURS))


def _mapped() -> list[Path]:
    """Return the files that are mapped into this process (Linux)."""
    maps = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
    return sorted({Path(line.split(None, 5)[5]) for line in maps if line.count(" ") >= 5 and "/" in line})


def allocators() -> list[str]:
    """Return the file names of the allocator libraries that are mapped into this process (Linux; elsewhere none)."""
    if sys.platform != "linux":
        return []
    return [path.name for path in _mapped() if _ALLOCATORS.match(path.name)]


class _Symbol(ctypes.Structure):
    """``Dl_info`` of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


class _Loaded(ctypes.Structure):
    """The beginning of ``dl_phdr_info`` of link.h."""

    _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))


def malloc_library() -> str:
    """Return the file name of the library that answers this process's ``malloc``, or ``""`` where that is not told.

    A library can be mapped without being used. This is the first in the dynamic linker's order that defines it, which
    is how the linker itself decides; asking for the address alone may give a stub in the interpreter.
    """
    if sys.platform != "linux":
        return ""
    process = ctypes.CDLL(None)
    for name in _load_order(process):
        found = _Symbol()
        with contextlib.suppress(AttributeError, OSError):  # not a file (the kernel's own), or no such function in it
            function = ctypes.CDLL(os.fsdecode(name), mode=os.RTLD_NOLOAD | os.RTLD_LAZY).malloc
            address = ctypes.cast(function, ctypes.c_void_p)
            if process.dladdr(address, ctypes.byref(found)) and found.file == name:
                return Path(os.fsdecode(name)).name
    return ""


def _load_order(process: ctypes.CDLL) -> list[bytes]:
    names: list[bytes] = []

    def note(library: Any, size: int, data: Any) -> int:
        if library.contents.name:  # the program itself has none
            names.append(library.contents.name)
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Loaded), ctypes.c_size_t, ctypes.c_void_p)
    process.dl_iterate_phdr(callback(note), None)
    return names


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
