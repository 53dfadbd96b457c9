"""Probes the hardware that cells run on, so that nobody types it in and every timing knows where it was taken.

Parsers are pure and take text; :func:`probe` reads the files and asks the drivers: Linux in full, macOS and Windows as
well as the standard library allows.
"""

from __future__ import annotations

import csv
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ortforge.api import Device, Gpu
from ortforge.store.hashing import digest_json

__all__ = [
    "identity",
    "matches",
    "parse_cgroup_paths",
    "parse_cpuinfo",
    "parse_memory",
    "parse_nvidia_smi",
    "parse_pressure",
    "parse_quota_v1",
    "parse_quota_v2",
    "pressure",
    "probe",
    "share",
]

_PCI_VENDORS: Final = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel", "0x5143": "qualcomm"}
"""PCI ids of vendors whose GPUs an EP can use; display controllers of servers and virtual machines are left out."""

_SMI: Final = "name,driver_version,memory.total,compute_cap,uuid"
_SMI_TIMEOUT_S: Final = 5.0
_CGROUPS: Final = Path("/sys/fs/cgroup")


# Pure: what the files and tools say.


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Return CPU model and flags from ``/proc/cpuinfo``.

    Arm's has no model name; implementer and part stand for it. Flags that some core lacks are left out (hybrid CPUs).
    """
    fields: dict[str, str] = {}
    flags: list[frozenset[str]] = []
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        fields.setdefault(name.lower(), value)
        if name.lower() in ("flags", "features", "isa"):
            flags.append(frozenset(value.split()))
    model = fields.get("model name") or fields.get("cpu model") or fields.get("uarch") or ""
    if not model and "cpu part" in fields:
        model = f"Arm implementer {fields.get('cpu implementer', '?')} part {fields['cpu part']}"
    return " ".join(model.split()), frozenset.intersection(*flags) if flags else frozenset()


def parse_cgroup_paths(text: str) -> dict[str, str]:
    """Return ``{controller: path}`` from ``/proc/self/cgroup``; version 2's only entry has the key ``""``."""
    paths = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def parse_quota_v2(text: str) -> float:
    """Return the CPUs that ``cpu.max`` allows (``"150000 100000"`` is 1.5), ``inf`` for ``max``."""
    quota, _, period = text.strip().partition(" ")
    return math.inf if quota == "max" else int(quota) / int(period or 100_000)


def parse_quota_v1(quota: str, period: str) -> float:
    """Return the CPUs that ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` allow, ``inf`` for -1."""
    return math.inf if int(quota) <= 0 else int(quota) / int(period)


def parse_memory(text: str) -> float:
    """Return bytes of ``memory.max`` or ``memory.limit_in_bytes``; ``inf`` for none (in version 1 a huge number)."""
    stripped = text.strip()
    return math.inf if stripped == "max" or int(stripped) >= 1 << 60 else int(stripped)


def parse_nvidia_smi(text: str, visible: str | None = None) -> tuple[Gpu, ...]:
    """Return the GPUs of ``nvidia-smi --query-gpu=…`` (name, driver, memory in MiB, compute capability, UUID; csv).

    :param visible: ``CUDA_VISIBLE_DEVICES``, which nvidia-smi does not heed: CUDA has those GPUs alone, in that order.
        ``None`` where it is not set.
    """
    gpus, uuids = [], []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) >= 4:
            memory = int(row[2]) << 20 if row[2].strip().isdigit() else 0
            capability = row[3].strip() if re.fullmatch(r"\d+\.\d+", row[3].strip()) else ""
            gpus.append(Gpu("nvidia", row[0].strip(), row[1].strip(), memory, capability))
            uuids.append(row[4].strip() if len(row) > 4 else "")
    return tuple(gpus) if visible is None else tuple(gpus[number] for number in _visible(visible, uuids))


def _visible(setting: str, uuids: Sequence[str]) -> list[int]:
    """Return the numbers of the GPUs that ``CUDA_VISIBLE_DEVICES`` lists, by CUDA's rules.

    An entry is a number or the beginning of one GPU's UUID; the first that is neither ends the list. Parts of a GPU
    (``MIG-…``) are not in nvidia-smi's answer: with them, every GPU counts.
    """
    entries = [entry.strip() for entry in setting.split(",")]
    if any(entry.startswith("MIG") for entry in entries):
        return list(range(len(uuids)))
    chosen: list[int] = []
    for entry in entries:
        named = [number for number, uuid in enumerate(uuids) if entry.startswith("GPU-") and uuid.startswith(entry)]
        if entry.isdecimal() and int(entry) < len(uuids):
            named = [int(entry)]
        if len(named) != 1:
            break
        chosen.append(named[0])
    return chosen


def parse_pressure(text: str) -> float | None:
    """Return the cumulative "some" stall of ``/proc/pressure/cpu`` in microseconds, or ``None`` where it is missing."""
    match = re.search(r"^some .*\btotal=(\d+)", text, re.MULTILINE)
    return float(match[1]) if match else None


def identity(device: Device) -> str:
    """Return a digest of all that can change a timing: the CPU, its share, memory, GPUs and drivers, NPUs."""
    return digest_json(
        {
            "system": device.system,
            "machine": device.machine,
            "cpu": device.cpu_model,
            "flags": sorted(device.cpu_flags),
            "cores": device.cores,
            "quota": device.quota,
            "memory_gib": round(device.memory / (1 << 30)),
            "gpus": [[gpu.vendor, gpu.name, gpu.driver, gpu.memory, gpu.compute_capability] for gpu in device.gpus],
            "npus": list(device.npus),
        }
    )


def matches(device: Device, wanted: Mapping[str, Any]) -> str:
    """Return why a device is not the one that a ``[devices]`` filter asks for, or ``""`` when it is.

    :param wanted: ``kind`` (``cpu``, ``gpu``, ``npu``), ``flags`` (all needed), ``model`` and ``gpu`` (globs, any
        case), ``cores`` (at least). Empty values ask for nothing.
    """
    reasons = []
    kind = wanted.get("kind")
    if kind == "gpu" and not device.gpus:
        reasons.append("it has no GPU")
    if kind == "npu" and not device.npus:
        reasons.append("it has no NPU")
    lacking = sorted(set(wanted.get("flags") or ()) - device.cpu_flags)
    if lacking:
        reasons.append(f"its CPU lacks {', '.join(lacking)}")
    model = wanted.get("model")
    if model and not _fits(model, [device.cpu_model]):
        reasons.append(f"its CPU is {device.cpu_model}, not {model}")
    gpu = wanted.get("gpu")
    if gpu and not _fits(gpu, [found.name for found in device.gpus]):
        reasons.append(f"it has {', '.join(found.name for found in device.gpus) or 'no GPU'}, not {gpu}")
    cores = wanted.get("cores")
    if cores and device.cores < cores:
        reasons.append(f"it has {device.cores} cores, not {cores}")
    return "; ".join(reasons)


def _fits(pattern: str, names: Iterable[str]) -> bool:
    return any(fnmatchcase(name.lower(), pattern.lower()) for name in names)


# Effects: reading them.


def pressure() -> float | None:
    """Return for how long, in microseconds since boot, some task waited for a CPU; ``None`` where Linux does not tell.

    Two calls around a measurement say how much others were in its way.
    """
    return parse_pressure(_read(Path("/proc/pressure/cpu")))


def probe(name: str = "here") -> Device:
    """Look at this machine. Takes milliseconds, and what ``nvidia-smi`` takes where there is one.

    ``Device.quota`` is the CPUs that the control group allows, 0 when it sets no limit.
    """
    model, flags = _cpu()
    quota, limit = _limits()
    cores = _affinity()
    if math.isfinite(quota):
        cores = max(1, min(cores, math.ceil(quota)))
    memory = _memory()
    return Device(
        name=name,
        system=platform.system().lower(),
        machine=platform.machine().lower(),
        cpu_model=model,
        cpu_flags=flags,
        cores=cores,
        quota=round(quota, 3) if math.isfinite(quota) else 0.0,
        memory=int(min(memory, limit)) if memory else int(limit if math.isfinite(limit) else 0),
        gpus=_gpus(model),
        npus=_npus(),
    )


def share() -> tuple[tuple[int, ...], float]:
    """Return the processors that this process may run on and how many of them at once: ``()`` and 0 for "all"."""
    quota = _limits()[0]
    allowed: tuple[int, ...] = ()
    if sys.platform == "linux" and len(os.sched_getaffinity(0)) < (os.cpu_count() or 1):
        allowed = tuple(sorted(os.sched_getaffinity(0)))
    return allowed, round(quota, 3) if math.isfinite(quota) else 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(command: Sequence[str], timeout: float = 2.0) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _cpu() -> tuple[str, frozenset[str]]:
    model, flags = parse_cpuinfo(_read(Path("/proc/cpuinfo")))
    if sys.platform == "darwin":
        keys = ("machdep.cpu.brand_string", "machdep.cpu.features", "machdep.cpu.leaf7_features")
        brand, *features = (_output(["sysctl", "-n", key]).strip() for key in keys)
        return brand, frozenset(" ".join(features).lower().split())
    if not model:
        board = _read(Path("/proc/device-tree/model")).strip("\0\n ")
        model = board or platform.processor() or os.environ.get("PROCESSOR_IDENTIFIER", "") or platform.machine()
    return model, flags


def _affinity() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _limits() -> tuple[float, float]:
    """Return CPUs and bytes that the control groups of this process allow: the least of the group and its parents."""
    paths = parse_cgroup_paths(_read(Path("/proc/self/cgroup")))
    quota = memory = math.inf
    for folder in _groups(_CGROUPS, paths.get("")):
        text = _read(folder / "cpu.max")
        quota = min(quota, parse_quota_v2(text)) if text.strip() else quota
        text = _read(folder / "memory.max")
        memory = min(memory, parse_memory(text)) if text.strip() else memory
    for folder in _groups(_CGROUPS / "cpu", paths.get("cpu")):
        texts = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        quota = min(quota, parse_quota_v1(*texts)) if all(texts) else quota
    for folder in _groups(_CGROUPS / "memory", paths.get("memory")):
        text = _read(folder / "memory.limit_in_bytes")
        memory = min(memory, parse_memory(text)) if text.strip() else memory
    return quota, memory


def _groups(mount: Path, path: str | None) -> list[Path]:
    """List a group's folder and those above it: in a container the path may be the host's, and the root is ours."""
    if path is None:
        return []
    inside = PurePosixPath(path.lstrip("/"))
    return [mount / part for part in (inside, *inside.parents) if ".." not in part.parts]


def _memory() -> int:
    if sys.platform == "win32":
        import psutil

        return int(psutil.virtual_memory().total)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


def _gpus(cpu_model: str) -> tuple[Gpu, ...]:
    gpus: tuple[Gpu, ...] = ()
    smi = shutil.which("nvidia-smi")
    if smi:
        text = _output([smi, f"--query-gpu={_SMI}", "--format=csv,noheader,nounits"], _SMI_TIMEOUT_S)
        gpus = parse_nvidia_smi(text, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if sys.platform == "darwin" and cpu_model.startswith("Apple"):
        return (Gpu("apple", cpu_model, platform.mac_ver()[0], 0),)
    cards = sorted(Path("/sys/class/drm").glob("card[0-9]*"))
    found = [_drm_gpu(card / "device") for card in cards if "-" not in card.name]
    return gpus + tuple(gpu for gpu in found if gpu and not (gpus and gpu.vendor == "nvidia"))


def _drm_gpu(device: Path) -> Gpu | None:
    vendor = _PCI_VENDORS.get(_read(device / "vendor").strip())
    if vendor is None:
        return None
    driver = _link_name(device / "driver")
    version = _read(Path("/sys/module") / driver / "version").strip() or platform.release()
    name = _read(device / "product_name").strip() or f"{vendor} {_read(device / 'device').strip()}"
    memory = _read(device / "mem_info_vram_total").strip()
    return Gpu(vendor, name, f"{driver} {version}".strip(), int(memory) if memory.isdigit() else 0)


def _npus() -> tuple[str, ...]:
    """Return the drivers of compute accelerators (``intel_vpu``, ``amdxdna`` …) that have a node under /dev/accel."""
    nodes = sorted(Path("/dev/accel").glob("accel*"))
    return tuple(_link_name(Path("/sys/class/accel") / node.name / "device" / "driver") or node.name for node in nodes)


def _link_name(link: Path) -> str:
    try:
        return link.resolve(strict=True).name
    except OSError:
        return ""
