"""What was asked and is not in force is found in the compile commands, with the reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.build.effective import Difference, differences

SOURCE = "/work/source/onnxruntime"
CORE = f"{SOURCE}/core/framework/allocator.cc"
CACHE = """\
# This is the CMakeCache file.
//Build with DNNL support
onnxruntime_USE_DNNL:BOOL=ON
//Override new/delete and arena allocator with mimalloc
onnxruntime_USE_MIMALLOC:INTERNAL=ON
onnxruntime_ENABLE_LTO:BOOL=ON
onnxruntime_USE_XNNPACK:BOOL=OFF
onnxruntime_USE_XNPACK:UNINITIALIZED=ON
onnxruntime_DNNL_GPU_RUNTIME:UNINITIALIZED=ocl
safeint_SOURCE_DIR:PATH=/usr/include/safeint
CMAKE_CXX_FLAGS:STRING=-march=x86-64-v3 -DOURS
"""


def entry(file: str = CORE, words: str = "") -> dict[str, str]:
    """An entry as CMake writes it for the Ninja generator."""
    output = f"CMakeFiles/onnxruntime_framework.dir{file}.o"
    options = (
        "-DCPUINFO_SUPPORTED_PLATFORM=1 -DONNX_NAMESPACE=onnx -I/work/source/include/onnxruntime -O3 -DNDEBUG -fPIC"
    )
    command = f"/usr/bin/c++ {options} {words} -o {output} -c {file}"
    return {"directory": "/work/build/Release", "command": command, "file": file, "output": output}


DNNL = entry(f"{SOURCE}/core/providers/dnnl/dnnl_execution_provider.cc", "-DUSE_DNNL=1")


def whats(found: list[Difference]) -> list[str]:
    return [one.what for one in found]


def test_what_is_in_force_is_no_difference() -> None:
    commands = [
        entry(words="-DUSE_DNNL=1 -flto=auto -fno-fat-lto-objects"),
        DNNL,
        entry(f"{SOURCE}/python/onnxruntime_pybind_state.cc"),
    ]
    flags = {"use_dnnl": True, "enable_lto": True, "build_wheel": True, "use_full_protobuf": True, "parallel": 2}
    assert differences(flags, {"safeint_SOURCE_DIR": "/usr/include/safeint"}, commands, CACHE) == []


def test_mimalloc_on_linux_is_lost_and_the_reason_is_known() -> None:
    (lost,) = differences({"use_mimalloc": True}, {}, [entry()], CACHE)
    assert (lost.what, lost.asked) == ("--use_mimalloc", "on")
    assert lost.found == "no -DUSE_MIMALLOC in the compile commands"
    assert "Windows only" in lost.why
    assert "25213" in lost.why
    assert 'allocator = "mimalloc"' in lost.why
    assert whats(differences({}, {"onnxruntime_USE_MIMALLOC": "ON"}, [entry()], CACHE)) == [
        "-Donnxruntime_USE_MIMALLOC"
    ], "asked as a definition it is lost as well"
    assert differences({"use_mimalloc": True}, {}, [entry(words="-DUSE_MIMALLOC")], CACHE) == [], "up to 1.13"


def test_an_ep_is_there_when_its_files_are_compiled() -> None:
    only_defined = [entry(words="-DUSE_OPENVINO=1")]  # what an interface to the EP defines, too
    (lost,) = differences({"use_openvino": "CPU"}, {}, only_defined, "onnxruntime_USE_OPENVINO:BOOL=OFF\n")
    assert lost.asked == "CPU"
    assert "/core/providers/openvino/" in lost.found
    assert lost.why == "ORT's build.py or CMake files set onnxruntime_USE_OPENVINO to OFF."
    assert differences({"use_dnnl": True}, {}, [DNNL], CACHE) == []


def test_what_dependencies_are_compiled_with_counts_for_nothing() -> None:
    elsewhere = entry("/work/build/Release/_deps/onnx-src/onnx/checker.cc", "-flto -DUSE_MIMALLOC")
    assert whats(differences({"enable_lto": True, "use_mimalloc": True}, {}, [entry(), elsewhere], CACHE)) == [
        "--enable_lto",
        "--use_mimalloc",
    ]


@pytest.mark.parametrize(
    ("value", "words", "missing"),
    [
        (("float8", "sparsetensor"), "-DDISABLE_FLOAT8_TYPES -DDISABLE_SPARSE_TENSORS", []),
        (("float8", "sparsetensor"), "-DDISABLE_FLOAT8_TYPES", ["sparsetensor"]),
        ("optional", "", ["optional"]),
    ],
)
def test_each_value_of_a_flag_shows_in_its_own_way(value: object, words: str, missing: list[str]) -> None:
    found = differences({"disable_types": value}, {}, [entry(words=words)], CACHE)
    assert [one.asked for one in found] == missing


def test_minimal_builds_are_told_apart() -> None:
    plain = [entry(words="-DORT_MINIMAL_BUILD")]
    assert differences({"minimal_build": True}, {}, plain, CACHE) == []
    assert [one.asked for one in differences({"minimal_build": "extended"}, {}, plain, CACHE)] == ["extended"]


def test_flags_that_are_off_ask_for_nothing() -> None:
    assert differences({"use_cuda": False, "use_xnnpack": None}, {}, [entry()], CACHE) == []


def test_a_definition_that_nothing_reads_is_named_with_the_one_that_was_meant() -> None:
    (lost,) = differences({}, {"onnxruntime_USE_XNPACK": "ON"}, [entry()], CACHE)
    assert lost.found == "nothing reads it"
    assert "Perhaps onnxruntime_USE_XNNPACK was meant" in lost.why
    assert differences({}, {"onnxruntime_DNNL_GPU_RUNTIME": "ocl"}, [entry()], CACHE) == [], "read, but not declared"


def test_a_definition_that_became_something_else_is_named() -> None:
    (lost,) = differences({}, {"onnxruntime_USE_XNNPACK": "ON"}, [entry()], CACHE)
    assert (lost.asked, lost.found) == ("ON", "OFF")
    assert differences({}, {"onnxruntime_USE_XNNPACK": "off"}, [entry()], CACHE) == [], "OFF has many names"
    (gone,) = differences({}, {"CMAKE_NO_SUCH": "1"}, [entry()], CACHE)
    assert gone.found == "not set"


def test_compiler_flags_have_to_reach_the_compiler() -> None:
    asked = {"CMAKE_CXX_FLAGS": "-march=x86-64-v3 -DOURS"}
    assert differences({}, asked, [entry(words="-march=x86-64-v3 -DOURS")], CACHE) == []
    assert [one.asked for one in differences({}, asked, [entry()], CACHE)] == ["-march=x86-64-v3", "-DOURS"]
    only_c = {**entry("/work/source/cmake/a.c", "-march=x86-64-v3 -DOURS")}
    assert len(differences({}, asked, [entry(), only_c], CACHE)) == 2, "C's are not C++'s"


def test_arguments_are_read_like_a_command() -> None:
    command = DNNL["command"].split()
    listed = {"directory": "/b", "arguments": command, "file": DNNL["file"]}
    assert differences({"use_dnnl": True}, {}, [listed], CACHE) == []


@given(st.dictionaries(st.text(max_size=12), st.one_of(st.booleans(), st.integers(), st.text(max_size=9)), max_size=5))
def test_unknown_flags_are_never_judged(flags: dict[str, object]) -> None:
    unknown = {f"x_{name}": value for name, value in flags.items()}
    assert differences(unknown, {}, [entry()], CACHE) == []
