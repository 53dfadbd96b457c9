"""Downloads one file over http or https, within limits, and checks its sha256.

Addresses are shown without credentials and queries: they end up in logs and reports.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from ortforge.errors import FetchError

__all__ = ["Limits", "download", "receive", "shown"]

_CHUNK: Final = 1 << 20
_SPARE: Final = 64 << 20  # bytes left free on the disk, so that what else runs there does not fail


@dataclass(frozen=True, slots=True)
class Limits:
    """What one download may take: bytes, the longest silence of the server, and seconds in all."""

    max_bytes: int = 32 << 30
    stall_s: float = 60.0
    total_s: float = 3600.0


def download(url: str, sha256: str, folder: Path, limits: Limits) -> Path:
    """Download ``url`` into ``folder`` under its own name and check it. Redirects are followed.

    :raises FetchError: no network, an HTTP error, too large, too slow, or another digest than ``sha256``.
    """
    name = re.sub(r"[^\w.+-]", "_", PurePosixPath(unquote(urlsplit(url).path)).name)[-100:]
    path = folder / (name.lstrip(".") or "download")
    found = receive(url, path, limits)
    if found != sha256.lower():
        path.unlink()
        raise FetchError(
            f"{shown(url)} is not what its sha256 says: {sha256} was required, {found} came.",
            meant="The file was changed there, or the digest belongs to another file.",
            todo=f'If you trust what is there now, write sha256 = "{found}".',
        )
    return path


def receive(url: str, path: Path, limits: Limits) -> str:
    """Download ``url`` to ``path`` and return its sha256, for callers that compare it themselves.

    :raises FetchError: see :func:`download`.
    """
    try:
        with _opener().open(url, timeout=limits.stall_s) as response:
            return _receive(response, path, shown(url), limits)
    except (OSError, http.client.HTTPException, ValueError) as error:
        path.unlink(missing_ok=True)
        raise _explain(error, shown(url)) from None


def _receive(response: http.client.HTTPResponse, path: Path, name: str, limits: Limits) -> str:
    """Write the answer's body to ``path``, within the limits, and return its sha256."""
    digest, received, started = hashlib.sha256(), 0, time.monotonic()
    length = response.headers.get("Content-Length", "")
    announced = int(length) if length.isdecimal() else 0
    room = shutil.disk_usage(path.parent).free - _SPARE
    if announced > room:
        raise FetchError(
            f"There is no room for {name}: it has {announced:,} bytes, and {max(room, 0):,} can be written.",
            todo="Free some space (`ortforge cache show` shows what ortforge keeps).",
        )
    with path.open("wb") as file:
        while chunk := response.read1(_CHUNK):
            received += len(chunk)
            if max(received, announced) > limits.max_bytes:
                raise FetchError(f"{name} is larger than the limit of {limits.max_bytes:,} bytes.")
            if time.monotonic() - started > limits.total_s:
                raise FetchError(
                    f"{name} did not arrive within {limits.total_s:.0f} s ({received:,} bytes came).",
                    todo="Download it by other means, and give the file: path:FILE",
                )
            digest.update(chunk)
            file.write(chunk)
    if received < announced:
        raise FetchError(f"{name} ended early: {received:,} of {announced:,} bytes came.", todo="Run again.")
    return digest.hexdigest()


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


def shown(url: str) -> str:
    """Return an address as it may be shown: without user, password and query.

    >>> shown("https://me:secret@example.org/a/model.onnx?token=1")
    'https://example.org/a/model.onnx'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _explain(error: Exception, name: str) -> FetchError:
    """Turn what urllib and the sockets below it raise into what happened and what to do."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (404, 410):
            return FetchError(f"{name} does not exist (HTTP {error.code}).", todo="Correct the address.")
        if error.code in (401, 403):
            return FetchError(
                f"{name} may not be read without permission (HTTP {error.code}).",
                todo="Download it by other means, and give the file: path:FILE",
            )
        return FetchError(f"{name} could not be downloaded: HTTP {error.code}.", todo="Run again later.")
    if isinstance(cause, TimeoutError):
        return FetchError(f"{name} could not be downloaded: the server was silent too long.", todo="Run again later.")
    if isinstance(cause, ssl.SSLError):
        return FetchError(
            f"{name} could not be downloaded: the server's certificate is not trusted ({cause.reason}).",
            todo="Behind a proxy with a certificate of its own, set SSL_CERT_FILE to its bundle.",
        )
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return FetchError(f"The disk is full: {name} could not be written.", todo="Free some space, and run again.")
    if isinstance(cause, (OSError, str)) or isinstance(error, OSError):
        return FetchError(
            f"{name} could not be reached: {cause}.",
            meant="There is probably no network here, or the host's name is wrong.",
            todo="Connect (HTTPS_PROXY is honoured), or bring the file by other means and give it as path:FILE",
        )
    return FetchError(f"{name} could not be downloaded: {type(error).__name__}: {error}", todo="Correct the address.")
