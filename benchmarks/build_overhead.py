"""A cold compilation through ortforge against the same build.py calls by hand in the same image, in turns.

    python build_overhead.py ../examples/build/matrix.toml dnnl

One library of ORT is compiled rather than all, so what ortforge does once weighs more than in a whole build. Both sides
start from the source archive, in a fresh build tree, with the compiler cache in use and told to find nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from ortforge.build import layout
from ortforge.build.compile import Compilation, compile_source
from ortforge.build.dependencies import dependencies
from ortforge.cli.shared import known
from ortforge.container import caller, connect
from ortforge.matrix import SourceTarget, load
from ortforge.plan.building import build_request
from ortforge.plugin_manager import Plugins
from ortforge.runtime import device
from ortforge.store import default_root, open_store

ORTFORGE = str(Path(sys.executable).with_name("ortforge"))
COLD = {"CCACHE_RECACHE": "1"}


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("matrix", type=Path)
    asked.add_argument("target")
    asked.add_argument("--goal", default="onnxruntime_graph")
    asked.add_argument("--pairs", type=int, default=3)
    asked.add_argument("--store", type=Path, default=default_root())
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as name:
        pairs = []
        for number in range(options.pairs):
            build = compilation(options, Path(name) / f"{number}.log")
            started = time.perf_counter()
            facts = compile_source(build, Path(name) / str(number))
            ours = time.perf_counter() - started
            build.engine.remove_volume(build.tree)
            theirs = by_hand(build, facts)
            pairs.append((ours, theirs))
            print(f"ortforge {ours:.1f} s, by hand {theirs:.1f} s, ratio {ours / theirs:.3f}", flush=True)
    ratio = median(ours / theirs for ours, theirs in pairs)
    print(f"{options.goal}, {facts['steps'][0]} steps: ratio {ratio:.3f} (limit 1.03), median of {len(pairs)} pairs")


def compilation(options: argparse.Namespace, log: Path) -> Compilation:
    """Return the compilation of one library; its tree is its own."""
    plugins, here = Plugins(third_party=False), device.probe()
    matrix = load(options.matrix, known(plugins))
    target = matrix.targets[options.target]
    assert isinstance(target, SourceTarget)
    request = build_request(options.target, target, matrix, plugins, here)
    argv = [ORTFORGE, "build", options.target, "-m", str(options.matrix), "--store", str(options.store)]
    shown = subprocess.run([*argv, "--until", "configure", "--json"], check=True, capture_output=True, text=True).stdout
    keys = {step["id"].partition(":")[0]: step["key"] for step in json.loads(shown)["targets"][0]["steps"]}
    with open_store(options.store) as store:
        records = {kind: store.ledger.done(key) for kind, key in keys.items()}
        source, image = (found.identity for kind in ("source", "image") if (found := records[kind]))
        folder = store.objects.get(source)
    request = replace(request, environment={**request.environment, **COLD})
    return Compilation(connect(), request, folder, source, image, log, until="compile", goal=options.goal)


def by_hand(build: Compilation, facts: dict[str, Any]) -> float:
    """Do with the engine's own client what a person would, and return the seconds it took."""
    tree, cache = "ortforge-bench-tree", layout.ccache_volume(caller())
    files = {**dict(dependencies(build.request.dependencies, build.request.eps).files)}
    with tempfile.TemporaryDirectory() as name:
        for path, text in files.items():
            (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(name) / path).write_text(text, encoding="utf-8")
        started = time.perf_counter()
        variables = [f"--env={key}={value}" for key, value in {**COLD, "HOME": layout.WORK}.items()]
        mounts = ["-v", f"{tree}:{layout.WORK}", "-v", f"{cache}:{layout.CCACHE}"]
        container = docker("run", "-d", "--network=none", *variables, *mounts, build.image, "sleep", "infinity")
        try:
            docker("exec", container, "mkdir", "-p", layout.SOURCE, layout.CMAKE)
            with (build.source / "source.tar").open("rb") as archive:
                subprocess.run(["docker", "cp", "-", f"{container}:{layout.SOURCE}"], stdin=archive, check=True)
            docker("cp", f"{name}/.", f"{container}:{layout.CMAKE}")
            for path, text in build.request.source_files.items():
                put = ["docker", "exec", "-i", container, "sh", "-c", f'mkdir -p "$(dirname {path})" && cat > {path}']
                put[3:3] = ["-w", layout.SOURCE]
                subprocess.run(put, input=text, text=True, check=True)
            for phase in ("configure", "compile"):
                docker("exec", container, *facts["argv"][phase])
            return time.perf_counter() - started
        finally:
            docker("rm", "--force", container)
            docker("volume", "rm", tree)


def docker(*argv: str) -> str:
    """Run Docker's client, and return what it prints."""
    return subprocess.run(["docker", *argv], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
