"""What a build is made from: the target's wishes and its plugins', put together or refused with names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ortforge.api import BuildContribution, Patch
from ortforge.build.commands import jobs_for
from ortforge.build.compose import Contributor, compose
from ortforge.build.layout import tree_volume
from ortforge.build.ninja import Meter
from ortforge.build.request import BuildRequest
from ortforge.errors import ConfigurationError

ASKED = BuildRequest("fast", "1.21.0", flags={"enable_lto": True, "parallel": 4})


def test_contributions_come_together() -> None:
    dnnl = Contributor("the dnnl backend", BuildContribution(flags={"use_dnnl": True}, packages=("libdnnl-dev",)))
    jemalloc = Contributor(
        "the allocator jemalloc", BuildContribution(packages=("libjemalloc2",), bundle=("libjemalloc.so.2",))
    )
    request = compose(ASKED, [dnnl, jemalloc])
    assert request.flags == {"enable_lto": True, "parallel": 4, "use_dnnl": True}
    assert request.packages == ("libdnnl-dev", "libjemalloc2")
    assert request.bundle == ("libjemalloc.so.2",)
    assert compose(ASKED, [jemalloc, dnnl]) == request, "the order of plugins changes nothing"


def test_who_disagrees_is_named() -> None:
    with pytest.raises(ConfigurationError) as refused:
        compose(
            replace(ASKED, flags={"use_dnnl": False}),
            [Contributor("the dnnl backend", BuildContribution(flags={"use_dnnl": True}))],
        )
    assert "the target sets the flag use_dnnl to False, the dnnl backend to True" in str(refused.value)


def test_patches_are_chosen_by_version(tmp_path: Path) -> None:
    diff = tmp_path / "one.patch"
    diff.write_text("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n")
    patches = (
        Patch("old", ">=1.18,<1.21", str(diff), "for an older compiler"),
        Patch("now", ">=1.21,<1.22", str(diff), "GCC 14 wants a header"),
        Patch("always", "", str(diff), "it is needed by all"),
    )
    request = compose(ASKED, [Contributor("the cpu backend", BuildContribution(patches=patches))])
    assert [patch.name for patch in request.patches] == ["now", "always"]
    assert request.patches[0].text == diff.read_text()
    missing = Patch("lost", "", str(tmp_path / "lost.patch"), "gone")
    with pytest.raises(ConfigurationError, match="patch lost of the cpu backend cannot be read"):
        compose(ASKED, [Contributor("the cpu backend", BuildContribution(patches=(missing,)))])
    wrong = Patch("odd", "1.21-ish", str(diff), "odd")
    with pytest.raises(ConfigurationError, match="no version specifier"):
        compose(ASKED, [Contributor("the cpu backend", BuildContribution(patches=(wrong,)))])


def test_a_request_survives_json(tmp_path: Path) -> None:
    diff = tmp_path / "one.patch"
    diff.write_text("x")
    request = compose(
        replace(ASKED, flags={"targets": ("a", "b")}),
        [
            Contributor(
                "p", BuildContribution(patches=(Patch("p", "", str(diff), "why"),), source_files={"a/b": "text"})
            )
        ],
    )
    assert BuildRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


def test_trees_are_shared_by_builds_that_share_object_files() -> None:
    assert ASKED.tree() == replace(ASKED, python="3.12").tree(), "another Python compiles a few files anew"
    assert ASKED.tree() == replace(ASKED, operators="ai.onnx;12;Add").tree()
    assert ASKED.tree() == replace(ASKED, distribution="onnxruntime-fast").tree(), "a name is given later"
    assert ASKED.tree() != replace(ASKED, flags={"enable_lto": False}).tree()
    assert ASKED.compile_parameters() != replace(ASKED, python="3.12").compile_parameters()
    assert tree_volume("s", "i", "t", "0:0") != tree_volume("s", "i", "t", "1000:1000")


@pytest.mark.parametrize(
    ("cores", "memory", "cuda", "jobs"),
    [
        (2, 24 << 30, False, 2),
        (16, 8 << 30, False, 4),
        (16, 8 << 30, True, 2),
        (8, 1 << 30, False, 1),
        (0.5, 8 << 30, False, 1),
    ],
)
def test_jobs_fit_cores_and_memory(cores: float, memory: int, cuda: bool, jobs: int) -> None:
    assert jobs_for(cores, memory, cuda=cuda) == jobs


def test_the_time_left_comes_from_the_last_steps() -> None:
    clock = iter(range(0, 10_000, 3))
    meter = Meter(now=lambda: next(clock))
    assert meter.read("-- Configuring done") == ""
    assert meter.read("[1/604] Building CXX object a.o") == "[1/604]"
    for number in range(2, 101):
        shown = meter.read(f"[{number}/604] Building CXX object {number}.o")
    assert shown == "[100/604] about 25 min left"  # 504 steps of 3 s
    assert meter.read("[1/30] Linking CXX shared library x.so") == "[1/30]", "another build begins from nothing"
