"""Known causes: each is recognized by what its tools print, alone and within a build's noise, and nothing else is."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.build.diagnose import KNOWN, Known, diagnose, examine, ran_out_of_memory
from ortforge.build.diagnose.known import url
from ortforge.build.diagnose.listing import as_markdown

SAMPLES = [pytest.param(known, text, id=f"{known.id}-{n}") for known in KNOWN for n, text in enumerate(known.samples)]

# What a build prints when nothing is wrong (in the tools' wording), with words that look like trouble.
NOISE = """\
$ python3 /work/source/tools/ci_build/build.py --build_dir /work/build --config Release --update
2026-11-22 21:30:01,123 build [INFO] - Build started
2026-11-22 21:30:01,124 util.run [INFO] - Running subprocess in '/work/build/Release'
-- The CXX compiler identification is GNU 14.2.0
-- Performing Test HAS_UNUSED_BUT_SET_PARAMETER - Success
-- Performing Test HAVE_GNU_POSIX_REGEX -- failed to compile
-- Could NOT find Doxygen (missing: DOXYGEN_EXECUTABLE)
CMake Warning (dev) at CMakeLists.txt:9 (find_package):
  Policy CMP0148 is not set: The FindPythonInterp and FindPythonLibs modules are removed.
CMake Deprecation Warning at CMakeLists.txt:4 (cmake_minimum_required):
  Compatibility with CMake < 3.10 will be removed from a future version of CMake.
-- Configuring done (30.1s)
[311/604] Building CXX object CMakeFiles/onnxruntime_common.dir/source/onnxruntime/core/common/status.cc.o
[312/604] /usr/bin/c++ -Werror -Wno-error=stringop-overflow -fPIC -c error_code_helper.cc -o error_code_helper.cc.o
/source/onnxruntime/core/x.cc:12:9: warning: 'n' may be used uninitialized [-Wmaybe-uninitialized]
ar: creating libonnxruntime_mlas.a
[604/604] Linking CXX shared module onnxruntime_pybind11_state.so
running bdist_wheel
copying onnxruntime/capi/_pybind_state.py -> build/lib/onnxruntime/capi
2026-11-22 22:00:01,123 build [INFO] - Build complete
"""


@pytest.mark.parametrize(("known", "text"), SAMPLES)
def test_each_sample_is_recognized_as_its_cause(known: Known, text: str) -> None:
    found = examine(text).causes
    assert found, "not recognized"
    assert found[0].id == known.id
    assert found[0].phase == known.phase
    assert not re.search(r"\{\d\}", found[0].title + found[0].cause + found[0].remedy)


def test_and_in_the_middle_of_a_build_in_colour_with_windows_line_ends() -> None:
    for known in KNOWN:
        for text in known.samples:
            coloured = "\r\n".join(f"\x1b[1m\x1b[31m{line}\x1b[0m" for line in text.split("\n"))
            found = examine(f"{NOISE}{coloured}\r\n{NOISE}ninja: build stopped: subcommand failed.\n").causes
            assert found[0].id == known.id
            assert NOISE.count("\n") < found[0].line_number <= NOISE.count("\n") + text.count("\n") + 1
            assert "\x1b" not in found[0].evidence


def test_the_evidence_is_the_line_and_its_number() -> None:
    cause = diagnose("one\ntwo\nbuild.py: error: unrecognized arguments: --use_openmp\n")[0]
    assert (cause.line_number, cause.evidence) == (3, "build.py: error: unrecognized arguments: --use_openmp")
    assert "--use_openmp" in cause.title


def test_a_build_with_nothing_wrong_has_no_cause() -> None:
    assert examine(NOISE).causes == ()


@given(st.binary(max_size=2000))
def test_binary_garbage_has_no_cause(garbage: bytes) -> None:
    assert examine(garbage).causes == ()


@given(st.text(alphabet="\x1b[0;31mK\r\nerror: \u2018\u2019…^$", max_size=300))
def test_odd_text_is_borne(text: str) -> None:
    examine(text)


def test_what_follows_from_the_error_is_not_the_cause() -> None:
    log = """\
[12/604] Building CXX object x.cc.o
FAILED: CMakeFiles/x.dir/x.cc.o
/usr/bin/c++ -c x.cc -o x.cc.o
x.cc:3:10: fatal error: Python.h: No such file or directory
compilation terminated.
[13/604] Building CXX object y.cc.o
FAILED: CMakeFiles/y.dir/y.cc.o
c++: fatal error: Killed signal terminated program cc1plus
ninja: build stopped: subcommand failed.
subprocess.CalledProcessError: Command '['/usr/bin/cmake', '--build', '/work']' returned non-zero exit status 1.
"""
    assert [cause.id for cause in diagnose(log)] == ["python-headers", "out-of-memory"]


def test_a_general_cause_gives_way_to_the_one_that_says_more() -> None:
    offline = (
        "error: downloading 'https://x/y.zip' failed\n"
        + "noise\n" * 5
        + 'status_string: "Could not resolve hostname"\n'
    )
    assert [cause.id for cause in diagnose(offline)] == ["no-network"]
    apart = (
        "a.cc:1:10: fatal error: gsl/gsl: No such file or directory\n"
        + "noise\n" * 100
        + "x: No space left on device\n"
    )
    assert [cause.id for cause in diagnose(apart)] == ["header-missing", "disk-full"]


def test_harmless_lines_come_last_and_do_not_count() -> None:
    harmless = (
        "Schema error: Trying to register schema with name Abs, but it is already registered from file x.\n" * 300
    )
    log = harmless + "ImportError: libdnnl.so.3: cannot open shared object file: No such file or directory\n"
    assert [cause.id for cause in examine(log).causes] == ["dnnl-missing", "schema-registered"]
    assert diagnose(harmless) == []


def test_the_archive_is_the_one_that_the_message_names() -> None:
    before = "-- Populating eigen\n-- eigen is there\n" + "noise\n" * 5
    log = f"{before}-- SHA1 hash of\n  /b/date-v3.zip\n  does not match expected value\n"
    assert [cause.id for cause in diagnose(log)] == ["archive-hash"]


def test_an_unknown_failure_shows_the_first_lines_that_look_like_errors() -> None:
    found = examine(NOISE + "frobnicate: error: the flux is inverted\nninja: build stopped: subcommand failed.\n")
    assert found.causes == ()
    assert found.suspects == ((NOISE.count("\n") + 1, "frobnicate: error: the flux is inverted"),)


def test_quotes_are_straight_or_curly_as_the_locale_has_it() -> None:
    for before, after in ("''", "\u2018\u2019"):
        log = f"c++: error: unrecognized command-line option {before}-std=c++20{after}; did you mean another?\n"
        assert [cause.id for cause in diagnose(log)] == ["compiler-old"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_log_that_another_shell_wrote(encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    log = f"{mark}{NOISE}c++: fatal error: Killed signal terminated program cc1plus\n".replace("\n", "\r\n")
    (cause,) = diagnose(log.encode(encoding))
    assert (cause.id, cause.line_number) == ("out-of-memory", NOISE.count("\n") + 1)


def test_progress_bars_and_prefixes_of_those_who_ran_the_build() -> None:
    assert ran_out_of_memory("10%\r20%\rKilled\n")
    assert ran_out_of_memory("#17 812.42 Killed\n")
    assert ran_out_of_memory("2026-11-22T21:30:01.1234567Z Killed\n")
    assert not ran_out_of_memory("Killed by nobody\nnot Killed, but sleeping\n")
    assert not ran_out_of_memory("fatal error: x.h: No such file or directory")


class _Repeated(io.RawIOBase):
    """A log that is made while it is read, so that memory shows what reading takes."""

    def __init__(self, piece: bytes, times: int, end: bytes = b"") -> None:
        self.pieces = iter([*[piece] * times, end])

    def read(self, size: int = -1) -> bytes:
        return next(self.pieces, b"")


@pytest.mark.parametrize(
    ("megabytes", "piece"),
    [
        pytest.param(
            76, b"[312/604] Building CXX object CMakeFiles/onnxruntime_providers.dir/gemm.cc.o\n" * 900, id="1e6 lines"
        ),
        pytest.param(20, NOISE.encode() * 50, id="lines that look like trouble"),
        pytest.param(100, b"x" * 65536, id="one line"),
        pytest.param(5, b"error: nvcc error   : '" * 2849, id="one line, full of what signs begin with"),
        pytest.param(5, b"\x00\xff\xfe\x80" * 16384, id="one line of garbage"),
    ],
)
def test_a_large_log_is_read_in_linear_time(megabytes: int, piece: bytes) -> None:
    times = megabytes * 1_000_000 // len(piece)
    end = b"\nc++: fatal error: Killed signal terminated program cc1plus\n"
    start = time.process_time()
    found = examine(_Repeated(piece, times, end))  # type: ignore[arg-type]
    assert time.process_time() - start < megabytes  # ten times what it takes; a defect takes minutes
    assert found.causes[0].id == "out-of-memory"
    assert found.causes[0].line_number == piece.count(b"\n") * times + 2


def test_a_sign_in_a_line_of_many_megabytes_is_found() -> None:
    line = b"-I/usr/include " * 100_000 + b"x.cc: final link failed: No space left on device " + b"y" * 1_000_000
    (cause,) = diagnose(line)
    assert cause.id == "disk-full"
    assert len(cause.evidence) <= 400


def test_the_page_has_the_table_of_all_causes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    table = as_markdown(KNOWN)
    assert table in page, "docs/diagnosis.md is behind: take the table from 'ortforge diagnose --list'"
    assert all(f"| `{known.id}` |" in table for known in KNOWN)


def test_the_data_is_complete() -> None:
    assert len(KNOWN) >= 60
    assert len({known.id for known in KNOWN}) == len(KNOWN)
    for known in KNOWN:
        assert re.fullmatch(r"[a-z0-9-]+", known.id)
        assert known.samples and known.signs
        assert known.cause.endswith((".", ")")), known.id
        assert known.remedy.rstrip().endswith((".", ")", "'")), known.id
        assert not known.title.endswith(".")
        for sign in (*known.signs, *known.near):
            # The fixed part that is looked for must say something: a short one would be found everywhere.
            assert len(max(sign.strip("^$").split("…"), key=len)) >= 4, sign
        for thread in known.threads:
            assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/issues/\d+", url(thread))
