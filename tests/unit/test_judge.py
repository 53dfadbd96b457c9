"""The judge: from everything known of a cell to one status and its reasons."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.api import Metric
from ortforge.portable.comparison.parity import compare
from ortforge.verdict.judge import STATUSES, Facts, judge, worst
from ortforge.verdict.tolerance import Tolerance

EP = "OpenVINOExecutionProvider"
CPU = "CPUExecutionProvider"

SAMPLES = [{"y": np.random.default_rng(seed).normal(size=(1, 10))} for seed in range(4)]
EXACT = compare(SAMPLES, SAMPLES)
CLOSE = compare(SAMPLES, [{"y": sample["y"] + 0.01} for sample in SAMPLES])
WRONG = compare(SAMPLES, [{"y": -sample["y"]} for sample in SAMPLES])
BROKEN = compare(SAMPLES, [{"y": np.full((1, 10), np.nan)}] * 4)


def timing(ratio: float, outcome: str, **more: Any) -> dict[str, Any]:
    interval = {"ratio": ratio, "low": ratio * 0.98, "high": ratio * 1.02, "outcome": outcome, "noise": 0.03}
    return {**interval, "trust": "stable", "trust_reason": "", **more}


def loading(ratio: float, outcome: str) -> dict[str, Any]:
    return {**timing(ratio, outcome), "p50_s": 0.012, "baseline_p50_s": 0.044}


def placed(ep: int, cpu: int, **more: Any) -> dict[str, Any]:
    return {"nodes": {EP: ep, CPU: cpu}, "sources": ["profile", "assignment"], "agree": True, **more}


FASTER = Facts(parity=CLOSE, timing=timing(1.8, "faster"))


def test_correct_and_faster_passes_and_says_so() -> None:
    verdict = judge(FASTER)
    assert verdict.status == "pass"
    assert "Correct over 4 samples: worst cosine" in verdict.reasons[0]
    assert "1.8 times its baseline's speed (95 % interval 1.76 to 1.84)" in verdict.reasons[1]
    assert verdict.notes == ()


@pytest.mark.parametrize("status", STATUSES[STATUSES.index("misplaced") :])
def test_what_the_run_came_to_is_the_verdict(status: str) -> None:
    verdict = judge(Facts(status=status, reason="killed by SIGSEGV while loading", notes=("tried twice",)))
    assert (verdict.status, verdict.reasons, verdict.notes) == (
        status,
        ("killed by SIGSEGV while loading",),
        ("tried twice",),
    )


def test_an_unknown_end_is_a_failure_with_a_reason() -> None:
    verdict = judge(Facts(status="exploded"))
    assert verdict.status == "failed"
    assert "exploded" in verdict.reasons[0]


def test_outputs_that_nobody_compared_are_no_pass() -> None:
    assert judge(Facts()).status == "blocked"


# Accuracy


def test_a_broken_limit_is_inaccurate_with_its_numbers() -> None:
    verdict = judge(replace(FASTER, parity=WRONG))
    assert verdict.status == "inaccurate"
    assert 'Output "y", sample' in verdict.reasons[0]
    assert "cosine -1 is below 0.99" in verdict.reasons[0]


def test_a_metric_that_raised_fails_the_cell_where_a_limit_needs_its_number() -> None:
    def broken(reference: Any, candidate: Any, labels: Any) -> float:
        raise ZeroDivisionError("no boxes")

    metrics = {"map": Metric("map", "", broken, needs_labels=True)}
    parity = compare(SAMPLES, SAMPLES, labels=[0] * 4, metrics=metrics, owners={"map": "plugin boxes (boxes 1.0)"})
    verdict = judge(replace(FASTER, parity=parity))
    assert verdict.status == "failed"
    assert verdict.reasons[0].startswith(
        'The metric "map" of plugin boxes (boxes 1.0) failed: ZeroDivisionError: no boxes.'
    )
    assert "task_drop" in verdict.reasons[0]
    # Where no limit asks for it the other measures decide, and the cell says what is missing.
    lenient = judge(replace(FASTER, parity=parity, tolerance=Tolerance(task_drop=None)))
    assert lenient.status == "pass"
    assert lenient.notes == ('The metric "map" of plugin boxes (boxes 1.0) failed: ZeroDivisionError: no boxes',)


def test_nan_is_inaccurate_whatever_the_limits() -> None:
    off = Tolerance(cosine=None, max_rel_range=None, agreement=None, task_drop=None)
    verdict = judge(replace(FASTER, parity=BROKEN, tolerance=off))
    assert verdict.status == "inaccurate"
    assert "40 NaN" in verdict.reasons[0]


@pytest.mark.parametrize("which", [("validation",), ("calibration",), ("calibration", "validation")])
def test_random_data_never_pass_a_statically_quantized_model(which: tuple[str, ...]) -> None:
    facts = replace(FASTER, quantized_static=True, **{f"random_{name}": True for name in which})
    verdict = judge(facts)
    assert verdict.status == "unproven"
    assert f"The {' and '.join(which)} data are random" in verdict.reasons[0]
    assert f"Give the model real {' and '.join(which)} samples" in verdict.reasons[0]


def test_random_validation_does_not_prove_a_recipe_that_changes_numbers() -> None:
    verdict = judge(replace(FASTER, random_validation=True, lossy=True))
    assert verdict.status == "unproven"
    assert "The validation data are random" in verdict.reasons[0]
    assert judge(replace(FASTER, random_validation=True, lossy=True, no_op=True)).status == "no-gain"


def test_answers_that_are_the_same_for_all_samples_prove_nothing() -> None:
    same = [{"y": np.arange(10.0)}] * 4
    verdict = judge(Facts(parity=compare(same, same), timing=timing(1.8, "faster")))
    assert verdict.status == "unproven"
    assert "is the same in all 4 samples" in verdict.reasons[0]
    given = compare(same, same, roles={"y": "constant"})
    assert judge(Facts(parity=given, timing=timing(1.8, "faster"))).status == "pass"


def test_a_random_model_is_called_that_and_not_inaccurate() -> None:
    verdict = judge(Facts(parity=WRONG, unstable="The model's answers differ from run to run.", timing=FASTER.timing))
    assert (verdict.status, verdict.reasons) == ("unproven", ("The model's answers differ from run to run.",))


def test_random_validation_of_another_model_is_a_note() -> None:
    verdict = judge(replace(FASTER, random_validation=True))
    assert verdict.status == "pass"
    assert "random" in verdict.notes[0]


# Placement


@pytest.mark.parametrize(
    ("placement", "sentence"),
    [
        (None, "It is not known which nodes ran on OpenVINOExecutionProvider"),
        ({"nodes": {}, "sources": []}, "It is not known"),
        ({"nodes": {CPU: 12}, "sources": ["profile"]}, "No node ran on OpenVINOExecutionProvider (12 on CPUExecution"),
        (placed(9, 3, agree=False, note="profile says 9, assignment 12"), "disagree about OpenVINO"),
        (placed(1, 99), "took 1 of 100 nodes and a share of 1.0%, less than the 10.0%"),
    ],
)
def test_an_ep_that_did_not_take_the_model_is_misplaced(placement: Any, sentence: str) -> None:
    verdict = judge(replace(FASTER, ep_name=EP, placement=placement))
    assert verdict.status == "misplaced"
    assert sentence in verdict.reasons[0]


@pytest.mark.parametrize(
    "placement",
    [
        placed(11, 1),
        placed(1, 20, ops={EP: {"Conv": 60}, CPU: {"Cast": 20}}),
        placed(1, 20, time_share={EP: 0.97, CPU: 0.03}),
    ],
    ids=["nodes", "fused-operators", "time"],
)
def test_an_ep_that_took_its_share_is_well_placed(placement: Any) -> None:
    assert judge(replace(FASTER, ep_name=EP, placement=placement)).status == "pass"


def test_one_source_of_placement_is_noted() -> None:
    verdict = judge(replace(FASTER, ep_name=EP, placement=placed(5, 0, sources=["profile"])))
    assert verdict.status == "pass"
    assert "one source alone (profile)" in verdict.notes[0]


def test_the_cpu_ep_is_never_misplaced() -> None:
    assert judge(replace(FASTER, ep_name=CPU, placement=None)).status == "pass"


# Speed, load time, size

SLOWER, SAME, UNCLEAR = timing(0.7, "slower"), timing(1.01, "same"), timing(1.05, "undecided")


@pytest.mark.parametrize(
    ("measured", "speed", "status"),
    [
        (SLOWER, "faster", "slower"),
        (SAME, "faster", "no-gain"),
        (UNCLEAR, "faster", "undecided"),
        (UNCLEAR, "not-slower", "undecided"),
        (UNCLEAR, "any", "pass"),
        (SLOWER, "not-slower", "slower"),
        (SAME, "not-slower", "pass"),
        (SLOWER, "any", "pass"),
        (SAME, "any", "pass"),
    ],
)
def test_the_latency_asked_for_decides(measured: dict[str, Any], speed: Any, status: str) -> None:
    verdict = judge(replace(FASTER, timing=measured, tolerance=Tolerance(speed=speed)))
    assert verdict.status == status
    said = verdict.notes if status == "pass" else verdict.reasons
    assert any("times its baseline's speed" in sentence for sentence in said)


def test_slower_the_same_and_undecided_are_worded_apart() -> None:
    slower, same, unclear = (judge(replace(FASTER, timing=measured)).reasons[1] for measured in (SLOWER, SAME, UNCLEAR))
    assert slower.endswith("slower than its baseline.")
    assert same.endswith("the difference is shown to lie within the margin of 3.0%.")
    assert unclear.endswith("or a quieter machine would decide it.")


@pytest.mark.parametrize("outcome", ["faster", "slower", "same"])
def test_a_contended_timing_decides_nothing(outcome: str) -> None:
    busy = timing(1.8, outcome, trust="contended", trust_reason="something else was running")
    verdict = judge(replace(FASTER, timing=busy))
    assert verdict.status == "undecided"
    assert "quiet machine" in verdict.reasons[1]


def test_a_ratio_that_could_not_be_measured_is_not_printed() -> None:
    lost = {"ratio": None, "low": None, "high": None, "outcome": "undecided", "trust": "noisy", "trust_reason": ""}
    verdict = judge(replace(FASTER, timing=lost))
    assert verdict.status == "undecided"
    assert "not measurable on this machine" in verdict.reasons[1]


@pytest.mark.parametrize(
    ("measured", "status"), [(SLOWER, "slower"), (SAME, "pass"), (UNCLEAR, "pass"), (None, "pass")]
)
def test_a_model_without_a_recipe_has_nothing_to_gain(measured: Any, status: str) -> None:
    assert judge(Facts(parity=CLOSE, is_plain=True, timing=measured)).status == status


def test_the_baseline_passes_when_it_is_correct() -> None:
    assert judge(Facts(parity=EXACT, is_baseline=True, timing=timing(1.0, "baseline"))).status == "pass"
    assert judge(Facts(parity=WRONG, is_baseline=True)).status == "inaccurate"


def test_correct_and_not_timed_does_not_pass_for_speed() -> None:
    verdict = judge(Facts(parity=CLOSE))
    assert (verdict.status, verdict.reasons[1]) == ("undecided", "It was not timed.")


@pytest.mark.parametrize("goal", ["latency", "load", "size", "any"])
def test_a_recipe_that_changed_nothing_is_no_pass(goal: Any) -> None:
    verdict = judge(replace(FASTER, no_op=True, goal=goal, parity=EXACT))
    assert verdict.status == "no-gain"
    assert verdict.reasons[1] == "The recipe changed nothing: the artifact is the model as it came."


@pytest.mark.parametrize(
    ("ratio", "outcome", "status"),
    [(3.5, "faster", "pass"), (1.01, "same", "no-gain"), (1.2, "undecided", "undecided"), (0.8, "slower", "slower")],
)
def test_a_recipe_for_load_time_must_load_in_less(ratio: float, outcome: str, status: str) -> None:
    verdict = judge(Facts(parity=CLOSE, goal="load", timing=SAME | {"load": loading(ratio, outcome)}))
    assert verdict.status == status
    assert "Loaded in turns, it takes 12.0 ms and its baseline 44.0, " in verdict.reasons[-1]
    assert f"{ratio:.3g} times as quick (95 % interval" in verdict.reasons[-1]


def test_loads_that_did_not_take_turns_prove_nothing() -> None:
    facts = Facts(parity=CLOSE, goal="load", timing=SAME | {"load": None})
    assert "not compared" in " ".join((*judge(facts).reasons, *judge(facts).notes))


@pytest.mark.parametrize(
    ("size", "measured", "status"),
    [(54, SAME, "pass"), (54, None, "pass"), (54, SLOWER, "slower"), (90, SAME, "no-gain"), (95, SAME, "no-gain")],
)
def test_a_recipe_for_size_must_be_smaller_and_not_slower(size: int, measured: Any, status: str) -> None:
    verdict = judge(Facts(parity=CLOSE, goal="size", bytes=size, baseline_bytes=90, timing=measured))
    assert verdict.status == status
    assert f"It has {size} bytes, its baseline 90" in verdict.reasons[-1]


@pytest.mark.parametrize("goal", ["load", "size", "any"])
def test_neither_a_quick_start_nor_a_small_file_makes_up_for_lost_speed(goal: Any) -> None:
    gains = {"bytes": 50, "baseline_bytes": 90}
    slow = Facts(parity=CLOSE, goal=goal, timing=timing(0.02, "slower", load=loading(4.0, "faster")), **gains)
    verdict = judge(slow)
    assert verdict.status == "slower"
    assert "0.02 times its baseline's speed" in verdict.reasons[1]
    allowed = judge(replace(slow, tolerance=Tolerance(speed="any")))
    assert allowed.status == "pass"
    assert any("slower than its baseline" in said for said in (*allowed.reasons, *allowed.notes))


def test_a_recipe_for_anything_needs_one_gain() -> None:
    same = SAME | {"load": loading(1.0, "same")}
    facts = Facts(parity=CLOSE, goal="any", timing=same, bytes=90, baseline_bytes=90)
    assert judge(facts).status == "no-gain"
    assert judge(replace(facts, timing=SAME | {"load": loading(1.1, "undecided")})).status == "undecided"
    assert judge(replace(facts, bytes=45)).status == "pass"
    assert judge(replace(facts, timing=SAME | {"load": loading(4.0, "faster")})).status == "pass"
    assert judge(replace(facts, timing=timing(1.5, "faster"))).status == "pass"


# All together


def test_the_worst_status_wins_and_every_reason_is_listed() -> None:
    verdict = judge(Facts(parity=WRONG, ep_name=EP, placement=placed(0, 8), timing=SLOWER))
    assert verdict.status == "misplaced"
    assert "No node ran" in verdict.reasons[0]
    assert any("cosine" in reason for reason in verdict.reasons)
    assert not any("slower than its baseline" in reason for reason in verdict.reasons)


def test_warnings_and_distrust_are_notes() -> None:
    shaky = timing(1.8, "faster", trust="noisy", trust_reason="only 6 samples")
    verdict = judge(replace(FASTER, timing=shaky, warnings=("A scale of 1e36.",)))
    assert verdict.status == "pass"
    assert verdict.notes == ("A scale of 1e36.", "The timing is noisy: only 6 samples.")


def test_worst_follows_the_order() -> None:
    assert worst([]) == "pass"
    assert worst(["slower", "crashed", "inaccurate"]) == "crashed"
    with pytest.raises(ValueError, match="not in"):
        worst(["exploded"])


@given(
    facts=st.builds(
        Facts,
        status=st.sampled_from(["ok", *STATUSES[6:]]),
        reason=st.just("because"),
        parity=st.sampled_from([None, EXACT, CLOSE, WRONG, BROKEN]),
        placement=st.sampled_from([None, placed(0, 1), placed(5, 1)]),
        ep_name=st.sampled_from(["", CPU, EP]),
        timing=st.sampled_from([None, SLOWER, SAME, timing(2.0, "faster"), SAME | {"load": loading(2.0, "faster")}]),
        is_baseline=st.booleans(),
        no_op=st.booleans(),
        quantized_static=st.booleans(),
        random_validation=st.booleans(),
        random_calibration=st.booleans(),
        goal=st.sampled_from(["latency", "load", "size", "any"]),
        bytes=st.sampled_from([None, 10]),
        baseline_bytes=st.sampled_from([None, 5, 20]),
    )
)
def test_any_facts_give_a_status_with_reasons(facts: Facts) -> None:
    verdict = judge(facts)
    assert verdict.status in STATUSES
    assert verdict.reasons
    assert all(sentence.endswith((".", "because")) for sentence in verdict.reasons)
    if verdict.status == "pass":
        assert facts.status == "ok"
        assert facts.parity in (EXACT, CLOSE)
        assert not facts.no_op


def test_judging_needs_no_numpy() -> None:
    code = "import sys, ortforge.verdict.judge; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
