"""Makes sure that a container engine answers: ``python tests/docker/engine.py``.

Where none does, and this is Debian and root, Debian's engine is installed and started in the background. It is left
running: the next call finds it. Needs nothing but Python's standard library.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

DEFAULT = Path("/var/run/docker.sock")
BASE = "debian:trixie-slim"
LABEL = "ortforge.test"
"""Of everything that tests leave in an engine for a moment."""

PACKAGES = ("debootstrap", "docker.io", "iptables")
NO_BRIDGE = ("--iptables=false", "--bridge=none")
"""For machines whose kernel lets nobody set up a bridge: containers use the machine's own network then."""


class UnavailableError(Exception):
    """No engine answers, and none can be started here."""


def required() -> bool:
    """Tell whether a test that cannot run is a failure: on CI, and where it is asked for."""
    return os.environ.get("CI") == "true" or os.environ.get("ORTFORGE_DOCKER_TESTS") == "require"


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def answers(path: Path = DEFAULT) -> bool:
    """Tell whether an engine answers at a socket (Docker Engine API, "Ping")."""
    connection = _Connection(path)
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Daemon:
    """The machine's own engine, started here.

    :param folder: holds its log. :param arguments: of dockerd.
    """

    def __init__(self, folder: Path, arguments: Sequence[str] = ()) -> None:
        self.folder = folder
        self.log = folder / "dockerd.log"
        self.socket = DEFAULT
        self.arguments = ["dockerd", *arguments]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, patience_s: float = 60.0) -> None:
        """Start it, in a session of its own, and wait until it answers.

        :raises UnavailableError: it ends, or does not answer in time; with the end of its log.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if answers(self.socket):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        self.process.kill()
        self.process.wait()
        last = self.log.read_text("utf-8", errors="replace").splitlines()[-5:]
        raise UnavailableError("\n".join([f"{' '.join(self.arguments)} does not come up:", *last]))


class ApartDaemon(Daemon):
    """An engine beside the machine's, to be ended at will.

    It has its own network, mounts and processes: without a bridge of its own, an engine removes the machine's docker0;
    and nothing of it is left when it ends, however that is.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.socket = folder / "docker.sock"
        self.host = f"unix://{self.socket}"
        self._pid = folder / "docker.pid"
        self.arguments = [
            *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "dockerd", *NO_BRIDGE),
            f"--data-root={folder / 'data'}",
            f"--exec-root={folder / 'exec'}",
            f"--pidfile={self._pid}",
            f"--host={self.host}",
        ]

    def start(self, patience_s: float = 60.0) -> None:
        """Start it, with its data of before if it ran before."""
        for left in (self._pid, *self.folder.glob("exec/containerd/*.pid"), self.socket):
            left.unlink(missing_ok=True)
        super().start(patience_s)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal, and wait for its end."""
        if self.process is not None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            for child in children:
                os.kill(int(child), how)
            self.process.wait(60)
            self.process = None


def ensure() -> list[str]:
    """See to it that an engine answers; return what was done.

    :raises UnavailableError: it cannot be had here.
    """
    if os.environ.get("DOCKER_HOST"):
        return [f"DOCKER_HOST is {os.environ['DOCKER_HOST']}: its engine is used"]
    done: list[str] = []
    if answers():
        done.append("an engine answers already")
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        if done:
            return done
        raise UnavailableError("no engine answers, and one is installed here only as root on Debian")
    commands = {"debootstrap": "debootstrap", "docker.io": "dockerd", "iptables": "iptables"}
    wanted = [
        name for name in PACKAGES if shutil.which(commands[name]) is None and not (done and name != "debootstrap")
    ]
    if wanted:
        _apt("update", "-qq")
        _apt("install", "-y", "-qq", "--no-install-recommends", *wanted)
        done.append(f"installed {' '.join(wanted)}")
    if not answers():
        done.append(_start())
    return done


def _start() -> str:
    """Start the machine's engine; return how."""
    folder = Path(tempfile.mkdtemp(prefix="ortforge-engine-"))
    try:
        Daemon(folder).start()
    except UnavailableError as reason:
        if "iptables" not in str(reason) and "bridge" not in str(reason):
            raise
        Daemon(folder, NO_BRIDGE).start()
        return f"started dockerd without a bridge, which this machine does not allow (log: {folder}/dockerd.log)"
    return f"started dockerd (log: {folder}/dockerd.log)"


def _apt(*arguments: str) -> None:
    done = subprocess.run(
        ["apt-get", *arguments], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, text=True
    )
    if done.returncode:
        raise UnavailableError(f"apt-get {' '.join(arguments)} failed:\n{done.stderr.strip()}")


def main() -> int:
    """Say what was done, or why nothing could be."""
    try:
        for line in ensure():
            print(line)
    except UnavailableError as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
