"""What comes from a container while it runs: the output of its processes, as lines, and the news of its end."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

__all__ = ["End", "Lines", "Stream"]

_HEADER: Final = struct.Struct(">BxxxI")
"""What precedes each piece of output: 1 for standard output or 2 for standard error, and its length (Docker Engine API,
"Attach to a container", stream format)."""

_BLOCK: Final = 1 << 16
_LONGEST_LINE: Final = 1 << 16
_TAIL: Final = 400


class Stream:
    """The socket that ``exec_start(socket=True)`` or ``attach_socket()`` of the Docker SDK gave.

    The reply's header is read through a buffer, which may have taken the first output with it; the SDK forgets that.
    """

    def __init__(self, given: Any) -> None:
        self._given = given  # holds the reply, which would close the connection when it is collected
        self._socket: socket.socket = getattr(given, "_sock", given)
        self._data = self._buffered()
        self._socket.setblocking(True)
        self._kind, self._left = 0, 0
        self.over = False

    def read(self, patience_s: float) -> tuple[int, bytes]:
        """Return output and its kind: 1 standard output, 2 standard error, 0 when none came in time or it is over.

        The engine reads the two kinds side by side: which of two pieces came first is its guess.
        """
        while not self.over:
            if self._left and self._data:
                piece, self._data = self._data[: self._left], self._data[self._left :]
                self._left -= len(piece)
                return self._kind, piece
            if not self._left and len(self._data) >= _HEADER.size:
                self._kind, self._left = _HEADER.unpack(self._data[: _HEADER.size])
                self._data = self._data[_HEADER.size :]
                continue
            if not self._readable(patience_s):
                break
            try:
                came = self._socket.recv(_BLOCK)
            except OSError:
                came = b""
            self.over = not came
            self._data += came
        return 0, b""

    def rest(self, patience_s: float) -> bytes:
        """Return all output up to the end, or up to a pause of ``patience_s``."""
        pieces: list[bytes] = []
        while piece := self.read(patience_s)[1]:
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """End the connection; the other end's standard input ends with it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._given.close()
        with contextlib.suppress(OSError):
            self._socket.close()
        if (response := getattr(self._given, "_response", None)) is not None:
            with contextlib.suppress(Exception):
                response.close()

    def _readable(self, patience_s: float) -> bool:
        if getattr(self._socket, "pending", lambda: 0)():  # TLS has read ahead
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(patience_s * 1000))

    def _buffered(self) -> bytes:
        raw = getattr(getattr(self._given, "_response", None), "raw", None)
        buffer = getattr(getattr(raw, "_fp", None), "fp", None)
        if buffer is None or not hasattr(buffer, "peek"):
            return b""
        self._socket.setblocking(False)  # or peek would wait for what is not there yet
        with contextlib.suppress(OSError, ValueError):
            return bytes(buffer.read(len(buffer.peek(1))) or b"")
        return b""


class End:
    """Waits for a container's end, to tell a container that ended from an engine that did."""

    def __init__(self, api: Any, container: str, condition: str = "next-exit") -> None:
        address = f"{api.base_url}/v{api.api_version}/containers/{container}/wait"
        self._reply = api.post(address, params={"condition": condition}, stream=True, timeout=None)
        self._reply.raise_for_status()
        self._told = False
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._wait, name=f"end-of-{container[:12]}", daemon=True)
        self._thread.start()

    def told(self) -> bool:
        """Tell whether the engine reported the container's end, rather than going away without."""
        self.over.wait(5.0)
        return self._told

    def _wait(self) -> None:
        try:
            self._told = "StatusCode" in self._reply.json()
        except Exception:  # whatever breaks the connection says the same
            self._told = False
        self.over.set()


class Lines:
    """Cuts output into lines, keeps the last 400, and tells them to ``on_line`` as they come.

    A line is of one kind of output, however the pieces of both come.
    """

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self.tail = deque[str](maxlen=_TAIL)
        self._on_line = on_line
        self._rest: dict[int, bytes] = {}

    def add(self, kind: int, data: bytes) -> None:
        """Take the next piece of output."""
        *whole, rest = (self._rest.pop(kind, b"") + data).split(b"\n")
        for line in whole:
            self._give(line)
        if len(rest) > _LONGEST_LINE:
            self._give(rest)
        elif rest:
            self._rest[kind] = rest

    def end(self) -> None:
        """Take what there is for the last lines."""
        for kind in sorted(self._rest):
            self._give(self._rest.pop(kind))

    def _give(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]  # the last state of a progress bar
        self.tail.append(text)
        if self._on_line is not None:
            self._on_line(text)
