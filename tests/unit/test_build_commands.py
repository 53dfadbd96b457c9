"""The commands of a build, what is read off their output, and what the compilers were told: all of it pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ortforge.build.commands import compile_argv, configure_argv, install_argv, package_argv
from ortforge.build.flags import read_parser
from ortforge.build.in_force import in_force
from ortforge.build.layout import ccache_volume
from ortforge.build.ninja import Meter, cache_counts
from ortforge.build.request import BuildRequest
from ortforge.build.room import disk_is_full

PARSER = """
import argparse


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build_dir")
    parser.add_argument("--config", nargs="+")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--build_wheel", action="store_true")
    parser.add_argument("--enable_pybind", action="store_true")
    parser.add_argument("--parallel", nargs="?", const="0", default="1", type=int)
    parser.add_argument("--target")
    parser.add_argument("--use_dnnl", action="store_true")
    parser.add_argument("--cmake_path")
    parser.add_argument("--cmake_extra_defines", nargs="+", action="append")
    return parser.parse_args()
"""
SHAPES = read_parser({"build.py": PARSER})
ODD = "$(touch /x); `touch /x` && 'a' \"b\" | c > d"
REQUEST = BuildRequest(
    "t",
    "1.21.0",
    flags={"build_wheel": True, "use_dnnl": True, "enable_pybind": True, "skip": False},
    defines={"A": "1", "B": "two words"},
)


def test_each_stage_is_a_call_of_its_own() -> None:
    configure = configure_argv(REQUEST, "python3", 4, SHAPES)
    assert configure[:2] == ["python3", "/work/source/tools/ci_build/build.py"]
    assert configure[2:6] == ["--build_dir", "/work/build", "--config", "Release"]
    assert configure[6:9] == ["--update", "--parallel", "4"], "a number, never a bare --parallel"
    assert configure[-3:] == ["--cmake_extra_defines", "A=1", "B=two words"]
    assert {"--build_wheel", "--enable_pybind", "--use_dnnl"} <= set(configure)
    assert not [word for word in configure if word.startswith("--skip")], "what is false is not given"
    compiled = compile_argv(REQUEST, "python3", 4, SHAPES)
    assert compiled[6:9] == ["--build", "--parallel", "4"]
    assert "--build_wheel" not in compiled, "it would package what is half done"
    assert "--update" not in compiled, "it would configure again"
    packaged = package_argv(REQUEST, "python3", 4, SHAPES)
    assert packaged.count("--build_wheel") == 1
    assert install_argv() == ["cmake", "--install", "/work/build/Release", "--prefix", "/work/install"]


def test_one_library_can_be_the_goal() -> None:
    assert compile_argv(REQUEST, "python3", 4, SHAPES, "onnxruntime_common")[-2:] == ["--target", "onnxruntime_common"]


def test_odd_characters_stay_in_one_word() -> None:
    odd = replace(REQUEST, flags={"cmake_path": ODD}, defines={"A": ODD})
    for argv in (configure_argv(odd, "python3", 1, SHAPES), compile_argv(odd, "python3", 1, SHAPES)):
        assert f"A={ODD}" in argv
        assert [word for word in argv if ODD in word] == [f"--cmake_path={ODD}", f"A={ODD}"]


def test_only_the_number_of_jobs_differs() -> None:
    two, four = (configure_argv(REQUEST, "python3", jobs, SHAPES) for jobs in (2, 4))
    assert [pair for pair in zip(two, four, strict=True) if pair[0] != pair[1]] == [("2", "4")]


def test_what_compilers_are_told() -> None:
    entries = [
        {
            "file": "/work/source/onnxruntime/core/a.cc",
            "command": r"/usr/bin/c++ -DUSE_DNNL=1 -D NDEBUG -DNAME=\"a\ b\" -I/x -isystem /y -O3 -fPIC -MF a.d a.cc",
        },
        {
            "file": "/work/source/onnxruntime/core/b.c",
            "arguments": ["cc", "-DNDEBUG", "-O3", "-std=gnu99", "-O3", "-o", "-DNO", "-c", "b.c"],
        },
        {"file": "/work/build/Release/_deps/onnx-src/c.cc", "command": "c++ -DTHEIRS -O0 -c c.cc"},
    ]
    assert in_force(entries) == {
        "files": 2,
        "defines": {'NAME="a b"': 1, "NDEBUG": 2, "USE_DNNL=1": 1},
        "options": {"-O3": 2, "-fPIC": 1, "-std=gnu99": 1},
    }
    assert in_force([]) == {"files": 0, "defines": {}, "options": {}}


def test_a_configuration_before_the_steps_is_not_counted_as_one() -> None:
    meter = Meter()
    for line in ("[0/1] Re-running CMake...", "[1/22] Building CXX object a.o", "[22/22] Linking CXX static library"):
        meter.read(line)
    assert meter.most == 22
    assert Meter().most == 0, "ninja: no work to do."


def test_the_compiler_caches_log_is_counted() -> None:
    log = """\
# onnxruntime/core/common/a.cc
direct_cache_miss
preprocessed_cache_hit
# onnxruntime/core/common/b.cc
direct_cache_miss
preprocessed_cache_miss
cache_miss
# onnxruntime/core/common/c.cc
direct_cache_hit
local_storage_hit
"""
    assert cache_counts(log.splitlines()) == {"direct_cache_hit": 1, "preprocessed_cache_hit": 1, "cache_miss": 1}
    assert sum(cache_counts([]).values()) == 0


@pytest.mark.parametrize(
    "line",
    [
        "/tmp/cczDkLxE.s: fatal error: error writing to /tmp/cczDkLxE.s: No space left on device",
        "CMake Error: Cannot write \"/work/build/x\": No space left on device",
        "cp: error writing '/work/source/a': Disk quota exceeded",
    ],
)  # fmt: skip
def test_a_full_disk_is_no_failure_of_the_source(line: str) -> None:
    found = disk_is_full(f"[1/2] Building CXX object a.o\n{line}\nninja: build stopped\n")
    assert found is not None
    assert found.what == f"The Docker engine's disk is full: {line}"
    assert found.exit_code == 4
    assert disk_is_full("error: 'space' was not declared in this scope") is None


def test_a_compiler_cache_is_its_users_own() -> None:
    assert ccache_volume("0:0") == ccache_volume("") != ccache_volume("1000:1000")
    assert ccache_volume("1000:1000") == ccache_volume("1000:100")
