"""What several backends ask of a device, said in the same words."""

from __future__ import annotations

import os

from ortforge.api import Availability, Device, Gpu, available, unavailable

X86_64 = ("x86_64", "amd64")
ARM64 = ("aarch64", "arm64")

_SYSTEMS = {"android": "Android", "darwin": "macOS", "linux": "Linux", "windows": "Windows"}


def gpus_of(device: Device, *vendors: str) -> tuple[Gpu, ...]:
    """Return the device's GPUs whose vendor's name begins with one of ``vendors``, in any case."""
    return tuple(gpu for gpu in device.gpus if gpu.vendor.lower().startswith(vendors))


def describe(device: Device) -> str:
    """Say what the device is: ``Linux, x86_64, AMD EPYC, no GPU``."""
    gpus = ", ".join(gpu.name for gpu in device.gpus) or "no GPU"
    parts = (system(device.system), device.machine, device.cpu_model, gpus, *device.npus)
    return ", ".join(part for part in parts if part)


def system(name: str) -> str:
    """Return a system's name as people write it."""
    return _SYSTEMS.get(name, name)


def other_system(device: Device, *wanted: str) -> str:
    """Return why this operating system will not do, or ``""``."""
    if device.system in wanted:
        return ""
    return f"it needs {' or '.join(system(name) for name in wanted)}; this device runs {system(device.system)}"


def on_nvidia(device: Device, what: str) -> Availability:
    """Answer for an EP, called ``what`` in messages, that needs one of NVIDIA's GPUs and a system with its driver."""
    problem = other_system(device, "linux", "windows")
    if problem:
        return unavailable(f"{what} does not run here: {problem}")
    if not gpus_of(device, "nvidia"):
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "" if hidden is None else f'; CUDA_VISIBLE_DEVICES = "{hidden}" hides those that it does not name'
        return unavailable(f"no NVIDIA GPU was found on this device ({describe(device)}){why}")
    return available()


def other_machine(device: Device, *wanted: str) -> str:
    """Return why this kind of processor will not do, or ``""``."""
    return "" if device.machine in wanted else f"it needs a processor of kind {wanted[0]}; this one is {device.machine}"
