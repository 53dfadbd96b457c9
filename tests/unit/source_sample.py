"""A source tree like ONNX Runtime's, small, for the tests of sources and vendoring."""

from __future__ import annotations

from pathlib import Path

BUILD_PY = (
    'import argparse\n\nparser = argparse.ArgumentParser()\nparser.add_argument("--use_dnnl", action="store_true")\n'
)


def write_tree(folder: Path, version: str = "1.21.0", *, deps: str = "#Name;Url;SHA1\n") -> Path:
    """Write a tree with what ortforge reads of ORT's; ``deps=""`` leaves deps.txt out, as before 1.13."""
    files = {
        "VERSION_NUMBER": f"{version}\n",
        "LICENSE": "MIT License\n\nCopyright (c) the contributors\n",
        "tools/ci_build/build.py": BUILD_PY,
        "cmake/CMakeLists.txt": "project(onnxruntime C CXX)\n",
        "onnxruntime/core/session/inference_session.cc": "int session() { return 0; }\n",
        "onnxruntime/test/testdata/mul_1.onnx": "a model\n",
        "build.sh": "#!/bin/sh\n",
    }
    if deps:
        files["cmake/deps.txt"] = deps
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "build.sh").chmod(0o755)
    return folder
