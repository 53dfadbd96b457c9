"""Runs uv: the one place that knows its command line, what it needs from the surroundings, and what it prints.

uv resolves requirements to a ``pylock.toml`` that names every wheel with its sha256, makes virtual environments and
installs locks into them. What it says when it fails is understood in :mod:`ortforge.runtime.uv_errors`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from ortforge.errors import ProvisionError
from ortforge.runtime.uv_errors import clean, is_network_error

__all__ = [
    "InstalledPython",
    "UvError",
    "compile_lock",
    "fetch_python",
    "find_uv",
    "install_elsewhere",
    "install_lock",
    "installed_pythons",
    "keeping",
    "make_venv",
    "neighbours",
    "required_by",
    "surroundings",
    "unpack_lock",
]

# uv settings that would change what an environment holds; the rest (index, cache, proxy, certificates) is the user's.
_LEAKS: Final = (
    "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON",
    "UV_SYSTEM_PYTHON", "UV_BREAK_SYSTEM_PACKAGES", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_BUILD_CONSTRAINT",
    "UV_TARGET", "UV_PREFIX", "UV_RESOLUTION", "UV_COMPILE_BYTECODE", "UV_LINK_MODE", "UV_WORKING_DIRECTORY",
    "UV_VENV_SEED", "UV_REQUIRE_HASHES", "UV_NO_BINARY", "UV_ENV_FILE", "UV_TORCH_BACKEND", "UV_PRERELEASE",
)  # fmt: skip


class UvError(Exception):
    """uv ended with an error; ``text`` is what it said, cleaned (see :func:`clean`)."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


_kept: Final = threading.local()


@contextmanager
def keeping(*descriptors: int) -> Iterator[None]:
    """Let the uv processes that this thread starts hold descriptors open, and with them the locks on those.

    When ortforge is killed, uv goes on writing for a while: the folder it writes into stays locked until it ends.
    """
    before = getattr(_kept, "descriptors", ())
    _kept.descriptors = (*before, *descriptors)
    try:
        yield
    finally:
        _kept.descriptors = before


@dataclass(frozen=True, slots=True)
class InstalledPython:
    """A Python interpreter of this machine; ``version`` is ``(3, 13, 0)``."""

    version: tuple[int, int, int]
    path: Path


def find_uv() -> Path:
    """Return uv's executable: the one installed with ortforge, else the one on PATH.

    :raises ProvisionError: there is none.
    """
    try:
        from uv import find_uv_bin

        return Path(os.fsdecode(find_uv_bin()))
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
        if found:
            return Path(found)
    raise ProvisionError(
        "uv was not found: it makes the environments that runtimes live in.",
        todo="Install it beside ortforge: pip install uv",
    )


def surroundings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that uv runs with: the user's, less what leaks into environments.

    pyenv puts shims on PATH that exist for every version and fail for most: they give way to the real ones.
    """
    kept = {name: value for name, value in environ.items() if name not in _LEAKS}
    kept |= {"NO_COLOR": "1", "UV_NO_PROGRESS": "1"}
    kept.setdefault("UV_HTTP_RETRIES", "2")
    paths = kept.get("PATH", "").split(os.pathsep)
    shims = [path for path in paths if Path(path).parts[-2:] == (".pyenv", "shims")]
    if shims:
        versions = sorted(Path(shims[0]).parent.glob("versions/3.*/bin"), reverse=True)
        paths = [path for path in paths if path not in shims] + [str(path) for path in versions]
        kept["PATH"] = os.pathsep.join(paths)
    return kept


def _run(arguments: Sequence[str], cwd: Path) -> str:
    """Run uv and return its standard output. ``cwd`` matters: uv reads configuration from it and its parents."""
    done = subprocess.run(
        [str(find_uv()), *arguments],
        cwd=cwd,
        env=surroundings(os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        pass_fds=getattr(_kept, "descriptors", ()),
    )
    if done.returncode != 0:
        raise UvError(clean(done.stderr) or f"uv ended with exit code {done.returncode}")
    return done.stdout


def compile_lock(
    requirements: Sequence[str],
    output: Path,
    *,
    python: str,
    offline: bool = False,
    only_version: bool = False,
    arguments: Sequence[str] = (),
) -> None:
    """Resolve requirements (wheels only, nothing is built) into ``output``, named ``pylock.toml`` or ``pylock.X.toml``.

    An ``output`` that exists is taken as a preference: its versions are kept where they fit.

    :param python: an interpreter's path, or with ``only_version`` a version that need not be installed.
    :raises UvError: they cannot be satisfied.
    """
    source = output.with_suffix(".in")
    source.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
    _run(
        [
            *("pip", "compile", "--quiet", "--no-header", "--only-binary", ":all:", "--format", "pylock.toml"),
            *("--no-python-downloads", "--python-version" if only_version else "--python", python),
            *(("--offline",) if offline else ()),
            *arguments,
            *("--output-file", output.name, source.name),
        ],
        cwd=output.parent,
    )


def make_venv(python: Path, folder: Path) -> None:
    """Make an empty virtual environment, without pip or setuptools.

    :raises UvError: uv could not.
    """
    _run(["venv", "--quiet", "--no-project", "--clear", "--python", str(python), str(folder)], cwd=folder.parent)


def install_lock(lock: Path, venv: Path) -> None:
    """Install a lock's wheels, each checked against its sha256; without the network where uv's cache has them all.

    Files are copied out of uv's cache, not linked: with links a change in one environment would be one in all
    of them and in the cache. A copy costs about 0.4 s for 130 MB more, once for each environment.

    :raises UvError: uv could not.
    """
    command = [
        *("pip", "install", "--quiet", "--preview-features", "pylock", "--link-mode", "copy", "--no-deps"),
        *("--no-build", "--no-python-downloads", "--python", str(venv), "--requirements", lock.name),
    ]
    _run_cache_first(command, lock.parent)


def _run_cache_first(command: Sequence[str], cwd: Path) -> None:
    try:
        _run([*command, "--offline"], cwd=cwd)
    except UvError as error:
        if not is_network_error(error.text):
            raise
        _run(command, cwd=cwd)


def install_elsewhere(lock: Path, site: Path, *, python_version: str, platform: str) -> None:
    """Install a lock's wheels into the site-packages of an interpreter that is not on this machine.

    As :func:`install_lock` does; scripts land in ``site/bin``, with this machine's Python in their first line.

    :param platform: as uv names it (``x86_64-manylinux_2_28``).
    :raises UvError: uv could not.
    """
    text = re.sub(r"^requires-python = .*\n", "", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lock.write_text(text, encoding="utf-8")
    command = [
        *("pip", "install", "--quiet", "--preview-features", "pylock", "--link-mode", "copy", "--no-deps"),
        *("--no-build", "--no-python-downloads", "--python", sys.executable),
        *("--python-version", python_version, "--python-platform", platform),
        *("--target", str(site), "--requirements", lock.name),
    ]
    _run_cache_first(command, lock.parent)


def unpack_lock(lock: Path, folder: Path, *, python_version: str = "") -> None:
    """Put the files of a lock's wheels into a plain folder, each wheel checked against its sha256.

    Wheels only, so nothing of them runs: no build, no import, and ``.pth`` files have no effect there. The files may be
    links into uv's cache: read them, never write to them.

    :param python_version: for wheels of another Python than this one (``"3.12"``).
    :raises UvError: uv could not.
    """
    text = re.sub(r"^requires-python = .*\n", "", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lock.write_text(text, encoding="utf-8")
    _run(
        [
            *("pip", "install", "--quiet", "--preview-features", "pylock", "--link-mode", "hardlink", "--no-deps"),
            *("--no-build", "--no-python-downloads", "--python", sys.executable),
            *(("--python-version", python_version) if python_version else ()),
            *("--target", str(folder), "--requirements", lock.name),
        ],
        cwd=lock.parent,
    )


def installed_pythons(cwd: Path) -> tuple[InstalledPython, ...]:
    """Return this machine's CPython interpreters, newest first, one for each version."""
    listed = json.loads(
        _run(["python", "list", "--only-installed", "--no-python-downloads", "--output-format", "json"], cwd=cwd)
        or "[]"
    )
    found: dict[tuple[int, int, int], Path] = {}
    for entry in listed:
        parts = entry["version_parts"]
        if entry["implementation"] == "cpython" and entry.get("variant", "default") == "default":
            found.setdefault((parts["major"], parts["minor"], parts["patch"]), Path(entry["path"]))
    return tuple(InstalledPython(version, path) for version, path in sorted(found.items(), reverse=True))


def fetch_python(version: str, cwd: Path) -> Path:
    """Let uv bring an interpreter that is not on the machine, and return its path.

    :raises UvError: it cannot (no network, downloads are turned off).
    """
    _run(["python", "install", "--quiet", version], cwd=cwd)
    return Path(_run(["python", "find", "--no-project", version], cwd=cwd).strip())


def required_by(requirements: Sequence[str], name: str, workdir: Path, *, python: str) -> str:
    """Return what depends on the distribution ``name``, or ``""`` when it was asked for itself."""
    source = workdir / "why.in"
    source.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
    text = _run(
        [
            *("pip", "compile", "--quiet", "--no-header", "--annotation-style", "line", "--only-binary", ":all:"),
            *("--no-python-downloads", "--python", python, source.name),
        ],
        cwd=workdir,
    )
    match = re.search(rf"^{re.escape(name)}==\S+\s+# via (.+)$", text, re.MULTILINE)
    parents = [parent.strip() for parent in match[1].split(",")] if match else []
    return "" if any(parent.startswith("-r ") for parent in parents) else ", ".join(parents)


def neighbours(requirement: str, workdir: Path, *, python: str) -> tuple[str, ...]:
    """Return the versions nearest to a pinned one that does not exist: the next older and the next newer."""
    parsed = Requirement(requirement)
    pins = [spec.version for spec in parsed.specifier if spec.operator in ("==", "===")]
    found: list[str] = []
    lock = workdir / "pylock.near.toml"
    for pin in pins[:1]:
        for operator, resolution in (("<", "highest"), (">", "lowest")):
            lock.unlink(missing_ok=True)
            try:
                wanted = [f"{parsed.name}{operator}{pin.removesuffix('.*')}"]
                compile_lock(wanted, lock, python=python, arguments=("--no-deps", "--resolution", resolution))
            except UvError:
                continue
            match = re.search(r'^version = "(.+)"$', lock.read_text(encoding="utf-8"), re.MULTILINE)
            found += [match[1]] if match else []
    return tuple(found)
