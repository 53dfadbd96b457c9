"""What a container is made of, and what a command in it leaves: plain data, and the engine's words for it."""

from __future__ import annotations

import io
import os
import secrets
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["ContainerSpec", "Ran", "caller", "create", "folder_as_tar"]

_WAITING: Final = ("cat",)
"""The first process: it waits for the end of its standard input."""


def caller() -> str:
    """Return this process's ``uid:gid``, or ``""`` (the image's own user) where the system has no such thing."""
    return f"{os.getuid()}:{os.getgid()}" if hasattr(os, "getuid") else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """A container: without capabilities or new privileges, with limits.

    :param image: id or reference. :param user: ``uid:gid``, by default the caller's; ``""`` for the image's own.
    :param volumes: named volumes and where they are mounted; they are given to the user.
    :param network: whether there is one. :param memory: bytes, 0 for no limit; there is no swap beyond it.
    :param cpus: processors' worth of time, 0 for all. :param pids: processes and threads.
    :param labels: what :meth:`~ortforge.container.Engine.sweep` finds it by. :param read_only: the root file system.
    """

    image: str
    user: str = field(default_factory=caller)
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)
    network: bool = False
    memory: int = 0
    cpus: float = 0.0
    pids: int = 4096
    workdir: str = "/"
    labels: Mapping[str, str] = field(default_factory=dict)
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended.

    :param code: exit code: 128 + n when signal n ended it, 126 or 127 when it cannot be started, 124 when its time was
        up. :param seconds: wall time. :param tail: the last 400 lines.
    :param cpu_s: CPU time of everything in the container meanwhile, 0.0 where the kernel does not tell.
    :param out_of_memory: it failed, and the kernel killed a process of the container for want of memory meanwhile,
        whether or not that was the command itself.
    """

    code: int
    seconds: float
    cpu_s: float
    tail: Sequence[str]
    out_of_memory: bool = False
    timed_out: bool = False


def create(api: Any, spec: ContainerSpec, network: str) -> str:
    """Create a container, which is not started yet, and return its id."""
    host = api.create_host_config(
        binds=[f"{name}:{place}" for name, place in spec.volumes.items()],
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode=network,
        read_only=spec.read_only,
        tmpfs={"/tmp": "rw,nosuid,nodev,exec,mode=1777"} if spec.read_only else None,  # noqa: S108 - the container's own
        mem_limit=spec.memory or None,
        memswap_limit=spec.memory or None,
        nano_cpus=int(spec.cpus * 1e9) or None,
        pids_limit=spec.pids,
        init=True,
        ulimits=[{"Name": "core", "Soft": 0, "Hard": 0}],
        log_config={"Type": "none"},
    )
    config = api.create_container_config(
        spec.image,
        list(_WAITING),
        hostname="ortforge" if network != "host" else None,
        user=spec.user or None,
        stdin_open=True,
        environment=dict(spec.environment),
        entrypoint=[],
        working_dir=spec.workdir,
        labels={"ortforge": "1", **spec.labels},
        host_config=host,
    )
    config |= {"StdinOnce": True, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    return str(api.create_container_from_config(config, name=f"ortforge-{secrets.token_hex(6)}")["Id"])


def folder_as_tar(name: str, owner: tuple[int, int]) -> bytes:
    """Return a tar of one folder, which gives an existing one this owner when it is unpacked."""
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    member.uid, member.gid = owner
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(member)
    return buffer.getvalue()
