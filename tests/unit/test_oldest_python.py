"""Files that run inside a runtime must work on the oldest Python that a runtime may have: 3.10."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from ortforge.plugins import datasets, passes
from ortforge.plugins.datasets import random_inputs
from ortforge.plugins.passes import quantize_dynamic, quantize_static

import ortforge.worker
from ortforge.runtime import uv
from ortforge.runtime.environment import EnvironmentRequest, provision
from ortforge.runtime.supervisor import Interpreter, JobOutcome
from ortforge.worker.samples import Samples

ROOT = Path(__file__).parents[2]
WORKER_SIDE = [
    path for folder in (ortforge.worker, passes, datasets) for path in sorted(Path(folder.__path__[0]).rglob("*.py"))
] + sorted((ROOT / "examples").glob("*/inputs.py"))

Supervise = Callable[..., JobOutcome]


@pytest.mark.parametrize("path", WORKER_SIDE, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_syntax_is_that_of_the_oldest_python(path: Path) -> None:
    ast.parse(path.read_text("utf-8"), feature_version=(3, 10))


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a tools environment with the last ONNX Runtime that has wheels for Python 3.10."""
    folder = tmp_path_factory.mktemp("oldest")
    found = [python.path for python in uv.installed_pythons(folder) if python.version[:2] == (3, 10)]
    if not found:
        pytest.skip("no Python 3.10 is installed here: its worker was not tried")
    request = EnvironmentRequest(("onnxruntime==1.23.2",), python=str(found[0]), extra=("onnx>=1.17",))
    return provision(request, folder / "envs").python


def classifier(path: Path) -> Path:
    weight = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Softmax", ["m"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_data_passes_and_a_run_on_the_oldest_python(
    oldest: Path, supervise: Supervise, worker_folder: Path, tmp_path: Path
) -> None:
    on_it = Interpreter.local(oldest, worker=worker_folder)
    model, samples = classifier(tmp_path / "model.onnx"), tmp_path / "samples"

    def do(**job: object) -> JobOutcome:
        outcome = supervise(job, interpreter=on_it)
        assert outcome.status == "ok", (outcome.reason, outcome.log)
        return outcome

    probed = do(op="probe").result
    assert probed["python"].startswith("3.10.")
    assert probed["ort_version"] == "1.23.2"

    facts = do(op="inspect", model=str(model), root=str(tmp_path)).result
    assert facts["ops"] == {"MatMul": 1, "Softmax": 1}

    made = do(
        op="materialize",
        module=random_inputs.__file__,
        reference="",
        base=str(tmp_path),
        options={"seed": 1, "split": "validation"},
        inputs=facts["inputs"],
        limit=4,
        output=str(samples),
    ).result
    assert (made["count"], made["random"], made["labels"]) == (4, True, False)

    for module, kept in ((quantize_dynamic, None), (quantize_static, str(samples))):
        name = str(module.__name__).rpartition(".")[2]
        changed = tmp_path / name / "model.onnx"
        do(
            op="apply",
            module=module.__file__,
            model=str(model),
            output=str(changed),
            parameters={},
            samples=kept,
            ep="cpu",
            ep_name="CPUExecutionProvider",
            ep_options={},
            ort_version="1.23.2",
            cpu_flags=[],
        )
        ran = do(
            op="run",
            model=str(changed),
            samples=str(samples),
            ep="cpu",
            providers=[["CPUExecutionProvider", {}]],
            session={"graph_optimization_level": "all", "intra_op_threads": 1},
            output=str(tmp_path / name / "outputs"),
            placement=True,
        ).result
        assert sum(ran["placement"]["nodes"].values()) > 0
        answers = list(Samples(tmp_path / name / "outputs"))
        assert len(answers) == 4
        assert all(answer["y"].sum() == pytest.approx(1.0, abs=0.02) for answer in answers)
