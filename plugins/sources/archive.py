"""``archive:`` sources: a tar or zip of the tree, on this machine or at an address."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ortforge.api import ConfigurationError, Fetched, FetchError, SourceContext, SourceResolver, nearest

_SUFFIXES = (".tar", ".gz", ".tgz", ".xz", ".txz", ".bz2", ".tbz2", ".zst", ".zip")


def ortforge_sources() -> Iterable[SourceResolver]:
    """Give the ``archive:`` resolver."""
    yield SourceResolver(
        scheme="archive",
        summary="a tar or zip of the source tree: a file, or an https address with sha256",
        example="archive:onnxruntime-1.21.0.tar.gz",
        fingerprint=fingerprint,
        fetch=fetch,
    )


def fingerprint(reference: str, base: Path) -> str:
    """Return the sha256 of a file, so that a change is seen; an address stands for itself, held to its sha256.

    :raises FetchError: the file is not there. :raises ConfigurationError: the address is no https address.
    """
    return _address(reference) if _is_address(reference) else _sha256(_find(reference, base))


def fetch(reference: str, context: SourceContext) -> Fetched:
    """Bring the archive; ortforge unpacks it.

    :raises ConfigurationError: an address comes without sha256. :raises FetchError: see :class:`SourceContext`; a file
        is not what its sha256 says.
    """
    if not _is_address(reference):
        path = _find(reference, context.base)
        found = _sha256(path)
        if context.sha256 and found != context.sha256.lower():
            raise FetchError(
                f"{path.name} is not what its sha256 says: {context.sha256} was required, {found} is there.",
                meant="The file was changed or cut short, or the digest belongs to another file.",
                todo=f'If you trust the file, write sha256 = "{found}".',
            )
        return Fetched(path=path, root=path.parent, facts={"archive": path.name, "archive_sha256": found})
    address = _address(reference)
    if not context.sha256:
        raise ConfigurationError(
            f"archive:{reference} needs a sha256: what lies at an address can change.",
            todo='Add sha256 = "…" to the target in matrix.toml (`sha256sum FILE` prints it).',
        )
    path = context.download(address, context.sha256)
    facts = {"archive": path.name, "archive_sha256": context.sha256.lower(), **context.facts}
    return Fetched(path=path, root=path.parent, facts=facts)


def _is_address(reference: str) -> bool:
    return "://" in reference


def _address(reference: str) -> str:
    host, _, rest = reference.removeprefix("https://").partition("/")
    if not reference.startswith("https://") or not host or not rest:
        raise ConfigurationError(
            f"archive:{reference} is not the https address of a file.",
            meant="Others (http, ftp, file) are not taken." if not reference.startswith("https://") else "",
            todo="Write archive:https://HOST/PATH.tar.gz with a sha256, or archive:FILE for a file on this machine.",
        )
    return reference


def _find(reference: str, base: Path) -> Path:
    path = base / Path(reference).expanduser()
    if reference and path.is_file():
        return path
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, (name for name in beside if name != path.name and name.endswith(_SUFFIXES)))
    if path.is_dir():
        raise FetchError(
            f"The archive {path} is a folder.",
            todo="Make an archive of it (tar -caf onnxruntime.tar.xz FOLDER), or name a repository: git:PATH@TAG",
        )
    raise FetchError(
        f"The archive {path} does not exist.",
        meant=f"Perhaps {path.with_name(close)} was meant." if close else "",
        todo="Correct the path in matrix.toml; it starts at the folder of that file.",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
