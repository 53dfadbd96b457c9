"""``ortforge flags`` as scripts and people call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PARSER = """
def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--parallel", nargs="?", const="0", default="1", type=int)
    parser.add_argument("--use_dnnl", action="store_true")
    parser.add_argument("--use_novelty", choices=["on", "off"])
"""


def flags(*arguments: str, folder: Path | None = None) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "ortforge.cli.main", "flags", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_explain_for_scripts() -> None:
    for name in ("use_jemalloc", "--use_jemalloc", "use-jemalloc"):
        code, out, _ = flags("explain", name, "--ort", "1.21", "--json")
        told = json.loads(out)
        assert code == 0
        assert (told["exists"], told["since"], told["until"], told["replaced_by"]) == (False, "0.1.4", "1.6.0", None)


def test_explain_for_people() -> None:
    code, out, _ = flags("explain", "use_telemetry", "--ort", "1.29")
    assert code == 0
    assert "--use_telemetry does not exist in 1.29: it existed in 1.1.0 to 1.28." in out
    assert "Now: no_telemetry." in out


def test_an_unknown_version_is_a_usage_error() -> None:
    code, out, err = flags("explain", "use_dnnl", "--ort", "0.6")
    assert (code, out) == (2, "")
    assert "Perhaps you meant 0.5.0." in err
    code, _, err = flags("explain", "use_dnnl")
    assert (code, "--ort" in err) == (2, True)


def test_list_shows_what_linux_has() -> None:
    code, out, _ = flags("list", "toolset", "--ort", "1.21")
    assert (code, out) == (0, "")
    _, out, _ = flags("list", "toolset", "--ort", "1.21", "--all")
    assert out == "msvc_toolset  one value [windows]\n"
    _, out, _ = flags("list", "--ort", "1.21", "--json")
    rows = {row["name"]: row for row in json.loads(out)["flags"]}
    assert rows["disable_types"]["choices"] == ["float8", "optional", "sparsetensor"]
    assert rows["use_mimalloc"]["effect"]


def test_check_takes_the_command_line_of_a_guide() -> None:
    line = "--config Release --build_wheel --parallel --use_jemalloc --use_openvino CPU_FP32"
    code, out, err = flags("check", "--ort", "1.21", *line.split())
    assert (code, out) == (2, "")
    assert [row.split()[1] for row in err.splitlines() if row.startswith("- ")] == [
        *("--parallel", "--use_jemalloc", "--use_openvino")
    ]
    code, out, _ = flags("check", "--ort", "1.21", "--build_wheel", "--parallel", "4", "use_dnnl", "--json")
    assert code == 2
    code, out, _ = flags("check", "--ort", "1.21", "build_wheel", "parallel=4", "use_dnnl", "--json")
    assert (code, json.loads(out)["argv"]) == (0, ["--build_wheel", "--parallel=4", "--use_dnnl"])


def test_a_source_tree_speaks_for_itself(tmp_path: Path) -> None:
    parser = tmp_path / "tools" / "ci_build" / "build.py"
    parser.parent.mkdir(parents=True)
    parser.write_text(PARSER)
    code, _, err = flags("list", "--source", str(tmp_path))
    assert (code, "is not an ONNX Runtime source tree" in err) == (2, True)
    (tmp_path / "VERSION_NUMBER").write_text("1.40.0\n")
    _, out, _ = flags("list", "--source", str(tmp_path))
    assert [line.split()[0] for line in out.splitlines()] == ["parallel", "use_dnnl", "use_novelty"]
    code, out, _ = flags("check", "--source", str(tmp_path), "use_novelty=on")
    assert (code, "--use_novelty=on" in out) == (0, True)
    code, _, err = flags("check", "--source", str(tmp_path), "use_xnnpack")
    assert (code, "this source's own parser" in err) == (2, True)


def test_check_of_a_target(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    (tmp_path / "matrix.toml").write_text(
        '[models.m]\npath = "path:m.onnx"\n'
        '[targets.stock]\nfrom = "package"\nrequires = ["onnxruntime==1.32.0"]\n'
        '[targets.bad]\nfrom = "source"\nsource = "git:v1.21.0"\nversion = "1.21.0"\n'
        "flags = { use_jemalloc = true, minimal_build = true }\n"
        '[targets.good]\nfrom = "source"\nsource = "git:v1.21.0"\nversion = "1.21.0"\neps = ["dnnl"]\n'
        "flags = { enable_lto = true }\n"
    )
    code, out, err = flags("check", "-m", "matrix.toml", "good", folder=tmp_path)
    assert (code, err) == (0, "")
    assert "--enable_lto" in out
    assert "--use_dnnl" in out
    code, _, err = flags("check", "-m", "matrix.toml", "bad", folder=tmp_path)
    assert code == 2
    assert "--use_jemalloc is not in build.py of 1.21.0" in err
    assert "--minimal_build" in err
    code, _, err = flags("check", "-m", "matrix.toml", "god", folder=tmp_path)
    assert (code, "Perhaps you meant 'good'." in err) == (2, True)
