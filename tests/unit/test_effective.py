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


# CUDA


def kernel(words: str) -> dict[str, str]:
    """An entry for one of CUDA's files, as CMake writes it."""
    file = f"{SOURCE}/core/providers/cuda/tensor/cast_op.cu"
    command = f"/usr/local/cuda/bin/nvcc -forward-unknown-to-host-compiler -DUSE_CUDA=1 -O3 {words} -x cu -c {file}"
    return {"directory": "/work/build/Release", "command": command, "file": file}


ONE_GPU = '"--generate-code=arch=compute_80,code=[compute_80,sm_80]"'
CUDA_CACHE = """\
CMAKE_CUDA_ARCHITECTURES:UNINITIALIZED={asked}
CMAKE_CUDA_FLAGS:STRING=--ftz=true
onnxruntime_USE_FLASH_ATTENTION:BOOL=ON
"""


@pytest.mark.parametrize(
    ("asked", "words", "lost"),
    [
        ("80", ONE_GPU, []),
        ("80-real", '"--generate-code=arch=compute_80,code=[sm_80]"', []),
        ("80-virtual", '"--generate-code=arch=compute_80,code=[sm_80]"', []),
        ("90", '"--generate-code=arch=compute_90a,code=[sm_90a]"', []),  # newer versions of ORT make it so
        ("80;90", ONE_GPU, ["90"]),
        ("8", ONE_GPU, ["8"]),
        ("native", ONE_GPU, []),
    ],
)
def test_gpus_that_no_kernel_is_compiled_for_are_named(asked: str, words: str, lost: list[str]) -> None:
    defines = {"CMAKE_CUDA_ARCHITECTURES": asked}
    found = differences({"use_cuda": True}, defines, [kernel(words)], CUDA_CACHE.format(asked=asked))
    assert [one.asked for one in found] == lost
    assert all(one.found.startswith(f"no sm_{one.asked} in the commands") for one in found)


def test_gpus_for_a_build_without_cuda() -> None:
    (lost,) = differences({}, {"CMAKE_CUDA_ARCHITECTURES": "80"}, [entry()], CUDA_CACHE.format(asked="80"))
    assert lost.why == "No CUDA file is compiled: the target lacks the EP."


def test_attention_that_this_cuda_is_too_old_for_is_lost() -> None:
    defines = {"onnxruntime_USE_FLASH_ATTENTION": "ON"}
    (lost,) = differences({}, defines, [kernel(ONE_GPU)], CUDA_CACHE.format(asked="80"))
    assert lost.found == "no -DUSE_FLASH_ATTENTION in the compile commands"
    assert differences({}, defines, [kernel(f"-DUSE_FLASH_ATTENTION=1 {ONE_GPU}")], CUDA_CACHE.format(asked="80")) == []


def test_cudas_own_flags_are_looked_for_in_cudas_commands() -> None:
    defines, cache = {"CMAKE_CUDA_FLAGS": "--ftz=true"}, CUDA_CACHE.format(asked="80")
    assert differences({}, defines, [kernel("--ftz=true")], cache) == []
    assert whats(differences({}, defines, [kernel(""), entry(words="--ftz=true")], cache)) == ["-DCMAKE_CUDA_FLAGS"]


def test_smaller_cuda_builds_show() -> None:
    small = [kernel("-DUSE_CUDA_MINIMAL")]
    assert differences({"use_cuda": True, "enable_cuda_minimal_build": True}, {}, small, CACHE) == []
    assert whats(differences({"enable_cuda_minimal_build": True}, {}, [kernel("")], CACHE)) == [
        "--enable_cuda_minimal_build"
    ]
    nhwc = [kernel("-DENABLE_CUDA_NHWC_OPS")]
    assert whats(differences({"disable_cuda_nhwc_ops": True}, {}, nhwc, CACHE)) == ["--disable_cuda_nhwc_ops"]
