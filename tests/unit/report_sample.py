"""A report as a run gives it: four models, thirteen cells, all ten statuses; its numbers come from the real measures.

Parity is computed by :mod:`ortforge.portable.comparison.parity` on made-up tensors and ratios by
:mod:`ortforge.verdict.timing` on made-up times, so a change in their form is noticed by the tests of the reports.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from functools import cache
from typing import Any

import numpy as np

from ortforge.portable.comparison.parity import compare
from ortforge.report.expectations import assess
from ortforge.report.ships import best_per_model, what_ships
from ortforge.verdict.timing import outcome, paired, percentiles

SPEECH_LOG = "silero: loading\n\x1b[31m[E:onnxruntime]\x1b[0m dynamic rank is not supported ]]> & \x00 <end>\n"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


class Accuracy:
    """A labelled metric, as plugins give them."""

    higher_is_better = True
    needs_labels = True

    @staticmethod
    def compute(reference: Any, candidate: Any, labels: Any) -> float:
        right = [int(np.argmax(sample["probs"])) == label for sample, label in zip(candidate, labels, strict=True)]
        return float(np.mean(right))


def parity(error: float, *, seed: int = 1) -> dict[str, Any]:
    return copy.deepcopy(_parity(error, seed))


@cache
def _parity(error: float, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    reference, candidate, labels = [], [], []
    for _ in range(32):
        logits = random.normal(size=(1, 10)) * 2
        wrong = logits + random.normal(size=logits.shape) * error
        probs, off = (np.exp(rows) / np.exp(rows).sum() for rows in (logits, wrong))
        reference.append({"logits": logits.astype("f4"), "probs": probs.astype("f4")})
        candidate.append({"logits": wrong.astype("f4"), "probs": off.astype("f4")})
        labels.append(int(np.argmax(logits)))
    return compare(reference, candidate, labels=labels, metrics={"accuracy": Accuracy()})


def timing(speed: float, p50_ms: float, *, baseline: str, trust: str = "stable", seed: int = 2) -> dict[str, Any]:
    return copy.deepcopy(_timing(speed, p50_ms, baseline, trust, seed))


@cache
def _timing(speed: float, p50_ms: float, baseline: str, trust: str, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    rounds = []
    samples: list[int] = []
    for _ in range(3):
        own = p50_ms * 1e6 * random.lognormal(0, 0.02, 40)
        samples += [int(value) for value in own]
        rounds.append([(float(value) * speed * random.lognormal(0, 0.01), float(value)) for value in own])
    ratio = paired(rounds)
    facts: dict[str, Any] = {**ratio, "noise": 0.03, "outcome": outcome(ratio, 0.03), "baseline": baseline}
    if not baseline:
        facts |= {"ratio": 1.0, "low": 1.0, "high": 1.0, "outcome": "baseline"}
    why = "" if trust == "stable" else "tasks waited for a CPU during 24% of the time: something else was running"
    base = [int(value * speed) for value in samples]
    return facts | {
        "samples": samples,
        "baseline_samples": base,
        "trust": trust,
        "trust_reason": why,
        **percentiles(samples),
    }


def cell(
    model: str,
    recipe: str,
    target: str,
    status: str,
    *,
    ep: str = "cpu",
    error: float | None = None,
    speed: float | None = None,
    p50_ms: float = 10.0,
    size: int = 1_000_000,
    reasons: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    trust: str = "stable",
    log: str = "",
    **more: Any,
) -> dict[str, Any]:
    name = f"{model}/{recipe}@{target}:{ep}/here"
    base = f"{model}/none@{'stock' if recipe == 'none' else target}:{'cpu' if recipe == 'none' else ep}/here"
    ran = error is not None
    ep_name = {"cpu": "CPUExecutionProvider", "openvino": "OpenVINOExecutionProvider"}.get(ep, ep)
    timed = None
    if speed is not None:
        timed = timing(speed, p50_ms, baseline="" if base == name else base, trust=trust, seed=len(name))
    return {
        "id": name,
        "model": model,
        "recipe": recipe,
        "target": target,
        "ep": ep,
        "device": "here",
        "status": status,
        "reasons": list(reasons),
        "notes": list(notes),
        "random": [],
        "runtime_hash": digest(target),
        "artefact": {
            "digest": digest(f"{model}/{recipe}"),
            "bytes": size,
            "no_op": False,
            "changed": {} if recipe == "none" else {"quantized": 12},
            "warnings": [],
            "stamp": None,
        }
        if ran
        else None,
        "parity": parity(error) if error is not None else None,
        "placement": {
            "nodes": {ep_name: 40, "CPUExecutionProvider": 2} if ep != "cpu" else {ep_name: 42},
            "time_share": {ep_name: 0.97, "CPUExecutionProvider": 0.03} if ep != "cpu" else {ep_name: 1.0},
            "ops": {ep_name: {"Conv": 20, "Relu": 20}},
            "sources": ["profile", "assignment"],
            "agree": True,
            "note": "",
        }
        if ran
        else None,
        "timing": timed,
        "overall": {name: timed[name] for name in ("ratio", "low", "high")} if timed and base != name else None,
        "load_s": 0.044 if ran else None,
        "first_run_s": 0.021 if ran else None,
        "peak_rss": 142_000_000 if ran else None,
        "bytes": size if ran else None,
        "log": log,
        "command": f"ortforge repro '{name}' --matrix matrix.toml",
        "cached": False,
        "keys": {"check": digest(name + "check"), "compare": digest(name + "compare"), "time": digest(name + "time")},
        **more,
    }


def sample_cells() -> list[dict[str, Any]]:
    no_op = cell(
        "silero-vad",
        "int8",
        "stock",
        "slower",
        error=0.0,
        speed=1.0,
        p50_ms=0.21,
        size=2_300_000,
        reasons=("The recipe changed nothing, so the unoptimized model is what ships.",),
    )
    no_op["artefact"]["no_op"] = True
    return [
        cell("minilm", "none", "stock", "pass", error=0.0, speed=1.0, p50_ms=17.3, size=90_000_000),
        cell("minilm", "int8", "stock", "pass", error=0.08, speed=1.83, p50_ms=9.5, size=23_000_000),
        cell(
            "minilm",
            "fp16",
            "stock",
            "slower",
            error=0.001,
            speed=0.6,
            p50_ms=28.0,
            size=45_000_000,
            reasons=(
                "It runs at 0.6 times its baseline's speed (95 % interval 0.59 to 0.61): slower than its baseline.",
            ),
        ),
        cell(
            "minilm",
            "static-int8",
            "stock",
            "inaccurate",
            error=1.5,
            speed=2.2,
            p50_ms=7.9,
            size=23_100_000,
            reasons=('Output "logits", sample 3: cosine 0.41 is below 0.99.', "The metric got worse."),
            trust="contended",
        ),
        cell("silero-vad", "none", "stock", "pass", error=0.0, speed=1.0, p50_ms=0.21, size=2_300_000),
        no_op,
        cell(
            "silero-vad",
            "none",
            "openvino",
            "crashed",
            ep="openvino",
            reasons=("The worker died of SIGSEGV while it loaded the model.",),
            log=SPEECH_LOG,
        ),
        cell(
            "silero-vad",
            "none",
            "gpu",
            "unsupported",
            ep="cuda",
            reasons=("No NVIDIA GPU here: no driver is loaded.",),
        ),
        cell(
            "magika",
            "none",
            "openvino",
            "misplaced",
            ep="openvino",
            error=0.0,
            reasons=("No node ran on OpenVINOExecutionProvider (42 on CPUExecutionProvider).",),
        ),
        cell(
            "magika", "none", "stock", "pass", error=0.0, speed=1.0, p50_ms=4.0, size=3_200_000, random=["validation"]
        ),
        cell(
            "magika",
            "int8",
            "older",
            "out-of-memory",
            reasons=("It took more than the limit of 4.0 GB.",),
            log="bad_alloc\n",
        ),
        cell("magika", "fp16", "older", "timeout", reasons=("No answer in 120 s while it ran; its limit is 120 s.",)),
        cell(
            "ppocr-cls",
            "none",
            "stock",
            "failed",
            reasons=("onnxruntime: NOT_IMPLEMENTED: Could not find Foo(7).",),
            log="x\n",
        ),
        cell("ppocr-cls", "int8", "stock", "blocked", reasons=("check:ppocr-cls/none@stock failed: see there.",)),
    ]


def sample_report(cells: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    cells = sample_cells() if cells is None else cells
    versions = {"stock": "1.32.0", "older": "1.21.1", "openvino": "1.24.1", "gpu": "1.31.1"}
    tally = Counter(entry["status"] for entry in cells)
    report: dict[str, Any] = {
        "schema": 1,
        "ortforge": "0.1.0",
        "run": {
            "id": "20261120-101500-1a2b",
            "matrix": "matrix.toml",
            "matrix_digest": digest("matrix"),
            "started": "2026-11-20T10:15:00+00:00",
            "finished": "2026-11-20T10:18:12+00:00",
            "seconds": 192.0,
            "host": "bench-1",
            "store": "/var/cache/ortforge",
            "argv": ["run", "--output", "report"],
            "steps": {"run": 41, "cached": 30, "failed": 5},
        },
        "device": {
            "name": "here",
            "cpu_model": "AMD EPYC 9755",
            "cores": 2,
            "memory": 16_000_000_000,
            "gpus": [],
            "identity": digest("device"),
        },
        "runtimes": {
            target: {
                "hash": digest(target),
                "ort_version": version,
                "python": "3.12.4",
                "packages": [
                    {"name": "numpy", "version": "2.4.6", "sha256": digest("numpy")},
                    {"name": "onnxruntime", "version": version, "sha256": digest(version)},
                ],
                "providers": ["CPUExecutionProvider"],
            }
            for target, version in versions.items()
        },
        "models": {
            model: {
                "digest": digest(model),
                "bytes": size,
                "ops": {"Conv": 20, "Relu": 20, "MatMul": 2},
                "licence": "Apache-2.0",
                "reference": f"package:{model}==1.0/model.onnx",
                "ir_version": 8,
                "opsets": {"": 13},
            }
            for model, size in {"minilm": 90_000_000, "silero-vad": 2_300_000, "magika": 3_200_000}.items()
        },
        "noise": {"minilm": {"floor": 0.031, "pairs": 60, "trust": "stable"}},
        "summary": dict(tally),
        "cells": cells,
    }
    return assessed(report)


def assessed(report: dict[str, Any], expectations: dict[str, Any] | None = None) -> dict[str, Any]:
    """Add what a run adds at its end: what ships, and what was expected."""
    report["ships"] = what_ships(report)
    report["best"] = best_per_model(report)
    found = assess(report, expectations or {})
    by_cell = found.pop("cells")
    problems = {problem["cell"]: problem["what"] for problem in found["problems"]}
    for entry in report["cells"]:
        entry |= {"expectation": by_cell.get(entry["id"]), "problem": problems.get(entry["id"], "")}
    report |= {"expectations": {**found, "accepted": False}, "exit_code": 0 if found["met"] else 1}
    return report
