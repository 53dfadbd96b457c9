"""The real source package of Debian, through apt in a container; and what a container may not do to this machine."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ortforge.api import Task, TaskOutcome
from ortforge.build import vendor
from ortforge.build.gathering import Repository, needs_of
from ortforge.engine.steps.source import SourceFetcher
from ortforge.engine.work import ready, run_task
from ortforge.errors import FetchError
from ortforge.store import open_store


@pytest.fixture(scope="module", autouse=True)
def fresh() -> Iterator[None]:
    ready.cache_clear()
    yield
    ready.cache_clear()


def fetch(reference: str, base: Path, version: str, sha256: str = "") -> TaskOutcome:
    scheme, _, rest = reference.partition(":")
    return run_task(
        Task(
            step_id=f"source:{reference}",
            kind="source",
            key="0" * 40,
            parameters={"scheme": scheme, "sha256": sha256, "version": version},
            inputs=(),
            store=str(base / "store"),
            context={"base": str(base), "reference": rest},
        )
    )


def test_debians_source_becomes_an_object(tmp_path: Path) -> None:
    outcome = fetch("debian:trixie", tmp_path, "1.21")
    assert outcome.status == "ok", outcome.reason
    facts = outcome.result
    assert re.fullmatch(r"onnxruntime 1\.21\.0\+dfsg-\d+", facts["package"])
    assert (facts["version"], facts["licence"], facts["dfsg"], facts["stripped"]) == ("1.21.0", "MIT", "yes", True)
    assert facts["archive_sha256"] == "32df1f82bd6b07b18372c0f387133214905cbde7a586b3ad83f0ed0075f80273"
    assert facts["files"] > 8000

    source = open_store(tmp_path / "store").objects.get(outcome.identity)
    with tarfile.open(source / "source.tar") as tar:
        names = tar.getnames()
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert "--use_dnnl" in (source / "parser" / "build.py").read_text()

    # The real deps.txt, and the repository that is not in it.
    needs = needs_of(source, "1.21.0")
    deps = {one.name: one for one in vendor.read_deps(needs.deps)}
    assert len(deps) > 40
    assert vendor.place_of(deps["re2"].url) == "mirror/github.com/google/re2/archive/refs/tags/2024-07-02.zip"
    assert Repository("dnnl", "https://github.com/oneapi-src/onednn.git", "v3.0.1") in needs.repositories
    assert {"numpy>=1.19.0", "setuptools", "wheel", "packaging"} <= set(needs.requirements)


@pytest.mark.parametrize(
    ("suite", "version", "message"),
    [
        ("trixie", "1.22.0", "Debian trixie does not have ONNX Runtime 1.22.0.\nIt has 1.21.0+dfsg-"),
        ("trixie", "1.2", "does not have ONNX Runtime 1.2.0"),
        ("trixy", "1.21.0", "There is no such suite"),
    ],
)
def test_what_debian_does_not_have_is_said(tmp_path: Path, suite: str, version: str, message: str) -> None:
    outcome = fetch(f"debian:{suite}", tmp_path, version)
    assert (outcome.status, outcome.result["exit_code"]) == ("failed", 4)
    assert message in outcome.reason


@pytest.fixture
def context(tmp_path: Path) -> SourceFetcher:
    return SourceFetcher(workdir=tmp_path, base=tmp_path, version="1.21.0")


def test_a_program_in_an_image_has_no_powers_and_hands_over_what_it_left(context: SourceFetcher) -> None:
    script = (
        "mkdir /out; id -u > /out/user; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status > /out/powers; echo \"$1\""
    )
    said: list[str] = []
    context.say = said.append
    out = context.in_image("debian", ["sh", "-euc", script, "sh", "$(id) `id` ; id"])
    assert (out / "user").read_text() == "0\n"
    assert (out / "powers").read_text().split() == ["CapEff:", "0000000000000000", "NoNewPrivs:", "1"]
    assert said == ["$(id) `id` ; id"]


def test_a_program_in_an_image_that_fails_says_so(context: SourceFetcher, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="ended with exit code 3") as failed:
        context.in_image("debian", ["sh", "-c", "echo the last words; exit 3"])
    assert "the last words" in failed.value.what
    with pytest.raises(FetchError, match="cannot be taken"):
        context.in_image("debian", ["true"])
    for link in ("/etc/shadow", "../../../evil"):
        with pytest.raises(FetchError, match="cannot be taken"):
            context.in_image("debian", ["sh", "-c", 'mkdir /out; ln -s "$1" /out/link', "sh", link])
