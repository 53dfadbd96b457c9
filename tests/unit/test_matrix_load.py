"""matrix.toml to a Matrix: what a valid file means, and every way in which a file can be wrong."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ortforge.api import Pass
from ortforge.errors import ConfigurationError, ExitCode
from ortforge.matrix import DatasetConfig, Known, Matrix, cells, load


class Method(Enum):
    MINMAX = "minmax"
    ENTROPY = "entropy"


@dataclass(frozen=True)
class Range:
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Quantize:
    per_channel: bool = False
    weight_type: Literal["QInt8", "QUInt8"] = "QInt8"
    op_types: tuple[str, ...] = ()
    method: Method = Method.MINMAX
    range: Range = field(default_factory=Range)

    def __post_init__(self) -> None:
        if self.range.low > self.range.high:
            raise ValueError("range.low is above range.high")


@dataclass(frozen=True, slots=True)
class Optimize:
    level: Literal["basic", "extended", "all"]


@dataclass(frozen=True)
class Unusable:
    value: NoSuchType  # type: ignore[name-defined] # noqa: F821


PASSES = (
    Pass("quantize-static", "", Quantize, "/p.py", "quantize", needs_calibration=True),
    Pass("quantize-dynamic", "", Quantize, "/p.py", "quantize"),
    Pass("optimize", "", Optimize, "/p.py", "optimize"),
    Pass("to-ort", "", Quantize, "/p.py", "convert", suffix=".ort"),
    Pass("unusable", "", Unusable, "/p.py", "convert"),
)
KNOWN = Known(
    backends=("cpu", "openvino", "cuda", "dnnl"),
    passes={known.name: known for known in PASSES},
    model_schemes=("path", "package", "https"),
    dataset_schemes=("path", "python", "random"),
    source_schemes=("git", "archive"),
    metrics=("top1-accuracy",),
    allocators=("jemalloc",),
)
MINIMAL = """\
[models.m]
path = "path:m.onnx"

[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
"""


def read(folder: Path, text: str) -> Matrix:
    file = folder / "matrix.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, KNOWN)


def wrong(folder: Path, text: str) -> list[str]:
    """Return the problems of a wrong file, without the path in front."""
    with pytest.raises(ConfigurationError) as caught:
        read(folder, text)
    assert caught.value.exit_code == ExitCode.USAGE
    rows = caught.value.what.split("\n")
    return [row.removeprefix(f"{folder / 'matrix.toml'}:") for row in (rows[1:] or rows)]


def test_a_minimal_file_gets_everything_else_by_default(tmp_path: Path) -> None:
    matrix = read(tmp_path, MINIMAL)
    assert matrix.base == tmp_path.resolve()
    assert list(matrix.recipes) == ["none"]
    assert list(matrix.devices) == ["here"]
    assert matrix.reference.requires == ("onnxruntime==1.32.0",)
    assert (matrix.baseline.target, matrix.baseline.ep) == ("stock", "cpu")
    assert matrix.tolerance.overrides() == {}
    assert matrix.limits.memory == 8_000_000_000
    assert matrix.warnings == ()
    assert [(cell.model, cell.recipe, cell.target, cell.ep.name, cell.device) for cell in cells(matrix)] == [
        ("m", "none", "stock", "cpu", "here")
    ]


def test_data_may_be_a_dataset_a_reference_or_a_table(tmp_path: Path) -> None:
    text = """\
[datasets.digits]
source = "python:inputs.py:digits"
requires = ["scikit-image==0.25.0"]
limit = 16
[models.m]
path = "path:m.onnx"
validation = "digits"
calibration = "path:c.npz"
[models.n]
path = "path:n.onnx"
validation = { source = "random:", seed = 7 }
"""
    matrix = read(tmp_path, text + MINIMAL.split("\n\n")[1])
    digits = DatasetConfig(source="python:inputs.py:digits", requires=("scikit-image==0.25.0",), limit=16)
    assert matrix.datasets["digits"] == digits
    assert matrix.models["m"].validation == digits
    assert matrix.models["m"].calibration == DatasetConfig(source="path:c.npz")
    assert matrix.models["n"].validation == DatasetConfig(source="random:", seed=7)
    assert matrix.models["n"].calibration is None


def test_tolerances_are_overrides_and_false_turns_one_off(tmp_path: Path) -> None:
    text = MINIMAL + '[tolerance]\ncosine = 1\nagreement = false\nspeed = "any"\n'
    assert read(tmp_path, text).tolerance.overrides() == {"cosine": 1.0, "agreement": None, "speed": "any"}


def test_eps_have_labels_that_are_unique_in_their_target(tmp_path: Path) -> None:
    text = (
        MINIMAL
        + """\
eps = ["openvino", { name = "openvino", options = { device_type = "CPU", x = true, n = 2 } }, "cpu",
       { name = "openvino", label = "one-thread", session = { intra_op_threads = 1, config = { "b" = true } } }]
session = { intra_op_threads = 4, execution_mode = "parallel", config = { "a" = 1 } }
"""
    )
    uses = read(tmp_path, text).targets["stock"].ep_uses
    assert [use.label for use in uses] == ["openvino", "openvino#2", "cpu", "one-thread"]
    assert uses[1].options == {"device_type": "CPU", "x": "True", "n": "2"}
    assert uses[0].session == {"intra_op_threads": 4, "execution_mode": "parallel", "config": {"a": "1"}}
    assert uses[3].session["intra_op_threads"] == 1
    assert uses[3].session["config"] == {"a": "1", "b": "1"}


def test_a_default_written_out_is_the_same_recipe(tmp_path: Path) -> None:
    short = '[recipes.r]\npasses = ["quantize-dynamic"]\n'
    full = '[recipes.r]\npasses = [{ use = "quantize-dynamic", method = "minmax", range = { low = 0 } }]\n'
    one, other = read(tmp_path, MINIMAL + short), read(tmp_path, MINIMAL + full)
    [use] = one.recipes["r"].passes
    assert use.parameters == {
        "per_channel": False,
        "weight_type": "QInt8",
        "op_types": [],
        "method": "minmax",
        "range": {"low": 0.0, "high": 1.0},
    }
    assert use.typed == Quantize()
    assert other.recipes["r"].passes[0].parameters == use.parameters
    assert other.digest == one.digest


def test_the_digest_follows_the_meaning_and_not_the_spelling(tmp_path: Path) -> None:
    plain = read(tmp_path, MINIMAL).digest
    assert read(tmp_path, "# hello\n" + MINIMAL + '\neps = ["cpu"]\n[limits]\nrounds = 5\n').digest == plain
    assert read(tmp_path, MINIMAL + "[limits]\nrounds = 4\n").digest != plain
    assert read(tmp_path, MINIMAL.replace("1.32.0", "1.31.0")).digest != plain


def test_source_and_wheel_targets(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "x-1.0-py3-none-any.whl").write_bytes(b"PK")
    text = (
        MINIMAL
        + """\
[targets.file]
from = "wheel"
wheel = "dist/x-1.0-py3-none-any.whl"
[targets.built]
from = "source"
source = "git:v1.21.0"
version = "1.21.0"
eps = ["dnnl"]
allocator = "jemalloc"
flags = { enable_lto = true, parallel = 4, cmake_extra_defines = ["A=1", "B=2"] }
operators = "from-models"
"""
    )
    targets = read(tmp_path, text).targets
    assert [target.from_ for target in targets.values()] == ["package", "wheel", "source"]
    assert [use.label for use in targets["built"].ep_uses] == ["dnnl"]


@pytest.mark.parametrize(("text", "size"), [("4GB", 4 * 10**9), ("512 MiB", 512 * 2**20), ("1.5k", 1500)])
def test_memory_has_units(tmp_path: Path, text: str, size: int) -> None:
    assert read(tmp_path, MINIMAL + f'[limits]\nmemory = "{text}"\n').limits.memory == size


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    problems = wrong(
        tmp_path,
        """\
modles = 1
[models.vad]
path = "package:silero-vad==6.2.3/data/silero_vad.onnx"
validation = "speech"
tolerance = { cosin = 0.9 }
[targets.stock]
from = "package"
eps = ["cpu", "opnvino"]
[recipes.int8]
passes = [{ use = "quantise-static", per_channel = true },
          { use = "quantize-dynamic", per_chanel = true, weight_type = "int8", op_types = "MatMul" }]
[[matrix]]
targets = ["stok"]
exclude = [{ recipe = "fp16" }]
[limits]
rounds = 0
""",
    )
    assert [(problem.split(":")[0], problem.split(": ")[1]) for problem in problems] == [
        ("1", "modles"),
        ("4", 'models.vad.validation = "speech"'),
        ("5", "models.vad.tolerance.cosin"),
        ("6", "targets.stock"),
        ("8", 'targets.stock.eps[1] = "opnvino"'),
        ("10", 'recipes.int8.passes[0].use = "quantise-static"'),
        ("11", "recipes.int8.passes[1].per_chanel = true"),
        ("11", 'recipes.int8.passes[1].weight_type = "int8"'),
        ("11", 'recipes.int8.passes[1].op_types = "MatMul"'),
        ("13", 'matrix[0].targets[0] = "stok"'),
        ("14", 'matrix[0].exclude[0].recipe = "fp16"'),
        ("16", "limits.rounds = 0"),
    ]
    assert problems[5] == (
        '10: recipes.int8.passes[0].use = "quantise-static": no such pass. Perhaps you meant "quantize-static". '
        "Known: optimize, quantize-dynamic, quantize-static, to-ort, unusable."
    )


@pytest.mark.parametrize(
    ("addition", "place", "words"),
    [
        ("[modells.x]", "modells", 'Perhaps you meant "models"'),
        ("[models.x]", "models.x", "path is missing: the ONNX file"),
        ('[models.x]\npath = "x.onnx"', "models.x.path", 'Perhaps you meant "path:x.onnx"'),
        ('[models.x]\npath = "pacage:x"', "models.x.path", 'Perhaps you meant "package"'),
        ('[models.x]\npath = "https://x/y.onnx"', "models.x", "sha256 is missing"),
        ('[models.x]\npath = "path:x"\nsha256 = "12"', "models.x.sha256", "64 hexadecimal digits"),
        (
            '[models.x]\npath = "path:x"\ntasks = ["top1-acuracy"]',
            "models.x.tasks[0]",
            'Perhaps you meant "top1-accuracy"',
        ),
        ('[models.x]\npath = "path:x"\nvalidation = 3', "models.x.validation", "must be a table"),
        ('[models."a b"]\npath = "path:x"', 'models."a b"', 'Perhaps you meant "a-b"'),
        ('[models."../x"]\npath = "path:x"', 'models."../x"', "file names"),
        ('[models."-x"]\npath = "path:x"', "models.-x", "begins with"),
        ('[models.""]\npath = "path:x"', 'models.""', "must not be empty"),
        ('[targets.ort-1.21]\nfrom = "package"', "targets.ort-1", '[targets."ort-1.21"]'),
        ("[targets.x]", "targets.x", "from is missing"),
        ('[targets.x]\nfrom = "packages"', "targets.x.from", 'Perhaps you meant "package"'),
        ('[targets.x]\nfrom = "package"\nrequires = []', "targets.x.requires", "must not be empty"),
        ('[targets.x]\nfrom = "package"\nrequires = ["a=1"]', "targets.x.requires[0]", 'Perhaps you meant "a==1"'),
        ('[targets.x]\nfrom = "package"\nrequires = ["a"]\npython = 3.12', "targets.x.python", "must be a string"),
        ('[targets.x]\nfrom = "wheel"\nwheel = "no.whl"', "targets.x.wheel", "no such file"),
        ('[targets.x]\nfrom = "wheel"\nwheel = "no.zip"', "targets.x.wheel", "must be a wheel"),
        ('[targets.x]\nfrom = "source"\nsource = "git:a"\nversion = "x"', "targets.x.version", "must be a version"),
        ("[recipes.none]\npasses = []", "recipes.none", "built in"),
        ("[recipes.r]\npasses = []", "recipes.r.passes", "must not be empty"),
        ("[recipes.r]\npasses = [3]", "recipes.r.passes[0]", "must be a table"),
        ("[recipes.r]\npasses = [{ per_channel = true }]", "recipes.r.passes[0]", "must name its pass"),
        ('[recipes.r]\npasses = ["optimize"]', "recipes.r.passes[0]", "level is missing"),
        ('[recipes.r]\npasses = ["unusable"]', "recipes.r.passes[0]", "is broken"),
        ('[recipes.r]\npasses = ["to-ort", "quantize-dynamic"]', "recipes.r.passes[0]", "put it last"),
        (
            '[recipes.r]\npasses = [{ use = "quantize-static", range = { hihg = 2 } }]',
            "recipes.r.passes[0].range.hihg",
            'Perhaps you meant "high"',
        ),
        (
            '[recipes.r]\npasses = [{ use = "quantize-static", range = { low = 2 } }]',
            "recipes.r.passes[0]",
            "range.low is above range.high",
        ),
        (
            '[recipes.r]\npasses = [{ use = "quantize-static", per_channel = 2020-01-01 }]',
            "recipes.r.passes[0].per_channel",
            "is a date",
        ),
        ('[recipes.r]\npasses = ["quantize-static"]\ngoal = "latecy"', "recipes.r.goal", 'meant "latency"'),
        ("[devices.x]\ncores = 1.5", "devices.x.cores", "must be a whole number"),
        ('[matrix]\ntargets = ["*"]', "matrix", "[[matrix]]"),
        ("[[matrix]]\nexclude = [{}]", "matrix[0].exclude[0]", "every cell"),
        ('[[matrix]]\nexclude = [{ targets = "stock" }]', "matrix[0].exclude[0].targets", 'meant "target"'),
        ('[[matrix]]\neps = ["cpv"]', "matrix[0].eps[0]", 'meant "cpu"'),
        ('[[matrix]]\nexclude = [{ model = "*" }]', "matrix", "no cell is left"),
        ('[baseline]\ntarget = "stok"', "baseline.target", 'meant "stock"'),
        ('[baseline]\nep = "cuda"', "baseline.ep", "Its EPs: cpu"),
        ('[limits]\nmemory = "4 elephants"', "limits.memory", '"4GB"'),
        ("[limits]\nload_s = -1", "limits.load_s", "must be more than 0"),
        ("[tolerance]\nsqnr_db = 0x" + "F" * 5000, "tolerance.sqnr_db", "64 bits"),
        ("[limits]\ntiming_s = inf", "limits.timing_s", "finite"),
        ("[tolerance]\nagreement = 95", "tolerance.agreement", "at most 1"),
        ("[tolerance]\ncosine = true", "tolerance.cosine", "or false"),
        ("[datasets]\nx = 3", "datasets.x", "must be a table"),
        ('[datasets.x]\nsource = "random:"\noptions = { a = [inf] }', "datasets.x.options.a[0]", "finite"),
    ],
)
def test_a_problem_says_where_it_is_and_what_was_meant(tmp_path: Path, addition: str, place: str, words: str) -> None:
    first = len(MINIMAL.split("\n"))
    [problem] = [row for row in wrong(tmp_path, MINIMAL + addition) if int(row.split(":")[0]) >= first]
    line, shown, _ = problem.split(": ", 2)
    assert shown.split(" = ")[0] == place
    assert int(line) >= first
    assert words in problem


@pytest.mark.parametrize(
    ("eps", "place", "words"),
    [
        ('["OpenVINOExecutionProvider"]', "targets.stock.eps[0]", 'Perhaps you meant "openvino"'),
        ('["cpu", "cpu"]', "targets.stock.eps[1]", "given twice"),
        ('["cpu", { name = "cuda", label = "cpu" }]', "targets.stock.eps[1].label", "taken"),
        ('[{ name = "cuda", label = "a/b" }]', "targets.stock.eps[0].label", "letters"),
        ('[{ name = "cuda", options = { a = [1] } }]', "targets.stock.eps[0].options.a", "must be a string"),
        ('[{ name = "cuda", session = { intra_op_threads = true } }]', "", "must be a whole number"),
        ("[]", "targets.stock.eps", "must not be empty"),
    ],
)
def test_eps_that_cannot_be(tmp_path: Path, eps: str, place: str, words: str) -> None:
    [problem] = wrong(tmp_path, MINIMAL + f"eps = {eps}\n")
    assert place in problem
    assert words in problem


def test_a_broken_dataset_is_reported_once_and_not_for_each_model(tmp_path: Path) -> None:
    text = '[datasets.d]\nsource = "pth:x"\n[models.n]\npath = "path:n"\nvalidation = "d"\n' + MINIMAL
    [problem] = wrong(tmp_path, text)
    assert problem.startswith('2: datasets.d.source = "pth:x"')


def test_an_empty_file_says_what_to_add(tmp_path: Path) -> None:
    problems = wrong(tmp_path, "")
    assert ["[models.NAME]" in problems[0], "[targets.NAME]" in problems[1]] == [True, True]


def test_a_syntax_error_shows_line_column_and_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, '[models.m]\npath = "path:m.onnx\n')
    first, shown, mark = caught.value.what.split("\n")
    assert first.startswith(f"{tmp_path / 'matrix.toml'}:2:")
    assert shown.strip() == 'path = "path:m.onnx'
    assert mark.strip() == "^"


@pytest.mark.parametrize("text", ["a = [", "a = " + "[" * 5000, "a = " + "9" * 5000, "[a]\n[a]\n", "a = 1\na = 2"])
def test_what_is_no_toml_is_a_configuration_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError):
        read(tmp_path, text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ortforge init"):
        load(tmp_path / "matrix.toml", KNOWN)
    (tmp_path / "matrix.toml").write_bytes(b"# ok\na = '\xff'\n")
    with pytest.raises(ConfigurationError, match=r"matrix.toml:2: this is no UTF-8"):
        load(tmp_path / "matrix.toml", KNOWN)
    with pytest.raises(ConfigurationError, match=r"Perhaps you meant .*matrix\.toml"):
        load(tmp_path, KNOWN)
    if os.geteuid() != 0:
        (tmp_path / "matrix.toml").chmod(0)
        with pytest.raises(ConfigurationError, match="cannot be read"):
            load(tmp_path / "matrix.toml", KNOWN)


def test_what_is_probably_not_meant_is_a_warning(tmp_path: Path) -> None:
    text = (
        MINIMAL
        + """\
[datasets.unused]
source = "random:"
[models.n]
path = "path:n.onnx"
validation = "path:x.npz"
calibration = "path:x.npz"
[targets.ov]
from = "package"
requires = ["onnxruntime-openvino"]
eps = ["openvino"]
[[matrix]]
targets = ["stock"]
exclude = [{ target = "ov", recipe = "none" }]
include = [{ target = "ov", ep = "cpu" }]
"""
    )
    warnings = [warning.removeprefix(f"{tmp_path / 'matrix.toml'}:") for warning in read(tmp_path, text).warnings]
    assert [warning.split(": ")[:2] for warning in warnings] == [
        ["19", "matrix[0].exclude[0]"],
        ["20", "matrix[0].include[0]"],
        ["7", "datasets.unused"],
        ["12", "models.n.calibration"],
    ]


SCALARS = st.one_of(st.integers(), st.floats(), st.booleans(), st.sampled_from(["", "*", "cpu", "path:x", "\n", "é"]))
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.just({}), max_leaves=3
)
NAMED = ("datasets", "models", "targets", "recipes", "devices")
SECTIONS = (*NAMED, "project", "matrix", "reference", "baseline", "limits")
KEYS = ("path", "from", "requires", "eps", "passes", "validation", "exclude", "memory", "target", "source", "python")


def literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\n", "\\n") + '"'
    if isinstance(value, list):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return "{}" if isinstance(value, dict) else repr(value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.dictionaries(st.tuples(st.sampled_from(SECTIONS), st.sampled_from(KEYS)), VALUES, max_size=8))
def test_any_values_anywhere_give_a_matrix_or_a_configuration_error(
    tmp_path: Path, entries: dict[tuple[str, str], Any]
) -> None:
    tables: dict[str, str] = {}
    for (section, key), value in entries.items():
        header = f"[{section}.x]\n" if section in NAMED else f"[{section}]\n"
        header = "[[matrix]]\n" if section == "matrix" else header
        tables[section] = tables.get(section, header) + f"{key} = {literal(value)}\n"
    try:
        read(tmp_path, MINIMAL + "".join(tables.values()))
    except ConfigurationError as error:
        assert all(":" in row for row in error.what.split("\n"))


def test_a_file_of_usual_size_loads_at_once(tmp_path: Path) -> None:
    models = "".join(f'[models.m{n}]\npath = "path:{n}.onnx"\nvalidation = "random:"\n' for n in range(6))
    recipes = "".join(f'[recipes.r{n}]\npasses = ["quantize-dynamic", "quantize-static"]\n' for n in range(6))
    read(tmp_path, MINIMAL + models + recipes)
    started = time.process_time()
    read(tmp_path, MINIMAL + models + recipes)
    assert time.process_time() - started < 0.5
