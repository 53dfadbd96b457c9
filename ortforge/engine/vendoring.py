"""Gathers the dependencies of a source target: brings its source as a build would, and asks that what it downloads."""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ortforge.api import Executor
from ortforge.build.gathering import Gathered, SourceNeeds, Wheel, gather, needs_of
from ortforge.engine.walk import Settled, WalkOptions, walk
from ortforge.engine.work import hearing
from ortforge.errors import OrtforgeError
from ortforge.matrix import Matrix, SourceTarget
from ortforge.plan.building import lay_out_source
from ortforge.plan.graph import Plan, Step
from ortforge.plugin_manager import Plugins
from ortforge.runtime import uv
from ortforge.runtime.download import Limits, receive
from ortforge.runtime.uv_errors import explain
from ortforge.store import Store

__all__ = ["SourceFailedError", "bring_source", "gather_target", "wheels_for"]


class SourceFailedError(OrtforgeError):
    """A target's source could not be brought; ``code`` is the exit code of what went wrong."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what)
        self.exit_code = code  # type: ignore[assignment, misc]


def bring_source(
    target: SourceTarget,
    matrix: Matrix,
    plugins: Plugins,
    *,
    store: Store,
    executor: Executor,
    say: Callable[[str], None],
) -> tuple[Path, str]:
    """Bring a target's source into the store unless it is there; return its object's folder and its version.

    :raises SourceFailedError: it could not be brought.
    """
    steps: dict[str, Step] = {}

    def step(name: str, kind: Any, parameters: Any, inputs: Any = (), after: Any = (), context: Any = None) -> str:
        steps[name] = Step(name, kind, parameters, inputs, after, context or {})
        return name

    source = lay_out_source(target, matrix, plugins, step)
    run_id = store.ledger.start_run(matrix="", matrix_digest="", host="", argv=["vendor"])
    with hearing(lambda _, text: say(text)):
        settled: Settled = walk(Plan(steps, ()), store, executor, run_id, options=WalkOptions())[source]
    executor.shutdown(cancel=False)
    if not settled.ok:
        raise SourceFailedError(f"{source}: {settled.reason}", int(settled.result.get("exit_code", 4)))
    return store.objects.get(settled.identity), str(settled.result["version"])


def gather_target(
    target: SourceTarget,
    source: Path,
    version: str,
    out: Path,
    *,
    machine: str,
    pythons: Sequence[str],
    mirror: str = "",
    say: Callable[[str], None],
) -> Gathered:
    """Gather what a build of a target downloads into ``out``.

    :param source: folder of its source object. :param machine: ``x86_64`` …, whose wheels are taken.
    :param pythons: versions whose wheels are taken. :param mirror: address of a mirror of one's own, laid out as
        ``mirror/`` is; what lies at ``https://HOST/PATH`` is taken from ``MIRROR/HOST/PATH``.
    :raises ConfigurationError: this version takes no gathered files. :raises FetchError: something cannot be had.
    """
    needs = needs_of(source, version)
    wheels = [wheel for python in pythons for wheel in wheels_for(needs, python, machine)]

    def address(url: str) -> str:
        return f"{mirror.rstrip('/')}/{url.removeprefix('https://')}" if mirror else url

    return gather(
        needs,
        out,
        download=_download,
        eps=[use.name for use in target.ep_uses],
        wheels=list(dict.fromkeys(wheels)),
        address=address,
        say=say,
    )


def wheels_for(needs: SourceNeeds, python: str, machine: str) -> list[Wheel]:
    """Resolve what ORT's build tools need for a version of Python, on the user's own package index.

    :raises ProvisionError: they cannot be resolved, or the index cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="ortforge-") as folder:
        lock = Path(folder) / "pylock.toml"
        try:
            uv.compile_lock(
                needs.requirements,
                lock,
                python=python,
                only_version=True,
                arguments=("--python-platform", f"{machine}-manylinux_2_28"),
            )
        except uv.UvError as error:
            raise explain(error.text, wanted=needs.requirements, python=python) from error
        packages = tomllib.loads(lock.read_text(encoding="utf-8")).get("packages", [])
        return [_wheel(package["wheels"][0], lock.parent) for package in packages if package.get("wheels")]


def _wheel(entry: dict[str, Any], folder: Path) -> Wheel:
    """Read a wheel of a lock; one on this machine is named by its path (PEP 751)."""
    url = entry.get("url") or (folder / entry["path"]).resolve().as_uri()
    name = entry.get("name") or unquote(urlsplit(url).path).rpartition("/")[2]
    return Wheel(name, url, entry["hashes"]["sha256"])


def _download(url: str, path: Path) -> None:
    if url.startswith("file://"):
        shutil.copyfile(unquote(urlsplit(url).path), path)
    else:
        receive(url, path, Limits(stall_s=30.0))
