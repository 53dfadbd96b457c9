"""Fills a folder of vendored dependencies: ``deps.txt``, the repositories outside of it, and wheels for ORT's tools.

What is there already is kept when its digest is right, so a gathering that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

from packaging.version import Version

from ortforge.api import git, git_address, git_revision
from ortforge.build import vendor
from ortforge.errors import ConfigurationError, FetchError, OrtforgeError
from ortforge.store.atomic import remove, write_json
from ortforge.store.hashing import sha256_file

__all__ = ["Gathered", "Repository", "SourceNeeds", "Wheel", "gather", "needs_of", "repositories_in"]

_OLDEST: Final = Version("1.18")
_SOME_IN_A_ROW: Final = 3
"""After so many failures one after the other a host is taken to be out of reach."""

_MODULES: Final = re.compile(r"cmake/external/[^/]+\.cmake")
_REQUIREMENTS: Final = "tools/ci_build/requirements/pybind/requirements.txt"
_ALWAYS: Final = ("numpy", "packaging", "setuptools", "wheel")
_SET: Final = re.compile(r"\bset\s*\(\s*(\w+)\s+\"?([^\s\")]+)\"?\s*\)", re.IGNORECASE)
_CLONE: Final = re.compile(r"\bGIT_REPOSITORY\s+([^\s)]+)\s+GIT_TAG\s+([^\s)]+)")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that ORT's CMake clones, outside of ``deps.txt``; ``name`` is its module's: ``dnnl``."""

    name: str
    url: str
    revision: str


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of what ORT's build tools need."""

    filename: str
    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceNeeds:
    """What a source tree downloads when it is built.

    :param deps: text of its ``deps.txt``. :param repositories: all that it may clone.
    :param requirements: of its tools, as pip takes them.
    """

    version: str
    deps: str
    repositories: tuple[Repository, ...]
    requirements: tuple[str, ...]


@dataclass(slots=True)
class Gathered:
    """What a gathering did: files that came and that were there, bytes of all, and what was left out, with why."""

    fetched: int = 0
    kept: int = 0
    bytes: int = 0
    left_out: dict[str, str] = field(default_factory=dict)


def needs_of(source: Path, version: str) -> SourceNeeds:
    """Read what a source object downloads; its tar is read, and nothing of it is run.

    :raises ConfigurationError: this version does not look for gathered files.
    """
    if Version(version) < _OLDEST or not (source / "deps.txt").is_file():
        raise ConfigurationError(
            f"ONNX Runtime {version} takes no vendored dependencies.",
            meant=f"Its CMake files look into a mirror folder since {_OLDEST}.",
            todo='Use dependencies = "download" for this version, or build a newer one.',
        )
    modules: dict[str, str] = {}
    requirements: list[str] = []
    with tarfile.open(source / "source.tar", "r:") as tar:
        for member in tar:
            if member.isreg() and (_MODULES.fullmatch(member.name) or member.name == _REQUIREMENTS):
                content = tar.extractfile(member)
                text = content.read().decode("utf-8", "replace") if content else ""
                if member.name == _REQUIREMENTS:
                    requirements = [line.split("#")[0].strip() for line in text.splitlines()]
                else:
                    modules[PurePosixPath(member.name).stem] = text
    return SourceNeeds(
        version=version,
        deps=(source / "deps.txt").read_text(encoding="utf-8", errors="replace"),
        repositories=repositories_in(modules),
        requirements=tuple(dict.fromkeys([*(line for line in requirements if line and line[0] != "-"), *_ALWAYS])),
    )


def repositories_in(modules: Mapping[str, str]) -> tuple[Repository, ...]:
    """Find the repositories that CMake modules clone; variables are those that the module itself sets.

    >>> module = "set(TAG v3.0.1) GIT_REPOSITORY https://example.org/a.git GIT_TAG ${TAG}"
    >>> repositories_in({"dnnl": module})[0].revision
    'v3.0.1'
    """
    found = []
    for name, text in sorted(modules.items()):
        plain = re.sub(r"^\s*#.*", "", text, flags=re.MULTILINE)
        values = dict(reversed(_SET.findall(plain)))  # the first one counts
        for words in _CLONE.findall(plain):
            url, revision = (_with_values(word, values) for word in words)
            if url and revision:
                found.append(Repository(name, url, revision))
    return tuple(found)


def _with_values(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda use: values.get(use[1], ""), text)


def gather(
    needs: SourceNeeds,
    out: Path,
    *,
    download: Callable[[str, Path], object],
    eps: Collection[str] = (),
    wheels: Sequence[Wheel] = (),
    address: Callable[[str], str] = str,
    say: Callable[[str], None],
) -> Gathered:
    """Bring into ``out`` what a build needs to download; everything is held to its digest.

    :param download: writes what lies at an address to a path. :param eps: backends that are built: repositories of
        others are left out. :param address: gives where to get an address from: a mirror of one's own.
    :param say: hears of every file.
    :raises FetchError: something cannot be had, or is not what its digest says; what came is kept, and a second call
        goes on from there.
    """
    work = _Gathering(out, download, address, say)
    archives = vendor.read_deps(needs.deps)
    repositories = [one for one in needs.repositories if one.name in eps]
    things: list[tuple[str, str, Callable[[], str]]] = [
        *((one.name, address(one.url), partial(work.archive, one)) for one in archives),
        *((one.name, address(one.url), partial(work.repository, one)) for one in repositories),
        *((one.filename, one.url, partial(work.wheel, one)) for one in wheels),
    ]
    total = len(things)
    for number, (name, url, bring) in enumerate(things, 1):
        work.attempt(name, f"[{number}/{total}]", urlsplit(url).netloc, bring)
    work.finish(needs.version)
    if work.failed:
        lines = "\n".join(f"- {name}: {why}" for name, why in work.failed.items())
        rest = f"\n{len(work.untried)} more were not tried: they lie on the same hosts." if work.untried else ""
        raise FetchError(
            f"{len(work.failed)} of {total} dependencies could not be gathered:\n{lines}{rest}",
            todo=f"What came is kept in {out}: run again to go on from there.",
        )
    return work.done


class _Gathering:
    """The folder as it is being filled."""

    def __init__(
        self,
        out: Path,
        download: Callable[[str, Path], object],
        address: Callable[[str], str],
        say: Callable[[str], None],
    ) -> None:
        self.out = out
        self.download = download
        self.address = address
        self.say = say
        self.done = Gathered()
        self.failed: dict[str, str] = {}
        self.wanted: dict[str, dict[str, Any]] = {}
        self.known = _known(out)
        for left_over in out.glob(f"{vendor.MIRROR}/**/.*.part"):
            remove(left_over)
        self.in_a_row: dict[str, int] = {}
        self.untried: list[str] = []

    def attempt(self, name: str, place: str, host: str, bring: Callable[[], str]) -> None:
        """Bring one thing; a failure is noted and the next one is tried, unless its host failed too often."""
        if self.in_a_row.get(host, 0) >= _SOME_IN_A_ROW:
            self.untried.append(name)
            return
        try:
            how = bring()
        except OrtforgeError as error:
            self.failed[name] = " ".join(part for part in (error.what, error.meant) if part)
            self.in_a_row[host] = self.in_a_row.get(host, 0) + 1
            how = "failed"
        else:
            self.in_a_row[host] = 0
        self.say(f"{place} {name}: {how}")

    def archive(self, one: vendor.Dependency) -> str:
        """Bring an archive of ``deps.txt``, held to its sha1: that is what ORT's CMake compares."""
        place = vendor.place_of(one.url)
        if not place:
            self.done.left_out[one.name] = f"{one.url} is no https address: ORT's CMake reads it where it is"
            return "left out"
        return self.file(place, self.address(one.url), "sha1", one.sha1, {"name": one.name, "url": one.url})

    def wheel(self, one: Wheel) -> str:
        """Bring a wheel, held to the sha256 that the package index states."""
        return self.file(f"{vendor.PYTHON}/{one.filename}", one.url, "sha256", one.sha256, {"name": one.filename})

    def file(self, place: str, url: str, kind: str, wanted: str, facts: Mapping[str, str]) -> str:
        """Keep a file that is right, else download it; it gets its name only after its digest was compared."""
        path = self.out / place
        if path.is_file() and _digest(path, kind) == wanted:
            self.enter(place, path, facts)
            self.done.kept += 1
            return "is there"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        try:
            self.download(url, part)
            found = _digest(part, kind)
            if found != wanted:
                raise FetchError(
                    f"it is not what its {kind} says: {wanted} was required, {found} came.",
                    meant="The file was changed there, or a proxy answered in its place.",
                )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        self.enter(place, path, facts)
        self.done.fetched += 1
        return "fetched"

    def repository(self, one: Repository) -> str:
        """Bring one commit of a repository, as a bare repository of its own that ``git clone`` takes."""
        place = vendor.place_of(one.url)
        if not place:
            raise FetchError(f"{one.url} is no https address.")
        folder = self.out / place
        facts = {"name": one.name, "url": one.url, "revision": one.revision}
        if folder.is_dir() and self.is_whole(folder, place, one.revision):
            self.done.kept += 1
            how = "is there"
        else:
            _bare(self.address(one.url), one.revision, folder)
            self.done.fetched += 1
            how = "fetched"
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.enter(path.relative_to(self.out).as_posix(), path, facts)
        return how

    def is_whole(self, folder: Path, place: str, revision: str) -> bool:
        """Return whether a repository is still what was gathered for that revision."""
        there = {path.relative_to(self.out).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        known = {name: entry for name, entry in self.known.items() if name.startswith(f"{place}/")}
        return (
            bool(known)
            and there.keys() == known.keys()
            and all(
                entry.get("revision") == revision and sha256_file(there[name]) == entry["sha256"]
                for name, entry in known.items()
            )
        )

    def enter(self, place: str, path: Path, facts: Mapping[str, str]) -> None:
        """Note a file's digests, for the index."""
        size = path.stat().st_size
        self.wanted[place] = {"bytes": size, "sha256": sha256_file(path), "sha1": _digest(path, "sha1"), **facts}
        self.done.bytes += size

    def finish(self, version: str) -> None:
        """Write the index, and remove what an earlier gathering brought that nothing needs now."""
        if not self.failed:
            for name in self.known.keys() - self.wanted.keys():
                (self.out / name).unlink(missing_ok=True)
        entries = {**(self.known if self.failed else {}), **self.wanted}
        files = {name: entries[name] for name in sorted(entries) if (self.out / name).is_file()}
        self.out.mkdir(parents=True, exist_ok=True)
        index = {"schema": 1, "version": version, "files": files, "left_out": self.done.left_out}
        index["missing"] = [*self.failed, *self.untried]
        write_json(self.out / vendor.INDEX, index, indent=1)


def _known(out: Path) -> dict[str, dict[str, Any]]:
    """Return what an earlier gathering into this folder wrote down.

    :raises ConfigurationError: the folder holds something else.
    """
    if (out / vendor.INDEX).is_file():
        return vendor.read_entries(out)
    if out.is_dir() and any(path.name != vendor.MIRROR for path in out.iterdir()):
        raise ConfigurationError(
            f"{out} is not empty, and was not gathered by 'ortforge vendor'.", todo="Name another folder: --out DIR"
        )
    if out.exists() and not out.is_dir():
        raise ConfigurationError(f"{out} is a file, not a folder.", todo="Name another folder: --out DIR")
    return {}


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _bare(url: str, revision: str, folder: Path) -> None:
    """Make a bare repository of one commit: a branch that ``HEAD`` names, and the tag; ``git clone`` brings both."""
    git_address(url)
    git_revision(revision)
    fresh = folder.with_name(f".{folder.name}.part")
    remove(fresh)
    fresh.mkdir(parents=True)
    tag = f"refs/tags/{revision}"
    ref = revision if re.fullmatch(r"[0-9a-f]{40}", revision) else f"+{tag}:{tag}"
    try:
        git(["init", "--quiet", "--bare", "--template="], fresh)
        git(["fetch", "--quiet", "--no-tags", "--depth", "1", "--", url, ref], fresh)
        commit = git(["rev-parse", "FETCH_HEAD^{commit}"], fresh).strip()
        git(["update-ref", "refs/heads/main", commit], fresh)
        git(["symbolic-ref", "HEAD", "refs/heads/main"], fresh)
        git(["repack", "-a", "-d", "--quiet"], fresh)
        _strip(fresh, ("FETCH_HEAD", "hooks", "info", "branches", "description", "logs"))
        remove(folder)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _strip(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if (folder / name).exists():
            remove(folder / name)
