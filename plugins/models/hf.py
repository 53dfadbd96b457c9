"""``hf:`` models: a file of a Hugging Face repository at one commit, with its external data.

Needs the extra ``ortforge[hf]``; the library is imported only when such a model is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from ortforge.api import ConfigurationError, FetchContext, Fetched, FetchError, Resolver, external_files

_EXAMPLE = "hf:org/model@0123456789abcdef0123456789abcdef01234567/onnx/model.onnx"


def ortforge_models() -> Iterable[Resolver]:
    """Give the ``hf:`` resolver."""
    yield Resolver(
        scheme="hf",
        summary="a file of a Hugging Face repository at one commit; needs ortforge[hf]",
        example=_EXAMPLE,
        fingerprint=fingerprint,
        fetch=fetch,
    )


def fingerprint(reference: str, base: Path) -> str:
    """Return the reference itself: a commit never changes.

    :raises ConfigurationError: it names no revision or no file.
    """
    repository, revision, file = _parse(reference)
    return f"{repository}@{revision}/{file}"


def fetch(reference: str, context: FetchContext) -> Fetched:
    """Download the file, and the external data files that it names, as the user's own login allows.

    :raises ConfigurationError: a branch or tag is named and no sha256 holds the file fast.
    :raises FetchError: the library or the network is missing, or there is no such file.
    """
    repository, revision, file = _parse(reference)
    if not re.fullmatch(r"[0-9a-f]{40}", revision) and not context.sha256:
        raise ConfigurationError(
            f"hf:{reference} names {revision!r}, which can change: neither a full commit hash nor a sha256 is given.",
            todo=f"Write the commit's 40 digits, for example {_EXAMPLE}, or add sha256 to the model.",
        )
    try:
        import huggingface_hub
    except ImportError:
        raise FetchError(
            f"hf:{reference} needs the package huggingface-hub, which is not installed.",
            todo='pip install "ortforge[hf]"',
        ) from None
    folder = context.workdir / "repository"
    path = _download(huggingface_hub, repository, revision, file, folder)
    try:
        named = [data.location for data in external_files(path)]
    except ValueError:
        named = []
    for location in named:
        beside = PurePosixPath(file).parent / location
        if not PurePosixPath(location).is_absolute() and ".." not in beside.parts:
            _download(huggingface_hub, repository, revision, beside.as_posix(), folder)
    facts = {**context.facts, "repository": repository, "revision": revision, "member": file}
    return Fetched(path=path, root=path.parent, facts=facts)


def _download(hub: Any, repository: str, revision: str, file: str, folder: Path) -> Path:
    """Bring one file as a real file (not a link into the hub's cache) and say in words what went wrong."""
    where = f"hf:{repository}@{revision}/{file}"
    try:
        return Path(hub.hf_hub_download(repo_id=repository, filename=file, revision=revision, local_dir=folder))
    except Exception as error:
        kind = type(error).__name__
        known = {
            "GatedRepoError": ("its owner has to let you in", "Ask for access on its page, then run `hf auth login`."),
            "RepositoryNotFoundError": (
                "there is no such repository, or it is private",
                "Correct the name, or run `hf auth login`.",
            ),
            "RevisionNotFoundError": ("the repository has no such revision", "Take the commit from its history."),
            "EntryNotFoundError": ("the repository has no such file at that revision", "Correct the file's path."),
            "RemoteEntryNotFoundError": (
                "the repository has no such file at that revision",
                "Correct the file's path.",
            ),
            "LocalEntryNotFoundError": (
                "there is no network, or offline mode is on",
                "Connect, or give the file by path:",
            ),
            "HFValidationError": ("the repository's name is not well formed", f"Write it like {_EXAMPLE}"),
        }
        why, todo = known.get(
            kind, (f"the hub could not be read ({kind})", "Run again later, or give the file by path:")
        )
        raise FetchError(f"{where} could not be fetched: {why}.", todo=todo) from error


def _parse(reference: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)@([\w.-]+)/(.+)", reference, re.ASCII)
    if match is None or ".." in PurePosixPath(match[3]).parts:
        raise ConfigurationError(
            f"hf:{reference} does not name a repository, a revision and a file.",
            todo=f"Write hf:ORG/REPOSITORY@COMMIT/path/file.onnx, for example {_EXAMPLE}",
        )
    return match[1], match[2], match[3]
