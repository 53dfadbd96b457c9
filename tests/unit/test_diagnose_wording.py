"""What people post is recognized in its own wording; what builds that succeed print is not taken for trouble."""

from __future__ import annotations

import pytest

from ortforge.build.diagnose import KNOWN, diagnose, examine, ran_out_of_memory

POSTED = {
    "a docker build that strips BuildKit's step": (
        "eigen-hash",
        """\
17.96 -- SHA1 hash of
17.96     /w/build/_deps/eigen3-subbuild/eigen3-populate-prefix/src/eigen-1d8b82b0740839c0de7f1242a3585e3390ff5f33.zip
17.96   does not match expected value
17.96     expected: '5ea4d05e62d7f954a46b3213f9b2535bdd866803'
17.96       actual: '51982be81bbe52572b54180454df11a3ece9a934'
17.96 -- Hash mismatch, removing...
""",
    ),
    "an abseil of the system": (
        "host-abseil",
        """\
-- Abseil source dir:/home/o/build/Linux/RelWithDebInfo/_deps/abseil_cpp-src
CMake Error at /usr/local/lib64/cmake/absl/abslTargets.cmake:42 (message):
  Some (but not all) targets in this export set were already defined.

  Targets Defined: absl::atomic_hook, absl::errno_saver, absl::log_severity,
  absl::no_destructor, absl::nullability, absl::raw_logging_internal
""",
    ),
    "a target of abseil": (
        "host-abseil",
        """\
CMake Error at onnxruntime_common.cmake:138 (target_link_libraries):
  Target "onnxruntime_common" links to:

    absl::low_level_hash

  but the target was not found.  Possible reasons include:

    * There is a typo in the target name.
""",
    ),
    "a library of abseil": (
        "host-abseil",
        """\
/usr/bin/ld: x.cc.o: undefined reference to symbol '_ZN4absl12lts_2023080212log_internal17MakeCheckOpStringE'
/usr/bin/ld: /usr/lib/libabsl_log_internal_check_op.so.2308.0.0: error adding symbols: DSO missing from command line
collect2: error: ld returned 1 exit status
""",
    ),
    "an operator that was left out": (
        "kernel-missing",
        "Failed to find kernel for Softmax(11) (node Softmax_0). Op with name (Softmax_0) and type (Softmax) kernel not"
        " found in CPUExecutionProvider. No matching hash for 15017\n",
    ),
    "Java": (
        "kernel-missing",
        'Exception in thread "main" ai.onnxruntime.OrtException: Error code - ORT_NOT_IMPLEMENTED - message: Could not'
        " find an implementation for TreeEnsembleClassifier(1) node with name 'TreeEnsembleClassifier'\n",
    ),
    "a wheel without the shared library": (
        "provider-library-missing",
        "[E:onnxruntime:Default, provider_bridge_ort.cc:902 Ensure] Failed to load library"
        " libonnxruntime_providers_shared.so with error: libonnxruntime_providers_shared.so: cannot open shared object"
        " file: No such file or directory\n[W:onnxruntime:Default, onnxruntime_pybind_state.cc:1615] Init provider"
        " bridge failed.\n",
    ),
    "an image's builder": (
        "out-of-memory",
        "[ 79%] Building CUDA object flash_fwd_hdim128.cu.o\n"
        "The command '/bin/sh -c ./build.sh --config Release' returned a non-zero code: 137\n",
    ),
    "a script": (
        "out-of-memory",
        "./build.sh: line 21: 12345 Killed                  python3 $DIR/tools/ci_build/build.py --build_dir $DIR\n",
    ),
    "make": (
        "out-of-memory",
        "make[2]: *** [CMakeFiles/onnxruntime_providers_cuda.dir/build.make:4526: flash_fwd_sm80.cu.o] Error 137\n",
    ),
    "the kernel": (
        "out-of-memory",
        "[ 3321.95] Memory cgroup out of memory: Killed process 49344 (cc1plus) total-vm:7860kB, anon-rss:6000kB\n",
    ),
    "a source folder before the package": (
        "extension-missing",
        "    from onnxruntime.capi import onnxruntime_validation\nModuleNotFoundError: No module named"
        " 'onnxruntime.capi'\n",
    ),
    "an old import": (
        "cuda-libraries-missing",
        "_pybind_state.py:12: UserWarning: Cannot load onnxruntime.capi. Error: 'libcublas.so.9.1: cannot open shared"
        " object file: No such file or directory'\nImportError: cannot import name 'RunOptions'\n",
    ),
    "a hand-made tag": (
        "wheel-not-supported",
        "ERROR: onnxruntime_gpu-1.10.0-cp36-cp36m-linux_x86_64_11.0.whl is not a supported wheel on this platform.\n",
    ),
    "a library linked on an older system": (
        "glibc-objects",
        "lib/libonnxruntime.so: undefined reference to `stat64@GLIBC_2.33'\n"
        "lib/libonnxruntime.so: undefined reference to `std::__throw_bad_array_new_length()@GLIBCXX_3.4.29'\n",
    ),
    "no network": (
        "no-network",
        "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError: [Errno -3] Temporary"
        " failure in name resolution': /simple/numpy/\n"
        "ERROR: Could not find a version that satisfies the requirement numpy (from versions: none)\n"
        "ERROR: No matching distribution found for numpy\n",
    ),
    "oneDNN's clone without a network": (
        "no-network",
        "fatal: unable to access 'https://github.com/oneapi-src/onednn.git/': Could not resolve host: github.com\n"
        "CMake Error at onednn-stamp/onednn-gitclone.cmake:40 (message):\n"
        "  Failed to clone repository: 'https://github.com/oneapi-src/onednn.git'\n",
    ),
}


@pytest.mark.parametrize(("expected", "log"), POSTED.values(), ids=list(POSTED))
def test_what_people_post_is_recognized(expected: str, log: str) -> None:
    assert [cause.id for cause in diagnose(log)][:1] == [expected]


@pytest.mark.parametrize("log", [log for expected, log in POSTED.values() if expected == "out-of-memory"])
def test_the_build_driver_sees_that_memory_ran_out(log: str) -> None:
    assert ran_out_of_memory(log)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("NVCC_ERROR = nvcc fatal   : Unknown option '-Wstrict-aliasing'", id="CUDA's configure, always"),
        pytest.param("-- Could NOT find Python3 (missing: Python3_INCLUDE_DIRS Development)", id="a dependency's look"),
        pytest.param("-- Could NOT find CUDNN (missing: CUDNN_INCLUDE_DIR)", id="not required"),
        pytest.param("--   No package 'libunwind' found", id="pkg-config, not required"),
        pytest.param(
            "CMake Warning at CMakeLists.txt:9 (find_package):\n"
            '  Could not find a package configuration file provided by "benchmark" with any\n  of the following names:',
            id="CMake's warning",
        ),
        pytest.param(
            "/usr/bin/ld: skipping incompatible /usr/lib32/libc.so when searching for -lc", id="a second libc"
        ),
        pytest.param(
            "x.cc:9:2:   required from 'auto max(const T&) [with int P = Eigen::PropagateNaN>(...)]'", id="templates"
        ),
        pytest.param("x.h:1379:5: warning: 'v' may be used uninitialized [-Wmaybe-uninitialized]", id="a warning"),
        pytest.param("  Compatibility with CMake < 3.5 will be removed from a future version of", id="CMake 3.31"),
        pytest.param("-- Performing Test COMPILER_HAS_DEPRECATED_ATTR - Failed", id="a test of the compiler"),
        pytest.param("-- Looking for strtof_l - not found", id="a look for a function"),
        pytest.param("Ignoring COMPILE_WARNING_AS_ERROR target property", id="-Werror is off"),
        pytest.param(
            "[7/604] Building CXX object CMakeFiles/x.dir/core/platform/no_space_error_code.cc.o", id="a file"
        ),
        pytest.param("Removed build tracker: '/tmp/pip-build-tracker'", id="pip"),
        pytest.param("100% tests passed, 0 tests failed out of 12", id="tests"),
    ],
)
def test_what_builds_that_succeed_print_is_no_trouble(line: str) -> None:
    found = examine(f"-- before\n{line}\n-- after\n")
    assert (found.causes, found.suspects) == ((), ())


def test_lines_in_another_order_do_not_change_what_they_show() -> None:
    plain = [known for known in KNOWN if known.kind == "error" and not known.yields and not known.near]
    samples = [known.samples[0] for known in plain]
    apart = ("\n" + "-- between\n" * 60).join(samples)
    backwards = ("\n" + "-- between\n" * 60).join(reversed(samples))
    shown = {cause.id for cause in diagnose(apart)}
    assert shown == {cause.id for cause in diagnose(backwards)}
    assert shown >= {known.id for known in plain}
