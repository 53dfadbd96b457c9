"""Mutated models through the matrix leave the orchestrator alive with a verdict each.

Thirty in CI; ``ORTFORGE_MUTANTS=200 pytest tests/acceptance/test_mutated_models.py`` for all 200.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from command import ortforge
from models import classifier, samples

COUNT = int(os.environ.get("ORTFORGE_MUTANTS", "30"))


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change a model file the way bad disks, bad tools and bad luck do."""
    changed = bytearray(data)
    kind = chance.randrange(5)
    if kind == 0:
        return bytes(changed[: chance.randrange(len(changed))])
    if kind == 1:
        for _ in range(chance.randrange(1, 9)):
            changed[chance.randrange(min(600, len(changed)))] = chance.randrange(256)
    elif kind == 2:
        for _ in range(chance.randrange(1, 200)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    elif kind == 3:
        start = chance.randrange(len(changed))
        del changed[start : start + chance.randrange(1, 64)]
    else:
        start = chance.randrange(len(changed))
        changed[start:start] = chance.randbytes(chance.randrange(1, 64))
    return bytes(changed)


def test_every_mutant_gets_a_verdict(tmp_path: Path, store: Path) -> None:
    classifier(tmp_path / "good.onnx")
    samples(tmp_path / "data", count=2)
    good = (tmp_path / "good.onnx").read_bytes()
    chance = random.Random(4)
    lines = ["[limits]\ntiming_s = 0\nload_s = 20\nrun_s = 20\n"]
    lines.append('[targets.stock]\nfrom = "package"\nrequires = ["onnxruntime==1.32.0"]\n')
    for number in range(COUNT):
        (tmp_path / f"m{number}.onnx").write_bytes(mutate(good, chance))
        lines.append(f'[models.m{number}]\npath = "path:m{number}.onnx"\nvalidation = "path:data"\n')
    (tmp_path / "matrix.toml").write_text("".join([*lines, "[[matrix]]\nrecipes = ['none']\n"]), encoding="utf-8")
    done = ortforge(tmp_path, "run", "--store", str(store), "--json")
    assert "Traceback" not in done.err
    assert done.code in {0, 1}, done.err
    assert len(done.report["cells"]) == COUNT
    for cell in done.report["cells"]:
        assert cell["status"] == "pass" or cell["reasons"]
    assert sum(cell["status"] != "pass" for cell in done.report["cells"]) >= COUNT / 4
