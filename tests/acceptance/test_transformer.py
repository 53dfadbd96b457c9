"""A real transformer, MiniLM-L6: fused, optimized offline, and told apart with ``ortforge diff``.

Needs the model that ``python examples/encoder/export.py`` writes; skipped without it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import ROOT, Result, ortforge

from ortforge.portable.statuses import CORRECT

ENCODER = ROOT / "examples" / "encoder"
HERE = "stock:cpu/here"

pytestmark = pytest.mark.skipif(
    not (ENCODER / "model.onnx").is_file(), reason="MiniLM is not exported: python examples/encoder/export.py"
)

MATRIX = f"""
[models.minilm]
path = "path:{ENCODER}/model.onnx"
validation = {{ source = "python:{ENCODER}/inputs.py:sentences", requires = ["tokenizers==0.22.2"], limit = 8 }}
tolerance = {{ cosine = 0.999 }}

[models.foreign]
path = "path:foreign.onnx"
validation = {{ source = "python:{ENCODER}/inputs.py:sentences", requires = ["tokenizers==0.22.2"], limit = 8 }}

[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]

[recipes.fused]
passes = [{{ use = "transformer-optimizer", model_type = "bert" }}]

[recipes.narrow]
passes = [{{ use = "transformer-optimizer", input_int32 = true }}]

[recipes.wrong-type]
passes = [{{ use = "transformer-optimizer", model_type = "gpt2" }}]

[recipes.wrong-heads]
passes = [{{ use = "transformer-optimizer", num_heads = 6, hidden_size = 384 }}]

[recipes.offline]
passes = [{{ use = "optimize" }}]
goal = "load"

[limits]
timing_s = 1.0
rounds = 2

[[matrix]]
models = ["minilm"]
[[matrix]]
models = ["foreign"]
recipes = ["none"]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, store: Path) -> tuple[Path, Result]:
    import onnx

    folder = tmp_path_factory.mktemp("transformer")
    (folder / "matrix.toml").write_text(MATRIX, encoding="utf-8")
    model = onnx.load(ENCODER / "model.onnx")
    stamp = {"ort_version": "1.32.0", "ep": "cuda", "level": "extended", "cpu_flags": []}
    model.metadata_props.add(key="ortforge.stamp", value=json.dumps(stamp))
    onnx.save(model, folder / "foreign.onnx")
    return folder, ortforge(folder, "run", "--store", str(store), "--json")


def test_every_layer_is_fused_and_the_heads_are_read(done: tuple[Path, Result]) -> None:
    cell = done[1].cells[f"minilm/fused@{HERE}"]
    assert cell["status"] in CORRECT, cell["reasons"]
    said = cell["artefact"]["changed"]["transformer-optimizer"]
    assert said["fused"] == {
        "Attention": 6,
        "BiasGelu": 6,
        "EmbedLayerNormalization": 1,
        "SkipLayerNormalization": 12,
    }
    assert (said["num_heads"], said["hidden_size"]) == (12, 384)
    assert cell["artefact"]["warnings"] == []
    assert cell["parity"]["worst"]["cosine"] > 0.9999


def test_narrower_inputs_get_the_samples_cast(done: tuple[Path, Result]) -> None:
    cell = done[1].cells[f"minilm/narrow@{HERE}"]
    assert cell["status"] in CORRECT, cell["reasons"]
    assert cell["parity"]["worst"]["cosine"] > 0.9999


def test_a_wrong_model_type_and_wrong_heads_are_said(done: tuple[Path, Result]) -> None:
    cells = done[1].cells
    (said,) = cells[f"minilm/wrong-type@{HERE}"]["artefact"]["warnings"]
    assert "'bert' fuses 6 Attention here" in said
    refused = cells[f"minilm/wrong-heads@{HERE}"]
    assert refused["status"] == "failed"
    assert "into 12 heads, 384 wide together" in refused["reasons"][0]


def test_load_time_is_told_with_and_without(done: tuple[Path, Result]) -> None:
    cell = done[1].cells[f"minilm/offline@{HERE}"]
    assert cell["artefact"]["stamp"]["level"] == "all"
    assert cell["timing"]["load_s"] > 0
    assert cell["timing"]["baseline_load_s"] > 0
    load = cell["timing"]["load"]
    assert load["rounds"] >= 1
    assert 0 < load["low"] <= load["ratio"] <= load["high"]
    assert "Loaded in turns, it takes" in " ".join(cell["reasons"] + cell["notes"])
    plain = done[1].cells[f"minilm/narrow@{HERE}"]["timing"]
    assert plain["load"] is None, "a recipe for latency has nothing to do with loading"


def test_a_model_that_was_bound_elsewhere_is_unsupported(done: tuple[Path, Result]) -> None:
    cell = done[1].cells[f"foreign/none@{HERE}"]
    assert cell["status"] == "unsupported"
    assert "for the EP cuda" in cell["reasons"][0]


def test_the_difference_is_told_in_fusions(done: tuple[Path, Result], store: Path) -> None:
    folder, result = done
    digest = result.cells[f"minilm/fused@{HERE}"]["artefact"]["digest"]
    fused = next(store.glob(f"objects/{digest[:2]}/{digest[2:]}*/model.onnx"))
    compared = ortforge(folder, "diff", str(ENCODER / "model.onnx"), str(fused))
    assert compared.code == 0, compared.err
    assert "fused: 12 SkipLayerNormalization + 6 Attention + 6 BiasGelu + 1 EmbedLayerNormalization" in compared.out
