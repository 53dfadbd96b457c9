"""Compares the model of saturating products with ONNX Runtime itself, on an emulated CPU without VNNI.

    python benchmarks/tier_emulation.py QEMU [-cpu Haswell]

QEMU is a ``qemu-x86_64`` of QEMU 10 or newer (Debian trixie: package qemu-user; its .deb can be unpacked anywhere with
``dpkg-deb -x``). Small models are quantized in several ways and run by ORT here and under QEMU; the worker's ``tiers``
job computes here what they give there. Every output must be equal bit for bit. Run it on a CPU with VNNI.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "unit"))

SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamic": ("dynamic", {}),
    "dynamic-per-channel": ("dynamic", {"per_channel": True}),
    "dynamic-u8": ("dynamic", {"weight": "QUInt8"}),
    "dynamic-7-bit": ("dynamic", {"reduce_range": True}),
    "QDQ": ("QDQ", {}),
    "QDQ-per-channel": ("QDQ", {"per_channel": True}),
    "QDQ-s8-activations": ("QDQ", {"activation": "QInt8"}),
    "QDQ-7-bit": ("QDQ", {"reduce_range": True}),
    "QOperator": ("QOperator", {}),
    "QOperator-per-channel": ("QOperator", {"per_channel": True}),
    "QOperator-s8-activations": ("QOperator", {"activation": "QInt8"}),
}

RUNNER = """
import json, sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
answers = {}
for path, folder, count in json.load(open(sys.argv[1])):
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for number in range(count):
        with np.load(f"{folder}/{number:06}.npz") as sample:
            answers[f"{path} {number}"] = session.run(None, {"x": sample["0"]})[0]
np.savez(sys.argv[2], **answers)
"""


class _Channel:
    result: dict[str, Any]

    def phase(self, name: str) -> None:
        """Nobody watches."""

    def finish(self, result: dict[str, Any]) -> None:
        self.result = result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qemu")
    parser.add_argument("-cpu", default="Haswell")
    parser.add_argument("--exactly", nargs=2, help=argparse.SUPPRESS)  # under QEMU: jobs, outputs
    arguments = parser.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if arguments.exactly:
        _exactly(*map(Path, arguments.exactly))
        return
    import tier_models

    with tempfile.TemporaryDirectory() as scratch:
        folder, jobs, names = Path(scratch), [], {}
        for name, make in tier_models.MODELS.items():
            model = make()
            samples = tier_models.write_samples(folder / f"{name}-samples", tier_models.feeds(model))
            for label, (scheme, options) in SCHEMES.items():
                if name == "batched" and "per-channel" in label:
                    continue  # ORT's quantizer writes zero points that ORT refuses
                path = tier_models.quantized(model, folder / f"{name}-{label}.onnx", scheme, **options)
                jobs.append((str(path), str(samples), 3))
                names[str(path)] = f"{name}, {label}"
        (folder / "jobs.json").write_text(json.dumps(jobs))
        native = _run([sys.executable], folder, "native")
        emulated = [shutil.which(arguments.qemu) or arguments.qemu, "-cpu", arguments.cpu, sys.executable]
        there = _run(emulated, folder, "qemu")
        script = [
            str(Path(__file__).absolute()),
            "-",
            "--exactly",
            str(folder / "jobs.json"),
            str(folder / "exact.npz"),
        ]
        subprocess.run([*emulated, *script], check=True, stderr=subprocess.DEVNULL)
        exact = np.load(folder / "exact.npz")
        wrong = [name for name in exact if not np.array_equal(exact[name], native[name])]
        os.chdir(folder)
        failures = sum(_compare(names[path], path, samples, native, there) for path, samples, _ in jobs)
    print(
        f"{len(exact.files) - len(wrong)} of {len(exact.files)} outputs computed exactly on {arguments.cpu} are VNNI's"
    )
    failures += len(wrong)
    print(f"{len(jobs) - failures} of {len(jobs)} models equal bit for bit in both directions")
    sys.exit(1 if failures else 0)


def _exactly(jobs: Path, out: Path) -> None:
    """Under QEMU: compute what an exact CPU gives, with kernels that saturate."""
    from ortforge.worker import tiers

    answers = {}
    os.chdir(jobs.parent)
    for path, samples, count in json.loads(jobs.read_text()):
        shutil.rmtree("exact-out", ignore_errors=True)
        job = {
            "model": path,
            "samples": samples,
            "output": "exact-out",
            "emulate": "exact",
            "session": {"intra_op_threads": 1},
        }
        if tiers.compute(job, jobs.parent)["samples"]:
            answers |= {f"{path} {number}": np.load(f"exact-out/{number:06}.npz")["0"] for number in range(count)}
    np.savez(out, **answers)


def _run(command: list[str], folder: Path, name: str) -> Any:
    out = folder / f"{name}.npz"
    subprocess.run([*command, "-c", RUNNER, str(folder / "jobs.json"), str(out)], check=True, stderr=subprocess.DEVNULL)
    return np.load(out)


def _compare(name: str, path: str, samples: str, native: Any, there: Any) -> int:
    from ortforge.worker import tiers

    equal, channel = True, _Channel()
    for emulate, expected in (("exact", native), ("saturating-pairs", there)):
        shutil.rmtree("out", ignore_errors=True)
        job = {"model": path, "samples": samples, "output": "out", "emulate": emulate}
        tiers.run({**job, "session": {"intra_op_threads": 1}}, channel)
        if channel.result["samples"]:
            answers = [np.load(f"out/{number:06}.npz")["0"] for number in range(3)]
        elif not channel.result["products"]:
            answers = [expected[f"{path} {number}"] for number in range(3)]  # all float: nothing to say
        else:
            answers = [native[f"{path} {number}"] for number in range(3)]  # proven: the same everywhere
        equal &= all(np.array_equal(answer, expected[f"{path} {number}"]) for number, answer in enumerate(answers))
    found = channel.result
    first = native[f"{path} 0"]
    error = np.abs(first - there[f"{path} 0"]).max() / np.ptp(first)
    share = "proven" if found["products"] else "nothing to prove"
    if found.get("sums"):
        share = f"{found['saturated'] / found['sums']:.1%} saturate"
    print(
        f"{'equal' if equal else 'DIFFERS':8}{name:34}{found['unsafe']} of {found['products']} products unsafe, "
        f"{share}, outputs differ by {error:.2%} of their range"
    )
    return not equal


if __name__ == "__main__":
    main()
