"""An audit of wheels with planted faults, each made with the C compiler, and of the real wheel that tests run with."""

from __future__ import annotations

import importlib.metadata
import re
import zipfile
from pathlib import Path

import pytest
from package_sample import CAPI, SYMBOLS_OF_GLIBC_2_34, compile_library, make_wheel, record_line

from ortforge.build.package.audit import CODES, Expectation, Finding, audit, refuse_errors
from ortforge.build.package.platforms import platform_of, strictest
from ortforge.errors import BuildError, ConfigurationError, ExitCode

Libraries = dict[str, Path]
EXTENSION = f"{CAPI}/onnxruntime_pybind11_state.cpython-313-x86_64-linux-gnu.so"
OLD = "cp313-cp313-manylinux_2_17_x86_64"
DNNL_TYPE = 'const char type[] = "N11onnxruntime21DnnlExecutionProviderE";'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    """Small libraries, each with one fault, by name."""
    folder = tmp_path_factory.mktemp("made")
    nowhere = compile_library(folder / "libnowhere.so", "int away(void) { return 1; }", "-Wl,-soname,libnowhere.so.7")
    needs_nowhere = ("extern int away(void); int near(void) { return away(); }", str(nowhere))
    empty_note = ".section .text\n.globl answer\n.type answer,@function\nanswer:\nret\n"
    old = "-Wl,-soname,libthing.so.1"
    return {
        "good": compile_library(folder / "good.so"),
        "other": compile_library(folder / "other.so", "int other(void) { return 43; }"),
        "nowhere": nowhere,
        "needs_nowhere": compile_library(folder / "needs.so", *needs_nowhere),
        "needs_nowhere_here": compile_library(folder / "needs_here.so", *needs_nowhere, "-Wl,-rpath,$ORIGIN"),
        "stack": compile_library(folder / "stack.so", "int answer(void) { return 42; }", "-Wl,-z,execstack"),
        "no_note": compile_library(folder / "no_note.so", empty_note, "-nostdlib", language="assembler"),
        "new_glibc": compile_library(folder / "new_glibc.so", SYMBOLS_OF_GLIBC_2_34),
        "foreign": compile_library(
            folder / "foreign.so", "extern int __isocxx_f(void); int g(void) { return __isocxx_f(); }"
        ),
        "stranger": compile_library(
            folder / "stranger.so", "extern int stranger(void); int g(void) { return stranger(); }"
        ),
        "python": compile_library(
            folder / "python.so", "extern int PyLong_New(void); int g(void) { return PyLong_New(); }"
        ),
        "private": compile_library(
            folder / "private.so",
            "extern void *_dl_allocate_tls(void *); void *g(void) { return _dl_allocate_tls(0); }",
            "-l:ld-linux-x86-64.so.2",
        ),
        "absolute": compile_library(folder / "absolute.so", "int a;", "-Wl,-rpath,/opt/vendor/lib"),
        "outside": compile_library(folder / "outside.so", "int a;", "-Wl,-rpath,$ORIGIN/../../../lib"),
        "current": compile_library(folder / "current.so", "int a;", "-Wl,-rpath,$ORIGIN::$ORIGIN/x"),
        "empty": compile_library(folder / "empty.so", "int a;", "-Wl,-rpath,"),
        "inside": compile_library(folder / "inside.so", "int a;", "-Wl,-rpath,$ORIGIN/../../openvino/libs"),
        "thing": compile_library(folder / "thing.so", "int a;", old),
        "other_thing": compile_library(folder / "other_thing.so", "int b;", old),
        "dnnl": compile_library(folder / "dnnl.so", DNNL_TYPE),
        "telemetry": compile_library(
            folder / "telemetry.so", 'const char url[] = "https://mobile.events.data.microsoft.com/OneCollector/1.0/";'
        ),
        "core": compile_library(folder / "core.so", 'const char t[] = "N11onnxruntime16InferenceSessionE"; int a;'),
        "core_too": compile_library(
            folder / "core_too.so", 'const char t[] = "N11onnxruntime16InferenceSessionE"; int b;'
        ),
    }


def found(
    tmp_path: Path, files: dict[str, Path | bytes], expectation: Expectation | None = None, **wheel: object
) -> list[Finding]:
    """Audit a wheel made of these files; findings without the note on which glibc is needed."""
    path = make_wheel(tmp_path, files, **wheel)  # type: ignore[arg-type]
    findings = audit(path, expectation or Expectation())
    assert all(finding.code in CODES and finding.what and finding.why and finding.todo for finding in findings)
    return [finding for finding in findings if finding.code != "needs-glibc"]


def codes(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.code) for finding in findings]


def test_a_faultless_wheel_has_no_findings(made: Libraries, tmp_path: Path) -> None:
    files = {EXTENSION: made["good"], f"{CAPI}/libonnxruntime_providers_dnnl.so": made["dnnl"]}
    files[f"{CAPI}/libonnxruntime_providers_shared.so"] = made["other"]
    expectation = Expectation(
        must_hold=("libonnxruntime_providers_dnnl.so", "onnxruntime/capi/*shared.so"),
        must_not_hold=("libcuda.so*",),
        python="3.13",
        machine="x86_64",
        eps=("DnnlExecutionProvider",),
    )
    assert found(tmp_path, files, expectation, tag=OLD) == []


# What has to be there


def test_a_missing_ep_library_is_an_error(made: Libraries, tmp_path: Path) -> None:
    expectation = Expectation(must_hold=(f"{CAPI}/libonnxruntime_providers_dnnl.so",), eps=("DnnlExecutionProvider",))
    findings = found(tmp_path, {EXTENSION: made["good"]}, expectation)
    assert codes(findings) == [("error", "missing-ep"), ("error", "missing-library")]
    assert findings[0].what == "No library of the wheel holds DnnlExecutionProvider."
    assert findings[1].what == "There is no onnxruntime/capi/libonnxruntime_providers_dnnl.so in the wheel."
    assert "bundle" in findings[1].todo


def test_an_ep_library_without_the_bridge_is_an_error(made: Libraries, tmp_path: Path) -> None:
    findings = found(tmp_path, {f"{CAPI}/libonnxruntime_providers_dnnl.so": made["dnnl"]})
    assert codes(findings) == [("error", "missing-library")]
    assert "no libonnxruntime_providers_shared.so" in findings[0].what


def test_an_eps_name_alone_is_no_ep(tmp_path: Path) -> None:
    """ORT's core lists all EPs that exist, so its text is no proof."""
    library = compile_library(tmp_path / "names.so", 'const char name[] = "XnnpackExecutionProvider";')
    findings = found(tmp_path, {EXTENSION: library}, Expectation(eps=("XnnpackExecutionProvider",)))
    assert codes(findings) == [("error", "missing-ep")]


def test_an_unexpected_library_is_an_error(made: Libraries, tmp_path: Path) -> None:
    findings = found(
        tmp_path, {f"{CAPI}/libcudart.so.12": made["good"]}, Expectation(must_not_hold=("libcudart.so.*",))
    )
    assert codes(findings) == [("error", "unexpected-library")]
    assert findings[0].path == f"{CAPI}/libcudart.so.12"


# What libraries need


def test_an_unresolved_need_is_an_error(made: Libraries, tmp_path: Path) -> None:
    findings = found(tmp_path, {EXTENSION: made["needs_nowhere"]})
    assert codes(findings) == [("error", "unresolved-needed")]
    assert findings[0].what == f"{EXTENSION} needs libnowhere.so.7."
    assert "neither in the wheel" in findings[0].why


def test_external_libraries_may_be_needed(made: Libraries, tmp_path: Path) -> None:
    external = Expectation(external_libraries=("libnowhere.so.*",))
    assert found(tmp_path, {EXTENSION: made["needs_nowhere"]}, external) == []


def test_a_library_of_the_wheel_has_to_be_found_by_rpath(made: Libraries, tmp_path: Path) -> None:
    beside = {f"{CAPI}/libnowhere.so.7": made["nowhere"]}
    assert found(tmp_path, {EXTENSION: made["needs_nowhere_here"], **beside}) == []
    findings = found(tmp_path, {EXTENSION: made["needs_nowhere"], **beside})
    assert codes(findings) == [("error", "unresolved-needed")]
    assert "no RPATH leads there" in findings[0].why
    assert "$ORIGIN" in findings[0].todo


def test_a_file_has_to_be_named_as_it_is_needed(made: Libraries, tmp_path: Path) -> None:
    """libdnnl.so.2 in the wheel where libdnnl.so.3 is needed, and the like (ORT 10275)."""
    findings = found(tmp_path, {EXTENSION: made["needs_nowhere_here"], f"{CAPI}/libnowhere.so": made["nowhere"]})
    assert codes(findings) == [("error", "unresolved-needed")]
    assert findings[0].todo == f"Rename {CAPI}/libnowhere.so to libnowhere.so.7."


def test_a_need_for_libpython_is_explained(tmp_path: Path) -> None:
    python = compile_library(
        tmp_path / "libpython.so", "int Py(void) { return 1; }", "-Wl,-soname,libpython3.13.so.1.0"
    )
    library = compile_library(tmp_path / "x.so", "extern int Py(void); int g(void) { return Py(); }", str(python))
    findings = found(tmp_path, {EXTENSION: library})
    assert codes(findings) == [("error", "unresolved-needed")]
    assert "from the interpreter" in findings[0].why


# glibc


def test_a_too_new_glibc_is_an_error(made: Libraries, tmp_path: Path) -> None:
    findings = found(tmp_path, {EXTENSION: made["new_glibc"]}, tag=OLD)
    assert codes(findings) == [("error", "glibc-too-new")]
    assert findings[0].what == (
        f"{EXTENSION} needs glibc 2.34 (libc.so.6), and the tag manylinux_2_17_x86_64 promises 2.17."
    )
    assert found(tmp_path, {EXTENSION: made["new_glibc"]}, tag="cp313-cp313-manylinux_2_34_x86_64") == []


def test_with_several_tags_the_oldest_counts(made: Libraries, tmp_path: Path) -> None:
    tag = "cp313-cp313-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_34_x86_64"
    assert codes(found(tmp_path, {EXTENSION: made["new_glibc"]}, tag=tag)) == [("error", "glibc-too-new")]


def test_a_users_own_limit_counts_whatever_the_tag(made: Libraries, tmp_path: Path) -> None:
    findings = found(tmp_path, {EXTENSION: made["new_glibc"]}, Expectation(max_glibc="2.31"))
    assert codes(findings) == [("error", "glibc-too-new")]
    assert "it has to run on 2.31" in findings[0].what
    with pytest.raises(BuildError, match="'old' is no version of glibc"):
        found(tmp_path, {EXTENSION: made["new_glibc"]}, Expectation(max_glibc="old"))


def test_a_wheel_without_a_tag_for_it_says_which_glibc_it_needs(made: Libraries, tmp_path: Path) -> None:
    findings = audit(make_wheel(tmp_path, {EXTENSION: made["new_glibc"]}), Expectation())
    assert codes(findings) == [("note", "needs-glibc")]
    assert findings[0].what == "It runs on glibc 2.34 and newer."


def test_new_versions_of_libstdcxx_count_too(tmp_path: Path) -> None:
    source = "#include <string>\nstd::string f(int n) { return std::string(n, 'x') + \"y\"; }"
    library = compile_library(tmp_path / "cxx.so", source, "-lstdc++", language="c++")
    findings = found(tmp_path, {EXTENSION: library}, tag="cp313-cp313-manylinux_2_5_x86_64")
    assert {one.code for one in findings} == {"glibc-too-new"}
    assert any(
        "GLIBCXX_3.4.21" in one.what for one in findings
    )  # the C++11 string; 3.4.8 is what manylinux_2_5 promises


def test_private_symbols_of_glibc_are_an_error(made: Libraries, tmp_path: Path) -> None:
    assert codes(found(tmp_path, {EXTENSION: made["private"]})) == [("error", "private-symbol")]


def test_symbols_of_another_glibc_without_version_are_an_error(made: Libraries, tmp_path: Path) -> None:
    findings = found(tmp_path, {EXTENSION: made["foreign"]}, tag=OLD)
    assert codes(findings) == [("error", "unversioned-symbol")]
    assert "__isocxx_f" in findings[0].what


def test_symbols_from_nowhere_are_a_warning_and_pythons_are_not(made: Libraries, tmp_path: Path) -> None:
    assert codes(found(tmp_path, {EXTENSION: made["stranger"]})) == [("warning", "unversioned-symbol")]
    assert found(tmp_path, {EXTENSION: made["python"]}) == []


# How libraries were linked


@pytest.mark.parametrize("fault", ["stack", "no_note"])
def test_an_executable_stack_is_an_error(fault: str, made: Libraries, tmp_path: Path) -> None:
    findings = found(tmp_path, {EXTENSION: made[fault]})
    assert codes(findings) == [("error", "executable-stack")]
    assert "ORT 24911" in findings[0].why


def test_rpaths_out_of_the_wheel(made: Libraries, tmp_path: Path) -> None:
    assert codes(found(tmp_path, {EXTENSION: made["absolute"]})) == [("error", "rpath-outside")]
    assert codes(found(tmp_path, {EXTENSION: made["outside"]})) == [("warning", "rpath-outside")]
    assert codes(found(tmp_path, {EXTENSION: made["current"]})) == [("error", "rpath-outside")]
    assert found(tmp_path, {EXTENSION: made["empty"]}) == []
    assert found(tmp_path, {EXTENSION: made["inside"]}) == []  # another package's folder in site-packages


def test_one_library_under_several_names_is_a_warning(made: Libraries, tmp_path: Path) -> None:
    findings = found(tmp_path, {f"{CAPI}/{name}": made["thing"] for name in ("libthing.so", "libthing.so.1")})
    assert codes(findings) == [("warning", "duplicate-library")]
    assert "libthing.so and onnxruntime/capi/libthing.so.1 are one file" in findings[0].what


def test_two_libraries_of_one_soname_are_an_error(made: Libraries, tmp_path: Path) -> None:
    files = {f"{CAPI}/libthing.so": made["thing"], f"{CAPI}/libthing.so.1": made["other_thing"]}
    findings = found(tmp_path, files)
    assert codes(findings) == [("error", "duplicate-library")]
    assert "all say that they are libthing.so.1" in findings[0].what


def test_a_truncated_library_is_an_error(made: Libraries, tmp_path: Path) -> None:
    findings = found(tmp_path, {EXTENSION: made["good"].read_bytes()[:900]})
    assert codes(findings) == [("error", "damaged-library")]


def test_two_cores_are_a_note(made: Libraries, tmp_path: Path) -> None:
    findings = found(tmp_path, {EXTENSION: made["core"], f"{CAPI}/libonnxruntime.so.1.21.0": made["core_too"]})
    assert codes(findings) == [("note", "several-cores")]


def test_telemetry_is_an_error_unless_it_is_allowed(made: Libraries, tmp_path: Path) -> None:
    files = {EXTENSION: made["telemetry"]}
    findings = found(tmp_path, files)
    assert codes(findings) == [("error", "telemetry")]
    assert "no_telemetry" in findings[0].todo
    assert codes(found(tmp_path, files, Expectation(telemetry_allowed=True))) == [("note", "telemetry")]


# Tags, names, RECORD


@pytest.mark.parametrize(
    ("wheel", "expectation", "message"),
    [
        ({"tag": "cp312-cp312-linux_x86_64"}, {}, "is for cp313, the tag says cp312"),
        ({"tag": "cp313-cp313t-linux_x86_64"}, {}, "has the ABI cp313, the tag says cp313t"),
        ({"tag": "cp313-cp313-linux_aarch64"}, {}, "is machine code for x86_64, the tag says aarch64"),
        ({"tag": "cp313-cp313-any"}, {}, "holds compiled libraries, and its platform is any"),
        ({"tags": ["cp313-cp313-manylinux_2_28_x86_64"]}, {}, "WHEEL says cp313-cp313-manylinux_2_28_x86_64"),
        ({"tags": []}, {}, "WHEEL says nothing"),
        ({"purelib": True}, {}, "Root-Is-Purelib: true"),
        ({}, {"python": "3.12"}, "It is for cp313, and cp312 was asked for"),
        ({}, {"machine": "aarch64"}, "It is for x86_64, and aarch64 was asked for"),
    ],
)
def test_wrong_tags_are_errors(
    wheel: dict[str, str], expectation: dict[str, str], message: str, made: Libraries, tmp_path: Path
) -> None:
    findings = found(tmp_path, {EXTENSION: made["good"]}, Expectation(**expectation), **wheel)
    assert codes(findings) == [("error", "wrong-tag")]
    assert message in findings[0].what


def test_a_module_whose_name_does_not_say_its_python(tmp_path: Path) -> None:
    """Outside of manylinux ORT calls it onnxruntime_pybind11_state.so; pybind11 knows what it is for."""
    text = 'const char why[] = "module was compiled for Python %s"; const char version[] = "\\0003.12";'
    files = {f"{CAPI}/onnxruntime_pybind11_state.so": compile_library(tmp_path / "x.so", text)}
    findings = found(tmp_path, files)
    assert codes(findings) == [("error", "wrong-tag")]
    assert "was compiled for Python 3.12, the tag says cp313" in findings[0].what
    assert found(tmp_path, files, tag="cp312-cp312-linux_x86_64") == []


def test_machine_code_for_another_machine(made: Libraries, tmp_path: Path) -> None:
    code = bytearray(made["good"].read_bytes())
    code[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64
    findings = found(tmp_path, {f"{CAPI}/libx.so": bytes(code)})
    assert codes(findings) == [("error", "wrong-tag")]


def test_a_renamed_file_is_an_error(made: Libraries, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, {EXTENSION: made["good"]}, tag=OLD)
    renamed = wheel.rename(tmp_path / f"onnxruntime_dnnl-1.21.0-{OLD}.whl")
    assert codes(audit(renamed, Expectation())) == [("error", "wrong-name")] * 2
    renamed = renamed.rename(tmp_path / f"onnxruntime-1.21.0+x-{OLD}.whl")
    assert codes(audit(renamed, Expectation())) == [("error", "wrong-name")] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "a.py is not in RECORD"),
        (record_line("a.py", b"other"), "a.py is not as RECORD states it"),
        (record_line("a.py", b"text").replace(",4", ",5"), "a.py is not as RECORD states it"),
        ("a.py,,\n", "RECORD states no digest for a.py"),
        (record_line("a.py", b"text") + record_line("b.py", b""), "RECORD lists b.py, which is not there"),
    ],
)
def test_record_and_files_have_to_agree(line: str, message: str, tmp_path: Path) -> None:
    info = "onnxruntime-1.21.0.dist-info"
    wheel = make_wheel(tmp_path, {"a.py": b"text"})
    with zipfile.ZipFile(wheel) as archive:
        others = "".join(
            record_line(f"{info}/{name}", archive.read(f"{info}/{name}")) for name in ("METADATA", "WHEEL")
        )
    findings = found(tmp_path, {"a.py": b"text"}, record=f"{line}{others}{info}/RECORD,,\n")
    assert codes(findings) == [("error", "record-mismatch")]
    assert message in findings[0].what


def test_a_record_that_is_no_record(tmp_path: Path) -> None:
    assert "columns instead of 3" in found(tmp_path, {"a.py": b"text"}, record="a.py\n")[0].what


def test_an_expectation_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'snake' is no Python version"):
        audit(tmp_path / "x-1-py3-none-any.whl", Expectation(python="snake"))


def test_all_errors_are_refused_at_once(made: Libraries, tmp_path: Path) -> None:
    findings = found(tmp_path, {EXTENSION: made["stack"], f"{CAPI}/x.so": made["absolute"]})
    refuse_errors("x.whl", [finding for finding in findings if finding.severity != "error"])
    with pytest.raises(
        BuildError, match=r"x\.whl did not pass its audit:\n- executable-stack: .*\n- rpath-outside: "
    ) as caught:
        refuse_errors("x.whl", findings)
    assert caught.value.exit_code is ExitCode.BUILD
    assert "noexecstack" in caught.value.todo


def test_platforms_promise_what_pep_600_says() -> None:
    assert strictest(["manylinux_2_28_x86_64", "manylinux2014_x86_64"]).glibc == (2, 17)  # type: ignore[union-attr]
    assert platform_of("manylinux_2_29_x86_64").glibc == (2, 29)  # type: ignore[union-attr] # no policy of its own
    assert platform_of("manylinux_9_9_x86_64").versions == {}  # type: ignore[union-attr] # newer than any policy
    assert "libc.musl-x86_64.so.1" in platform_of("musllinux_1_2_x86_64").libraries  # type: ignore[union-attr]
    assert platform_of("any") is platform_of("win_amd64") is None


def test_the_published_wheel(tmp_path: Path) -> None:
    """ORT's own wheel, as it is installed here: two cores, its EP, and telemetry since 1.29."""
    distribution = importlib.metadata.distribution("onnxruntime")
    capi = [Path(str(file.locate())) for file in distribution.files or () if re.search(r"\.so(\.|$)", file.name)]
    files: dict[str, Path | bytes] = {f"{CAPI}/{path.name}": path for path in capi}
    extension = next(path for path in capi if "pybind11_state" in path.name)
    python = "cp" + re.search(r"cpython-(\d+)", extension.name)[1]  # type: ignore[index]
    tag = f"{python}-{python}-manylinux_2_28_x86_64"
    findings = found(tmp_path, files, Expectation(eps=("CPUExecutionProvider",)), version=distribution.version, tag=tag)
    expected = [("note", "several-cores")]
    if tuple(map(int, distribution.version.split(".")[:2])) >= (1, 30):
        expected.insert(0, ("error", "telemetry"))
    assert codes(findings) == expected
    other = audit(
        tmp_path / f"onnxruntime-{distribution.version}-{tag}.whl", Expectation(eps=("DnnlExecutionProvider",))
    )
    assert ("error", "missing-ep") in codes(other)
