"""The Docker engine: how it is reached, what it has, and what ortforge keeps in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ortforge.container import images
from ortforge.container.container import Container
from ortforge.container.failures import failures, no_sdk, unreachable
from ortforge.container.removal import remove_container
from ortforge.container.spec import ContainerSpec
from ortforge.errors import EnvironmentLacksError

__all__ = ["Engine", "EngineFacts", "VolumeFacts", "connect"]

_TIMEOUT_S: Final = 60.0
_REGISTRY_S: Final = 20.0
"""How long a registry may be silent before it counts as out of reach."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What there is to know of an engine.

    :param api: version of its API. :param machine: ``x86_64``; :param memory: bytes. :param root: its data folder.
    :param network: ``bridge``, or ``host`` where it has no bridge that leads anywhere.
    """

    version: str
    api: str
    machine: str
    cores: int
    memory: int
    root: str
    network: str


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """A named volume: its labels, when it was made (ISO 8601), and its bytes, -1 where they were not asked for."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    size: int = -1


def connect() -> Engine:
    """Speak to the engine that ``DOCKER_HOST``, or else the Docker command's current context, names.

    :raises EnvironmentLacksError: no SDK, no engine, it does not answer, or you may not use it.
    """
    try:
        import docker
        import docker.errors
    except ImportError:
        raise no_sdk() from None
    host = os.environ.get("DOCKER_HOST", "")
    try:
        settings = docker.utils.kwargs_from_env()
        if not host and (host := _context()):
            settings["base_url"] = host
        api = docker.APIClient(version="auto", timeout=_TIMEOUT_S, **settings)
        patient = docker.APIClient(version=api.api_version, timeout=None, **settings)
        registry = docker.APIClient(version=api.api_version, timeout=_REGISTRY_S, **settings)
        info = api.info()
    except (docker.errors.DockerException, OSError, ValueError) as error:
        raise unreachable(error, host) from error
    if info.get("OSType", "linux") != "linux":
        raise EnvironmentLacksError(
            f"The Docker engine runs {info['OSType']} containers, and ortforge builds in Linux ones.",
            todo="Switch it to Linux containers.",
        )
    facts = EngineFacts(
        version=str(info["ServerVersion"]),
        api=str(api.api_version),
        machine=images.machine_of(str(info["Architecture"])),
        cores=int(info["NCPU"]),
        memory=int(info["MemTotal"]),
        root=str(info.get("DockerRootDir", "")),
        network=os.environ.get("ORTFORGE_DOCKER_NETWORK") or _network(api, info),
    )
    return Engine(api, patient, registry, facts)


def _context() -> str:
    """Return the address of the Docker command's current context, ``""`` for the default one."""
    from docker.context import ContextAPI

    with contextlib.suppress(Exception):
        current = ContextAPI.get_current_context()
        return str(current.Host or "") if current is not None and current.name != "default" else ""
    return ""


def _network(api: Any, info: Mapping[str, Any]) -> str:
    """Return the mode for containers that need the network: an engine started with ``--bridge=none`` has no bridge."""
    import docker.errors

    if info.get("IPv4Forwarding") is False:
        return "host"
    try:
        api.inspect_network("bridge")
    except docker.errors.NotFound:
        return "host"
    return "bridge"


class Engine:
    """A Docker engine. ``api`` is the SDK's low-level client."""

    def __init__(self, api: Any, patient: Any, registry: Any, facts: EngineFacts) -> None:
        self.api, self._patient, self._registry = api, patient, registry
        self.facts = facts

    # Images

    def image(self, reference: str) -> images.ImageFacts | None:
        """Return what is known of an image, ``None`` where the engine has none of that name."""
        return images.inspect(self.api, reference)

    def image_id(self, reference: str) -> str:
        """Return an image's id ("sha256:…"), ``""`` where the engine has none of that name."""
        found = self.image(reference)
        return found.id if found else ""

    def build_image(
        self,
        files: Mapping[str, bytes],
        *,
        dockerfile: str,
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        say: Callable[[str], None],
    ) -> str:
        """Build an image and return its id, see :func:`ortforge.container.images.build`."""
        return images.build(
            self._patient,
            files,
            dockerfile=dockerfile,
            arguments=arguments,
            labels=labels,
            network=self.facts.network,
            say=say,
        )

    def pull(self, reference: str, say: Callable[[str], None]) -> str:
        """Fetch an image; return ``""``, or why it could not be had. A registry that is silent for 20 s is given up."""
        return images.pull(self._registry, reference, say)

    def import_root(self, archive: Path, tag: str) -> str:
        """Make an image of a root file system, a tar; return its id."""
        return images.import_root(self._patient, archive, tag)

    def tag(self, image: str, reference: str) -> None:
        """Give an image a name."""
        repository, _, tag = reference.rpartition(":")
        with failures(f"the image {reference} is named"):
            self.api.tag(image, repository, tag)

    # Containers and volumes

    def open(self, spec: ContainerSpec) -> Container:
        """Make and start a container, see :class:`~ortforge.container.Container`.

        :raises BuildError: the image cannot run here. :raises EnvironmentLacksError: the engine refuses.
        """
        return Container(self.api, self._patient, spec, self.facts.network)

    def running(self, label: str, value: str = "") -> list[str]:
        """Return the ids of the containers with a label that run.

        One of :meth:`open` ends by itself when the process that opened it does, so whoever opened these is alive.
        """
        with failures("containers are listed"):
            found = self.api.containers(filters={"label": f"{label}={value}" if value else label})
        return [str(container["Id"]) for container in found]

    def sweep(self, label: str, value: str = "", *, ended: bool = False) -> int:
        """Remove the containers with a label (of that value, if one is given); return how many.

        :param ended: only those that ended, which nobody uses any more; otherwise whatever they do.
        """
        filters: dict[str, Any] = {"label": f"{label}={value}" if value else label}
        if ended:
            filters["status"] = ["exited", "dead"]
        removed = 0
        with failures("left-over containers are removed"):
            for found in self.api.containers(all=True, filters=filters):
                with contextlib.suppress(EnvironmentLacksError), failures("a left-over container is removed"):
                    remove_container(self.api, found["Id"])
                    removed += 1
        return removed

    def volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Make a named volume unless it is there."""
        with failures(f"the volume {name} is made"):
            self.api.create_volume(name, labels=dict(labels))

    def remove_volume(self, name: str) -> None:
        """Remove a volume, which no container may use; one that is not there is no error."""
        import docker.errors

        with failures(f"the volume {name} is removed"), contextlib.suppress(docker.errors.NotFound):
            self._patient.remove_volume(name)

    def volumes(self, label: str, *, sizes: bool = False) -> list[VolumeFacts]:
        """List the volumes with a label, by name; their sizes take the engine a while."""
        with failures("volumes are listed"):
            found = self.api.volumes(filters={"label": label})["Volumes"] or []
            used = self._patient.df()["Volumes"] or [] if sizes and found else []
        size = {volume["Name"]: int((volume.get("UsageData") or {}).get("Size", -1)) for volume in used}
        listed = [
            VolumeFacts(
                name=str(volume["Name"]),
                labels=dict(volume.get("Labels") or {}),
                created=str(volume.get("CreatedAt", "")),
                size=size.get(str(volume["Name"]), -1),
            )
            for volume in found
        ]
        return sorted(listed, key=lambda volume: volume.name)
