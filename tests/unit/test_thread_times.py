"""How many threads computed, as the kernel counts it."""

from __future__ import annotations

import hashlib
import sys
import threading
import time

import pytest

from ortforge.worker import thread_times
from ortforge.worker.thread_times import computing_threads, cpu_times

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux gives the CPU time of single threads")

BLOCK = bytes(1 << 20)


def _work(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        hashlib.sha256(BLOCK).digest()  # without the interpreter's lock


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_that_compute_are_counted_and_those_that_wait_are_not(count: int) -> None:
    done = threading.Event()
    ready, finished = threading.Barrier(count + 2), threading.Barrier(count + 2)

    def run(seconds: float) -> None:
        ready.wait(30.0)
        _work(seconds)
        finished.wait(30.0)
        done.wait(30.0)

    threads = [threading.Thread(target=run, args=(0.2,), daemon=True) for _ in range(count)]
    threads.append(threading.Thread(target=run, args=(0.0,), daemon=True))
    for thread in threads:
        thread.start()
    before = cpu_times()
    ready.wait(30.0)
    finished.wait(30.0)
    counted = computing_threads(before, cpu_times())
    done.set()
    for thread in threads:
        thread.join(30.0)
    assert counted == count


def test_kernels_without_schedstat_count_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    precise = cpu_times()
    opened = open

    def refuse(path: str) -> object:
        if path.endswith("schedstat"):
            raise FileNotFoundError(path)
        return opened(path)

    monkeypatch.setattr(thread_times, "open", refuse, raising=False)
    coarse = cpu_times()
    assert coarse.keys() == precise.keys()
    assert all(abs(coarse[thread] - precise[thread]) < 0.5e9 for thread in coarse)


def test_where_the_system_does_not_tell_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_times, "_TASKS", "/nonexistent")
    assert cpu_times() == {}
    assert computing_threads({}, {}) is None
    assert computing_threads({1: 5}, {1: 5}) is None
