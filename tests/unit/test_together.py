"""Reasons that a model's cells show together, and causes that the matrix shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ortforge.runtime.supervisor import JobOutcome
from ortforge.verdict.causes import Setting, causes
from ortforge.verdict.together import LoadAttempt, damage, reconsidered
from ortforge.worker import function_nesting
from ortforge.worker.samples import SampleWriter

Supervise = Callable[..., JobOutcome]


def cell(recipe: str, status: str, *reasons: str, target: str = "stock", model: str = "m") -> dict[str, Any]:
    place = {"target": target, "ep": "cpu", "device": "here"}
    return {"id": f"{model}/{recipe}@{target}", "model": model, "recipe": recipe, **place} | {
        "status": status,
        "reasons": list(reasons),
        "notes": [],
    }


# The model without a recipe


@pytest.mark.parametrize(
    ("status", "words"),
    [("inaccurate", "is already inaccurate"), ("crashed", "already crashes"), ("timeout", "exceeds its time limit")],
)
def test_recipes_say_first_that_the_plain_model_is_wrong_at_their_place(status: str, words: str) -> None:
    cells = [
        cell("none", status, "Output 'y': cosine 0.1."),
        cell("int8", "inaccurate", "Output 'y': cosine 0.09."),
        cell("fp16", "pass", "Correct."),
        cell("int8", "inaccurate", "Its own reason.", target="other"),
        cell("none", "pass", "Correct.", target="other"),
    ]
    changed = {entry["id"]: entry for entry in reconsidered(cells, {})}
    assert set(changed) == {"m/int8@stock", "m/fp16@stock"}
    first, second = changed["m/int8@stock"]["reasons"]
    assert first.startswith("Without a recipe, the model ") and words in first
    assert "stock:cpu: Output 'y': cosine 0.1." in first
    assert second == "Output 'y': cosine 0.09."
    # One that is right has it as a note: its reasons say why it passes.
    assert changed["m/fp16@stock"]["reasons"] == ["Correct."]
    assert words in changed["m/fp16@stock"]["notes"][0]


# Damaged files


def test_a_file_that_no_runtime_reads_is_damaged_and_said_once() -> None:
    attempts = [LoadAttempt(f"{name}:cpu", "failed", "model", "Protobuf parsing failed") for name in ("a", "b")]
    why = damage("30 bytes do not parse", "Protobuf parsing failed", attempts)
    assert "onnx: 30 bytes do not parse; the reference runtime, a:cpu, b:cpu: Protobuf parsing failed" in why
    cells = [cell("none", "failed", "x"), cell("int8", "blocked", "y"), cell("int8", "unsupported", "z", target="gpu")]
    changed = reconsidered(cells, {"m": why})
    assert [(entry["status"], entry["reasons"]) for entry in changed] == [("damaged", [why])] * 2


def test_a_file_that_one_runtime_reads_is_not_damaged() -> None:
    refused = LoadAttempt("a:cpu", "failed", "model", "Protobuf parsing failed")
    for fine in (
        LoadAttempt("b:cpu", "ok"),
        LoadAttempt("b:cpu", "incompatible", "incompatible", "IR version 12"),
        LoadAttempt("b:cpu", "failed", "input", "it loads, and there are no samples"),
        LoadAttempt("b:cpu", "unsupported", "unsupported", "no kernel"),
    ):
        assert damage("does not parse", "", [refused, fine]) == ""


def test_a_crash_counts_as_damage_only_where_onnx_cannot_read_the_file() -> None:
    attempts = [LoadAttempt("a:cpu", "crashed", "", "crashed with SIGBUS")]
    assert damage("", "", attempts) == ""
    assert "crashed with SIGBUS" in damage("the external data is truncated", "", attempts)
    assert damage("", "", []) == ""


def test_a_runtime_that_loads_what_the_reference_does_not_says_so(supervise: Supervise, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    model = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "m.onnx")
    SampleWriter(tmp_path / "data").close(source="none: Protobuf parsing failed")
    job = {"op": "run", "model": str(tmp_path / "m.onnx"), "samples": str(tmp_path / "data")}
    job |= {"providers": [["CPUExecutionProvider", {}]], "session": {}, "output": str(tmp_path / "out")}
    outcome = supervise(job)
    assert (outcome.status, outcome.kind) == ("failed", "input")
    assert "This runtime loads the model" in outcome.reason and "Protobuf parsing failed" in outcome.reason


def test_a_session_describes_what_onnx_is_not_asked_of(supervise: Supervise, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    outcome = supervise({"op": "inspect", "model": str(tmp_path / "m.onnx"), "by": "session"})
    assert outcome.result["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["n", 3]}]


# Causes that the matrix shows


def said(status: str, reason: str, **setting: Any) -> list[str]:
    return list(causes(status, reason, Setting(**setting)))


def test_threads_that_no_machine_has_are_named() -> None:
    threads = (("intra_op_threads", 40_000), ("inter_op_threads", 2))
    (sure,) = said("failed", "could not start a thread (limit of memory)", threads=threads, cores=2)
    assert sure.startswith("The matrix sets intra_op_threads = 40,000 on a device of 2 cores. The system did not give")
    (maybe,) = said("timeout", "still loading the model after 20 s", threads=threads, cores=2)
    assert "try it without this option" in maybe
    assert said("inaccurate", "", threads=threads, cores=2) == []
    assert said("failed", "could not start a thread", threads=(("intra_op_threads", 8),), cores=2) == []


def test_a_memory_limit_below_the_models_size_is_named() -> None:
    (text,) = said("out-of-memory", "it used 1.1 GB", memory=1 << 30, model_bytes=2 << 30)
    assert "[limits] memory, 1,073,741,824 bytes" in text and "2,147,483,648 bytes" in text
    assert said("out-of-memory", "it used 1.1 GB", memory=4 << 30, model_bytes=2 << 30) == []
    assert said("timeout", "", memory=1, model_bytes=2) == []


# Functions inside functions


def functions(levels: int, calls: int) -> list[onnx.FunctionProto]:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    made = [helper.make_function("f", "F0", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets)]
    for level in range(1, levels):
        names = ["a", *(f"t{number}" for number in range(calls - 1)), "b"]
        body = [
            helper.make_node(f"F{level - 1}", [names[number]], [names[number + 1]], domain="f")
            for number in range(calls)
        ]
        made.append(helper.make_function("f", f"F{level}", ["a"], ["b"], body, opsets))
    return made


def with_functions(path: Path, made: list[onnx.FunctionProto]) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node(made[-1].name, ["x"], ["y"], domain="f")], "g", [x], [y])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=made), path)
    return path


@pytest.mark.parametrize(("levels", "calls", "nodes"), [(26, 2, 2**25), (9, 10, 10**8), (200, 2, 2**199)])
def test_a_function_bomb_is_counted_without_being_expanded(tmp_path: Path, levels: int, calls: int, nodes: int) -> None:
    model = with_functions(tmp_path / "bomb.onnx", functions(levels, calls))
    text = function_nesting.too_large(model)
    assert f"nested {levels} levels deep" in text and f"{nodes:,} nodes" in text


def test_functions_of_a_sensible_size_are_no_obstacle(tmp_path: Path) -> None:
    assert function_nesting.too_large(with_functions(tmp_path / "m.onnx", functions(8, 3))) == ""
    assert function_nesting.facts([]) is None
    (tmp_path / "noise.onnx").write_bytes(np.random.default_rng(0).bytes(500))
    assert function_nesting.too_large(tmp_path / "noise.onnx") == ""


def test_a_function_that_calls_itself_is_named(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("f", 1)]
    body = [helper.make_node("F", ["a"], ["b"], domain="f")]
    model = with_functions(tmp_path / "m.onnx", [helper.make_function("f", "F", ["a"], ["b"], body, opsets)])
    assert "'F' calls itself" in function_nesting.too_large(model)


def test_a_pass_is_not_tried_on_a_function_bomb(
    supervise: Supervise, apply_job: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    job = apply_job("raise RuntimeError('it was tried')")
    with_functions(Path(job["model"]), functions(30, 2))
    outcome = supervise(job)
    assert outcome.status == "failed"
    assert "nested 30 levels deep" in outcome.reason and "it was tried" not in outcome.reason
