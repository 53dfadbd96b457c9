"""CPU tiers: what a worker computes for other CPUs, and what the verdict, the stamp and the report say of it."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from ortforge.api.wording import marks
from ortforge.engine.steps.tiers import integer_operators
from ortforge.matrix.config import ModelConfig
from ortforge.plan import stamp
from ortforge.portable.comparison.parity import compare
from ortforge.portable.cpu_tiers import DEFAULT, EXACT, TIERS, tier_of
from ortforge.report.ships import what_ships
from ortforge.runtime import device
from ortforge.verdict.judge import Verdict
from ortforge.verdict.tiers import TierFacts, with_tiers
from ortforge.verdict.tolerance import Tolerance
from ortforge.worker.integer_products import products
from ortforge.worker.saturation import saturating_matmul

from .conftest import Supervise
from .tier_models import MODELS, F, build, feeds, mlp, node, quantized, write_samples

HERE = tier_of(device.probe().cpu_flags)
EXACT_HERE = HERE in TIERS and TIERS[HERE].arithmetic == EXACT and TIERS[HERE].machine == "x86-64"
needs_vnni = pytest.mark.skipif(not EXACT_HERE, reason="this CPU's own products are not exact")


def computed(
    folder: Path,
    supervise: Supervise,
    path: Path,
    samples: list[dict[str, Any]],
    emulate: str = "saturating-pairs",
    **session: Any,
) -> tuple[dict[str, Any], list[Any]]:
    """Do the worker's job; return its result and output y of each sample."""
    data = write_samples(folder / f"{path.stem}-{emulate}-samples", samples)
    output = folder / f"{path.stem}-{emulate}-out"
    job = {
        "op": "tiers",
        "model": str(path),
        "samples": str(data),
        "output": str(output),
        "session": {"intra_op_threads": 1, **session},
        "emulate": emulate,
    }
    outcome = supervise(job)
    assert outcome.status == "ok", outcome
    found = dict(outcome.result)
    return found, [np.load(output / f"{number:06}.npz")["0"] for number in range(found["samples"])]


def answers(path: Path, samples: list[dict[str, Any]]) -> list[Any]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [session.run(None, sample)[0] for sample in samples]


# The worker


@needs_vnni
@pytest.mark.parametrize(
    ("name", "scheme", "options"),
    [
        ("mlp", "dynamic", {}),
        ("mlp", "QOperator", {"per_channel": True}),
        ("gemm", "QDQ", {"per_channel": True}),
        ("cnn", "QDQ", {}),
        ("cnn", "QOperator", {"per_channel": True}),
        ("conv1d", "QDQ", {}),
        ("conv3d", "QOperator", {}),
        ("batched", "dynamic", {}),
    ],
)
def test_without_saturation_the_computed_outputs_are_the_runtimes_own(
    tmp_path: Path, supervise: Supervise, name: str, scheme: str, options: dict[str, Any]
) -> None:
    """Everything that the rewritten graph does besides saturating is what ORT does: bit for bit."""
    model = MODELS[name]()
    path, samples = quantized(model, tmp_path / "q.onnx", scheme, **options), feeds(model)
    found, outputs = computed(tmp_path, supervise, path, samples, "exact")
    assert found["unsafe"] and found["samples"] == len(samples)
    assert all(np.array_equal(one, other) for one, other in zip(outputs, answers(path, samples), strict=True))
    wrong, others = computed(tmp_path, supervise, path, samples)
    assert wrong["saturated"] > 0
    assert not any(np.array_equal(one, other) for one, other in zip(outputs, others, strict=True))


def test_a_saturating_product_is_what_the_definition_says(tmp_path: Path, supervise: Supervise) -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(-128, 128, (33, 5)).astype(np.int8)
    model = build(
        [
            node("Cast", ["x"], ["a"], to=TensorProto.UINT8),
            node("MatMulInteger", ["a", "w", "az"], ["p"]),
            node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
        ],
        {"x": (4, 33), "y": (4, 5)},
        {"w": weights, "az": np.array(3, np.uint8)},
    )
    onnx.save(model, tmp_path / "m.onnx")
    x = rng.integers(180, 256, (4, 33))
    found, (output,) = computed(tmp_path, supervise, tmp_path / "m.onnx", [{"x": x.astype(F)}])
    expected = saturating_matmul(x.astype(np.uint8), weights) - 3 * weights.astype(np.int32).sum(axis=0)
    assert np.array_equal(output, expected.astype(F)) and found["products"] == found["unsafe"] == 1


def test_both_operands_may_be_activations(tmp_path: Path, supervise: Supervise) -> None:
    """An s8 activation times a u8 one, as in an attention: nothing is known of the weights, so it is run."""
    model = build(
        [
            node("Cast", ["x"], ["a"], to=TensorProto.UINT8),
            node("Sub", ["x", "half"], ["h"]),
            node("Cast", ["h"], ["b"], to=TensorProto.INT8),
            node("Transpose", ["b"], ["t"], perm=[0, 2, 1]),
            node("MatMulInteger", ["a", "t"], ["p"]),
            node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
        ],
        {"x": (2, 3, 10), "y": (2, 3, 3)},
        {"half": np.array(128, F)},
    )
    onnx.save(model, tmp_path / "m.onnx")
    x = np.random.default_rng(0).integers(200, 256, (2, 3, 10))
    found, (output,) = computed(tmp_path, supervise, tmp_path / "m.onnx", [{"x": x.astype(F)}])
    a, b = x.astype(np.uint8), (x - 128).astype(np.int8)
    expected = np.stack([saturating_matmul(a[i], b[i].T) for i in range(2)])
    assert np.array_equal(output, expected.astype(F)) and found["saturated"]


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("dynamic", {"reduce_range": True}),
        ("dynamic", {"weight": "QUInt8"}),
        ("QDQ", {"reduce_range": True, "per_channel": True}),
        ("QOperator", {"activation": "QInt8"}),
    ],
)
def test_the_proposed_remedies_are_proven_without_a_run(
    tmp_path: Path, supervise: Supervise, scheme: str, options: dict[str, Any]
) -> None:
    path = quantized(mlp(), tmp_path / "q.onnx", scheme, **options)
    found, _ = computed(tmp_path, supervise, path, feeds(mlp()))
    assert (found["products"], found["unsafe"], found["samples"]) == (2, 0, 0)


def test_weights_that_never_meet_in_a_pair_are_proven(tmp_path: Path, supervise: Supervise) -> None:
    """Every second row is small, so no pair can saturate although single weights are 127."""
    weights = np.full((16, 4), 0.01, F)
    weights[::2] = 1
    model = build([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 16), "y": (2, 4)}, {"w": weights})
    found, _ = computed(tmp_path, supervise, quantized(model, tmp_path / "q.onnx", "dynamic"), feeds(model))
    assert (found["products"], found["unsafe"]) == (1, 0)


@needs_vnni
def test_the_session_option_is_tried_before_it_is_proposed(tmp_path: Path, supervise: Supervise) -> None:
    path = quantized(mlp(), tmp_path / "q.onnx", "dynamic")
    found, _ = computed(tmp_path, supervise, path, feeds(mlp()))
    assert (found["unsafe"], found["with_precision"]) == (2, 0)
    config = {"session.x64quantprecision": "1"}
    followed, _ = computed(tmp_path, supervise, path, feeds(mlp()), config=config)
    assert followed["unsafe"] == 0 and "with_precision" not in followed


def test_products_that_are_not_modelled_are_not_known(tmp_path: Path, supervise: Supervise) -> None:
    then = helper.make_graph(
        [node("MatMulInteger", ["a", "w"], ["p1"])],
        "t",
        [],
        [helper.make_tensor_value_info("p1", TensorProto.INT32, None)],
    )
    other = helper.make_graph(
        [node("MatMulInteger", ["a", "w"], ["p2"])],
        "e",
        [],
        [helper.make_tensor_value_info("p2", TensorProto.INT32, None)],
    )
    model = build(
        [
            node("Cast", ["x"], ["a"], to=TensorProto.UINT8),
            node("ReduceSum", ["x"], ["s"], keepdims=0),
            node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
            node("If", ["c"], ["p"], then_branch=then, else_branch=other),
            node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
        ],
        {"x": (2, 16), "y": (2, 4)},
        {"w": np.full((16, 4), 127, np.int8)},
    )
    onnx.save(model, tmp_path / "m.onnx")
    found, outputs = computed(tmp_path, supervise, tmp_path / "m.onnx", feeds(model))
    assert found["unsafe"] == 2 and not outputs
    assert {one["why"] for one in found["unknown"]} == {"it is inside a branch or a loop"}


def test_a_heavy_model_is_computed_for_fewer_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ortforge.worker import tiers

    monkeypatch.setattr(tiers, "EVALUATIONS", 0)
    monkeypatch.chdir(tmp_path)
    path = quantized(mlp(), tmp_path / "q.onnx", "dynamic")
    data = write_samples(tmp_path / "samples", feeds(mlp(), 9))
    found: dict[str, Any] = {}
    channel: Any = type(
        "Channel", (), {"phase": lambda self, name: None, "finish": lambda self, it: found.update(it)}
    )()
    job = {"model": str(path), "samples": str(data), "output": "out", "session": {}, "emulate": "saturating-pairs"}
    tiers.run(job, channel)
    assert (found["samples"], found["of"]) == (1, 9)


def test_operators_whose_kernels_do_not_saturate() -> None:
    """What QEMU showed for AVX2: depthwise QLinearConv, u8 x u8, s8 x s8, and ConvInteger with s8 weights are exact."""
    weights = np.full((16, 1, 3, 3), 127, np.int8)

    def only(kind: str, inputs: list[str], w: Any, zero: Any, **attributes: Any) -> bool:
        values = {"w": w, "az": zero, "one": np.array(1, F), "bz": np.zeros((), w.dtype), "yz": zero}
        graph = build([node(kind, inputs, ["y"], **attributes)], {"x": (1,), "y": (1,)}, values).graph
        (product,) = products(graph, numpy_helper.to_array)
        return product.safe

    u8, s8 = np.array(3, np.uint8), np.array(3, np.int8)
    conv = ["a", "one", "az", "w", "one", "bz", "one", "yz"]
    assert only("QLinearConv", conv, weights, u8, group=16)
    assert not only("QLinearConv", conv, weights.reshape(1, 16, 3, 3), u8)
    assert only("QLinearConv", conv, weights.reshape(1, 16, 3, 3), s8)
    assert only("ConvInteger", ["a", "w", "az"], weights.reshape(1, 16, 3, 3), u8)
    assert not only("ConvInteger", ["a", "w", "az"], weights.reshape(1, 16, 3, 3).astype(np.uint8), s8)
    assert only("MatMulInteger", ["a", "w", "az"], np.full((4, 4), 255, np.uint8), u8)


def test_a_float_model_is_answered_from_its_bytes(tmp_path: Path) -> None:
    """Names that contain an operator's name are not operators."""
    model = mlp()
    model.graph.node[0].name = "QuantizeLinear"
    model.graph.doc_string = "MatMulInteger QLinearConv"
    onnx.save(model, tmp_path / "float.onnx")
    assert integer_operators(tmp_path / "float.onnx") == set()
    expected = {
        "dynamic": {"DynamicQuantizeLinear", "MatMulInteger"},
        "QDQ": {"QuantizeLinear", "DequantizeLinear"},
        "QOperator": {"QuantizeLinear", "QLinearMatMul", "DequantizeLinear"},
    }
    for scheme, operators in expected.items():
        assert operators <= integer_operators(quantized(mlp(), tmp_path / f"{scheme}.onnx", scheme))


QEMU = os.environ.get("ORTFORGE_QEMU") or shutil.which("qemu-x86_64")


@needs_vnni
@pytest.mark.skipif(not QEMU, reason="qemu-x86_64 is not installed, and ORTFORGE_QEMU does not name it")
def test_the_model_equals_an_emulated_cpu_bit_for_bit() -> None:
    import subprocess

    script = Path(__file__).parents[2] / "benchmarks" / "tier_emulation.py"
    done = subprocess.run([sys.executable, script, str(QEMU)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "DIFFERS" not in done.stdout, done.stdout


# The verdict

SAMPLES = [{"y": np.random.default_rng(seed).normal(size=(1, 10))} for seed in range(4)]
RIGHT = compare(SAMPLES, [{"y": sample["y"] + 0.001} for sample in SAMPLES])
WRONG = compare(SAMPLES, [{"y": -sample["y"]} for sample in SAMPLES])
PASS = Verdict("pass", ("Correct.",), ())
RUN = {
    "products": 2,
    "unsafe": 2,
    "unknown": [],
    "wraps": [],
    "emulated": "saturating-pairs",
    "samples": 4,
    "of": 4,
    "saturated": 10,
    "sums": 40,
}
FACTS = TierFacts({**RUN, "parity": WRONG}, "avx512-vnni", True, DEFAULT, False, Tolerance())


def test_without_listed_tiers_it_stays_a_pass_that_names_its_tiers() -> None:
    verdict, known = with_tiers(PASS, FACTS)
    assert known is not None and verdict.status == "pass"
    assert (known.wrong, known.unknown) == (("avx2", "avx512"), ())
    text = " ".join(verdict.reasons)
    assert "Known to be correct on: AVX-VNNI, AVX-512 VNNI, AMX, NEON" in text
    assert "Wrong on: AVX2 without VNNI, AVX-512 without VNNI." in text and "10 of 40 pair sums (25.00%)" in text
    assert "reduce_range" in text


def test_samples_are_named_by_their_own_numbers() -> None:
    bad = [{"y": sample["y"] * (-1 if number == 3 else 1)} for number, sample in enumerate(SAMPLES)]
    facts = replace(FACTS, result={**RUN, "numbers": [0, 2, 4, 6], "parity": compare(SAMPLES, bad)})
    verdict, _ = with_tiers(PASS, facts)
    assert "sample 6" in " ".join(verdict.reasons) and "sample 3" not in " ".join(verdict.reasons)


def test_a_listed_tier_where_it_is_wrong_makes_it_inaccurate() -> None:
    listed = replace(FACTS, required=("avx2",), explicit=True)
    verdict, _ = with_tiers(PASS, listed)
    assert verdict.status == "inaccurate" and "Correct." in verdict.notes
    assert verdict.reasons[0].startswith("Wrong on: AVX2 without VNNI")
    verdict, _ = with_tiers(PASS, replace(listed, required=("avx512-vnni", "neon-dotprod")))
    assert verdict.status == "pass" and "Wrong on: AVX2" in " ".join(verdict.reasons)


def test_a_listed_tier_that_is_not_known_makes_it_unproven() -> None:
    unread = {**RUN, "emulated": "", "unknown": [{"node": "n", "op": "QAttention", "why": "it is not modelled"}]}
    facts = replace(FACTS, result=unread, required=("avx2",), explicit=True)
    verdict, known = with_tiers(PASS, facts)
    assert verdict.status == "unproven" and known is not None and "avx2" in known.unknown
    assert "QAttention" in verdict.reasons[0] and not known.remedies
    failed = replace(facts, result={}, problem="the worker was killed", explicit=False)
    verdict, known = with_tiers(PASS, failed)
    assert verdict.status == "pass" and known is not None and known.correct == ("avx512-vnni",)
    assert "the worker was killed" in " ".join(verdict.reasons)


def test_tiers_are_stated_where_all_is_well_too() -> None:
    proven = {"products": 2, "unsafe": 0, "unknown": [], "wraps": []}
    for result in (proven, {**RUN, "parity": RIGHT}):
        verdict, known = with_tiers(PASS, replace(FACTS, result=result))
        assert verdict.status == "pass" and known is not None and set(known.correct) == set(TIERS)
        assert verdict.reasons[0] == "Correct." and "Known to be correct on: AVX2" in verdict.reasons[1]
    assert with_tiers(PASS, replace(FACTS, result={"products": 0})) == (PASS, None)


def test_measured_on_a_saturating_cpu_the_others_are_computed() -> None:
    bad = Verdict("inaccurate", ("Output y is off.",), ())
    facts = replace(FACTS, here="avx2", correct_here=False, result={**RUN, "emulated": "exact", "parity": RIGHT})
    verdict, known = with_tiers(bad, facts)
    assert verdict.status == "inaccurate" and known is not None
    assert known.wrong == ("avx2", "avx512") and "avx512-vnni" in known.correct and "neon" in known.correct
    assert any("AVX-512 VNNI" in note for note in verdict.notes)


def test_a_reference_that_saturated_itself_does_not_make_a_pass() -> None:
    """A model that came quantized, on a CPU without VNNI: equal to its reference, and not to what other CPUs give."""
    facts = replace(FACTS, here="avx2", is_reference=True, result={**RUN, "emulated": "exact", "parity": WRONG})
    verdict, known = with_tiers(PASS, facts)
    assert verdict.status == "inaccurate" and known is not None
    assert known.wrong == ("avx2", "avx512") and "avx512-vnni" in known.correct
    verdict, _ = with_tiers(PASS, replace(facts, result={**RUN, "emulated": "exact", "parity": RIGHT}))
    assert verdict.status == "pass"


def test_weights_of_minus_128_are_not_known_on_old_arm() -> None:
    _, known = with_tiers(PASS, replace(FACTS, result={**RUN, "parity": RIGHT, "wraps": ["n"]}))
    assert known is not None and known.unknown == ("neon",)


def test_another_ep_has_kernels_of_its_own() -> None:
    own = {"products": 1, "unsafe": 1, "unknown": [], "cpu_ep": False}
    _, known = with_tiers(PASS, replace(FACTS, result=own))
    assert (
        known is not None and known.correct == ("avx512-vnni",) and set(known.unknown) == set(TIERS) - {"avx512-vnni"}
    )


# Stamp, marks, what ships


def test_a_stamp_with_tiers_is_refused_elsewhere() -> None:
    limited = {"tiers": ["avx512-vnni", "amx"]}
    vnni = ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
    where = {"ort_version": "1.32.0", "ep": "cpu"}
    assert stamp.broken(limited, **where, cpu_flags=vnni) == ""
    assert "this machine is AVX2 without VNNI" in stamp.broken(limited, **where, cpu_flags=("avx2", "fma"))
    assert "no known tier" in stamp.broken(limited, **where, cpu_flags=())
    both = stamp.joined(limited, {"level": "basic", "tiers": ["amx", "avx2"]})
    assert both is not None and both["tiers"] == ["amx"] and both["level"] == "basic"
    assert stamp.broken(both, **where, cpu_flags=vnni)


def cell(recipe: str, tiers: dict[str, Any] | None) -> dict[str, Any]:
    place = {"model": "m", "target": "t", "ep": "cpu", "device": "here"}
    return {**place, "id": f"m/{recipe}", "recipe": recipe, "status": "pass", "reasons": [], "bytes": 1, "tiers": tiers}


def test_the_report_names_the_tiers() -> None:
    _, known = with_tiers(PASS, FACTS)
    assert known is not None
    limited = cell("int8", known.to_json())
    assert "not on avx2, avx512" in marks(limited)
    (entry,) = what_ships({"cells": [limited]})["m"]
    assert "wrong on avx2, avx512" in entry["why"] and entry["tiers"] == list(known.correct)
    everywhere = {**known.to_json(), "correct": list(TIERS), "wrong": []}
    assert not any("avx2" in mark for mark in marks(cell("int8", everywhere)))
    (entry,) = what_ships({"cells": [cell("int8", everywhere)]})["m"]
    assert "avx2" not in entry["why"]
    assert marks({**limited, "status": "inaccurate"}) == marks({**limited, "status": "inaccurate", "tiers": None})


def test_a_tier_that_does_not_exist_is_refused_with_the_nearest() -> None:
    given = {"path": "path:m.onnx", "tiers": ["avx512_vnni"]}
    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate(given)
    assert "no such CPU tier" in str(caught.value) and '"avx512-vnni"' in str(caught.value)
    assert ModelConfig.model_validate({**given, "tiers": ["x86-64", "neon"]}).tiers == ("x86-64", "neon")


# quantize-auto


@needs_vnni
def test_a_search_tries_seven_bits_where_a_required_tier_saturates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dynamic-channel holds here and is far off on AVX2; with 7-bit weights it holds on both."""
    from ortforge.plugins.passes._auto import auto_search, scheme_table, trial_bench

    from ortforge.portable.cpu_tiers import SATURATING
    from ortforge.worker.apply import PassJob

    monkeypatch.setattr(auto_search, "FAR_TOO_SLOW", 0.0)  # a disturbed timing must not skip a scheme here
    model = mlp()
    onnx.save(model, tmp_path / "model.onnx")
    data = write_samples(tmp_path / "samples", feeds(model, 8))
    limits = {"cosine": 0.99, "max_rel_range": 0.1, "agreement": None}
    (tmp_path / "work").mkdir()
    job = PassJob(
        model=tmp_path / "model.onnx",
        output=tmp_path / "out.onnx",
        parameters={},
        samples=tuple(sorted(data.glob("*.npz"))),
        folder=data,
        ep="cpu",
        ep_name="CPUExecutionProvider",
        ep_options={},
        ort_version=ort.__version__,
        cpu_flags=(),
        workdir=tmp_path / "work",
        tolerance=limits,
        session={"graph_optimization_level": "all", "intra_op_threads": 1},
    )
    for other, tried in ((SATURATING, True), ("", False)):
        given = replace(job, other_arithmetic=other, workdir=tmp_path / f"work-{other or 'none'}")
        given.workdir.mkdir()
        samples = list(given.feeds())
        bench = trial_bench.ready(given.model, samples[0::2], given.workdir)
        search = auto_search.Search(
            given, bench, samples[1::2], [1, 3, 5, 7], limits, margin=0.1, excluded=(), most_candidates=9
        )
        search.allow(60.0)
        try:
            for name in ("dynamic-channel", "dynamic-channel-7", "dynamic-unsigned"):
                search.screen(scheme_table.SCHEMES[name])
        finally:
            search.close()
        found = {candidate.scheme: candidate for candidate in search.candidates}
        assert found["dynamic-channel"].tiers_fail is tried and found["dynamic-channel"].holds is not tried
        assert found["dynamic-unsigned"].holds and not found["dynamic-unsigned"].problem
        assert ("dynamic-channel-7" in found) is tried
        if tried:
            assert found["dynamic-channel-7"].holds
            assert "on other CPU tiers" in found["dynamic-channel"].fails[0]
            assert not auto_search.is_worth_refining(found["dynamic-channel"])
        else:
            assert "saturate" in search.skipped["dynamic-channel-7"]


@needs_vnni
def test_a_model_saved_with_channels_last_is_computed_as_well(tmp_path: Path, supervise: Supervise) -> None:
    """ORT's optimizations up to the last level turn QLinearConv into its own operator with channels last."""
    model = MODELS["cnn"]()
    source = quantized(model, tmp_path / "q.onnx", "QDQ", per_channel=True)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "saved.onnx")
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    convs = [one for one in onnx.load(tmp_path / "saved.onnx").graph.node if one.op_type == "QLinearConv"]
    assert any(one.domain == "com.microsoft" for one in convs)
    for emulate in ("exact", "saturating-pairs"):
        found, outputs = computed(tmp_path, supervise, source, feeds(model), emulate)
        session = {"graph_optimization_level": "disable"}
        again, others = computed(tmp_path, supervise, tmp_path / "saved.onnx", feeds(model), emulate, **session)
        assert found["saturated"] == again["saturated"] > 0
        assert all(np.array_equal(one, other) for one, other in zip(outputs, others, strict=True))


def test_a_convolution_with_signed_activations_and_unsigned_weights(tmp_path: Path, supervise: Supervise) -> None:
    """ConvInteger's weights are the left side, so its pairs are (channel, kernel position) of one output channel."""
    rng = np.random.default_rng(0)
    weights = rng.integers(120, 256, (4, 3, 2, 2)).astype(np.uint8)
    model = build(
        [
            node("Cast", ["x"], ["a"], to=TensorProto.INT8),
            node("ConvInteger", ["a", "w", "az"], ["p"]),
            node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
        ],
        {"x": (1, 3, 2, 3), "y": (1, 4, 1, 2)},
        {"w": weights, "az": np.array(2, np.int8)},
    )
    onnx.save(model, tmp_path / "m.onnx")
    x = rng.integers(90, 128, (1, 3, 2, 3)).astype(np.int8)
    samples = [{"x": x.astype(F)}]
    found, (output,) = computed(tmp_path, supervise, tmp_path / "m.onnx", samples)
    columns = np.stack([x[0, :, :, j : j + 2].reshape(-1) for j in range(2)], axis=1)
    rows = weights.reshape(4, -1)
    expected = saturating_matmul(rows, columns) - 2 * rows.astype(np.int32).sum(axis=1, keepdims=True)
    assert np.array_equal(output.reshape(4, 2), expected.astype(F)) and found["saturated"]
    _, (output,) = computed(tmp_path, supervise, tmp_path / "m.onnx", samples, "exact")
    assert np.array_equal(output.reshape(4, 2), (rows.astype(np.int32) @ (columns.astype(np.int32) - 2)).astype(F))


@needs_vnni
@pytest.mark.parametrize("masked", [False, True])
def test_an_attention_with_an_integer_projection(tmp_path: Path, supervise: Supervise, masked: bool) -> None:
    rng = np.random.default_rng(0)
    inputs = ["a", "w", "bias", "as", "ws", "mask" if masked else "", "az", "wz"]
    model = build(
        [
            node("Cast", ["x"], ["a"], to=TensorProto.UINT8),
            node("QAttention", inputs, ["y"], domain="com.microsoft", num_heads=2),
        ],
        {"x": (2, 5, 16), "y": (2, 5, 16)},
        {
            "w": rng.integers(-128, 128, (16, 48)).astype(np.int8),
            "bias": rng.normal(0, 0.1, 48).astype(F),
            "as": np.array(0.004, F),
            "ws": np.array(0.01, F),
            "mask": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32),
            "az": np.array(7, np.uint8),
            "wz": np.array(0, np.int8),
        },
    )
    onnx.save(model, tmp_path / "m.onnx")
    samples = [{"x": rng.integers(150, 256, (2, 5, 16)).astype(F)}]
    found, (output,) = computed(tmp_path, supervise, tmp_path / "m.onnx", samples, "exact")
    (expected,) = answers(tmp_path / "m.onnx", samples)
    assert np.allclose(output, expected, atol=1e-6) and found["saturated"]
    _, (other,) = computed(tmp_path, supervise, tmp_path / "m.onnx", samples)
    assert np.abs(other - expected).max() > 0.01 * np.ptp(expected)
