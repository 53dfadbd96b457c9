"""What the command says when it is used wrongly, and that nothing known is lost by it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ortforge.api import Report
from ortforge.cli import main
from ortforge.errors import PluginError
from ortforge.plugin_manager import Plugins
from ortforge.report.writing import write_reports

Install = Callable[..., Path]


def ortforge(folder: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "ortforge.cli.main", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_version_needs_no_verb(tmp_path: Path) -> None:
    code, out, _ = ortforge(tmp_path, "--version")
    assert (code, out.split()[0]) == (0, "ortforge")


def test_plan_names_the_recipes_that_a_reason_is_about(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"a model")
    (tmp_path / "matrix.toml").write_text(
        '[models.m]\npath = "path:m.onnx"\n[targets.stock]\nfrom = "package"\nrequires = ["onnxruntime==1.32.0"]\n'
        '[targets.gpu]\nfrom = "package"\nrequires = ["onnxruntime-openvino==1.24.1"]\neps = ["tensorrt"]\n'
        '[recipes.one]\npasses = ["quantize-static"]\n[recipes.two]\npasses = ["quantize-static"]\n'
        '[recipes.three]\npasses = ["float16"]\n'
    )
    code, out, err = ortforge(tmp_path, "plan", "--store", "store")
    assert code == 0, err
    assert "unsupported: stock:cpu (one, two): quantize-static: it needs calibration data" in out
    # What is wrong with the target itself is about all of them.
    assert "unsupported: gpu:tensorrt: " in out


def test_a_negative_age_cleans_nothing(tmp_path: Path) -> None:
    code, out, err = ortforge(tmp_path, "cache", "clean", "--older-than", "-3", "--store", ".")
    assert (code, out) == (2, "")
    assert "older-than" in err


@pytest.mark.parametrize("verb", [("report",), ("compare", "latest"), ("explain", "a/b@c:d/e"), ("cache", "show")])
def test_a_verb_that_looks_makes_no_store(tmp_path: Path, verb: tuple[str, ...]) -> None:
    (tmp_path / "store").mkdir()
    code, _, err = ortforge(tmp_path, *verb, "--store", "stoer")
    assert code == 2
    assert "there is no store stoer" in err
    assert "Perhaps you meant store" in err
    assert not (tmp_path / "stoer").exists()


def test_init_names_the_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"a model")
    code, _, err = ortforge(tmp_path, "init", "m.onnx", "-o", "nowhere/matrix.toml")
    assert (code, "There is no folder nowhere" in err) == (2, True)
    code, _, err = ortforge(tmp_path, "init", "m.onnx", "-o", ".", "--force")
    assert (code, "is a folder" in err) == (2, True)


def test_init_keeps_the_name_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "3f9a.bin").write_bytes(b"a model")
    (tmp_path / "speech.onnx").symlink_to("3f9a.bin")
    assert ortforge(tmp_path, "init", "speech.onnx")[0] == 0
    text = (tmp_path / "matrix.toml").read_text("utf-8")
    assert '[models.speech]\npath = "path:speech.onnx"' in text


def test_repro_says_that_its_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    code, _, err = ortforge(tmp_path, "repro", "a/b@c:d/e", "--keep", "kept")
    assert (code, "kept is a file" in err) == (2, True)


def test_a_name_to_leave_out_that_no_plugin_has_is_said(tmp_path: Path) -> None:
    _, _, err = ortforge(tmp_path, "-p", "no:backends.cpuu", "plan")
    assert "backends.cpu was meant" in err


def test_an_unknown_name_points_to_plugins_that_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "matrix.toml").write_text('[targets.t]\nfrom = "package"\nrequires = ["onnxruntime"]\neps = ["dnnl"]\n')
    code, _, err = ortforge(tmp_path, "-p", "no:backends.dnnl", "plan")
    assert code == 2
    assert "backends.dnnl (blocked)" in err


def test_a_plugins_broken_verb_leaves_the_others(install_plugin: Install) -> None:
    install_plugin(
        "ortforge-verbs",
        """
        from ortforge.api import Command

        def ortforge_commands():
            yield Command("gone", "is not there", "ortforge_verbs:gone")
            yield Command("there", "is there", "ortforge_verbs:there")

        def there():
            print("it is")
        """,
    )
    main._third_party.cache_clear()
    try:
        verbs = main._third_party((), True)
        verbs["there"].main([], standalone_mode=False)
        with pytest.raises(PluginError, match="ortforge_verbs:gone"):
            verbs["gone"].main(["--with", "anything"], standalone_mode=False)
    finally:
        main._third_party.cache_clear()


def test_one_report_writer_that_fails_leaves_the_others(tmp_path: Path, install_plugin: Install) -> None:
    install_plugin(
        "ortforge-zip",
        """
        from ortforge.api import Report

        def ortforge_reports():
            yield Report("zip", "divides", ".zip", lambda report, path: 1 / 0)
            yield Report("text", "writes", ".txt", lambda report, path: path.write_text("done"))
        """,
    )
    plugins = Plugins(environ={}, first_party=False)
    assert isinstance(plugins.reports["zip"], Report)
    written, problem = write_reports({}, plugins, tmp_path / "out")
    assert written == [tmp_path / "out" / "report.txt"]
    assert problem is not None
    assert "ortforge-zip" in str(problem)


def test_a_report_folder_that_cannot_be_made_is_an_answer_and_no_exception(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    written, problem = write_reports({}, Plugins(environ={}), tmp_path / "out")
    assert written == []
    assert problem is not None
    assert "ortforge report --output" in problem.todo
