"""Which passes cannot follow each other: each pair is refused by the plan, with what to do instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from ortforge.api import Device
from ortforge.cli.shared import known
from ortforge.matrix import cells, load
from ortforge.plan.pass_order import UsedPass, why_not_after
from ortforge.plan.refusals import Refusals
from ortforge.plugin_manager import Plugins
from ortforge.runtime import device

FLOAT = "quantize once, from the float model"
SCALES = "half precision would break its scales; use one of the two"
HALF = "scales are taken from float32 weights; use one of the two"
BOUND = "binds the graph to one CPU's memory layout"
VOID = "what that chose was measured as it was made"
TUNED = "its settings were measured on the model as it was then; put tune-session last"
TABLE = "its table holds the ranges of the tensors that the model had then; put tensorrt-calibration after it"

DYNAMIC, STATIC, WEIGHTS = '"quantize-dynamic"', '"quantize-static"', '"quantize-weights"'
LAID_OUT = '{ use = "optimize", level = "all" }'


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins()


@pytest.fixture(scope="module")
def here() -> Device:
    return device.probe()


def refusal(folder: Path, plugins: Plugins, here: Device, *passes: str) -> str:
    """What the plan says of a recipe, on the CPU."""
    (folder / "matrix.toml").write_text(
        f"""
[models.m]
path = "path:m.onnx"
calibration = "random:"
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
[recipes.r]
passes = [{", ".join(passes)}]
[[matrix]]
recipes = ["r"]
""",
        encoding="utf-8",
    )
    matrix = load(folder / "matrix.toml", known(plugins))
    refusals = Refusals(matrix, plugins, here)
    [spec] = cells(matrix)
    return refusals.of(spec)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        # Quantized models.
        (DYNAMIC, DYNAMIC, FLOAT),
        (DYNAMIC, STATIC, FLOAT),
        (STATIC, WEIGHTS, FLOAT),
        (WEIGHTS, '"quantize"', FLOAT),
        (STATIC, '"quantize-tensorrt"', FLOAT),
        (DYNAMIC, '"quantize-auto"', "let the search begin from the float model"),
        (STATIC, '"tensorrt-calibration"', "TensorRT takes ranges from a table or from QDQ, not both"),
        (DYNAMIC, '"float16"', SCALES),
        (STATIC, '"mixed-precision"', SCALES),
        (WEIGHTS, '"bfloat16"', SCALES),
        (DYNAMIC, '{ use = "transformer-optimizer", float16 = true }', SCALES),
        (DYNAMIC, '"preprocess"', "it prepares a model for quantization"),
        (STATIC, '"smooth-quant"', "put it before quantize-static"),
        (DYNAMIC, '"transformer-optimizer"', "its patterns are those of float models; put it before quantization"),
        # Models in half precision.
        ('"float16"', DYNAMIC, HALF),
        ('"float16"', WEIGHTS, HALF),
        ('"float16"', '"quantize-auto"', HALF),
        ('"float16"', '"smooth-quant"', HALF),
        ('{ use = "transformer-optimizer", float16 = true }', STATIC, HALF),
        ('"float16"', '"mixed-precision"', "convert once, from the float32 model"),
        ('{ use = "transformer-optimizer", float16 = true }', '"float16"', "convert once, from the float32 model"),
        ('"float16"', '"transformer-optimizer"', "put it before float16"),
        (
            '{ use = "transformer-optimizer", float16 = true }',
            '"transformer-optimizer"',
            "patterns are those of float32",
        ),
        # Graphs that hold fused operators.
        ('{ use = "optimize", level = "extended" }', '"transformer-optimizer"', "so that they find no attention"),
        # Graphs that are one CPU's.
        (LAID_OUT, DYNAMIC, BOUND),
        (LAID_OUT, STATIC, "put optimize after it, or use level 'basic'"),
        ('{ use = "optimize", level = "layout" }', '"quantize-auto"', BOUND),
        (LAID_OUT, '"float16"', BOUND),
        (LAID_OUT, '"preprocess"', BOUND),
        (LAID_OUT, '"transformer-optimizer"', BOUND),
        ('{ use = "transformer-optimizer", opt_level = 99 }', STATIC, BOUND),
        ('{ use = "optimize", level = "basic", format = "ort" }', DYNAMIC, "writes ORT's own format"),
        ('{ use = "optimize", level = "basic", format = "ort" }', '"optimize"', "put that last"),
        # What belongs to one very model.
        ('"quantize-auto"', LAID_OUT, VOID),
        ('"quantize-auto"', DYNAMIC, VOID),
        ('"tune-session"', DYNAMIC, TUNED),
        ('"tune-session"', LAID_OUT, TUNED),
        ('"tune-session"', '"tune-session"', TUNED),
        ('"tune-session"', '"tensorrt-calibration"', TUNED),
    ],
)
def test_what_cannot_follow_is_refused_by_the_plan(
    tmp_path: Path, plugins: Plugins, here: Device, first: str, second: str, says: str
) -> None:
    reason = refusal(tmp_path, plugins, here, first, second)
    assert says in reason
    name = second.strip('"') if second.startswith('"') else second.split('"')[1]
    assert reason.startswith(f"{name}: "), "the later pass is the one that is named"


@pytest.mark.parametrize("later", ["transformer-optimizer", "quantize-static", "float16", "optimize"])
def test_nothing_that_changes_the_model_follows_a_calibration_table(plugins: Plugins, later: str) -> None:
    # Asked directly: without TensorRT the plan refuses the first one already.
    table, other, tuned = (
        UsedPass(plugins.passes[name], plugins.passes[name].parameters())
        for name in ("tensorrt-calibration", later, "tune-session")
    )
    assert TABLE in why_not_after([table], other)
    assert why_not_after([table], tuned) == ""


@pytest.mark.parametrize(
    "passes",
    [
        ('"preprocess"', '"smooth-quant"', STATIC),
        ('"transformer-optimizer"', DYNAMIC, LAID_OUT),
        ('{ use = "optimize", level = "basic" }', STATIC),
        ('{ use = "optimize", level = "extended" }', DYNAMIC),
        ('"float16"', LAID_OUT),
        ('"transformer-optimizer"', '"float16"'),
        ('"preprocess"', '"quantize-auto"', '"tune-session"'),
        ('{ use = "optimize", format = "ort" }', '"tune-session"'),
        (WEIGHTS, '"tune-session"'),
    ],
)
def test_what_can_follow_is_not_refused(
    tmp_path: Path, plugins: Plugins, here: Device, passes: tuple[str, ...]
) -> None:
    assert refusal(tmp_path, plugins, here, *passes) == ""


def test_a_pass_far_before_counts_too(tmp_path: Path, plugins: Plugins, here: Device) -> None:
    assert FLOAT in refusal(tmp_path, plugins, here, DYNAMIC, '{ use = "optimize", level = "basic" }', STATIC)
