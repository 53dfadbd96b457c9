"""The table of faults of ONNX Runtime's quantizer is true, and our passes are right where the quantizer is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from pass_jobs import helper_module, run_pass
from quantizer_reproducers import (
    REPRODUCERS,
    add_and_matmul_share_a_weight,
    gather_and_gemm_share_a_weight,
    taken_name_of_a_scale,
    two_gemms_share_a_weight,
)

from ortforge.runtime.environment import EnvironmentRequest, provision

FAULTS = helper_module("_quantization.quantizer_faults").FAULTS
FAULTY = {name: fault for fault in FAULTS.values() for name in fault.reproducers}

BEFORE = "1.31.0"
"""The last version before the newest fixes in the table."""


def version_of(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def results(python: Path, *arguments: str) -> dict[str, str]:
    """What is wrong with each reproducer in the runtime of an interpreter."""
    folder = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(folder.parents[1])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [str(python), str(folder / "quantizer_reproducers.py"), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=500,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Interpreters by version of ONNX Runtime: this one's, and one with the version before the newest fixes."""
    folder = tmp_path_factory.mktemp("before")
    request = EnvironmentRequest((f"onnxruntime=={BEFORE}",), python=sys.executable, extra=("onnx>=1.17", "ml_dtypes"))
    return {onnxruntime.__version__: Path(sys.executable), BEFORE: provision(request, folder / "envs").python}


@pytest.mark.timeout(900)
def test_the_quantizer_is_wrong_in_the_versions_of_the_table_and_right_in_the_others(
    runtimes: dict[str, Path],
) -> None:
    for version, python in runtimes.items():
        for name, wrong in results(python).items():
            fault = FAULTY.get(name)
            has_it = fault is not None and (not fault.fixed_in or version_of(version) < version_of(fault.fixed_in))
            assert bool(wrong) == has_it, (version, name, wrong)


@pytest.mark.timeout(900)
def test_our_passes_are_right_in_every_version(runtimes: dict[str, Path]) -> None:
    for version, python in runtimes.items():
        wrong = {name: text for name, text in results(python, "--passes").items() if text}
        assert not wrong, version


def test_each_fault_has_reproducers_and_says_what_is_done() -> None:
    assert set(FAULTY) <= set(REPRODUCERS)
    for fault in FAULTS.values():
        assert fault.reproducers
        assert fault.what.endswith(".")
        assert fault.remedy.endswith(".")


def test_the_page_of_the_docs_lists_every_fault_as_the_table_has_it() -> None:
    page = (Path(__file__).parents[2] / "docs" / "quantizer-faults.md").read_text("utf-8")
    rows = [
        f"| `{name}` | {fault.what} | {fault.fixed_in or 'not in 1.32.0'} | {fault.remedy} |"
        for name, fault in FAULTS.items()
    ]
    assert [line for line in page.splitlines() if line.startswith("| `")] == rows


def test_copies_of_a_weight_are_reported_and_only_made_where_they_are_needed(tmp_path: Path) -> None:
    model, feeds = gather_and_gemm_share_a_weight()
    result, _ = run_pass(tmp_path, "quantize-static", model, feeds, per_channel=True)
    assert result["weights_copied"] == {"table": ["table_copy"]}
    assert any("Several nodes read table" in warning for warning in result["warnings"])

    result, path = run_pass(tmp_path, "quantize-static", model, feeds, per_channel=False)
    assert "weights_copied" not in result
    eight_bits = [one.name for one in onnx.load(path).graph.initializer if list(one.dims) == [40, 16]]
    assert eight_bits == ["table_quantized"]

    # A Gather that stays float takes the table as it is, so one quantized form of it is enough.
    result, _ = run_pass(tmp_path, "quantize-static", model, feeds, per_channel=True, nodes_to_exclude=["embedding"])
    assert "weights_copied" not in result


def test_transposed_gemms_share_one_copy(tmp_path: Path) -> None:
    model, _ = two_gemms_share_a_weight()
    result, path = run_pass(tmp_path, "quantize-dynamic", model)
    assert "weights_copied" not in result
    matrices = [one.name for one in onnx.load(path).graph.initializer if list(one.dims) == [16, 16]]
    assert len(matrices) == 1


def test_a_weight_that_the_caller_may_replace_is_not_copied(tmp_path: Path) -> None:
    model, feeds = add_and_matmul_share_a_weight()
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [16, 16]))
    result, path = run_pass(tmp_path, "quantize-dynamic", model, per_channel=True)
    assert "weights_copied" not in result
    assert onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds[0])


def test_a_renamed_node_is_still_excluded_by_its_own_name(tmp_path: Path) -> None:
    model, _ = taken_name_of_a_scale()
    model.graph.node[1].name = "w_quantized"
    result, path = run_pass(tmp_path, "quantize-dynamic", model, nodes_to_exclude=["w_quantized"])
    assert result["quantized"]["MatMulInteger"] == 1
    assert [node.op_type for node in onnx.load(path).graph.node].count("MatMul") == 1


def test_large_weights_are_copied_and_transposed_from_their_file(tmp_path: Path) -> None:
    # quantize-dynamic reads the graph alone; the data of weights of 1 KiB and more stays in the file.
    model, _ = two_gemms_share_a_weight()
    (weight,) = model.graph.initializer
    data = numpy_helper.to_array(weight)
    assert data.nbytes >= 1024
    _, path = run_pass(tmp_path, "quantize-dynamic", model, per_channel=True)
    tensors = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    (codes,) = [array for array in tensors.values() if array.shape == (16, 16)]
    (scales,) = [array for name, array in tensors.items() if name.endswith("_scale")]
    assert abs(codes.astype("float32") * scales - data.T).max() < 0.02
