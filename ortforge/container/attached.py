"""One process in a container of its own, spoken to over its three pipes.

The container lives no longer than the connection to it: its process is told of a hang-up, and the engine removes it
when its process ends. That is what supervised workers need; builds use :class:`~ortforge.container.Container`.
Folders of this machine appear inside at their own paths, so the engine has to run on this machine.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

from ortforge.container.failures import failures, gone
from ortforge.container.removal import remove_container
from ortforge.errors import EnvironmentLacksError

__all__ = ["WORKER_LABEL", "Attached", "Bind", "ProcessSpec", "ProgramMissingError", "sweep_unstarted"]

WORKER_LABEL: Final = "ortforge.worker"
"""Label of the containers of worker processes; its value is the folder they work in."""

_HEADER: Final = struct.Struct(">BxxxI")
"""What precedes each piece of output: 1 for standard output or 2 for standard error, and its length (Docker Engine API,
"Attach to a container", stream format)."""

_BLOCK: Final = 1 << 16

_NO_GPUS: Final = re.compile(r"could not select device driver|nvidia-container-(cli|runtime)|unresolvable CDI device")
"""What engines say that have no NVIDIA runtime, or one that does not find the driver."""

_DOING: Final = "a worker ran in one of its containers"

_START_S: Final = 60.0
"""A container is started within a second of being made; one that was not by then never will be."""


class ProgramMissingError(EnvironmentLacksError):
    """An image does not have the program that was to be started in it."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder of this machine that a container sees at the same path, read-only unless ``writable``."""

    path: str
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A process and its container, which has no network, no capabilities and a read-only root.

    :param image: id or reference. :param argv: the process, and its arguments. :param user: ``UID:GID``.
    :param environment: its variables, on top of the image's. :param memory: bytes that it and its children may use.
    :param cpus: processors' worth of time that it may use, 0 for no limit; :param processors: those it may run on,
        empty for all. :param pids: processes and threads that it may have.
    :param shared_memory: bytes of ``/dev/shm``, which count as its memory when they are used.
    :param gpus: whether it sees all of the machine's NVIDIA GPUs, with the driver's libraries.
    """

    image: str
    argv: Sequence[str]
    user: str
    workdir: str
    binds: Sequence[Bind] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    memory: int = 0
    cpus: float = 0.0
    processors: Sequence[int] = ()
    pids: int = 4096
    shared_memory: int = 1 << 30
    gpus: bool = False


class Attached:
    """A running process in a container. Use as a context manager: leaving it ends the process.

    :param api: the Docker SDK's low-level client. Writing and reading may be done from two threads.
    :raises ProgramMissingError: the image does not have the program.
    :raises EnvironmentLacksError: the engine refuses: it lacks the image, does not see a folder of this machine, or
        cannot give containers its GPUs.
    """

    def __init__(self, api: Any, spec: ProcessSpec) -> None:
        self._api = api
        with _starting(spec):
            self.id = str(_create(api, spec)["Id"])
            try:
                self._socket = _socket_of(
                    api.attach_socket(self.id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
                )
                # Asked for before it starts: it may be over, and removed, a moment later.
                address = f"{api.base_url}/v{api.api_version}/containers/{self.id}/wait"
                self._exit = api.post(address, params={"condition": "next-exit"}, stream=True, timeout=None)
                self._exit.raise_for_status()
                api.start(self.id)
            except BaseException:
                with contextlib.suppress(Exception):
                    remove_container(api, self.id)
                raise

    def __enter__(self) -> Attached:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def write(self, data: bytes) -> None:
        """Send bytes to its standard input.

        :raises OSError: it is gone.
        """
        self._socket.sendall(data)

    def output(self) -> Iterator[tuple[int, bytes]]:
        """Give what it writes, as it comes, until both of its pipes are closed: 1 or 2, and bytes."""
        while header := self._take(_HEADER.size):
            stream, length = _HEADER.unpack(header)
            while length:
                piece = self._socket.recv(min(length, _BLOCK))
                if not piece:
                    return
                length -= len(piece)
                yield stream, piece

    def wait(self) -> int:
        """Wait for its end; return its exit code, 128 + n when signal n ended it.

        :raises EnvironmentLacksError: the engine went away meanwhile.
        """
        with failures(_DOING):
            try:
                return int(self._exit.json()["StatusCode"])
            except (ValueError, KeyError) as error:
                raise gone(_DOING) from error

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(Exception):  # it may be over
            self._api.kill(self.id)

    def _take(self, count: int) -> bytes:
        """Read exactly so many bytes; fewer only at the end."""
        data = b""
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            if not piece:
                return b""
            data += piece
        return data


def sweep_unstarted(api: Any) -> int:
    """Remove workers' containers that were made and never started, because who made them was killed; return how many.

    One that was started ends by itself, and the engine removes it.
    """
    removed = 0
    with failures("left-over containers are looked for"):
        for found in api.containers(all=True, filters={"label": WORKER_LABEL, "status": "created"}):
            if time.time() - float(found["Created"]) > _START_S:
                remove_container(api, found["Id"])
                removed += 1
    return removed


def _create(api: Any, spec: ProcessSpec) -> Any:
    from docker.types import DeviceRequest, Mount, Ulimit

    host = api.create_host_config(
        auto_remove=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": "rw,nosuid,nodev,mode=1777"},  # noqa: S108 - the container's own
        mounts=[Mount(bind.path, bind.path, type="bind", read_only=not bind.writable) for bind in spec.binds],
        mem_limit=spec.memory or None,
        memswap_limit=spec.memory or None,
        nano_cpus=int(spec.cpus * 1e9) or None,
        cpuset_cpus=",".join(map(str, spec.processors)) or None,
        pids_limit=spec.pids,
        shm_size=spec.shared_memory,
        device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if spec.gpus else None,
        ulimits=[Ulimit(name="core", soft=0, hard=0)],
        log_config={"Type": "none"},
    )
    config = api.create_container_config(
        spec.image,
        list(spec.argv[1:]),
        entrypoint=[spec.argv[0]],  # in place of the image's
        healthcheck={"test": ["NONE"]},  # which would take turns with what is timed
        hostname="ortforge",
        user=spec.user,
        stdin_open=True,
        environment=dict(spec.environment),
        working_dir=spec.workdir,
        labels={WORKER_LABEL: spec.workdir},
        host_config=host,
    )
    # The engine closes its standard input when the one who attached to it is gone.
    config |= {"StdinOnce": True, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    return api.create_container_from_config(config)


def _socket_of(given: Any) -> socket.socket:
    """Return the plain socket of what ``attach_socket`` gave, without a time-out."""
    found: socket.socket = getattr(given, "_sock", given)
    found.settimeout(None)
    return found


@contextmanager
def _starting(spec: ProcessSpec) -> Iterator[None]:
    """Turn what the engine refuses into messages that speak of the image and the folders."""
    import docker.errors

    with failures("a container for a process is started"):
        try:
            yield
        except docker.errors.APIError as error:
            text = str(error.explanation or error).strip()
            if "executable file not found" in text or f'exec: "{spec.argv[0]}"' in text:
                raise ProgramMissingError(
                    f"The image {spec.image[:19]} has no program {spec.argv[0]}.", todo="Give the target another image."
                ) from error
            if _NO_GPUS.search(text):
                raise EnvironmentLacksError(
                    f"The container engine gives its containers no GPU: {text}",
                    meant="NVIDIA's container toolkit is not installed, or the engine was not restarted after it.",
                    todo="Install nvidia-container-toolkit, run 'nvidia-ctk runtime configure --runtime=docker', and "
                    'restart the engine; or write container = "never" into the target, with a wheel that fits here.',
                ) from error
            if "bind source path does not exist" in text:
                raise EnvironmentLacksError(
                    f"The container engine does not see this machine's folders: {text}.",
                    meant="It runs on another machine, or in one: workers need an engine that runs here.",
                    todo="Point DOCKER_HOST to this machine's engine, or keep the store where the engine sees it.",
                ) from error
            raise
