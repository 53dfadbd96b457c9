"""The examples of docs/plugins.md are installed as they stand there, and used."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from ortforge import api
from ortforge.api import Device, spec
from ortforge.cli import main
from ortforge.cli.main import app
from ortforge.plugin_manager import Plugins
from ortforge.runtime.fetch import Fetcher, fetch_model

Install = Callable[..., Path]

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")


def example(language: str, holding: str) -> str:
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if holding in text]
    assert len(found) == 1, f"one {language} example should hold {holding!r}"
    return str(found[0])


@pytest.fixture
def edge(install_plugin: Install) -> Plugins:
    """The first plugin of the page, installed by the metadata that the page gives."""
    project = tomllib.loads(example("toml", "entry-points"))["project"]
    ((entry, module),) = project["entry-points"]["ortforge"].items()
    install_plugin(
        project["name"],
        example("python", "EdgeExecutionProvider"),
        module=module,
        entry=f"{entry} = {module}",
        version=project["version"],
    )
    return Plugins(environ={})


def small_model() -> onnx.ModelProto:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", info[:1], info[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_the_first_plugin_is_a_row_without_complaint(edge: Plugins) -> None:
    row = next(row for row in edge.rows() if row.name == "edge")
    assert (row.distribution, row.version, row.status, row.error) == ("ortforge-edge", "0.1", "loaded", "")
    assert row.hooks == ("ortforge_backends", "ortforge_metrics", "ortforge_models")


def test_its_backend_answers(edge: Plugins, linux_cpu: Device) -> None:
    backend = edge.backends["edge"]
    assert backend.availability(linux_cpu).reason == "no Edge NPU was found on this device (AMD EPYC 9655)"
    assert backend.availability(replace(linux_cpu, npus=("edge-npu",))).usable


def test_its_resolver_brings_a_model(edge: Plugins, tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    onnx.save(small_model(), tmp_path / "share" / "detector.onnx")
    resolver = edge.models["share"]
    assert resolver.fingerprint("detector.onnx", tmp_path).startswith("detector.onnx ")
    fetch_model(resolver, "detector.onnx", Fetcher(workdir=tmp_path, base=tmp_path), tmp_path / "artefact")
    assert (tmp_path / "artefact" / "model.onnx").is_file()


def test_its_metric_counts(edge: Plugins) -> None:
    reference = [{"y": np.array([1.0, -2.0, 3.0, -4.0])}]
    candidate = [{"y": np.array([0.5, 2.0, 2.0, -1.0])}]
    assert edge.metrics["same-sign"].compute(reference, candidate, None) == 0.75


def test_the_pass_is_found_and_its_file_works_alone(install_plugin: Install, tmp_path: Path) -> None:
    path = install_plugin("ortforge-note", example("python", "def apply(job)"))
    known = Plugins(environ={}).passes["note"]
    assert known.parameters().note == "reviewed"
    assert Path(known.module) == path
    described = importlib.util.spec_from_file_location("as_the_worker_imports_it", known.module)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    onnx.save(small_model(), tmp_path / "in.onnx")
    job = SimpleNamespace(
        model=tmp_path / "in.onnx", output=tmp_path / "out.onnx", parameters={"note": "checked twice"}
    )
    assert module.apply(job) == {"warnings": []}
    assert {entry.key: entry.value for entry in onnx.load(job.output).metadata_props} == {"note": "checked twice"}


def test_the_notification_is_called_with_what_it_asks_for(
    install_plugin: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install_plugin("ortforge-telling", example("python", "ortforge_cell_judged"))
    Plugins(environ={}).notify("ortforge_cell_judged", run_id="r1", cell={"id": "net/none@stock", "status": "pass"})
    assert capsys.readouterr().err == "net/none@stock pass\n"


def test_the_table_names_every_hook_and_no_other() -> None:
    known = {name for name in dir(spec) if name.startswith("ortforge_")}
    assert set(re.findall(r"^\| `(ortforge_\w+)\(", PAGE, re.MULTILINE)) == known


def test_what_the_page_says_of_the_contract_holds() -> None:
    assert f"ORTFORGE_PLUGIN_API = {api.PLUGIN_API}" in PAGE
    for name in ("FetchError", "ConfigurationError", "external_files", "hookimpl"):
        assert name in PAGE
        assert hasattr(api, name)


def test_the_check_and_the_verb(install_plugin: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin("ortforge-licence", example("python", "LICENCE_SERVER"))
    monkeypatch.setenv("LICENCE_SERVER", "lic1")
    done = CliRunner().invoke(app, ["doctor", "--json", "--store", str(tmp_path)])
    found = {entry["name"]: entry["message"] for entry in json.loads(done.stdout)["checks"]}
    assert found["licence"] == "The licence server is lic1."
    main._third_party.cache_clear()
    done = CliRunner().invoke(app, ["licence", "--port", "1"])
    main._third_party.cache_clear()
    assert done.stdout == "lic1:1\n"


def test_the_built_ep_of_the_page_gets_into_a_build(install_plugin: Install, tmp_path: Path, linux_cpu: Device) -> None:
    from ortforge.cli.shared import known
    from ortforge.errors import ConfigurationError
    from ortforge.matrix import load
    from ortforge.plan.building import build_request

    install_plugin("ortforge-forge", example("python", "ForgeExecutionProvider"), module="ortforge_forge")
    plugins = Plugins()
    path = tmp_path / "matrix.toml"
    text = '[targets.mine]\nfrom = "source"\nsource = "debian:trixie"\nversion = "1.21.0"\neps = ["forge"]\n'
    path.write_text(text + 'allocator = "snmalloc"\n')
    matrix = load(path, known(plugins))
    request = build_request("mine", matrix.targets["mine"], matrix, plugins, linux_cpu)  # type: ignore[arg-type]
    assert request.flags["use_acl"] is True
    assert request.defines["onnxruntime_FORGE_HOME"] == "/opt/forge"
    assert request.packages == ("libarm-compute-dev", "libsnmalloc")
    assert request.bundle == ("libsnmallocshim.so",)
    assert request.preload == "libsnmallocshim.so"
    assert request.external_libraries == ("libforge.so.1",)
    path.write_text(text + 'image = "openvino"\n')
    matrix = load(path, known(plugins))
    with pytest.raises(ConfigurationError, match="ForgeExecutionProvider is built on Debian"):
        build_request("mine", matrix.targets["mine"], matrix, plugins, linux_cpu)  # type: ignore[arg-type]
