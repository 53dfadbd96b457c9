"""A running container that commands are run in, one after the other, and that is gone when it is left.

Its first process waits for the end of its standard input, which is a connection to whoever opened the container: when
that process is killed, the engine closes the connection, the first process ends, and everything in the container with
it. A stopped container stays behind then; :meth:`~ortforge.container.Engine.sweep` removes it.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from ortforge.container import cgroup
from ortforge.container.archives import owned, tar_of_files, unpack
from ortforge.container.failures import failures, lost
from ortforge.container.removal import remove_container
from ortforge.container.spec import ContainerSpec, Ran, create, folder_as_tar
from ortforge.container.stream import End, Lines, Stream
from ortforge.errors import BuildError, EnvironmentLacksError

__all__ = ["Container"]

_TICK_S: Final = 0.5
_TIMED_OUT: Final = 124
"""The exit code of a command that ran out of time, as coreutils' ``timeout`` gives it."""
_NOT_FOUND: Final = 127
_KILLED: Final = 137


class Container:
    """A container that is created and started. Use as a context manager: leaving it removes it.

    :param api: the SDK's low-level client; :param patient: another one, without a time-out.
    :param network: the engine's mode for containers that have a network.
    """

    def __init__(self, api: Any, patient: Any, spec: ContainerSpec, network: str) -> None:
        self._api, self._patient, self._spec = api, patient, spec
        self._stopped = False
        self._used = cgroup.Usage()
        self._open(network if spec.network else "none")

    def __enter__(self) -> Container:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Commands

    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        workdir: str = "",
        user: str = "",
        on_line: Callable[[str], None] | None = None,
        timeout_s: float | None = None,
    ) -> Ran:
        """Run a command to its end; ``on_line`` hears each line of its output as it comes.

        A command that runs out of time is ended by restarting the container, which ends whatever else runs in it.

        :raises ContainerLostError: the container ended. :raises EnvironmentLacksError: the engine refuses.
        """
        doing = f"{Path(argv[0]).name} ran"
        lines = Lines(on_line)
        started = time.monotonic()
        code, timed_out = self._exec(argv, environment, workdir, user, lines.add, timeout_s, doing)
        seconds = time.monotonic() - started
        lines.end()
        if timed_out:
            return Ran(_TIMED_OUT, seconds, 0.0, tuple(lines.tail), timed_out=True)
        before, self._used = self._used, self._usage()
        starved = code != 0 and self._used.kills > before.kills
        return Ran(code, seconds, max(0.0, self._used.cpu_s - before.cpu_s), tuple(lines.tail), starved)

    def _exec(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str] | None,
        workdir: str,
        user: str,
        hear: Callable[[int, bytes], object],
        timeout_s: float | None,
        doing: str,
    ) -> tuple[int, bool]:
        """Run a command; return its exit code and whether its time was up."""
        import docker.errors

        try:
            with failures(doing):
                made = self._api.exec_create(
                    self.id,
                    list(argv),
                    environment=dict(environment or {}),
                    workdir=workdir or self._spec.workdir,
                    user=user or self._spec.user,
                )["Id"]
                stream = Stream(self._api.exec_start(made, socket=True))
        except EnvironmentLacksError as error:
            cause = error.__cause__
            if isinstance(cause, docker.errors.APIError) and _no_such_command(str(cause.explanation)):
                hear(2, str(cause.explanation).encode())
                return _NOT_FOUND, False
            self._look(doing)
            raise
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        try:
            while not stream.over:
                kind, piece = stream.read(_TICK_S)
                if piece:
                    hear(kind, piece)
                elif self._end.over.is_set() and not stream.over:
                    self._look(doing)
                if time.monotonic() > deadline:
                    self._restart(doing)
                    return _TIMED_OUT, True
        finally:
            stream.close()
        return self._exit_code(made, doing), False

    def _exit_code(self, made: str, doing: str) -> int:
        """Return how a command ended, once the engine knows: the output can end before the command does."""
        while True:
            try:
                with failures(doing):
                    found = self._api.exec_inspect(made)
            except EnvironmentLacksError:
                self._look(doing)
                raise
            if not found["Running"] and found["ExitCode"] is not None:
                code = int(found["ExitCode"])
                if code == _KILLED and self._end.over.wait(_TICK_S):  # killed with the container, or alone?
                    self._look(doing)
                return code
            if self._end.over.wait(0.02):
                self._look(doing)

    # Files

    def put(self, archive: Path | bytes, into: str) -> None:
        """Unpack a tar, compressed or not, in a folder, which is made; what is in it belongs to the container's user.

        :raises BuildError: it is no tar, or a member would leave the folder.
        """
        with owned(archive, self._owner()) as data:
            self._put(data, into)

    def put_files(self, files: Mapping[str, bytes], into: str, mode: int = 0o644) -> None:
        """Write files (path below ``into``, to content)."""
        self._put(tar_of_files(files, mode=mode, owner=self._owner()), into)

    def get(self, path: str, into: Path) -> None:
        """Copy a file or a folder to ``into``, which is made; a link is followed, and what it leads to has its name.

        :raises BuildError: there is no such file, or a member would leave ``into``.
        """
        import docker.errors

        doing = f"{path} was copied out of the container"
        try:
            with failures(doing):
                try:
                    chunks, found = self._patient.get_archive(self.id, path)
                    if target := found.get("linkTarget"):
                        chunks.close()
                        chunks, found = self._patient.get_archive(self.id, target)
                except docker.errors.NotFound:
                    self._look(doing)
                    raise BuildError(f"There is no {path} in the container.") from None
                top, name = str(found["name"]), path.rstrip("/").rpartition("/")[2]
                unpack(chunks, into, rename=lambda member: re.sub(f"^{re.escape(top)}(?=/|$)", lambda _: name, member))
        except EnvironmentLacksError:
            self._look(doing)
            raise

    def _put(self, data: Any, into: str) -> None:
        made = self.run(["mkdir", "-p", into])
        if made.code:
            raise BuildError(f"The folder {into} cannot be made in the container: {' '.join(made.tail)}")
        doing = f"files were copied to {into}"
        try:
            with failures(doing):
                self._patient.put_archive(self.id, into, data)
        except EnvironmentLacksError:
            self._look(doing)
            raise

    # Life

    def isolate(self) -> None:
        """Take the network away, for good: a new container with the same volumes stands in for this one.

        What was written outside of the volumes is gone, and so is whatever still ran.
        """
        if self._network == "none":
            return
        self.close()
        self._open("none")

    def kill(self) -> None:
        """End everything in it now; a command that runs raises ContainerLostError with the reason ``stopped``."""
        self._stopped = True
        with contextlib.suppress(EnvironmentLacksError), failures("the container is stopped"):
            self._api.kill(self.id)

    def close(self) -> None:
        """Remove it. An engine that is gone keeps a stopped container, which a later sweep removes."""
        try:
            with contextlib.suppress(EnvironmentLacksError), failures("the container is removed"):
                remove_container(self._api, self.id)
        finally:
            self._input.close()  # afterwards: without it the container ends by itself, and would race with its removal

    def _open(self, network: str) -> None:
        self._network = network
        with failures("a container is made"):
            self.id = create(self._api, self._spec, network)
        try:
            self._start()
            self._own_volumes()
        except BaseException:
            with contextlib.suppress(Exception):
                remove_container(self._patient, self.id)
            raise

    def _start(self) -> None:
        with failures("a container is started"):
            self._input = Stream(
                self._api.attach_socket(self.id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            )
            self._end = End(self._api, self.id)
            self._api.start(self.id)
            over = self._end.over.wait(0.05)
            state = self._api.inspect_container(self.id)["State"]
        if over or not state["Running"]:
            raise _did_not_start(self._spec.image, self._input.rest(1.0).decode(errors="replace").strip())
        self._accounts = cgroup.outside(self.id, int(state["Pid"]))
        self._used = self._usage()

    def _restart(self, doing: str) -> None:
        """End everything that runs in it; files stay."""
        with failures(doing):
            self._api.kill(self.id)
        if not self._end.told():
            self._look(doing)
        self._input.close()
        self._start()

    def _own_volumes(self) -> None:
        """Give the volumes' top folders to the container's user: a new volume belongs to root."""
        if not self._spec.user or self._spec.read_only:
            return
        for place in self._spec.volumes.values():
            parent, _, name = place.rstrip("/").rpartition("/")
            with failures(f"the volume at {place} is prepared"):
                self._api.put_archive(self.id, parent or "/", folder_as_tar(name, self._owner()))

    def _owner(self) -> tuple[int, int]:
        uid, _, gid = self._spec.user.partition(":")
        return (int(uid), int(gid or uid)) if uid.isdigit() else (0, 0)

    def _look(self, doing: str) -> None:
        """Look whether the container still runs.

        :raises ContainerLostError: it does not.
        """
        import docker.errors

        if self._stopped:
            raise lost("stopped", doing)
        self._api.close()  # an engine that stops goes on answering on open connections, and takes no new ones
        try:
            with failures(doing):
                try:
                    state = self._api.inspect_container(self.id)["State"]
                except docker.errors.NotFound:
                    raise lost("removed", doing) from None
        except EnvironmentLacksError as error:
            raise lost("daemon", doing) from error
        if state["Status"] in ("removing", "dead"):
            raise lost("removed", doing)
        if state["Running"]:
            if self._end.over.is_set():  # the news was lost, and not the container
                with failures(doing):
                    self._end = End(self._api, self.id, "not-running")
            return
        if state.get("OOMKilled"):
            raise lost("memory", doing)
        raise lost("killed" if self._end.told() else "daemon", doing)

    def _usage(self) -> cgroup.Usage:
        texts: list[str] = []
        for path in self._accounts:
            with contextlib.suppress(OSError):
                texts.append(path.read_text("utf-8"))
        if not self._accounts:
            said: list[bytes] = []
            argv = ["cat", *cgroup.INSIDE]
            self._exec(argv, None, "/", "", lambda kind, piece: said.append(piece), None, "figures were read")
            texts = [b"".join(said).decode(errors="replace")]
        return cgroup.read_usage(texts)


def _did_not_start(image: str, said: str) -> BuildError:
    if "exec format error" in said.lower():
        return BuildError(
            f"The image {image} is for another architecture than this engine's machine.",
            todo="Choose an image for this machine's architecture.",
        )
    return BuildError(
        f"A container of the image {image} ends as soon as it is started: {said or 'it says nothing'}",
        meant="The image lacks 'cat', or cannot run on this machine.",
    )


def _no_such_command(said: str) -> bool:
    return bool(re.search(r"executable file not found|no such file or directory|permission denied", said))
