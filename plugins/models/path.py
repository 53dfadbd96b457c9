"""``path:`` models: a file on this machine, relative to ``matrix.toml``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ortforge.api import FetchContext, Fetched, FetchError, Resolver, external_files, locate_external, nearest


def ortforge_models() -> Iterable[Resolver]:
    """Give the ``path:`` resolver."""
    yield Resolver(
        scheme="path",
        summary="a model file on this machine, with its external data beside it",
        example="path:models/detector.onnx",
        fingerprint=fingerprint,
        fetch=fetch,
    )


def fingerprint(reference: str, base: Path) -> str:
    """Return a digest of the model file and of the external data it names, so that a change of either is seen.

    External data that is missing or refused counts as such: fetching says so.

    :raises FetchError: the model is not there.
    """
    model = _find(reference, base)
    digest = hashlib.blake2b(digest_size=32)
    digest.update(_digest(model))
    try:
        files = external_files(model)
    except ValueError:
        files = ()
    for file in files:
        try:
            content = _digest(locate_external(model, model.parent, file.location))
        except FetchError:
            content = b"missing"
        digest.update(repr((file.location, content)).encode())
    return digest.hexdigest()


def fetch(reference: str, context: FetchContext) -> Fetched:
    """Find the file; external data is followed inside its folder alone."""
    model = _find(reference, context.base)
    return Fetched(path=model, root=model.parent, facts=dict(context.facts))


def _find(reference: str, base: Path) -> Path:
    model = base / Path(reference).expanduser()
    if model.is_file():
        return model
    beside = [entry.name for entry in model.parent.iterdir()] if model.parent.is_dir() else []
    close = nearest(model.name, (name for name in beside if name != model.name))
    what = "is a folder" if model.is_dir() else "does not exist"
    raise FetchError(
        f"The model file {model} {what}.",
        meant=f"Perhaps {model.with_name(close)} was meant." if close else "",
        todo="Correct the path in matrix.toml; it starts at the folder of that file.",
    )


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).digest()
