"""``debian:`` sources: the source package of a Debian suite, with every signature and digest checked by apt itself.

apt runs in the base image of the Debian toolchain, so it and Debian's keys are there whatever this machine runs. The
package's upstream archive alone is taken: Debian's patches are for Debian's own build.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ortforge.api import ConfigurationError, Fetched, FetchError, SourceContext, SourceResolver

_SUITE: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_SCRIPT: Final = """\
suite="$1" wanted="$2"
site="$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | sed -n \
-e 's/^deb  *\\(\\[[^]]*\\] *\\)\\{0,1\\}\\([^ ]*\\) .*/\\2/p' -e 's/^URIs: *\\([^ ]*\\).*/\\1/p' | head -n 1)"
[ -n "$site" ] || { echo "the image names no mirror of Debian in /etc/apt" >&2; exit 1; }
mkdir -p /out /tmp/apt/lists/partial /tmp/apt/cache/archives/partial
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb-src [signed-by=$keys] $site $suite main" > /tmp/apt/source.list
own() {
  tool="$1"
  shift
  "$tool" -q -o Dir::Etc::SourceList=/tmp/apt/source.list -o Dir::Etc::SourceParts=/dev/null \
  -o Dir::State::Lists=/tmp/apt/lists -o Dir::Cache=/tmp/apt/cache -o APT::Sandbox::User=root \
  -o Acquire::Languages=none -o Acquire::Retries=2 -o Acquire::http::Timeout=60 \
  -o APT::Update::Error-Mode=any "$@"
}
own apt-get update
own apt-cache showsrc --only-source onnxruntime > /out/package || true
version="$(sed -n 's/^Version: *//p' /out/package | while read -r found; do
  upstream="${found#*:}"
  upstream="${upstream%-*}"
  case "$upstream" in
    "$wanted" | "$wanted"[+~]*) echo "$found" ;;
  esac
done | head -n 1)"
[ -n "$version" ] || exit 0
cd /out
own apt-get source --download-only --tar-only "onnxruntime=$version"
echo "$version" > /out/version
"""
"""Runs as it stands; suite and version come as arguments. apt gets folders of its own, so it needs no privileges, reads
no other lists than the one that is wanted, and cannot quarrel with the image's about keys."""


def ortforge_sources() -> Iterable[SourceResolver]:
    """Give the ``debian:`` resolver."""
    yield SourceResolver(
        scheme="debian",
        summary="the onnxruntime source package of a Debian suite, checked by apt; dependencies come from Debian, too",
        example="debian:trixie",
        fingerprint=fingerprint,
        fetch=fetch,
        dependencies="system",
    )


def fingerprint(reference: str, base: Path) -> str:
    """Return the suite: within a release, Debian's upstream archive of one version does not change.

    :raises ConfigurationError: it is no name of a suite.
    """
    return _suite(reference)


def fetch(reference: str, context: SourceContext) -> Fetched:
    """Let apt download and check the upstream archive of the version that the target names.

    :raises FetchError: the suite does not exist or has another version, or Debian's mirror cannot be reached.
    """
    suite = _suite(reference)
    wanted = ".".join([*context.version.split("."), "0", "0"][:3])
    out = context.in_image("debian", ["sh", "-euc", _SCRIPT, "sh", suite, wanted])
    package = (out / "package").read_text(encoding="utf-8", errors="replace")
    archives = sorted(out.glob("onnxruntime_*.orig.tar.*"))
    if not (out / "version").is_file() or len(archives) != 1:
        there = re.findall(r"^Version: *(\S+)", package, re.MULTILINE)
        raise FetchError(
            f"Debian {suite} does not have ONNX Runtime {wanted}.",
            meant=f"It has {', '.join(there)}." if there else "It has no package onnxruntime.",
            todo="Write the version that it has, or take the source from git: or archive:.",
        )
    version = (out / "version").read_text(encoding="utf-8").strip()
    stated = _stated(package, archives[0].name)
    with archives[0].open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != stated:
            raise FetchError(f"{archives[0].name} is not what Debian's index says.", todo="Run again.")
    if context.sha256 and stated != context.sha256.lower():
        raise FetchError(
            f"{archives[0].name} is not what its sha256 says: {context.sha256} was required, {stated} is Debian's.",
            todo="Leave sha256 out: apt checks Debian's signature.",
        )
    facts = {
        "package": f"onnxruntime {version}",
        "suite": suite,
        "archive": archives[0].name,
        "archive_sha256": stated,
        "dfsg": "yes" if "dfsg" in version else "no",
    }
    return Fetched(path=archives[0], root=out, facts=facts)


def _suite(reference: str) -> str:
    if not _SUITE.fullmatch(reference):
        raise ConfigurationError(
            f"{reference!r} is no name of a Debian suite.", todo="Write debian:trixie, or another suite's code name."
        )
    return reference


def _stated(package: str, archive: str) -> str:
    """Return the sha256 that Debian's signed index states; apt has compared it."""
    found = re.search(rf"^ ([0-9a-f]{{64}}) \d+ {re.escape(archive)}$", package, re.MULTILINE)
    return found[1] if found else ""
