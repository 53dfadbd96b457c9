"""A matrix whose int8 cells are right on CPUs with VNNI and wrong without: what the report says of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import ortforge
from tier_models import MODELS, F, build, feeds, node

from ortforge.portable.cpu_tiers import EXACT, TIERS, tier_of
from ortforge.runtime import device

HERE = tier_of(device.probe().cpu_flags)
pytestmark = pytest.mark.skipif(
    HERE not in TIERS or TIERS[HERE].arithmetic != EXACT or TIERS[HERE].machine != "x86-64",
    reason="this CPU's own products are not exact",
)

MODEL = """
[models.NAME]
path = "path:NAME.onnx"
validation = "path:NAME-validation"
calibration = "path:NAME-calibration"
"""

REST = """
[tolerance]
cosine = 0.95
max_rel_range = 0.2
agreement = false
speed = "any"

[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]

[recipes.dynamic]
passes = ["quantize-dynamic"]
[recipes.seven]
passes = [{ use = "quantize-dynamic", reduce_range = true }]
[recipes.precise]
passes = ["quantize-dynamic"]
session = { config = { "session.x64quantprecision" = "1" } }
[recipes.qdq]
passes = [{ use = "quantize-static", per_channel = true }]
[recipes.qoperator]
passes = [{ use = "quantize-static", format = "QOperator" }]
[recipes.auto]
passes = [{ use = "quantize-auto", schemes = ["static-heavy*"], budget_s = 30.0 }]

[limits]
timing_s = 0

[[matrix]]
exclude = [{ model = ["never", "gemm", "cnn"], recipe = "auto" }]
"""


def never_saturating() -> onnx.ModelProto:
    """Every second row of the weights is small, so that no pair can saturate with one scale for all."""
    weights = np.random.default_rng(0).uniform(-0.3, 0.3, (16, 4)).astype(F)
    weights[::2] = 0.02
    weights[1] = 1
    return build([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 16), "y": (2, 4)}, {"w": weights})


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory, store: Path) -> dict[str, dict[str, Any]]:
    """Run the matrix once."""
    folder = tmp_path_factory.mktemp("tiers")
    text = ""
    for name, make in {**{name: MODELS[name] for name in ("mlp", "gemm", "cnn")}, "never": never_saturating}.items():
        model = make()
        onnx.save(model, folder / f"{name}.onnx")
        samples = feeds(model, 16)
        for split, part in (("validation", samples[:8]), ("calibration", samples[8:])):
            (folder / f"{name}-{split}").mkdir()
            for number, sample in enumerate(part):
                np.savez(folder / f"{name}-{split}" / f"{number:03}.npz", **sample)
        text += MODEL.replace("NAME", name) + ('tiers = ["avx2"]\n' if name == "gemm" else "")
    (folder / "matrix.toml").write_text(text + REST)
    done = ortforge(folder, "run", "--store", str(store), "-o", "out")
    report = json.loads((folder / "out" / "report.json").read_text())
    assert len(report["cells"]) == 25, done.err
    (folder / "out.txt").write_text(done.out)
    ships = report["ships"]
    assert "wrong on avx2, avx512" in ships["mlp"][0]["why"] or set(ships["mlp"][0]["tiers"]) >= {"avx2", "avx512"}
    return {cell["id"].removesuffix("@stock:cpu/here"): cell for cell in report["cells"]}


@pytest.mark.parametrize("name", ["mlp/dynamic", "mlp/qdq", "mlp/qoperator", "cnn/qdq", "cnn/qoperator"])
def test_right_here_and_wrong_without_vnni_is_a_pass_with_its_tiers(cells: Any, name: str) -> None:
    cell = cells[name]
    assert cell["status"] == "pass" and HERE in cell["tiers"]["correct"]
    assert cell["tiers"]["wrong"] == ["avx2", "avx512"]
    assert any("pair sums" in reason and "AVX2 without VNNI" in reason for reason in cell["reasons"])
    assert cell["artefact"]["stamp"]["tiers"] == cell["tiers"]["correct"]


@pytest.mark.parametrize("name", ["gemm/dynamic", "gemm/qdq", "gemm/qoperator"])
def test_a_listed_tier_where_it_is_wrong_makes_it_inaccurate(cells: Any, name: str) -> None:
    assert cells[name]["status"] == "inaccurate"
    assert cells[name]["reasons"][0].startswith("Wrong on: AVX2 without VNNI")


@pytest.mark.parametrize(
    "name",
    ["mlp/seven", "gemm/seven", "mlp/precise", "gemm/precise", "never/dynamic", "never/qoperator", "cnn/dynamic"],
)
def test_what_cannot_saturate_is_right_on_every_tier(cells: Any, name: str) -> None:
    cell = cells[name]
    assert cell["status"] == "pass" and set(cell["tiers"]["correct"]) == set(TIERS)
    assert any(reason.startswith("Known to be correct on: AVX2 without VNNI") for reason in cell["reasons"])
    assert not (cell["artefact"]["stamp"] or {}).get("tiers")


def test_a_float_model_has_no_tiers(cells: Any) -> None:
    assert all(cells[f"{name}/none"]["tiers"] is None for name in ("mlp", "gemm", "cnn", "never"))


def test_a_search_hands_on_nothing_that_is_wrong_on_a_required_tier(cells: Any) -> None:
    cell = cells["mlp/auto"]
    assert not (cell["tiers"] or {}).get("wrong")
    tried = {row["name"]: row for row in cell["artefact"]["changed"]["quantize-auto"]["candidates"]}
    assert any("on other CPU tiers" in text for text in tried["static-heavy"]["fails"])
    assert "static-heavy-7" in tried
