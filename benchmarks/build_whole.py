"""A whole wheel: cold, for a second Python, with a warm compiler cache in a fresh tree, and with nothing to do.

    python build_whole.py ../examples/build/matrix.toml reduced --interpreter /usr/local/python3.12

``--interpreter`` is the folder of any Python with headers and pip that runs in the image, which is given it below
/opt/python. The cold build needs half an hour on two cores, and gets an option that changes nothing but the compiler
cache's keys, so that it is cold on any machine; ``--cold`` takes the provenance of an earlier cold build in its place.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from statistics import median
from typing import Any

ORTFORGE = str(Path(sys.executable).with_name("ortforge"))
BASE = "debian:trixie-slim"
DOCKERFILE = f"""
FROM {BASE}
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libpython3-stdlib
COPY . /opt/python/TAG-TAG
RUN echo /opt/python/TAG-TAG/lib > /etc/ld.so.conf.d/python.conf && ldconfig
RUN /opt/python/TAG-TAG/bin/python3 -m pip install --no-cache-dir numpy packaging setuptools wheel
"""


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("matrix", type=Path)
    asked.add_argument("target")
    asked.add_argument("--interpreter", type=Path, required=True)
    asked.add_argument("--store", type=Path)
    asked.add_argument("--cold", type=Path, help="provenance.json of a cold build of the same target")
    options = asked.parse_args()
    python = version(options.interpreter)
    base = base_image(options.interpreter, python)
    with tempfile.TemporaryDirectory(dir=options.matrix.parent, prefix=".bench-") as name:
        folder = Path(name)
        seed = "" if options.cold else secrets.token_hex(4)
        matrix = two_targets(options.matrix, options.target, base, python, seed)
        bench = Bench(matrix, folder / "dist", options.store)
        try:
            bench.measure(python, facts(options.cold) if options.cold else None)
        finally:
            bench.matrix.unlink()


class Bench:
    """The same target for the image's Python (``first``) and for another one (``second``)."""

    def __init__(self, matrix: Path, out: Path, store: Path | None) -> None:
        self.matrix, self.out = matrix, out
        self.store = ["--store", str(store.resolve())] if store else []

    def measure(self, python: str, recorded: dict[str, Any] | None) -> None:
        """Build, and print what it took."""
        built = self.build("first")
        cold = recorded or built
        hits = sum(count for what, count in cold["ccache"].items() if what.endswith("hit"))
        print(f"{hits} of {sum(cold['ccache'].values())} objects of the cold build came from the compiler cache")
        second = self.build("second")
        tree = json.loads(self.ortforge("first", "--until", "configure", "--json"))["targets"][0]["configure"]["tree"]
        subprocess.run(["docker", "volume", "rm", tree], check=True, capture_output=True)
        warm = self.build("first", "--fresh")
        print(f"cold: {cold['wall']:.0f} s, {cold['cpu']:.0f} s of CPU; compile alone {cold['compile']:.0f} s")
        share = second["cpu"] / cold["cpu"]
        print(f"second Python ({python}): {second['cpu']:.0f} s of CPU, {share:.0%} of the first's (limit 25%)")
        print(f"warm cache, fresh tree: {warm['wall']:.0f} s; compile alone {warm['compile']:.0f} s")
        print(
            f"ratio {cold['wall'] / warm['wall']:.1f} of all (limit 6), {cold['compile'] / warm['compile']:.1f} alone"
        )
        print("the same wheel" if warm["sha256"] == built["sha256"] else "ANOTHER WHEEL")
        began, times = time.time(), []
        for _ in range(5):
            started = time.perf_counter()
            self.ortforge("first", "--out", str(self.out))
            times.append(time.perf_counter() - started)
        events = ["docker", "events", "--since", f"{began:.0f}", "--until", f"{time.time():.0f}"]
        made = subprocess.run([*events, "--filter", "event=create"], check=True, capture_output=True, text=True).stdout
        print(
            f"nothing changed: {median(times):.2f} s, median of 5 (limit 2); {len(made.splitlines())} containers made"
        )

    def ortforge(self, target: str, *more: str) -> str:
        """Return what a build prints."""
        argv = [ORTFORGE, "build", target, "-m", str(self.matrix), *self.store, *more]
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def build(self, target: str, *more: str) -> dict[str, Any]:
        """Return what a build took, and its wheel's digest."""
        started = time.perf_counter()
        made = json.loads(self.ortforge(target, "--out", str(self.out), "--json", *more))["targets"][0]
        wall = time.perf_counter() - started
        sha256 = made["package"]["sha256"]
        return {**facts(Path(made["folder"]) / "provenance.json"), "wall": wall, "sha256": sha256}


def facts(provenance: Path) -> dict[str, Any]:
    """Return what a build took, as its provenance says; the phases in the container alone."""
    ran = json.loads(provenance.read_text(encoding="utf-8"))["predicate"]["runDetails"]["metadata"]
    phases = ran["phases"].values()
    return {
        "wall": sum(phase["seconds"] for phase in phases),
        "cpu": sum(phase["cpu_s"] for phase in phases),
        "compile": ran["phases"]["compile"]["seconds"],
        "ccache": ran["ccache"],
    }


def version(interpreter: Path) -> str:
    """Return a Python's version, as 3.12."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    argv = [str(interpreter / "bin/python3"), "-c", ask]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def base_image(interpreter: Path, python: str) -> str:
    """Make the base image with a second Python in it, and return its name."""
    name = f"ortforge-bench-python:{python}"
    tag = "cp" + python.replace(".", "")
    argv = ["docker", "build", "--tag", name, "--file", "-", str(interpreter)]
    text = DOCKERFILE.replace("TAG", tag)
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the base image cannot be made:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return name


def two_targets(matrix: Path, target: str, base: str, python: str, seed: str) -> Path:
    """Write a matrix with the target twice, beside the one it comes from, whose paths it shares.

    :param seed: of names that the compilers make up, which no object has yet; ``""`` for none.
    """
    read = tomllib.loads(matrix.read_text(encoding="utf-8"))
    first = {**read["targets"][target], "base": base}
    if seed:
        option = f"-frandom-seed={seed}"
        first["defines"] = {**first.get("defines", {}), "CMAKE_C_FLAGS": option, "CMAKE_CXX_FLAGS": option}
    second = {**first, "python": python}
    kept = matrix.read_text(encoding="utf-8").partition("[[matrix]]")[0]
    text = [kept]
    for name, table in (("first", first), ("second", second)):
        text += [f"[targets.{name}]", *(f"{key} = {toml(value)}" for key, value in table.items()), ""]
    text += ["[[matrix]]", 'targets = ["first", "second"]', 'models = ["*"]', 'recipes = ["*"]', ""]
    path = matrix.with_name(f".bench-{target}.toml")
    path.write_text("\n".join(text), encoding="utf-8")
    return path


def toml(value: Any) -> str:
    """Return a value as TOML has it; strings, numbers, lists and tables in one line are all that targets have."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    return json.dumps(value)


if __name__ == "__main__":
    main()
