"""A connection to a process in a container: the engine's multiplexed output, with nothing lost and a wait that ends."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import Any, Final

__all__ = ["Stream"]

_HEADER: Final = struct.Struct(">BxxxI")
"""What precedes each piece of output: 1 for standard output or 2 for standard error, and its length (Docker Engine API,
"Attach to a container", stream format)."""

_BLOCK: Final = 1 << 16


class Stream:
    """The socket that ``exec_start(socket=True)`` or ``attach_socket()`` of the Docker SDK gave.

    The reply's header is read through a buffer, which may have taken the first output with it; the SDK forgets that.
    """

    def __init__(self, given: Any) -> None:
        self._given = given  # holds the reply, which would close the connection when it is collected
        self._socket: socket.socket = getattr(given, "_sock", given)
        self._data = self._buffered()
        self._socket.setblocking(True)
        self._left = 0
        self.over = False

    def read(self, patience_s: float) -> bytes:
        """Return output, of both kinds in the order in which it came; ``b""`` when none came in time, or it is over."""
        while not self.over:
            if self._left and self._data:
                piece, self._data = self._data[: self._left], self._data[self._left :]
                self._left -= len(piece)
                return piece
            if not self._left and len(self._data) >= _HEADER.size:
                (_, self._left) = _HEADER.unpack(self._data[: _HEADER.size])
                self._data = self._data[_HEADER.size :]
                continue
            if not self._readable(patience_s):
                return b""
            try:
                came = self._socket.recv(_BLOCK)
            except OSError:
                came = b""
            self.over = not came
            self._data += came
        return b""

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
