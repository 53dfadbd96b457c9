"""``https:`` models: a file at an address, held to the sha256 that ``matrix.toml`` gives."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ortforge.api import ConfigurationError, FetchContext, Fetched, Resolver


def ortforge_models() -> Iterable[Resolver]:
    """Give the ``https:`` resolver."""
    yield Resolver(
        scheme="https",
        summary="a file at an address; needs sha256",
        example="https://example.org/models/detector.onnx",
        fingerprint=fingerprint,
        fetch=fetch,
        sha256_required=True,
    )


def fingerprint(reference: str, base: Path) -> str:
    """Return the address: the digest that the user gives says what must lie there.

    :raises ConfigurationError: it is no address.
    """
    return _address(reference)


def fetch(reference: str, context: FetchContext) -> Fetched:
    """Download the file. One file comes: a model with external data needs ``hf:`` or ``path:``."""
    path = context.download(_address(reference), context.sha256)
    return Fetched(path=path, root=path.parent, facts=dict(context.facts))


def _address(reference: str) -> str:
    host, _, rest = reference.removeprefix("//").partition("/")
    if not reference.startswith("//") or not host or not rest:
        raise ConfigurationError(
            f"https:{reference} is not the address of a file.",
            todo="Write it in full, for example https://example.org/models/detector.onnx",
        )
    return f"https:{reference}"
