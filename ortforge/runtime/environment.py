"""Makes a runtime's interpreter environments, and knows exactly what is in them.

An environment's identity is made from the sha256 of every wheel, the content of every RECORD, the interpreter's binary
and the platform: a number measured in it never outlives it. Environments cannot be moved, so each is made in its final
folder, named after the request, under a file lock; a marker written last, atomically, says that it is complete, and a
half-made one is removed and made anew.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from ortforge.errors import ProvisionError
from ortforge.runtime import uv, uv_errors
from ortforge.runtime.distributions import (
    Distribution,
    LockedWheel,
    damaged,
    overlaps,
    read_distributions,
    read_lock,
    wheel_of,
)
from ortforge.runtime.index_settings import index_digest, project_settings
from ortforge.runtime.interpreter import Interpreter, ask
from ortforge.runtime.resolution import LOCK, EnvironmentRequest, overwriting, refuse_variants, resolve
from ortforge.store.atomic import disk_errors, remove, write_json
from ortforge.store.hashing import digest_json, sha256_file

__all__ = [
    "Environment",
    "EnvironmentRequest",
    "Interpreter",
    "Package",
    "Place",
    "local_wheels",
    "provision",
    "same_runtime",
    "tools_request",
    "verify",
]

SCHEMA: Final = 1
_MARKER: Final = "environment.json"
_SNAPSHOT: Final = "snapshot.json"

_NATIVE: Final = re.compile(r"\.(so(\.[\d.]+)?|pyd|dll|dylib)$")


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package: the wheel's file name and sha256, and a digest of its RECORD (content alone)."""

    name: str
    version: str
    wheel: str
    sha256: str
    record: str


@dataclass(frozen=True, slots=True)
class Environment:
    """A complete environment in ``folder``; ``python`` is the interpreter to start workers with.

    With an ``image`` (its id) it is an environment for that image's Python: the folder is seen in a container at the
    same path, and ``python`` exists there alone.
    """

    folder: Path
    python: Path
    identity: str
    packages: tuple[Package, ...]
    interpreter: Interpreter
    request: str
    image: str = ""

    def version(self, name: str) -> str:
        """Return the installed version of a package, or ``""``."""
        return next((p.version for p in self.packages if p.name == canonicalize_name(name)), "")

    def to_json(self) -> dict[str, Any]:
        """Return the environment as JSON values."""
        kind = "container" if self.image else "venv"
        return {**asdict(self), "schema": SCHEMA, "kind": kind, "folder": str(self.folder), "python": str(self.python)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Environment:
        """Make an environment of what :meth:`to_json` gave.

        :raises KeyError, TypeError, ValueError: it is not that, or of another schema.
        """
        if value["schema"] != SCHEMA:
            raise ValueError(f"schema {value['schema']} is not {SCHEMA}")
        interpreter = dict(value["interpreter"])
        sites, binaries = tuple(interpreter.pop("sites")), tuple(interpreter.pop("binaries"))
        return cls(
            folder=Path(value["folder"]),
            python=Path(value["python"]),
            identity=value["identity"],
            packages=tuple(Package(**package) for package in value["packages"]),
            interpreter=Interpreter(**interpreter, sites=sites, binaries=binaries),
            request=value["request"],
            image=value.get("image", ""),
        )


def tools_request(request: EnvironmentRequest, bare: Environment, extra: Sequence[str]) -> EnvironmentRequest:
    """Return the request of the tools environment of a bare one: the same runtime, pinned, on the same interpreter.

    What was asked for is pinned to the bare environment's versions; its dependencies keep theirs unless ``extra``
    needs others.
    """
    pinned = []
    for text in request.requires:
        wanted = uv_errors.check_requirement(text)
        extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
        version = bare.version(wanted.name)
        pinned.append(f"{wanted.name}{extras}=={version}" if version and not wanted.url else text)
    prefer = tuple(f"{package.name}=={package.version}" for package in bare.packages)
    python = "" if bare.image else bare.interpreter.binaries[0]
    return EnvironmentRequest(tuple(pinned), python, request.wheels, tuple(sorted(set(extra))), prefer)


def same_runtime(bare: Environment, tools: Environment, request: EnvironmentRequest) -> str:
    """Return how the requested packages differ between two environments, or ``""`` when not at all."""
    theirs = {package.name: package for package in tools.packages}
    for package in bare.packages:
        if package.name in request.names and package != theirs.get(package.name):
            return f"{package.name} {package.version} is not the same in the tools environment"
    return ""


def _silent(sentence: str) -> None:
    """Say nothing."""


class Place(Protocol):
    """Where an environment's Python is: this machine, or an image (:mod:`ortforge.runtime.container_place`)."""

    @property
    def image(self) -> str:
        """The image's id, or ``""`` for this machine."""

    def install(
        self, request: EnvironmentRequest, folder: Path, say: Callable[[str], None]
    ) -> tuple[Path, Interpreter]:
        """Resolve a request into ``folder/pylock.toml`` and install it; return the new interpreter and its facts."""


@dataclass(frozen=True, slots=True)
class _Here:
    image: str = ""

    def install(
        self, request: EnvironmentRequest, folder: Path, say: Callable[[str], None]
    ) -> tuple[Path, Interpreter]:
        chosen = resolve(request, folder, say)
        refuse_variants(request, folder, chosen)
        venv = folder / "venv"
        try:
            uv.make_venv(Path(chosen), venv)
            uv.install_lock(folder / LOCK, venv)
        except uv.UvError as error:
            raise uv_errors.explain(error.text, wanted=request.wanted, python=request.version) from None
        python = venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        return python, ask(python, chosen)


def provision(
    request: EnvironmentRequest,
    envs: Path,
    *,
    say: Callable[[str], None] = _silent,
    since: float = 0.0,
    place: Place | None = None,
) -> Environment:
    """Return the environment of a request: the one made before when nobody changed it, else a new one.

    Safe to call from several processes at once. ``say`` is told, in a sentence, what takes time.

    :param envs: folder of all environments.
    :param since: a moment (seconds since the epoch): one that was finished before it is resolved and made anew even so.
    :param place: where its Python is; this machine when it is left out.
    :raises ProvisionError: it cannot be made; the message says why and what to do.
    :raises StoreError: ``envs`` cannot be written, or the disk is full.
    """
    for text in (*request.requires, *request.extra):
        uv_errors.check_requirement(text)
    wheels = [(path, _check_wheel(path)) for path in request.wheels]
    place = place or _Here()
    key = _request_key(request, [digest for _, digest in wheels], place.image, envs)
    folder = envs.absolute() / key[:24]
    with disk_errors(envs):
        envs.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_suffix(".lock")):
            found = _load(folder, key)
            if found is not None and _finished(folder) >= since:
                changed = verify(found) or replaced_wheel(found)
                if not changed:
                    return found
                say(f"The environment of {request.title} was changed ({changed}); it is made anew.")
            return _make(request, folder, key, say, place)


def verify(environment: Environment) -> str:
    """Return what changed in an environment since it was made, or ``""``. Compares sizes and times, reads no content.

    It sees native libraries, the requested packages' files, all ``.dist-info`` folders, ``.pth`` files and the
    interpreter.
    """
    try:
        snapshot = json.loads((environment.folder / _SNAPSHOT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its record of files is missing"
    if snapshot["identity"] != environment.identity:
        return "it was made anew with other content"
    root = str(environment.folder)
    for relative, stated in snapshot["files"].items():
        try:
            status = os.stat(os.path.join(root, relative))  # noqa: PTH116, PTH118  (hundreds of files, in milliseconds)
        except OSError:
            return f"{_shown(relative)} is gone"
        if [status.st_size, status.st_mtime_ns] != stated:
            return f"{_shown(relative)} was changed"
    now = _entries(environment.interpreter.sites)
    if now != snapshot["entries"]:
        differing = sorted(set(now) ^ set(snapshot["entries"]))
        return f"{differing[0]} was {'added' if differing[0] in now else 'removed'}"
    return ""


def replaced_wheel(environment: Environment) -> str:
    """Return the first wheel of a local folder (``--find-links``) that is not what was installed, or ``""``."""
    for path, sha256 in local_wheels(environment).items():
        if path.is_file() and sha256_file(path) != sha256:
            return f"{path.name} was replaced"
    return ""


def local_wheels(environment: Environment) -> dict[Path, str]:
    """Return the wheel files of this machine that an environment was made of, with the sha256 that each had."""
    try:
        locked = read_lock(environment.folder / LOCK)
    except (OSError, ValueError, KeyError):
        return {}
    installed = {package.wheel: package.sha256 for package in environment.packages if package.sha256}
    wheels = (wheel for package in locked for wheel in package.wheels if wheel.path)
    return {Path(wheel.path): installed[wheel.filename] for wheel in wheels if wheel.filename in installed}


def _shown(path: str) -> str:
    return path.rpartition("site-packages/")[2]


def _request_key(request: EnvironmentRequest, wheel_digests: Sequence[str], image: str, envs: Path) -> str:
    index = index_digest(os.environ)
    project = {path: sha256 for path, sha256 in project_settings(envs).items() if sha256}
    # Without a wish for a Python the result depends on the one that ortforge runs on.
    here = "" if request.python or image else f"{os.path.realpath(sys.executable)} {sys.version}"
    return digest_json(
        {
            **({"image": image} if image else {}),
            **({"index": index} if index else {}),
            **({"project": project} if project else {}),
            **({"locked": [asdict(pin) for pin in request.locked]} if request.locked else {}),
            "schema": SCHEMA,
            "requires": list(request.requires),
            "python": request.python,
            "here": here,
            "wheels": sorted(wheel_digests),
            "extra": list(request.extra),
            "prefer": list(request.prefer),
        }
    )


def _check_wheel(path: Path) -> str:
    """Return a local wheel's sha256.

    :raises ProvisionError: it is missing, misnamed or damaged.
    """
    if not path.is_file():
        raise ProvisionError(f"There is no file {path}.", todo="Correct `wheels` of the target in matrix.toml.")
    try:
        parse_wheel_filename(path.name)
    except InvalidWheelFilename:
        raise ProvisionError(
            f"{path.name} is not named as a wheel: NAME-VERSION-PYTHON-ABI-PLATFORM.whl.",
            meant="It was probably renamed; the name says what it fits.",
            todo="Give it the name that its builder gave it.",
        ) from None
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith(".dist-info/RECORD") for name in archive.namelist()):
                raise zipfile.BadZipFile("no RECORD in it")
    except zipfile.BadZipFile as error:
        raise ProvisionError(
            f"{path} is damaged: it is not a complete wheel ({error}).",
            meant="It was probably cut short while it was copied or built.",
            todo="Copy or build it again.",
        ) from None
    return sha256_file(path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold an exclusive lock among processes. The file stays: removing it would let two holders in."""
    with path.open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LKLOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        with uv.keeping(*(() if sys.platform == "win32" else (file.fileno(),))):
            yield


def _load(folder: Path, key: str) -> Environment | None:
    try:
        environment = Environment.from_json(json.loads((folder / _MARKER).read_text(encoding="utf-8")))
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return environment if environment.request == key and environment.folder == folder else None


def _finished(folder: Path) -> float:
    """Return when an environment was finished, in seconds since the epoch."""
    return (folder / _MARKER).stat().st_mtime


def _make(request: EnvironmentRequest, folder: Path, key: str, say: Callable[[str], None], place: Place) -> Environment:
    say(f"Making the environment of {request.title}.")
    remove(folder)
    folder.mkdir(parents=True)
    try:
        python, interpreter = place.install(request, folder, say)
        packages = _inspect(folder, interpreter)
        _check_locked(packages, request)
        identity = _identity(packages, interpreter, place.image)
        environment = Environment(folder, python, identity, packages, interpreter, key, place.image)
        write_json(folder / _SNAPSHOT, {"identity": environment.identity, **_snapshot(environment, request)})
        write_json(folder / _MARKER, environment.to_json())
    except BaseException:
        remove(folder)
        raise
    return environment


# Reading what was made.


def _inspect(folder: Path, interpreter: Interpreter) -> tuple[Package, ...]:
    """Read back what was installed, and check it."""
    distributions = read_distributions(Path(site) for site in interpreter.sites)
    clashes = overlaps(distributions)
    for path, (first, second) in clashes.items():
        if path.startswith("onnxruntime/"):
            raise overwriting(first, second, f"Both bring {path}.")
    locked = read_lock(folder / LOCK)
    packages = []
    for distribution in distributions:
        path = damaged(distribution, besides=clashes)
        if path:
            raise ProvisionError(
                f"{path} of {distribution.name} {distribution.version} is not what the wheel's RECORD says.",
                meant="The wheel is broken, or uv's cache is damaged.",
                todo=f"Clean the cache and run again: uv cache clean {distribution.name}",
            )
        packages.append(_package(distribution, wheel_of(distribution, locked)))
    return tuple(packages)


def _check_locked(packages: Sequence[Package], request: EnvironmentRequest) -> None:
    """Compare what was installed with the lock file.

    :raises ProvisionError: a wheel is not one that is locked.
    """
    if not request.locked:
        return
    locked = {pin.name: pin for pin in request.locked}
    for package in packages:
        pin = locked.get(package.name)
        allowed = {sha256 for _, sha256 in pin.wheels} if pin else set()
        if pin and package.version == pin.version and package.sha256 in allowed:
            continue
        expected = f"{pin.version} with sha256 {' or '.join(sorted(allowed))}" if pin else "nothing of that name"
        raise ProvisionError(
            f"The lock file does not allow {package.wheel or package.name} (version {package.version}, sha256 "
            f"{package.sha256 or 'unknown'}): it has {expected}.",
            meant="The package index or the find-links folder serves another wheel than when the lock was written.",
            todo="If you trust this wheel, run 'ortforge lock' to write the lock again; else check the index.",
        )


def _package(distribution: Distribution, wheel: LockedWheel) -> Package:
    record = digest_json(dict(distribution.files))
    return Package(distribution.name, distribution.version, wheel.filename, wheel.sha256, record)


def _identity(packages: Sequence[Package], interpreter: Interpreter, image: str) -> str:
    content = asdict(replace(interpreter, binaries=(), sites=()))
    where = {"image": image} if image else {}
    return digest_json({"packages": [asdict(package) for package in packages], "interpreter": content, **where})


def _entries(sites: Sequence[str]) -> list[str]:
    """List what makes a difference at the top of site-packages; compiled files and caches come and go."""
    names = {name for site in sites for name in os.listdir(site)}  # noqa: PTH208  (names alone, in microseconds)
    return sorted(name for name in names if name.endswith((".dist-info", ".pth", ".egg-link", "customize.py")))


def _snapshot(environment: Environment, request: EnvironmentRequest) -> dict[str, Any]:
    """Return size and mtime (ns) of the files that :func:`verify` looks at, by path relative to the folder."""
    whole = request.names
    # An image's files cannot change under its id.
    paths = [] if environment.image else [Path(binary) for binary in environment.interpreter.binaries]
    for distribution in read_distributions(Path(site) for site in environment.interpreter.sites):
        site, info = distribution.folder.parent, distribution.folder.name
        paths += [
            site / name
            for name in distribution.files
            if distribution.name in whole or name.startswith(info) or _NATIVE.search(name)
        ]
        paths.append(distribution.folder / "RECORD")
    files = {}
    for path in paths:
        inside = path.is_relative_to(environment.folder)
        status = path.stat()
        name = str(path.relative_to(environment.folder) if inside else path)
        files[name] = [status.st_size, status.st_mtime_ns]
    return {"files": files, "entries": _entries(environment.interpreter.sites)}
