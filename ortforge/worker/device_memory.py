"""Memory that this process holds on an NVIDIA GPU, from the driver (NVML), through the standard library alone.

ONNX Runtime's arenas give nothing back while a session lives, so what is held after all samples were run is what was
needed at most. In a container of its own process numbers the driver's list does not name this process; then the growth
of what is used on the whole GPU is taken, and the figure says so.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

__all__ = ["DeviceMemory", "figure"]

_NOT_AVAILABLE = (1 << 64) - 1
"""NVML_VALUE_NOT_AVAILABLE of nvml.h: the driver does not tell (Windows' display model, some virtual GPUs)."""

_MOST_PROCESSES = 256


class _Process(ctypes.Structure):
    """``nvmlProcessInfo_v2_t`` of nvml.h."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class _Memory(ctypes.Structure):
    """``nvmlMemory_t`` of nvml.h."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def figure(held: Mapping[int, int], pid: int, before: int | None, after: int | None) -> dict[str, Any] | None:
    """Return ``{"bytes", "source"}`` from what the driver said, or ``None`` when it said nothing of use.

    :param held: bytes by process. :param pid: this process. :param before: bytes used on the whole GPU before the
        session was made, and ``after`` everything ran.
    """
    if held.get(pid, _NOT_AVAILABLE) != _NOT_AVAILABLE:
        return {"bytes": held[pid], "source": "process"}
    if before is not None and after is not None and after > before:
        return {"bytes": after - before, "source": "whole GPU"}
    return None


class DeviceMemory:
    """The GPUs as the driver shows them, from before a session is made. Where there is no driver, it knows nothing."""

    def __init__(self) -> None:
        self._nvml: Any = None
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL("libnvidia-ml.so.1")
            if library.nvmlInit_v2() == 0:
                self._nvml = library
        self._before: dict[str, int] = {}
        for handle in self._handles():
            used = self._used(handle)
            if used is not None:
                self._before[self._bus(handle)] = used

    def held(self, index: int = 0) -> dict[str, Any] | None:
        """Return what this process holds now on CUDA's device ``index``; ``None`` where the driver does not tell.

        The result is that of :func:`figure`. CUDA must be in use by then: asking it for a device would start it.
        """
        bus = _bus_of(index) if self._nvml is not None else ""
        handle = next((found for found in self._handles() if self._bus(found) == bus), None) if bus else None
        if handle is None:
            return None
        return figure(self._processes(handle), os.getpid(), self._before.get(bus), self._used(handle))

    def where(self, index: int = 0) -> str:
        """Say which GPU CUDA's device ``index`` is, where there are several to be told apart; else ``""``.

        CUDA must be in use by then, as for :meth:`held`.
        """
        visible = _visible_gpus()
        if visible < 2 and len(self._before) < 2:
            return ""
        bus = _bus_of(index)
        handle = next((found for found in self._handles() if bus and self._bus(found) == bus), None)
        if handle is None:
            return ""
        return f"It ran on GPU {index} of {visible} that CUDA sees: {self._name(handle)} at {bus}."

    def _name(self, handle: Any) -> str:
        name = (ctypes.c_char * 96)()  # NVML_DEVICE_NAME_V2_BUFFER_SIZE
        if self._nvml.nvmlDeviceGetName(handle, name, len(name)) != 0:
            return "a GPU"
        return name.value.decode("utf-8", "replace")

    def _handles(self) -> Sequence[Any]:
        count = ctypes.c_uint()
        if self._nvml is None or self._nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return ()
        handles = []
        for number in range(count.value):
            handle = ctypes.c_void_p()
            if self._nvml.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(handle)) == 0:
                handles.append(handle)
        return handles

    def _bus(self, handle: Any) -> str:
        """Return a GPU's address on the bus: ``0000:00:06.0``."""
        info = (ctypes.c_char * 256)()  # nvmlPciInfo_t begins with the address in its old form, 16 characters
        if self._nvml.nvmlDeviceGetPciInfo_v3(handle, info) != 0:
            return ""
        return ctypes.string_at(info, 16).split(b"\0")[0].decode("ascii", "replace").lower()

    def _used(self, handle: Any) -> int | None:
        memory = _Memory()
        return int(memory.used) if self._nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0 else None

    def _processes(self, handle: Any) -> dict[int, int]:
        list_processes = getattr(self._nvml, "nvmlDeviceGetComputeRunningProcesses_v3", None)
        if list_processes is None:  # a driver before 510
            return {}
        count, found = ctypes.c_uint(_MOST_PROCESSES), (_Process * _MOST_PROCESSES)()
        if list_processes(handle, ctypes.byref(count), found) != 0:
            return {}
        return {int(entry.pid): int(entry.used) for entry in found[: count.value]}


def _visible_gpus() -> int:
    """Return how many GPUs CUDA sees: those that CUDA_VISIBLE_DEVICES leaves."""
    count = ctypes.c_int()
    with suppress(OSError, AttributeError):
        if ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0


def _bus_of(index: int) -> str:
    """Ask CUDA for the address of its device ``index``: its numbers are not the driver's (CUDA_VISIBLE_DEVICES)."""
    with suppress(OSError, AttributeError):
        cuda = ctypes.CDLL("libcuda.so.1")
        device, name = ctypes.c_int(), (ctypes.c_char * 32)()
        if cuda.cuDeviceGet(ctypes.byref(device), index) == 0 and cuda.cuDeviceGetPCIBusId(name, 32, device) == 0:
            return name.value.decode("ascii", "replace").lower()
    return ""
