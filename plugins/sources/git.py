"""``git:`` sources: one commit of a repository, ONNX Runtime's own unless another is named.

One commit is fetched, not the history. A tag is remembered by the commit that it stood for; a branch is refused,
because what it stands for changes without the matrix file changing.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ortforge.api import (
    ConfigurationError,
    Fetched,
    FetchError,
    SourceContext,
    SourceResolver,
    git,
    git_address,
    git_revision,
    nearest,
)

OFFICIAL: Final = "https://github.com/microsoft/onnxruntime.git"

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_ANSWER_S: Final = 90.0
_UNNEEDED: Final = ("cmake/external/emsdk", "cmake/external/libprotobuf-mutator")
"""Submodules that only builds for the web and fuzzing take."""


def ortforge_sources() -> Iterable[SourceResolver]:
    """Give the ``git:`` resolver."""
    yield SourceResolver(
        scheme="git",
        summary="a tag or commit of ONNX Runtime's repository, or of another: git:URL@TAG",
        example="git:v1.21.0",
        fingerprint=fingerprint,
        fetch=fetch,
    )


def fingerprint(reference: str, base: Path) -> str:
    """Return the reference; for a repository on this machine the commit that it stands for now, too.

    :raises FetchError: it is no address or revision, or a repository on this machine has no such tag.
    """
    address, revision = _split(reference, base)
    commit = _resolve(address, revision, base)[0] if _is_local(address) else ""
    return f"{address}@{revision} {commit}".strip()


def fetch(reference: str, context: SourceContext) -> Fetched:
    """Fetch the commit, and the submodules where this version of ORT needs them; no repository stays in the tree."""
    if context.sha256:
        raise ConfigurationError(
            f"git:{reference} takes no sha256: that is for archives.",
            todo="Leave it out; to pin the content, write the commit: git:40 HEX DIGITS",
        )
    address, revision = _split(reference, context.base)
    commit, ref = _resolve(address, revision, context.workdir)
    tree = context.workdir / "onnxruntime"
    git(["init", "--quiet", tree.name], context.workdir)
    _fetch(address, ref, commit, tree)
    git(["checkout", "--quiet", "--detach", commit], tree)
    submodules = _submodules(tree, address)
    _strip(tree)
    facts = {"repository": _shown(address), "revision": revision, "commit": commit}
    return Fetched(path=tree, root=tree, facts=facts | ({"submodules": ", ".join(submodules)} if submodules else {}))


def _split(reference: str, base: Path) -> tuple[str, str]:
    """Return repository and revision; a path starts at the matrix file's folder."""
    address, at, revision = reference.rpartition("@")
    if not at:
        if "/" in reference and ("://" in reference or (base / reference).exists()):
            raise FetchError(f"git:{reference} names no tag or commit.", todo=f"Write git:{reference}@v1.21.0")
        return OFFICIAL, git_revision(reference)
    git_address(address)
    if _is_local(address):
        path = base / Path(address.removeprefix("file://")).expanduser()
        if not path.is_dir():
            raise FetchError(
                f"There is no repository {path}.",
                meant="Paths start at the folder of matrix.toml; addresses start with https:// or ssh://.",
            )
        address = path.resolve().as_uri()
    return address, git_revision(revision)


def _is_local(address: str) -> bool:
    return address.startswith("file://") or ("://" not in address and not re.match(r"[^/]+:", address))


def _resolve(address: str, revision: str, folder: Path) -> tuple[str, str]:
    """Return the commit that a revision stands for, and the name to fetch it by.

    :raises FetchError: the repository does not answer, or has no such tag; the revision is a branch, or a commit that
        is not written out.
    """
    if _COMMIT.fullmatch(revision):
        return revision, revision
    found: dict[str, str] = {}
    for line in git(["ls-remote", "--quiet", "--", address], folder, seconds=_ANSWER_S).splitlines():
        commit, _, name = line.partition("\t")
        found[name] = commit
    name = f"refs/tags/{revision.removeprefix('refs/tags/')}"
    if name in found:
        return found.get(f"{name}^{{}}", found[name]), name
    tags = [ref.removeprefix("refs/tags/") for ref in found if ref.startswith("refs/tags/") and not ref.endswith("^{}")]
    if f"refs/heads/{revision}" in found:
        raise FetchError(
            f"{revision} is a branch of {_shown(address)}: what it stands for changes.",
            todo=f"Write the commit that it stands for now: {found[f'refs/heads/{revision}']}",
        )
    if re.fullmatch(r"[0-9a-f]{7,39}", revision):
        raise FetchError(
            f"{revision} is no tag of {_shown(address)}, and too short for a commit.",
            todo="Write all 40 digits of the commit.",
        )
    close = f"v{revision}" if f"v{revision}" in tags else nearest(revision, tags)
    raise FetchError(
        f"There is no tag {revision} in {_shown(address)}.",
        meant=f"Perhaps {close} was meant." if close else "",
        todo="Name a tag, e.g. v1.21.0, or a commit.",
    )


def _fetch(address: str, ref: str, commit: str, tree: Path) -> None:
    """Fetch one commit. A server may refuse to give one that no ref names: then everything is fetched."""
    try:
        git(["fetch", "--quiet", "--no-tags", "--depth", "1", "--", address, ref], tree)
    except FetchError as error:
        if ref != commit or not re.search(r"not our ref|unadvertised|does not allow|remote ref", error.what):
            raise
        git(["fetch", "--quiet", "--tags", "--", address, "+refs/heads/*:refs/remotes/origin/*"], tree)
    try:
        git(["cat-file", "-e", f"{commit}^{{commit}}"], tree)
    except FetchError:
        raise FetchError(
            f"There is no commit {commit} in {_shown(address)}.",
            meant="It is in another repository, or was never pushed.",
            todo="Name a tag, e.g. v1.21.0, or a commit that the repository has.",
        ) from None


def _submodules(tree: Path, address: str) -> list[str]:
    """Bring the submodules if this version needs them: since 1.13, ORT's CMake fetches what ``deps.txt`` lists."""
    if (tree / "cmake" / "deps.txt").is_file() or not (tree / ".gitmodules").is_file():
        return []
    listed = git(["config", "--file", ".gitmodules", "--get-regexp", r"^submodule\..*\.path$"], tree)
    paths = [line.split(" ", 1)[1] for line in listed.splitlines() if " " in line]
    wanted = [path for path in paths if path not in _UNNEEDED]
    git(["remote", "add", "origin", address], tree)  # what relative addresses of submodules start from
    update = ["submodule", "--quiet", "update", "--init", "--recursive", "--depth", "1", "--", *wanted]
    git(update, tree, local=_is_local(address))
    return wanted


def _strip(tree: Path) -> None:
    """Remove what makes the tree and its submodules repositories."""
    for entry in [tree / ".git", *tree.rglob(".git")]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.exists() or entry.is_symlink():
            entry.unlink()


def _shown(address: str) -> str:
    """Return an address without user and password.

    >>> _shown("https://me:secret@example.org/a.git")
    'https://example.org/a.git'
    """
    return re.sub(r"://[^/@]*@", "://", address)
