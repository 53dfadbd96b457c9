"""The main job in small form: real models, two ONNX Runtime versions and OpenVINO, one store."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from command import ROOT, Result, ortforge

from ortforge.portable.statuses import CORRECT, STATUSES


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, store: Path) -> tuple[Path, Result]:
    """Run two models of the default matrix on all of its runtimes, with short timing."""
    folder = tmp_path_factory.mktemp("main")
    text = (ROOT / "matrix.toml").read_text("utf-8").replace("examples/default", str(ROOT / "examples/default"))
    assert "[limits]" not in text
    (folder / "matrix.toml").write_text(
        text + "\n[limits]\ntiming_s = 1.0\nrounds = 2\nsamples = 16\n", encoding="utf-8"
    )
    cells = ["--cell", "magika/*", "--cell", "cls/none*", "--cell", "cls/int8-static*", "--cell", "vad/none*"]
    cells += ["--cell", "cls/int8-dynamic@openvino:*", "--cell", "vad/offline@openvino:*"]
    return folder, ortforge(folder, "run", "--store", str(store), "--json", *cells)


def test_every_cell_has_a_verdict(done: tuple[Path, Result]) -> None:
    _, result = done
    assert result.code == 0, result.report["expectations"]["problems"]  # the matrix states what is expected
    matrix = tomllib.loads((ROOT / "matrix.toml").read_text("utf-8"))
    per_model = len(matrix["targets"]) * (len(matrix["recipes"]) + 1)
    assert len(result.cells) == per_model + 3 * len(matrix["targets"]) + 2
    for cell in result.cells.values():
        assert cell["status"] in STATUSES
        assert cell["status"] == "pass" or cell["reasons"], cell["id"]
        if cell["ep"] == "cpu":
            assert cell["status"] not in {"failed", "blocked"}, (cell["id"], cell["reasons"], cell["log"])


def test_plain_cells_are_right_and_measured(done: tuple[Path, Result]) -> None:
    _, result = done
    for target in ("stock", "older"):
        for model in ("magika", "cls", "vad"):
            cell = result.cells[f"{model}/none@{target}:cpu/here"]
            assert cell["status"] in CORRECT, cell["reasons"]
            assert cell["parity"]["worst"]["cosine"] > 0.9999
            assert sum(cell["placement"]["nodes"].values()) == cell["placement"]["nodes"]["CPUExecutionProvider"] > 0
            timing = cell["timing"]
            assert timing["low"] <= timing["ratio"] <= timing["high"]
            assert len(timing["samples"]) >= timing["pairs"] >= 5
            assert timing["p99_s"] is None or len(timing["samples"]) >= 662


def test_what_an_ep_makes_of_a_sound_model_is_not_the_models_fault(done: tuple[Path, Result]) -> None:
    _, result = done
    cell = result.cells["cls/int8-dynamic@openvino:openvino/here"]
    assert cell["status"] == "failed"
    assert "the EP is at fault and not the model: This is an invalid model" in cell["reasons"][0]
    assert "quantize-static" in cell["reasons"][0]


def test_what_an_ep_does_not_support_is_said_of_a_pass_as_of_the_model(done: tuple[Path, Result]) -> None:
    _, result = done
    plain, optimized = (result.cells[f"vad/{recipe}@openvino:openvino/here"] for recipe in ("none", "offline"))
    assert {plain["status"], optimized["status"]} == {"unsupported"}
    for cell in (plain, optimized):
        assert "doesn't support Parameter operation with dynamic rank" in cell["reasons"][0]


def test_openvino_takes_nodes_or_says_why(done: tuple[Path, Result]) -> None:
    _, result = done
    cell = result.cells["cls/none@openvino:openvino/here"]
    assert cell["placement"]["nodes"].get("OpenVINOExecutionProvider", 0) > 0, cell["reasons"]
    vad = result.cells["vad/none@openvino:openvino/here"]
    assert vad["status"] in {"unsupported", "failed", "crashed"}
    assert vad["reasons"]


def test_two_versions_share_no_number(done: tuple[Path, Result]) -> None:
    _, result = done
    report = result.report
    assert report["runtimes"]["stock"]["hash"] != report["runtimes"]["older"]["hash"]
    keys: dict[str, str] = {}
    for cell in report["cells"]:
        for kind in ("check", "time"):
            key = cell["keys"].get(kind)
            if key:
                assert keys.setdefault(key, cell["target"]) == cell["target"], "two runtimes share a result"
    assert report["runtimes"]["stock"]["ort_version"] == "1.32.0"
    assert report["runtimes"]["older"]["ort_version"] == "1.21.1"


def test_a_second_run_does_nothing(done: tuple[Path, Result], store: Path) -> None:
    folder, first = done
    again = ortforge(folder, "run", "--store", str(store), "--json", "--no-retry", "--cell", "magika/*")
    assert again.report["run"]["steps"]["run"] == 0
    for name, cell in again.cells.items():
        assert cell["status"] == first.cells[name]["status"]
        assert cell["timing"] == first.cells[name]["timing"]


def test_reports_and_explanations(done: tuple[Path, Result], store: Path) -> None:
    folder, first = done
    written = ortforge(folder, "report", first.report["run"]["id"], "--store", str(store), "--output", "again")
    assert written.code == 0, written.err
    page = (folder / "again" / "report.html").read_text("utf-8")
    assert not re.search(r"""(?:src|href)\s*=\s*["']https?:""", page)
    assert all(name in page for name in first.cells)
    assert (folder / "again" / "report.xml").read_text("utf-8").count("<testcase") == len(first.cells)
    shown = ortforge(folder, "report", "--store", str(store))
    assert shown.code == 0
    assert "magika" in shown.out
    explained = ortforge(folder, "explain", "magika/int8-static@stock:cpu/here", "--store", str(store))
    assert explained.code == 0
    assert "cosine" in explained.out.lower()
    unknown = ortforge(folder, "explain", "magika/int8-statik@stock:cpu/here", "--store", str(store))
    assert unknown.code == 2
    assert "Perhaps you meant" in unknown.err
