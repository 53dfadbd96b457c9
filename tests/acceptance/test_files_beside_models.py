"""A path that a pass gives in an EP's options lies beside its model: the EP finds it wherever the model is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from models import classifier

from ortforge.runtime import workerfiles

PROGRAM = """
import sys
worker, model = sys.argv[1:]
sys.path.insert(0, worker)
import onnxruntime
from ortforge_worker.worker.session import open_session
options = {"device_type": "CPU", "cache_dir": "{model_folder}/blobs"}
opened = open_session(onnxruntime, model, [["OpenVINOExecutionProvider", options]], {})
print(opened.session.get_providers()[0])
"""


def test_openvino_keeps_its_blobs_beside_the_model(tmp_path: Path) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    python = tmp_path / "openvino" / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", str(tmp_path / "openvino")], check=True)
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", str(python), "onnxruntime-openvino==1.24.1"], check=True
    )
    worker, _ = workerfiles.install(tmp_path / "store")
    (tmp_path / "some where").mkdir()
    classifier(tmp_path / "some where" / "model.onnx")
    argv = [str(python), "-c", PROGRAM, str(worker), "some where/model.onnx"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "OpenVINOExecutionProvider", done.stderr[-2000:]
    assert list((tmp_path / "some where" / "blobs").glob("*.blob"))
