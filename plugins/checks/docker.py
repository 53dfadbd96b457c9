"""Does a container engine answer, and has it room for builds? Without one, ``from = "source"`` cannot be built here."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ortforge.api import Check, CheckContext, CheckOutcome

_TIMEOUT_S = 5.0
_GB = 1_000_000_000
_DISK = 15 * _GB
"""A toolchain image takes 1 to 10 GB, a build tree 3 to 10 GB, its compiler cache up to 5 GB."""
_MEMORY = 4 * _GB
"""What a compiler of ORT's largest files takes, and then some."""
_SOCKET = Path("/var/run/docker.sock")
_NEEDED = 'Only targets with from = "source", and runtimes that do not fit this machine, need one.'


def ortforge_checks() -> Iterable[Check]:
    """Give the check."""
    yield Check(name="docker", summary="a container engine answers, where targets are built from source", run=check)


def check(context: CheckContext) -> CheckOutcome:
    """Ask the engine what it has. An engine that is not installed is no fault."""
    try:
        import docker
        import docker.errors
    except ImportError:
        return CheckOutcome("ok", f"Docker's SDK is not installed. {_NEEDED}", "pip install 'ortforge[build]'")
    try:
        settings = docker.utils.kwargs_from_env()
        client = docker.APIClient(version="auto", timeout=_TIMEOUT_S, **settings)
        try:
            info = client.info()
        finally:
            client.close()
    except (docker.errors.DockerException, OSError, ValueError) as error:
        if not os.environ.get("DOCKER_HOST") and not _SOCKET.exists():
            return CheckOutcome("ok", f"There is no container engine here. {_NEEDED}")
        return CheckOutcome(
            "warning",
            f"The container engine does not answer: {_reason(error)}.",
            "Start it, or let your user use it (sudo usermod -aG docker $USER); then 'docker info' answers.",
        )
    return _room(info)


def _reason(error: Exception) -> str:
    """Return the system's own words in what the SDK says, which quotes its HTTP client, which quotes the system."""
    known = re.search(r"Connection refused|Permission denied|No such file or directory|timed out", str(error))
    return known[0].lower() if known else str(error).rstrip(".")


def _room(info: dict[str, Any]) -> CheckOutcome:
    """Judge what the engine has: memory, and where it runs on this machine the space in its folder."""
    memory, root = int(info["MemTotal"]), str(info.get("DockerRootDir", ""))
    message = f"Docker {info['ServerVersion']} answers, with {info['NCPU']} cores and {memory / _GB:.1f} GB of memory"
    try:
        free = shutil.disk_usage(root).free if info.get("Name") == os.uname().nodename else -1
    except OSError:
        free = -1
    message += f"; {free / _GB:.1f} GB are free at {root}." if free >= 0 else "."
    if 0 <= free < _DISK:
        return CheckOutcome(
            "warning",
            message,
            "A build takes up to 15 GB. 'docker system df' shows what is there, 'ortforge cache clean' frees some.",
        )
    if memory < _MEMORY:
        return CheckOutcome("warning", message, "A compiler may run out of memory: give the engine 4 GB or more.")
    return CheckOutcome("ok", message)
