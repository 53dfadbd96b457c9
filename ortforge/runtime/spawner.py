"""Starts worker processes from one thread that lasts as long as ortforge does."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final

__all__ = ["SPAWNER"]


class Spawner:
    """Starts processes from a thread that never ends.

    A worker asks the kernel to be killed when its parent dies (PR_SET_PDEATHSIG), and "parent" there means the thread
    that started it. A thread of a pool may end while its worker goes on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0
        self._requests: queue.SimpleQueue[tuple[Future[Any], Sequence[str], Mapping[str, Any]]] = queue.SimpleQueue()

    def start(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Do what ``subprocess.Popen`` does, and raise what it raises."""
        with self._lock:
            if self._owner != os.getpid():  # the first call, or the first after a fork, which takes no threads along
                self._requests = queue.SimpleQueue()
                self._owner = os.getpid()
                threading.Thread(
                    target=self._serve, args=(self._requests,), name="ortforge-spawner", daemon=True
                ).start()
        future: Future[subprocess.Popen[bytes]] = Future()
        self._requests.put((future, argv, options))
        return future.result()

    @staticmethod
    def _serve(requests: queue.SimpleQueue[tuple[Future[Any], Sequence[str], Mapping[str, Any]]]) -> None:
        while True:
            future, argv, options = requests.get()
            try:
                future.set_result(subprocess.Popen(argv, **options))
            except BaseException as error:
                future.set_exception(error)
            del future  # or the last process would be held until the next one starts


SPAWNER: Final = Spawner()
