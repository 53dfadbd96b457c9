"""Libraries of custom operators, compiled here: registered in every session of a model, and refused with a reason."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ortforge.engine.artefacts import add_custom_ops, custom_ops_of, seal
from ortforge.errors import ConfigurationError
from ortforge.plugin_manager import Plugins
from ortforge.worker.samples import Samples, SampleWriter

from .conftest import Supervise
from .pass_jobs import FOLDER
from .test_plan import planned, plugins

__all__ = ["plugins"]  # the fixture

# One operator, y = FACTOR * x for float32. ONNX Runtime's C API only grows at its end, so the positions of its first
# functions are fixed; with version = 8 the operator is described by the members below alone.
SOURCE = r"""
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
typedef struct { void* f[128]; } Api;
typedef struct { const Api* (*get)(uint32_t); const char* (*version)(void); } Base;
typedef struct Op {
  uint32_t version;
  void* (*create)(const struct Op*, const Api*, const void*);
  const char* (*name)(const struct Op*);
  const char* (*ep)(const struct Op*);
  int (*input_type)(const struct Op*, size_t);
  size_t (*inputs)(const struct Op*);
  int (*output_type)(const struct Op*, size_t);
  size_t (*outputs)(const struct Op*);
  void (*compute)(void*, void*);
  void (*destroy)(void*);
  int (*input_kind)(const struct Op*, size_t);
  int (*output_kind)(const struct Op*, size_t);
  void* later[32];
} Op;
static const Api* api;
static void* create(const Op* op, const Api* a, const void* info) { return (void*)op; }
static const char* name(const Op* op) { return "Scaled"; }
static const char* ep(const Op* op) { return NULL; }
static int type(const Op* op, size_t i) { return 1; }
static size_t one(const Op* op) { return 1; }
static int required(const Op* op, size_t i) { return 0; }
static void destroy(void* kernel) {}
static void compute(void* kernel, void* context) {
  const void* x; void *y, *info; float *in, *out; size_t rank, count, i; int64_t dims[16];
  ((void* (*)(void*, size_t, const void**))api->f[90])(context, 0, &x);
  ((void* (*)(const void*, void**))api->f[65])(x, &info);
  ((void* (*)(void*, size_t*))api->f[61])(info, &rank);
  ((void* (*)(void*, int64_t*, size_t))api->f[62])(info, dims, rank);
  ((void* (*)(void*, size_t*))api->f[64])(info, &count);
  ((void (*)(void*))api->f[99])(info);
  ((void* (*)(void*, size_t, const int64_t*, size_t, void**))api->f[91])(context, 0, dims, rank, &y);
  ((void* (*)(const void*, void**))api->f[51])(x, (void**)&in);
  ((void* (*)(void*, void**))api->f[51])(y, (void**)&out);
  for (i = 0; i < count; i++) out[i] = FACTOR * in[i];
}
static Op op = {8, create, name, ep, type, one, type, one, compute, destroy, required, required};
#ifdef MISSING
extern int defined_nowhere(void);
#endif
#ifndef NO_ENTRY
void* RegisterCustomOps(void* options, const Base* base) {
  void* domain; void* status;
#ifdef CRASH
  abort();
#endif
#ifdef MISSING
  if (defined_nowhere()) return NULL;
#endif
  api = base->get(11);
  status = ((void* (*)(const char*, void**))api->f[26])("test.custom", &domain);
  if (!status) status = ((void* (*)(void*, const Op*))api->f[27])(domain, &op);
  if (!status) status = ((void* (*)(void*, void*))api->f[28])(options, domain);
  return status;
}
#endif
"""

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to compile a custom operator with")
Compile = Callable[..., Path]


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    """Compile the library with definitions, by default y = 2 x."""

    def compiled(*definitions: str, name: str = "scaled.so") -> Path:
        source = tmp_path / "op.c"
        source.write_text(SOURCE)
        path = tmp_path / name
        flags = [f"-D{one}" for one in (*definitions, "FACTOR=2.0f")]
        subprocess.run(["gcc", "-shared", "-fPIC", "-w", *flags, "-o", str(path), str(source)], check=True)
        return path

    return compiled


def custom_model(path: Path) -> Path:
    """y = MatMul(Scaled(x), W)."""
    weight = np.random.default_rng(2).standard_normal((16, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Scaled", ["x"], ["s"], name="scaled", domain="test.custom"),
        helper.make_node("MatMul", ["s", "W"], ["y"], name="product"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weight, "W")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("test.custom", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def artefact(tmp_path: Path, libraries: Sequence[Path]) -> Path:
    """Make an artefact folder as the fetch step does; return the model."""
    folder = tmp_path / "artefact"
    folder.mkdir()
    model = custom_model(folder / "model.onnx")
    seal(folder, model.name)
    add_custom_ops(folder, libraries)
    return model


def run_job(tmp_path: Path, model: Path) -> dict[str, Any]:
    writer = SampleWriter(tmp_path / "samples")
    writer.write({"x": np.ones((2, 16), np.float32)})
    writer.close()
    return {
        "op": "run",
        "model": str(model),
        "samples": str(tmp_path / "samples"),
        "ep": "cpu",
        "providers": [["CPUExecutionProvider", {}]],
        "session": {"intra_op_threads": 1},
        "output": str(tmp_path / "outputs"),
        "placement": True,
        "repeat": 1,
    }


def test_every_session_of_the_model_knows_its_operators(
    compiled: Compile, supervise: Supervise, tmp_path: Path
) -> None:
    model = artefact(tmp_path, [compiled()])
    outcome = supervise(run_job(tmp_path, model))
    assert outcome.status == "ok", outcome.reason
    weight = numpy_helper.to_array(onnx.load(str(model)).graph.initializer[0])
    np.testing.assert_allclose(Samples(tmp_path / "outputs")[0]["y"], 2 * np.ones((2, 16)) @ weight, rtol=1e-5)
    assert outcome.result["self_difference"]["unstable"] == {}


def test_the_library_is_part_of_the_artefact(compiled: Compile, tmp_path: Path) -> None:
    library = compiled()
    model = artefact(tmp_path, [library])
    index = json.loads((model.parent / "index.json").read_text())
    assert index["custom_ops"] == {"custom_ops/scaled.so": hashlib.sha256(library.read_bytes()).hexdigest()}
    assert [path.read_bytes() for path in custom_ops_of(model.parent)] == [library.read_bytes()]
    assert index["bytes"] == model.stat().st_size


def test_passes_quantize_around_a_custom_operator(compiled: Compile, supervise: Supervise, tmp_path: Path) -> None:
    """The pass and ONNX Runtime's quantizer open sessions of their own."""
    model = artefact(tmp_path, [compiled()])
    output = tmp_path / "made" / "model.onnx"
    job = {"op": "apply", "module": str(FOLDER / "optimize.py"), "model": str(model), "output": str(output)}
    job |= {"parameters": {"level": "basic"}, "ep": "cpu", "ep_name": "CPUExecutionProvider", "samples": None}
    outcome = supervise(job)
    assert outcome.status == "ok", outcome.reason
    assert {node.op_type for node in onnx.load(str(output)).graph.node} == {"Scaled", "MatMul"}


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ("CRASH", r"scaled\.so ends the process with SIGABRT when onnxruntime \S+ registers it\. It may be built for"),
        ("NO_ENTRY", r"scaled\.so: it does not export RegisterCustomOps, so it is not a custom-operator library"),
        ("MISSING", r"its symbol defined_nowhere is defined nowhere"),
    ],
)
def test_a_library_that_cannot_be_used_is_refused_with_the_reason(
    compiled: Compile, supervise: Supervise, tmp_path: Path, definition: str, reason: str
) -> None:
    outcome = supervise(run_job(tmp_path, artefact(tmp_path, [compiled(definition)])))
    assert outcome.status == "failed"
    assert re.search(reason, outcome.reason), outcome.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x7fELF\x02\x01" + bytes(12) + (183).to_bytes(2, "little"), "it is built for aarch64, and this machine is"),
        (b"not a library at all", "it is not a shared library of Linux"),
    ],
)
def test_a_file_for_another_machine_is_named(supervise: Supervise, tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "other.so").write_bytes(content)
    outcome = supervise(run_job(tmp_path, artefact(tmp_path, [tmp_path / "other.so"])))
    assert outcome.status == "failed" and f"other.so cannot be used: {reason}" in outcome.reason


TEXT = """
[models.m]
path = "path:model.onnx"
custom_ops = [{libraries}]

[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]

[[matrix]]
targets = ["*"]
models = ["*"]
"""


def test_the_content_of_a_library_is_in_the_key_of_the_model(tmp_path: Path, plugins: Plugins) -> None:
    custom_model(tmp_path / "model.onnx")
    (tmp_path / "a.so").write_bytes(b"1")
    text = TEXT.replace("{libraries}", '"path:a.so"')
    before = planned(tmp_path, plugins, text).steps["fetch:m"]
    (tmp_path / "a.so").write_bytes(b"2")
    after = planned(tmp_path, plugins, text).steps["fetch:m"]
    assert before.parameters["custom_ops"] != after.parameters["custom_ops"]
    assert not after.context["refused"]
    (tmp_path / "a.so").unlink()
    assert "a.so cannot be read: No such file" in planned(tmp_path, plugins, text).steps["fetch:m"].context["refused"]
    assert "custom_ops" not in planned(tmp_path, plugins, TEXT.replace("{libraries}", "")).steps["fetch:m"].parameters


@pytest.mark.parametrize("reference", ["a.so", "hf:a.so", "path:"])
def test_a_library_is_a_file(tmp_path: Path, plugins: Plugins, reference: str) -> None:
    custom_model(tmp_path / "model.onnx")
    with pytest.raises(ConfigurationError, match="a custom-operator library is a file"):
        planned(tmp_path, plugins, TEXT.replace("{libraries}", f'"{reference}"'))
