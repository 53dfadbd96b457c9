"""What this machine is said to be, and what a filter or a timing's key makes of it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.api import Device, Gpu
from ortforge.runtime import device

X86 = """\
processor	: 0
vendor_id	: AuthenticAMD
model name	: AMD EPYC 9655  96-Core Processor
flags		: fpu sse avx2 avx512f avx512_vnni
power management:

processor	: 1
model name	: AMD EPYC 9655  96-Core Processor
flags		: fpu sse avx2 avx512f
"""
ARM = """\
processor	: 0
Features	: fp asimd asimddp bf16
CPU implementer	: 0x41
CPU part	: 0xd4f
"""


def test_cpuinfo_of_x86_keeps_only_flags_that_all_cores_have() -> None:
    assert device.parse_cpuinfo(X86) == (
        "AMD EPYC 9655 96-Core Processor",
        frozenset({"fpu", "sse", "avx2", "avx512f"}),
    )


def test_cpuinfo_of_arm_is_named_by_its_part() -> None:
    assert device.parse_cpuinfo(ARM) == (
        "Arm implementer 0x41 part 0xd4f",
        frozenset({"fp", "asimd", "asimddp", "bf16"}),
    )


@given(st.text())
def test_any_cpuinfo_is_survived(text: str) -> None:
    model, flags = device.parse_cpuinfo(text)
    assert isinstance(model, str)
    assert isinstance(flags, frozenset)


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000\n", math.inf), ("150000 100000\n", 1.5), ("50000 100000", 0.5), ("200000", 2.0)]
)
def test_cpu_max(text: str, expected: float) -> None:
    assert device.parse_quota_v2(text) == expected


def test_limits_of_version_1() -> None:
    assert device.parse_quota_v1("-1\n", "100000\n") == math.inf
    assert device.parse_quota_v1("250000\n", "100000\n") == 2.5
    assert device.parse_memory("9223372036854771712\n") == math.inf
    assert device.parse_memory("max\n") == math.inf
    assert device.parse_memory("536870912\n") == 512 << 20


def test_cgroup_paths_of_both_versions() -> None:
    text = "12:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/user.slice\n"
    assert device.parse_cgroup_paths(text) == {
        "cpu": "/docker/abc",
        "cpuacct": "/docker/abc",
        "memory": "/docker/abc",
        "": "/user.slice",
    }


def test_nvidia_smi() -> None:
    text = "NVIDIA H200, 570.86.15, 143771, 9.0\nTesla P4, 535.54, [N/A], [N/A]\n"
    assert device.parse_nvidia_smi(text) == (
        Gpu("nvidia", "NVIDIA H200", "570.86.15", 143771 << 20, "9.0"),
        Gpu("nvidia", "Tesla P4", "535.54", 0, ""),
    )
    assert device.parse_nvidia_smi("No devices were found\n") == ()


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, ["H200", "A10", "L4"]),
        ("1", ["A10"]),
        ("2,0", ["L4", "H200"]),
        ("GPU-803e456b, GPU-28a5", ["A10", "H200"]),
        ("0,7,1", ["H200"]),
        ("GPU-", []),
        ("-1", []),
        ("", []),
        ("MIG-28a561a1-a94b", ["H200", "A10", "L4"]),
    ],
    ids=["all", "one", "order", "uuids", "ends-at-none", "several-match", "minus-one", "empty", "parts"],
)
def test_gpus_that_cuda_is_not_let_see_do_not_count(visible: str | None, seen: list[str]) -> None:
    """nvidia-smi lists them all the same, and CUDA numbers what it sees from 0 on."""
    text = (
        "H200, 580.159.04, 143771, 9.0, GPU-28a561a1-a94b-74a8-973e-2ea7f032d46a\n"
        "A10, 580.159.04, 23028, 8.6, GPU-803e456b-865b-010c-063b-dcebba954682\n"
        "L4, 580.159.04, 23034, 8.9, GPU-1b1c1d1e-0000-1111-2222-333344445555\n"
    )
    assert [gpu.name for gpu in device.parse_nvidia_smi(text, visible)] == seen


def test_pressure_counts_up_where_linux_tells_it() -> None:
    text = "some avg10=1.53 avg60=0.87 avg300=0.30 total=4929442\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    assert device.parse_pressure(text) == 4929442.0
    assert device.parse_pressure("") is None
    before, after = device.pressure(), device.pressure()
    assert (before is None) == (after is None)
    assert before is None or after is None or after >= before


def test_this_machine_is_described() -> None:
    found = device.probe()
    assert found.system == {"linux": "linux", "darwin": "darwin", "win32": "windows"}[sys.platform]
    assert found.cpu_model
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory > 64 << 20
    assert device.identity(found) == device.identity(device.probe("another name"))


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_cores_are_those_that_the_process_may_use() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from ortforge.runtime.device import probe; print(probe().cores)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == 1


GPU = Gpu("nvidia", "NVIDIA H200", "570.86.15", 143771 << 20, "9.0")


@pytest.mark.parametrize(
    "change",
    [
        {"cpu_model": "AMD EPYC 9755"},
        {"cpu_flags": frozenset({"avx2"})},
        {"cores": 4},
        {"quota": 1.5},
        {"gpus": (GPU,)},
        {"gpus": (replace(GPU, driver="575.1"),)},
        {"npus": ("intel_vpu",)},
        {"machine": "aarch64"},
    ],
)
def test_everything_that_changes_a_timing_changes_the_identity(linux_cpu: Device, change: dict[str, Any]) -> None:
    assert device.identity(replace(linux_cpu, **change)) != device.identity(linux_cpu)


def test_the_order_of_flags_and_the_name_do_not(linux_cpu: Device) -> None:
    other = replace(linux_cpu, name="there", cpu_flags=frozenset(sorted(linux_cpu.cpu_flags, reverse=True)))
    assert device.identity(other) == device.identity(linux_cpu)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({}, ""),
        ({"kind": "cpu", "flags": ["avx2"], "model": "*epyc*", "cores": 2}, ""),
        ({"flags": ["avx2", "amx_int8"]}, "its CPU lacks amx_int8"),
        ({"model": "*xeon*"}, "its CPU is AMD EPYC 9655, not *xeon*"),
        ({"kind": "gpu"}, "it has no GPU"),
        ({"kind": "npu"}, "it has no NPU"),
        ({"gpu": "*h200*"}, "it has no GPU, not *h200*"),
        ({"cores": 8, "kind": "gpu"}, "it has no GPU; it has 2 cores, not 8"),
    ],
)
def test_a_filter_says_what_is_missing(linux_cpu: Device, wanted: dict[str, Any], reason: str) -> None:
    assert device.matches(linux_cpu, wanted) == reason


def test_a_filter_finds_a_gpu_by_glob(linux_cpu: Device) -> None:
    assert device.matches(replace(linux_cpu, gpus=(GPU,)), {"kind": "gpu", "gpu": "*h200*"}) == ""
