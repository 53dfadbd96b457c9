"""Records the files that a dataset's code reads, so that a later run notices when one of them changed.

An audit hook (PEP 578) sees every ``open`` and every listing of a folder by Python code. Files of the environment, of
the standard library and of the worker itself are left out, and so are files that the process writes. Native code and
child processes read without Python's ``open``. Of a folder that was listed, changes of such files show in sizes and
times; otherwise they are not seen, and :meth:`OpenedFiles.unseen_readers` names who may read them.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .protocol import JobError

__all__ = ["OpenedFiles", "file_digest", "folder_digest"]

_SYSTEM_FOLDERS = ("/proc", "/sys", "/dev", "/etc", "/usr/lib", "/lib", "/usr/share/zoneinfo")
_IMPORTERS = ("importlib", "pkgutil", "zipimport")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class OpenedFiles:
    """Files and folders that code read since :meth:`start`.

    :param base: folder of ``matrix.toml``; files below it are always recorded, and are named relative to it.
    :param ignored: folders of the job itself.
    """

    def __init__(self, base: Path, ignored: Sequence[Path]) -> None:
        self.base = os.path.abspath(base)  # noqa: PTH100 - links are kept: one may come to lead elsewhere
        self._has_child = False
        self._read: dict[str, tuple[int, int] | None] = {}
        self._listed: set[str] = set()
        self._written: set[str] = set()
        self._temporary = os.path.realpath(tempfile.gettempdir())
        self._excluded = self._excluded_folders(ignored)
        self._started = time.time()
        self._active = False
        self._local = threading.local()

    def _excluded_folders(self, ignored: Sequence[Path]) -> tuple[str, ...]:
        paths = sysconfig.get_paths()
        names = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
        names |= {sys.prefix, str(Path(__file__).parents[1]), *_SYSTEM_FOLDERS, *map(str, ignored)}
        names |= {path for path in sys.path if path.rstrip("/").endswith(("site-packages", "dist-packages"))}
        return tuple({os.path.realpath(name) for name in names})

    def start(self) -> None:
        """Begin to record; a hook cannot be removed, only told to be silent."""
        self._active = True
        sys.addaudithook(self._hear)

    def stop(self) -> None:
        """Record nothing more."""
        self._active = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            self._has_child |= self._active
        if not self._active or event not in _EVENTS or getattr(self._local, "busy", False):
            return
        self._local.busy = True
        try:
            self._note(event, arguments, sys._getframe(1).f_code.co_filename)
        except Exception:  # noqa: S110 - recording must never disturb the code that is recorded
            pass
        finally:
            self._local.busy = False

    def _note(self, event: str, arguments: tuple[Any, ...], caller: str) -> None:
        name = arguments[0] if arguments else None
        if name is None and event != "open":
            name = "."
        if not isinstance(name, (str, bytes, os.PathLike)):
            return  # a descriptor: its file was opened under a name before
        path = os.path.abspath(os.fsdecode(name))  # noqa: PTH100
        if event in ("os.listdir", "os.scandir"):
            if not any(part in caller for part in _IMPORTERS):
                self._listed.add(path)
        elif event == "open" and _writes(arguments):
            self._written.add(os.path.realpath(path))
        elif path not in self._read:
            self._read[path] = _signature(path)

    def result(self) -> list[dict[str, str]]:
        """Return what was read: ``path`` (relative to the base where it lies below it), ``kind`` and ``sha256``.

        A file that did not exist has ``""`` as its digest. Modules that were imported count as read.

        :raises JobError: kind ``input``, when a file changed while the dataset was made.
        """
        self.stop()
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str):
                self._read.setdefault(os.path.abspath(file), None)  # noqa: PTH100
        found = []
        for path, before in self._read.items():
            now = _signature(path)
            is_product = os.path.realpath(path) in self._written or path.endswith(".pyc")
            if is_product or Path(path).is_dir() or not self._counts(path, now):
                continue
            if before is not None and now != before:
                raise JobError(
                    "input",
                    f"the file {path} changed while the dataset was made from it. Make the dataset again when nothing "
                    "writes to the file any more",
                )
            found.append({"path": self._name(path), "kind": "file", "sha256": file_digest(path)})
        folders = [path for path in self._listed if Path(path).is_dir() and self._counts(path, _signature(path))]
        found += [{"path": self._name(path), "kind": "folder", "sha256": folder_digest(path)} for path in folders]
        return sorted(found, key=lambda entry: (entry["path"], entry["kind"]))

    def unseen_readers(self) -> list[str]:
        """Return who may have read files that are not recorded: native libraries, and ``child processes``."""
        libraries = sorted(_NATIVE_READERS & sys.modules.keys())
        return [*libraries, *(["child processes"] if self._has_child else [])]

    def _counts(self, path: str, now: tuple[int, int] | None) -> bool:
        """Say whether a path is data or code of the user: the longest known folder that holds it decides."""
        real, real_base = os.path.realpath(path), os.path.realpath(self.base)
        excluded = max((len(folder) for folder in self._excluded if _is_below(real, folder)), default=-1)
        if _is_below(real, real_base) and len(real_base) >= excluded:
            return True
        if excluded >= 0:
            return False
        # Libraries unpack things into the temporary folder; what lay there before the job is data.
        is_new = now is None or now[1] >= self._started * 1e9
        return not (_is_below(real, self._temporary) and is_new)

    def _name(self, path: str) -> str:
        return os.path.relpath(path, self.base) if _is_below(path, self.base) else path


_NATIVE_READERS = frozenset(
    {
        "av",
        "cv2",
        "datasets",
        "decord",
        "h5py",
        "imageio_ffmpeg",
        "netCDF4",
        "osgeo",
        "pyarrow",
        "rasterio",
        "soundfile",
    }
    | {"tables", "tensorflow", "tokenizers", "torchaudio", "torchcodec", "zarr"}
)
"""Modules whose native code opens files itself."""

_EVENTS = frozenset({"open", "os.listdir", "os.scandir", "sqlite3.connect"})


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode = arguments[1] if len(arguments) > 1 else None
    flags = arguments[2] if len(arguments) > 2 else 0
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax")
    return isinstance(flags, int) and bool(flags & _WRITING)


def _signature(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def file_digest(path: str | Path) -> str:
    """Return the sha256 of a file's content, or ``""`` when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, ValueError):
        return ""
    return digest.hexdigest()


def folder_digest(path: str | Path) -> str:
    """Return a sha256 of the names in a folder, with sizes and times of the files, without Python's caches.

    It is ``""`` when the folder cannot be listed.
    """
    try:
        entries = [entry for entry in Path(path).iterdir() if entry.name != "__pycache__"]
        states = [f"{entry.name}\0{_signature(str(entry)) if entry.is_file() else ''}" for entry in entries]
    except (OSError, ValueError):
        return ""
    return hashlib.sha256("\0".join(sorted(states)).encode("utf-8", "surrogateescape")).hexdigest()
