"""Toolchain images, made by a real engine: what they hold, what a failing Dockerfile says, and its base."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine import BASE, LABEL

from ortforge.build import toolchain
from ortforge.build.toolchain import base_of, build_toolchain, ensure_base, toolchains
from ortforge.container import ContainerSpec, Engine
from ortforge.errors import BuildError, ConfigurationError, EnvironmentLacksError

Build = Callable[..., tuple[str, dict[str, Any]]]


@pytest.fixture
def build(engine: Engine, base_image: str, tmp_path: Path) -> Iterator[Build]:
    """Build a Dockerfile of the user's; its images are removed."""
    made: list[str] = []

    def run(text: str, **parameters: Any) -> tuple[str, dict[str, Any]]:
        (tmp_path / "my.Dockerfile").write_text(text, encoding="utf-8")
        asked = {"image": "my.Dockerfile", "base": "", "packages": [], "machine": engine.facts.machine, **parameters}
        image, facts = build_toolchain(engine, asked, lambda line: None, base_folder=tmp_path)
        made.append(image)
        return image, facts

    yield run
    for image in made:
        engine.api.remove_image(image, force=True)


def test_the_toolchain_has_what_builds_need(engine: Engine, toolchain_image: str) -> None:
    needed = (
        "g++",
        "cmake",
        "ninja",
        "ccache",
        "git",
        "patch",
        "patchelf",
        "python3",
        "/opt/auditwheel/bin/auditwheel",
    )
    with engine.open(ContainerSpec(image=toolchain_image, user="1234:1234", labels={LABEL: "1"})) as container:
        for tool in needed:
            assert container.run([tool, "--version"]).code == 0, tool
        assert container.run(["python3", "-c", "import numpy, packaging, setuptools, wheel"]).code == 0
        assert container.run(["touch", "/work/mine", "/ccache/mine"]).code == 0, "volumes begin as these folders"
        assert container.run(["ls", "/var/lib/apt/lists"]).tail == ()
        assert container.run(["sh", "-c", "ls /var/cache/apt/archives/*.deb"]).code != 0
    found = engine.image(toolchain_image)
    assert found is not None
    assert found.size < 1_200_000_000
    assert found.labels["ortforge.image"] == "debian"


def test_built_again_it_is_the_same_image(engine: Engine, toolchain_image: str) -> None:
    parameters = {"image": "debian", "base": "", "packages": [], "machine": engine.facts.machine}
    image, facts = build_toolchain(engine, parameters, lambda line: None, base_folder=Path())
    assert image == toolchain_image
    assert facts["seconds"] < 10
    assert facts["base"] == BASE


def test_the_clean_image_has_python_and_nothing_that_builds(engine: Engine, proof_image: str) -> None:
    with engine.open(ContainerSpec(image=proof_image, labels={LABEL: "1"})) as container:
        assert container.run(["python3", "-m", "venv", "/tmp/venv"]).code == 0
        assert container.run(["/tmp/venv/bin/pip", "--version"]).code == 0
        for tool in ("gcc", "cmake", "git", "curl"):
            assert container.run([tool, "--version"]).code in (126, 127), tool


def test_a_user_s_own_dockerfile_gets_base_and_packages(engine: Engine, build: Build) -> None:
    said = 'ARG BASE=nowhere.invalid/none:1\nFROM ${BASE}\nARG PACKAGES=\nRUN echo "${PACKAGES}" > /asked\n'
    image, facts = build(said, base=BASE, packages=["libb", "liba2"])
    with engine.open(ContainerSpec(image=image, labels={LABEL: "1"})) as container:
        assert container.run(["cat", "/asked"]).tail == ("liba2 libb",)
    assert facts["base"] == BASE
    assert any("ortforge-my:" in tag for tag in engine.api.inspect_image(image)["RepoTags"])


def test_a_dockerfile_that_fails_says_where_and_with_which_words(build: Build) -> None:
    with pytest.raises(BuildError) as caught:
        build(f"FROM {BASE}\nRUN echo one && sleep 0.3 && echo two >&2 && exit 7\n")
    assert "step 2/3: RUN echo one" in caught.value.what
    assert caught.value.what.splitlines()[1:] == ["one", "two"]
    assert "code: 7" in caught.value.what
    assert caught.value.exit_code == 3


def test_a_long_instruction_does_not_hide_what_it_said(build: Build) -> None:
    with pytest.raises(BuildError) as caught:
        build(f"FROM {BASE}\nRUN {'true && ' * 200} echo lacking >&2 && exit 9\n")
    first, *rest = caught.value.what.splitlines()
    assert first.endswith("…: exit code: 9")
    assert len(first) < 200
    assert rest == ["lacking"]


def test_a_base_without_tensorrt_is_told_which_files_it_lacks(engine: Engine, base_image: str) -> None:
    parameters = {"image": "tensorrt", "base": BASE, "packages": [], "machine": engine.facts.machine}
    with pytest.raises(BuildError) as caught:
        build_toolchain(engine, parameters, lambda line: None, base_folder=Path())
    for file in ("NvInfer.h", "libnvinfer.so", "libnvonnxparser.so", "libcudnn.so", "/usr/local/cuda/bin/nvcc"):
        assert file in caught.value.what
    assert "libnvinfer-dev" in caught.value.what, "and how to bring them"


def test_a_dockerfile_that_is_none(build: Build) -> None:
    with pytest.raises(BuildError, match="unknown instruction"):
        build(f"FROM {BASE}\nRUNN echo\n")
    with pytest.raises(ConfigurationError, match="has no FROM"):
        build("RUN echo\n")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"packages": ["libc6"]}, "cannot install"),
        ({"base": "debian:bookworm-slim"}, "does not take another base"),
    ],
)
def test_a_dockerfile_that_does_not_take_what_is_asked(parameters: dict[str, Any], said: str, build: Build) -> None:
    with pytest.raises(ConfigurationError, match=said):
        build(f"FROM {BASE}\n", **parameters)


def test_shell_characters_get_into_no_dockerfile(build: Build) -> None:
    text = f"ARG BASE={BASE}\nFROM ${{BASE}}\nARG PACKAGES=\nRUN echo ${{PACKAGES}}\n"
    for bad in ("a;id", "$(id)", "a b", "-o=x", "a\nb", "`id`"):
        with pytest.raises(ConfigurationError, match="no name of a package"):
            build(text, packages=[bad])
        with pytest.raises(ConfigurationError, match="no name of an image"):
            build(text, base=bad)


def test_a_base_for_another_architecture(engine: Engine, build: Build) -> None:
    other = {"x86_64": "arm64", "aarch64": "amd64"}[engine.facts.machine]
    tag = "ortforge-test-other-architecture:1"
    engine.api.load_image(relabelled(b"".join(engine.api.get_image(BASE)), other, tag))
    try:
        with pytest.raises(BuildError, match="for another architecture") as caught:
            build(f"ARG BASE={tag}\nFROM ${{BASE}}\nRUN true\n")
    finally:
        engine.api.remove_image(tag, force=True)
    assert engine.facts.machine in caught.value.what
    assert caught.value.exit_code == 3


def test_a_base_that_nobody_has(engine: Engine, build: Build) -> None:
    with pytest.raises(EnvironmentLacksError, match=r"localhost:1/none:1 is not here.*registry") as caught:
        build("FROM localhost:1/none:1\n")
    assert "docker load" in caught.value.todo


def test_a_debian_base_without_debootstrap_says_what_to_install(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    offline = Engine(engine.api, engine.api, engine.api, replace(engine.facts))
    if not engine.pull("debian:sarge-slim", print):
        pytest.skip("a registry answers here, even for this one")
    with pytest.raises(EnvironmentLacksError, match="debootstrap is not installed") as caught:
        ensure_base(offline, "debian:sarge-slim", print)
    assert "apt-get install debootstrap" in caught.value.todo


def test_a_debian_that_debootstrap_does_not_know(engine: Engine) -> None:
    if toolchain._lacking():
        pytest.skip("debootstrap or root is not here")
    with pytest.raises(EnvironmentLacksError, match="could not be made") as caught:
        ensure_base(engine, "debian:nosuchsuite-slim", print)
    assert "MIRROR" in caught.value.todo


def test_bases_are_named_by_the_dockerfiles() -> None:
    assert base_of("debian") == BASE
    assert all(":" in base_of(name) for name in toolchains())


def relabelled(saved: bytes, architecture: str, tag: str) -> bytes:
    """Return an image as ``docker save`` gives it, with another architecture in its configuration and another name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(saved)) as source, tarfile.open(fileobj=out, mode="w") as target:
        manifest = json.load(source.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = manifest[0]["Config"]
        for member in source.getmembers():
            if not member.isreg():
                target.addfile(member)
                continue
            if member.name in ("repositories", "index.json", "oci-layout"):
                continue
            content = source.extractfile(member).read()  # type: ignore[union-attr]
            if member.name == config:
                content = json.dumps({**json.loads(content), "architecture": architecture}).encode()
                member.name = "other.json"
            if member.name == "manifest.json":
                content = json.dumps([{**manifest[0], "Config": "other.json", "RepoTags": [tag]}]).encode()
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    return out.getvalue()
