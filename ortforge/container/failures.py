"""What goes wrong with a container engine, as messages: no exception of Docker's SDK or HTTP client gets past."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ortforge.errors import BuildError, EnvironmentLacksError, OrtforgeError

__all__ = ["ContainerLostError", "failures", "lost", "no_sdk", "unreachable"]

_WHY: Final = {
    "killed": (
        "The container was killed from outside while {doing}.",
        "Somebody ran 'docker kill', 'docker stop' or 'docker rm', or the machine's own memory ran out.",
        "Run again: it goes on from what is done.",
    ),
    "removed": (
        "The container was removed while {doing}.",
        "Somebody ran 'docker rm --force' or 'docker container prune'.",
        "Run again: it goes on from what is done.",
    ),
    "memory": (
        "The container ran out of memory while {doing}, and the kernel ended it.",
        "Its memory limit is smaller than what the work needs.",
        "Give the target more `memory`, or fewer `jobs`; then run again: it goes on from what is done.",
    ),
    "daemon": (
        "The Docker engine went away while {doing}.",
        "It was stopped or restarted, which ends every container.",
        "See that 'docker info' answers, and run again: it goes on from what is done.",
    ),
    "stopped": ("The container was stopped while {doing}.", "", "Run again: it goes on from what is done."),
}


class ContainerLostError(BuildError):
    """A container ended under us.

    :ivar why: ``killed`` (from outside), ``removed``, ``memory`` (the kernel ended it), ``daemon`` (the engine stopped
        or restarted) or ``stopped`` (by :meth:`~ortforge.container.Container.kill`).
    """

    def __init__(self, why: str, doing: str) -> None:
        what, meant, todo = _WHY[why]
        super().__init__(what.format(doing=doing), meant=meant, todo=todo)
        self.why = why


def lost(why: str, doing: str) -> ContainerLostError:
    """Return the error for a container that is gone, see :class:`ContainerLostError`."""
    return ContainerLostError(why, doing)


def no_sdk() -> EnvironmentLacksError:
    """Return the error for an installation without the Docker SDK."""
    return EnvironmentLacksError(
        "Building needs Docker's Python SDK, which is not installed.",
        todo="Install it: pip install 'ortforge[build]'",
    )


def unreachable(error: Exception, host: str) -> EnvironmentLacksError:
    """Say why no engine could be spoken to at ``host``: nothing there, no answer, not permitted, wrong address."""
    chain = " ".join(str(cause) + type(cause).__name__ for cause in _causes(error))
    where = host or "unix:///var/run/docker.sock"
    if re.search(r"PermissionError|Permission denied", chain):
        return EnvironmentLacksError(
            f"You may not use the Docker engine at {where}.",
            meant="Your user is not in the group that owns the socket.",
            todo="sudo usermod -aG docker $USER, then log in again; or run a rootless engine.",
        )
    if re.search(r"FileNotFoundError|No such file", chain):
        return EnvironmentLacksError(
            f"There is no Docker engine at {where}.",
            meant="Docker is not installed or not started, or DOCKER_HOST has to name another address.",
            todo="Install and start it (Debian: apt-get install docker.io), and see that 'docker info' answers.",
        )
    if re.search(r"refused", chain, re.IGNORECASE):
        return EnvironmentLacksError(
            f"The Docker engine at {where} does not answer: the connection is refused.",
            meant="The engine has stopped.",
            todo="Start it ('systemctl start docker'), and see that 'docker info' answers.",
        )
    if re.search(r"Timeout|timed out", chain):
        return EnvironmentLacksError(
            f"The Docker engine at {where} does not answer in time.",
            meant="It is starting, overloaded, or behind a network that does not let this through.",
            todo="See that 'docker info' answers.",
        )
    return EnvironmentLacksError(
        f"The Docker engine at {where} cannot be spoken to: {error}",
        meant="DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH or the Docker context may be wrong.",
        todo="See that 'docker info' answers.",
    )


@contextmanager
def failures(doing: str) -> Iterator[None]:
    """Turn what the SDK raises inside into ortforge's errors. ``doing`` says what was attempted: "a container is made".

    :raises EnvironmentLacksError: the engine is gone, silent, out of disk space, or refuses; :raises BuildError: an
        image is for another architecture.
    """
    import docker.errors
    import requests.exceptions
    import urllib3.exceptions

    try:
        yield
    except OrtforgeError:
        raise
    except docker.errors.APIError as error:
        raise _refused(error, doing) from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
        raise EnvironmentLacksError(
            f"The Docker engine did not answer in time while {doing}.",
            meant="It is overloaded, or its disk is slow.",
            todo="See that 'docker info' answers, and run again.",
        ) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise gone(doing) from error
    except docker.errors.DockerException as error:
        raise EnvironmentLacksError(f"Docker's SDK failed while {doing}: {error}") from error


def gone(doing: str) -> EnvironmentLacksError:
    """Return the error for an engine that does not answer any more."""
    what, meant, todo = _WHY["daemon"]
    return EnvironmentLacksError(what.format(doing=doing), meant=meant, todo=todo)


def _refused(error: Exception, doing: str) -> OrtforgeError:
    said = str(getattr(error, "explanation", "") or error).strip()
    if "no space left" in said.lower():
        return EnvironmentLacksError(
            f"The Docker engine's disk is full: {said}",
            meant=f"This happened while {doing}.",
            todo="Free space: 'docker system df' shows what takes it; 'ortforge cache clean' removes build trees.",
        )
    if "exec format error" in said.lower():
        return BuildError(
            f"The image is for another architecture than this engine's machine ({said}).",
            todo="Choose an image for this machine's architecture.",
        )
    if "no such image" in said.lower():
        return EnvironmentLacksError(
            f"The image is gone from the engine: {said}",
            meant="It was removed after it was made.",
            todo="Run again: it is made again.",
        )
    if "volume is in use" in said.lower():
        return EnvironmentLacksError(
            f"The Docker engine refused while {doing}: {said}",
            meant="A build runs in it, or a container that ended was left behind.",
            todo="Wait for the build's end; 'docker ps --all' shows the containers, 'docker rm' removes one.",
        )
    return EnvironmentLacksError(f"The Docker engine refused while {doing}: {said}", todo="Its log may say more.")


def _causes(error: BaseException) -> list[BaseException]:
    """Return an exception, and everything that it was raised from or that is among its arguments."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(found) < 20:
        this = waiting.pop(0)
        if not isinstance(this, BaseException) or this in found:
            continue
        found.append(this)
        waiting += [this.__cause__, this.__context__, getattr(this, "reason", None), *this.args]
    return found
