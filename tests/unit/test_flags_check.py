"""Flags held against a version: each thing that is wrong has a sentence, and what is right reaches argparse whole."""

from __future__ import annotations

import argparse
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.build.flags import Flag, arguments, flags_of, known_versions, problems_of, read_command_line


def only(flags: dict[str, Any], version: str = "1.21.0", **more: Any) -> str:
    """Return the one problem that there is."""
    found = problems_of(flags, version, **more)
    assert len(found) == 1, found
    return found[0]


def test_a_usual_target_has_no_problem() -> None:
    flags = {"use_dnnl": True, "enable_lto": True, "parallel": 4, "skip_tests": True, "build_shared_lib": True}
    assert problems_of(flags, "1.21.0") == []
    assert problems_of({"config": "Release", "update": True, "build_wheel": True}, "1.21.0") == []
    assert problems_of({}, "1.21.0") == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"use_jemalloc": True}, "it existed in 0.1.4 to 1.6.0. Write allocator ="),
        ({"use_mkldnn": True}, "in 0.1.4 to 1.0.0. Use use_dnnl."),
        ({"use_openmp": True}, "issue 14067"),
        ({"no_telemetry": True}, "it exists since 1.29."),
        ({"use_cudaa": True}, "never was in any version. Perhaps you meant use_cuda."),
        ({"use_openv": True}, "Flags are written in full: perhaps you meant use_openvino."),
        ({"use_jemaloc": True}, "meant use_jemalloc, which is not in this version either"),
        ({"zzz": True}, "'ortforge flags list' shows what there is"),
        ({"use-dnnl": True}, "without dashes: use_dnnl"),
        ({"use_dnnl": "yes"}, "is a switch and takes no value: write use_dnnl = true"),
        ({"use_dnnl": 1}, "is a switch"),
        ({"cuda_home": True}, "needs a value"),
        ({"cuda_home": ("/a", "/b")}, "takes one value, not 2"),
        ({"disable_types": ()}, "needs at least one value; it takes float8, optional, sparsetensor"),
        ({"disable_types": ("float8", "float4")}, "cannot be 'float4'"),
        ({"nvcc_threads": "two", "use_cuda": True}, "needs a whole number, not 'two'"),
        ({"nvcc_threads": True, "use_cuda": True}, "needs a number: build.py fails without one"),
        ({"use_mpi": "maybe"}, "needs true or false, not 'maybe'"),
        ({"use_openvino": "CPU_FP32"}, "cannot be 'CPU_FP32'; it takes CPU, GPU, NPU"),
        ({"use_qnn": "both", "qnn_home": "/q"}, "it takes shared_lib, static_lib"),
        ({"cmake_generator": "Ninj"}, "cannot be 'Ninj'"),
        ({"parallel": True}, "needs a number of at least 1, such as parallel = 4"),
        ({"parallel": 0}, "whatever the container may use"),
        ({"parallel": -3}, "needs a number of at least 1, not -3"),
        ({"parallel": 2.5}, "needs a whole number, not '2.5'"),
        ({"config": "Debug"}, "is always Release in ortforge"),
        ({"config": ("Release", "Debug")}, "is always Release in ortforge"),
        ({"build_dir": "/tmp/x"}, "ortforge chooses the build folder"),
        ({"cmake_extra_defines": ("A=B",)}, "belong into the target's defines"),
        ({"use_mimalloc": True}, "no effect on Linux and macOS since 1.14"),
        ({"use_nnapi": True}, "is for Android"),
        ({"use_xcode": True}, "is for macOS, and this build is for Linux"),
        ({"msvc_toolset": "14.40"}, "is for Windows"),
        ({"use_dml": True}, "is for Windows"),
    ],
)
def test_each_problem_has_its_sentence(flags: dict[str, Any], said: str) -> None:
    problem = only(flags)
    assert problem.startswith(f"--{next(iter(flags))} ")
    assert said in problem


def test_since_122_another_systems_flag_is_refused_by_the_parser() -> None:
    assert "build.py of 1.22.0 refuses it on Linux" in only({"msvc_toolset": "14.40"}, "1.22.0")
    assert problems_of({"msvc_toolset": "14.40"}, "1.22.0", system="windows") == []


@pytest.mark.parametrize("mark", ["\n", "\r", "\0", "\x1b", "\x7f", "\x85", "\ud800"])
def test_control_characters_are_refused(mark: str) -> None:
    problem = only({"cuda_home": f"/usr{mark}/local"})
    assert "a value is one line of printable text" in problem
    assert problem.isprintable()


@pytest.mark.parametrize("value", ["$(reboot)", "; rm -rf /", "`id`", "a && b", "*", "'\"", "-O3 -g", "@file", "ü"])
def test_shell_characters_are_plain_text(value: str) -> None:
    assert problems_of({"cuda_home": value}, "1.21.0") == []
    assert arguments({"cuda_home": value}, flags_of("1.21.0")) == [f"--cuda_home={value}"]


@pytest.mark.parametrize(
    ("flags", "version", "artifact", "said"),
    [
        ({"minimal_build": True}, "1.21.0", "wheel", 'build it with artifact = "cxx"'),
        ({"disable_rtti": True}, "1.21.0", "wheel", "run-time type information"),
        (
            {"disable_exceptions": True, "minimal_build": "extended", "build_wheel": True},
            "1.21.0",
            "cxx",
            "build_wheel",
        ),
        ({"minimal_build": True, "enable_pybind": True}, "1.21.0", "cxx", "enable_pybind turns on Python bindings"),
        ({"disable_exceptions": True}, "1.21.0", "cxx", "needs minimal_build"),
        ({"use_xnnpack": True, "disable_contrib_ops": True}, "1.21.0", "wheel", "CMake would keep them"),
        ({"use_cuda": True, "disable_rtti": True}, "1.21.0", "cxx", "CMake would keep it"),
        ({"use_cuda": True, "use_rocm": True}, "1.21.0", "wheel", "cannot be together with use_rocm"),
        ({"use_tensorrt": True, "use_cuda": False}, "1.21.0", "wheel", "TensorRT turns CUDA on"),
        ({"use_openvino": "CPU", "use_full_protobuf": False}, "1.21.0", "wheel", "forces the full protobuf"),
        ({"build_shared_lib": False}, "1.21.0", "wheel", "a wheel holds the shared library"),
        ({"enable_nvtx_profile": True}, "1.21.0", "wheel", "needs use_cuda or use_tensorrt"),
        ({"enable_cuda_profiling": True}, "1.21.0", "wheel", "no effect without CUDA"),
        ({"use_external_dawn": True}, "1.21.0", "wheel", "needs use_webgpu"),
        ({"use_qnn": True}, "1.21.0", "wheel", "needs qnn_home"),
        ({"dnnl_gpu_runtime": "ocl", "use_dnnl": True}, "1.21.0", "wheel", "needs dnnl_opencl_root"),
        ({"enable_reduced_operator_type_support": True}, "1.21.0", "wheel", "needs include_ops_by_config"),
        ({"enable_training_apis": True}, "1.21.0", "wheel", "enable_training is that"),
        ({"wheel_name_suffix": "x", "use_cuda": True}, "1.21.0", "wheel", "breaks setup.py"),
        ({"enable_lazy_tensor": True}, "1.21.0", "wheel", "needs enable_training"),
    ],
)
def test_conflicts(flags: dict[str, Any], version: str, artifact: str, said: str) -> None:
    found = problems_of(flags, version, artifact=artifact)
    assert any(said in problem for problem in found), found


@pytest.mark.parametrize(
    ("flags", "version", "artifact"),
    [
        (
            {"minimal_build": ("extended", "custom_ops"), "disable_rtti": True, "disable_exceptions": True},
            "1.21.0",
            "cxx",
        ),
        ({"minimal_build": True}, "1.21.0", "cxx"),
        ({"use_tensorrt": True, "enable_nvtx_profile": True}, "1.21.0", "wheel"),
        ({"disable_contrib_ops": True}, "1.21.0", "wheel"),
        ({"use_mimalloc": False, "use_jemalloc": False, "parallel": False}, "1.21.0", "wheel"),
        ({"dnnl_gpu_runtime": "OCL", "dnnl_opencl_root": "/opt/cl", "use_dnnl": True}, "1.22.0", "wheel"),
        ({"use_mimalloc": "all"}, "1.10.0", "wheel"),
        ({"skip_keras_test": True}, "1.21.0", "wheel"),
    ],
)
def test_what_looks_odd_and_is_right(flags: dict[str, Any], version: str, artifact: str) -> None:
    assert problems_of(flags, version, artifact=artifact) == []


def test_all_problems_are_told_at_once_in_the_order_of_names() -> None:
    found = problems_of({"use_openmp": True, "use_cudaa": True, "parallel": True, "minimal_build": True}, "1.21.0")
    assert [problem.split()[0] for problem in found] == [
        "--parallel",
        "--use_cudaa",
        "--use_openmp",
        "--minimal_build:",
    ]


def test_an_unknown_version_is_a_problem_too() -> None:
    assert "no version '0.6.0'" in only({"use_dnnl": True}, "0.6.0")


def test_a_flag_newer_than_the_table_waits_for_the_trees_own_parser() -> None:
    assert problems_of({"use_quantum": True}, "1.32.0") == []
    tree = {"use_dnnl": Flag("use_dnnl", "--use_dnnl", action="store_true")}
    assert "this source's own parser" in only({"use_quantum": True}, "1.32.0", parser=tree)
    # What is known to be gone stays gone.
    assert "in 0.1.4 to 1.6.0" in only({"use_jemalloc": True}, "1.32.0")


def test_the_trees_parser_wins_over_the_table() -> None:
    tree = {
        "use_jemalloc": Flag("use_jemalloc", "--use_jemalloc", action="store_true"),
        "use_moon": Flag("use_moon", "--use_moon", choices=("full", "new")),
        "use_sea": Flag("use_sea", "--use_sea", action="store_true", platforms=frozenset({"windows"})),
    }
    assert problems_of({"use_jemalloc": True, "use_moon": "full"}, "1.21.0", parser=tree) == []
    assert "it takes full, new" in only({"use_moon": "half"}, "1.21.0", parser=tree)
    assert "refuses it on Linux" in only({"use_sea": True}, "1.21.0", parser=tree)
    assert "this source's own parser" in only({"use_dnnl": True}, "1.21.0", parser=tree)


def test_a_check_is_fast() -> None:
    flags = dict.fromkeys(flags_of("1.21.0"), True)
    began = time.process_time()
    assert problems_of(flags, "1.21.0")
    assert time.process_time() - began < 0.5


def test_arguments_are_sorted_and_repeat_what_repeats() -> None:
    shapes = flags_of("1.21.0")
    flags = {
        "use_openvino": True,
        "minimal_build": ("extended", "custom_ops"),
        "msbuild_extra_options": ("-a=b", "c=d"),
        "skip_keras_test": True,
        "parallel": 4,
        "use_cuda": False,
    }
    assert arguments(flags, shapes) == [
        "--minimal_build",
        "extended",
        "custom_ops",
        "--msbuild_extra_options=-a=b",
        "--msbuild_extra_options=c=d",
        "--parallel=4",
        "--skip-keras-test",
        "--use_openvino",
    ]
    assert arguments(flags, shapes) == arguments(dict(reversed(flags.items())), shapes)


def as_argparse(shapes: dict[str, Flag]) -> argparse.ArgumentParser:
    """Make the parser that the table describes, out of the standard library's own."""
    parser = argparse.ArgumentParser(fromfile_prefix_chars="@", exit_on_error=False)
    for flag in shapes.values():
        told: dict[str, Any] = {"dest": flag.name, "action": flag.action}
        if flag.is_switch:
            told |= {"const": flag.const} if flag.action == "store_const" else {}
        else:
            told["nargs"] = int(flag.nargs) if flag.nargs.isdigit() else flag.nargs or None
            told["choices"] = flag.choices or None
            told["const"] = flag.const if flag.nargs == "?" else None
            told["type"] = {"int": int, "str.lower": str.lower}.get(flag.type, str)
        parser.add_argument(flag.option, **told)
    return parser


@st.composite
def suitable(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Draw a version and values that its flags take, however odd the text."""
    version = draw(st.sampled_from(known_versions()))
    text = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=8)
    flags: dict[str, Any] = {}
    for flag in draw(st.lists(st.sampled_from(list(flags_of(version).values())), max_size=6, unique=True)):
        one: st.SearchStrategy[str] = st.sampled_from(flag.choices) if flag.choices else text
        if flag.accepted:
            one = st.sampled_from(flag.accepted.values)
        elif flag.type == "int":
            one = st.integers(-9, 99).map(str)
        elif flag.type == "_str_to_bool":
            one = st.sampled_from(["true", "False"])
        if flag.is_switch:
            flags[flag.name] = True
        elif flag.takes_several:
            flags[flag.name] = tuple(draw(st.lists(one, min_size=1, max_size=3)))
        else:
            flags[flag.name] = draw(one)
    return version, flags


@given(suitable())
def test_argparse_reads_what_we_write(drawn: tuple[str, dict[str, Any]]) -> None:
    version, flags = drawn
    shapes = flags_of(version)
    if any("begins with" in problem for problem in problems_of(flags, version, artifact="cxx")):
        return
    read = vars(as_argparse(shapes).parse_args(arguments(flags, shapes)))
    for name, value in flags.items():
        if shapes[name].is_switch:
            continue
        got = read[name]
        flat = (
            [part for each in got for part in (each if isinstance(each, list) else [each])]
            if isinstance(got, list)
            else [got]
        )
        want = [str(part) for part in (value if isinstance(value, tuple) else (value,))]
        if shapes[name].type == "str.lower":
            want = [part.lower() for part in want]
        assert [str(part) for part in flat] == [str(int(part)) if shapes[name].type == "int" else part for part in want]


def test_a_command_line_out_of_a_guide_is_read() -> None:
    line = "--config Release --build_shared_lib --parallel 4 --use_openvino=CPU --cmake_extra_defines A=1 B=2"
    assert read_command_line(line.split()) == {
        "config": "Release",
        "build_shared_lib": True,
        "parallel": "4",
        "use_openvino": "CPU",
        "cmake_extra_defines": ("A=1", "B=2"),
    }
