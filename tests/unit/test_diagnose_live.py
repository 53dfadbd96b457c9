"""Known causes in what real tools print when they are made to fail here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from ortforge.build.diagnose import diagnose, examine, ran_out_of_memory


def output(*argv: str | Path, folder: Path, **environment: str) -> str:
    """What a command prints that has to fail, or at least to complain."""
    done = subprocess.run(
        [str(word) for word in argv],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=60,
    )
    return done.stdout.decode("utf-8", "replace")


def cause_of(log: str) -> str:
    causes = diagnose(log)
    assert causes, log
    return causes[0].id


def needs(tool: str) -> str:
    found = shutil.which(tool)
    if not found:
        pytest.skip(f"{tool} is not installed")
    return found


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        ("#include <Python.h>\n", (), "python-headers"),
        ("#include <gsl/none_such.h>\n", (), "header-missing"),
        ("int main() { int unused; }\n", ("-Wall", "-Werror"), "warning-as-error"),
        ("int missing(); int main() { return missing(); }\n", (), "undefined-reference"),
        ("int main() {}\n", ("-lnone_such",), "library-missing"),
        ("int main() {}\n", ("-mnone-such",), "assembler-old"),
        ("int main() {}\n", ("-std=c++99",), "compiler-old"),
    ],
)
def test_the_compiler(text: str, flags: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    compiler = needs("g++")
    (tmp_path / "x.cc").write_text(text, encoding="utf-8")
    for locale in ("C", "C.UTF-8"):
        assert cause_of(output(compiler, "x.cc", *flags, folder=tmp_path, LC_ALL=locale)) == expected


def test_a_full_disk(tmp_path: Path) -> None:
    compiler = needs("g++")
    (tmp_path / "x.cc").write_text("int f() { return 1; }\n", encoding="utf-8")
    assert cause_of(output(compiler, "-S", "x.cc", "-o", "/dev/full", folder=tmp_path)) == "disk-full"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cmake_minimum_required(VERSION 99.1)\n", "cmake-too-old"),
        ('find_package(OpenVINO REQUIRED)\n', "openvino-not-found"),
        ('find_package(Microsoft.GSL REQUIRED)\n', "package-not-found"),
        ('file(WRITE a "x")\nfile(DOWNLOAD file://${CMAKE_SOURCE_DIR}/a b EXPECTED_HASH'
         ' SHA1=be8be39f)\n', "archive-hash"),
        ('file(WRITE eigen-1.zip "x")\nfile(DOWNLOAD file://${CMAKE_SOURCE_DIR}/eigen-1.zip eigen-2.zip '
         "EXPECTED_HASH SHA1=be8be39f)\n", "eigen-hash"),
        ("file(MAKE_DIRECTORY ${CMAKE_SOURCE_DIR}/cmake/external/onnx)\n"
         "add_subdirectory(cmake/external/onnx)\n", "submodule-missing"),
    ],
)  # fmt: skip
def test_cmake(text: str, expected: str, tmp_path: Path) -> None:
    cmake = needs("cmake")
    head = "" if "minimum" in text else "cmake_minimum_required(VERSION 3.16)\n"
    (tmp_path / "CMakeLists.txt").write_text(f"{head}project(x LANGUAGES NONE)\n{text}", encoding="utf-8")
    assert cause_of(output(cmake, "-S", ".", "-B", "build", folder=tmp_path)) == expected


def test_cmake_of_a_folder_that_is_no_source(tmp_path: Path) -> None:
    cmake = needs("cmake")
    assert cause_of(output(cmake, "-S", ".", "-B", "build", folder=tmp_path)) == "not-a-source"
    assert cause_of(output(cmake, "-S", "none", "-B", "build", folder=tmp_path)) == "not-a-source"


def test_ninja_and_make(tmp_path: Path) -> None:
    ninja = needs("ninja")
    assert cause_of(output(ninja, folder=tmp_path)) == "not-configured"
    rule = "rule copy\n command = cp $in $out\nbuild a: copy /none/libprotobuf.so\n"
    (tmp_path / "build.ninja").write_text(rule, encoding="utf-8")
    gone = diagnose(output(ninja, folder=tmp_path))[0]
    assert (gone.id, "/none/libprotobuf.so" in gone.title) == ("needed-file-gone", True)
    make = needs("make")
    (tmp_path / "Makefile").write_text("a: /none/libcudnn.so\n\tcp $< $@\n", encoding="utf-8")
    assert cause_of(output(make, folder=tmp_path, LC_ALL="C")) == "needed-file-gone"


def test_scripts(tmp_path: Path) -> None:
    bash = needs("bash")
    (tmp_path / "windows.sh").write_bytes(b"#!/usr/bin/env bash\r\necho one\r\n")
    (tmp_path / "windows.sh").chmod(0o755)
    for locale in ("C", "C.UTF-8"):
        assert cause_of(output(bash, "-c", "./windows.sh", folder=tmp_path, LC_ALL=locale)) == "crlf-scripts"
    (tmp_path / "killed.sh").write_text(f"{sys.executable} -c 'import os; os.kill(os.getpid(), 9)'\necho on\n")
    assert ran_out_of_memory(output(bash, "killed.sh", folder=tmp_path, LC_ALL="C"))
    assert cause_of(output(sys.executable, "-m", "none_such", folder=tmp_path)) == "python-module"


def test_a_build_folder_that_was_moved(tmp_path: Path) -> None:
    cmake = needs("cmake")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.16)\nproject(x LANGUAGES NONE)\n", encoding="utf-8"
        )
    output(cmake, "-S", "one", "-B", "build", folder=tmp_path)
    assert cause_of(output(cmake, "-S", "two", "-B", "build", folder=tmp_path)) == "stale-cache"


def test_build_py_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "build.py").write_text(
        "import argparse\nparser = argparse.ArgumentParser()\n"
        "parser.add_argument('--config', choices=['Debug', 'Release'])\nparser.parse_args()\n",
        encoding="utf-8",
    )
    unknown = diagnose(output(sys.executable, "build.py", "--use_openmp", folder=tmp_path))[0]
    assert (unknown.id, "--use_openmp" in unknown.title) == ("unknown-flag", True)
    assert cause_of(output(sys.executable, "build.py", "--config", "Relase", folder=tmp_path)) == "flag-value"


def test_git(tmp_path: Path) -> None:
    git = needs("git")
    gone = output(
        git,
        "clone",
        "https://none-such.invalid/onednn.git",
        folder=tmp_path,
        https_proxy="",
        HTTPS_PROXY="",
        ALL_PROXY="",
    )
    assert cause_of(gone) == "no-network"
    output(git, "init", "-q", ".", folder=tmp_path)
    (tmp_path / "a.txt").write_text("one\ntwo\n", encoding="utf-8")
    (tmp_path / "p.patch").write_text(
        "--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n-three\n+four\n five\n", encoding="utf-8"
    )
    assert cause_of(output(git, "apply", "p.patch", folder=tmp_path)) == "patch-fails"


def test_patch(tmp_path: Path) -> None:
    patch = needs("patch")
    (tmp_path / "a.txt").write_text("one\ntwo\n", encoding="utf-8")
    (tmp_path / "p.patch").write_text(
        "--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n-three\n+four\n five\n", encoding="utf-8"
    )
    assert cause_of(output(patch, "-p1", "--batch", "-i", "p.patch", folder=tmp_path)) == "patch-fails"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x-1.0-cp27-cp27mu-linux_ppc64.whl", "wheel-not-supported"),
        ("x.whl", "wheel-name"),
        ("x-1.0-py3-none-any.whl", "wheel-truncated"),
    ],
)
def test_a_wheel_that_cannot_be_installed(name: str, expected: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as wheel:
        wheel.writestr("x-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: x\nVersion: 1.0\n")
        wheel.writestr("x-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-any\n")
        wheel.writestr("x-1.0.dist-info/RECORD", "")
    if expected == "wheel-truncated":
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    argv = ["-m", "uv", "pip", "install", "--offline", "--target", str(tmp_path / "t"), str(tmp_path / name)]
    assert cause_of(output(sys.executable, *argv, folder=tmp_path)) == expected


def test_a_library_that_is_cut_off_or_missing(tmp_path: Path) -> None:
    for name, content, expected in (
        ("libdnnl.so.3", b"x" * 4096, "wrong-elf"),
        ("liba.so", b"", "wrong-elf"),
        ("libcudnn.so.9", None, "cudnn-missing"),
        ("libnone.so.1", None, "library-not-found"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        load = f"import ctypes; ctypes.CDLL({str(path if content is not None else name)!r})"
        assert cause_of(output(sys.executable, "-c", load, folder=tmp_path)) == expected


def test_a_preload_that_is_not_there(tmp_path: Path) -> None:
    log = output(sys.executable, "-c", "pass", folder=tmp_path, LD_PRELOAD="libjemalloc-none.so.2")
    assert [cause.id for cause in examine(log).causes] == ["preload-missing"]
    assert diagnose(log) == []


def _model(path: Path, *, ir: int = 8, opset: int = 17, operator: str = "Relu", kind: int = 1) -> None:
    value = [onnx.helper.make_tensor_value_info(name, kind, [1, 2]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node(operator, ["x"], ["y"])], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    model.ir_version = ir
    path.write_bytes(model.SerializeToString())


def _failure(path: Path, **feed: np.ndarray) -> str:
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        session.run(None, feed)
    except Exception as error:
        return str(error)
    raise AssertionError("nothing failed")


def test_onnx_runtime_itself(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert cause_of(_failure(path)) == "model-missing"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert cause_of(_failure(path)) == "model-broken"
    _model(path, ir=99)
    assert cause_of(_failure(path)) == "ir-version"
    _model(path, opset=999)
    assert cause_of(_failure(path)) == "opset"
    _model(path, operator="NoneSuch")
    assert cause_of(_failure(path)) == "unknown-operator"
    _model(path, operator="Relu", kind=onnx.TensorProto.BFLOAT16)
    assert cause_of(_failure(path)) == "kernel-missing"
    _model(path)
    assert cause_of(_failure(path, x=np.zeros((3, 3), np.float32))) == "input-shape"
    assert cause_of(_failure(path, x=np.zeros((3, 3, 3), np.float32))) == "input-shape"
    assert cause_of(_failure(path, x=np.zeros((1, 2), np.float64))) == "input-type"


def test_an_execution_provider_that_is_not_in_the_build(tmp_path: Path) -> None:
    _model(tmp_path / "m.onnx")
    ask = "import onnxruntime as o; o.InferenceSession('m.onnx', providers=['DnnlExecutionProvider'])"
    log = output(sys.executable, "-c", ask, folder=tmp_path)
    assert cause_of(log) == "ep-missing"
    assert "DnnlExecutionProvider" in diagnose(log)[0].title
