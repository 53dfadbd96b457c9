"""What became of build.py's flags: every version of the table, and the facts that people ask about."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from ortforge.build.flags import canonical, explain, flags_of, known_versions, moment, table, text_of
from ortforge.errors import ExitCode, UsageError

RAW: dict[str, Any] = json.loads((files("ortforge.build.flags") / "ort-build-flags.json").read_text())
VERSIONS: list[str] = RAW["versions"]

ASKED = (
    *("update", "parallel", "skip_tests", "build_wheel", "build_shared_lib", "config", "enable_nvtx_profile"),
    *("use_horovod", "msvc_toolset", "use_xcode", "use_jemalloc", "use_mimalloc", "use_openblas", "use_dnnl"),
    *("use_mklml", "use_featurizers", "use_ngraph", "use_openvino", "use_nnapi", "use_openmp", "use_cuda"),
    "use_tensorrt",
)

NEWEST = "1.30dev"

# First and last version by hand, from ORT's release notes and issues: not from the table.
FACTS = {
    "use_jemalloc": ("0.1.4", "1.6.0"),
    "use_openblas": ("0.1.4", "1.6.0"),
    "use_mklml": ("0.1.4", "1.6.0"),
    "use_horovod": ("1.3.0", "1.6.0"),
    "use_ngraph": ("0.4.0", "1.5.1"),
    "use_featurizers": ("1.2.0", "1.9.0"),
    "use_openmp": ("0.1.4", "1.11.0"),
    "use_mkldnn": ("0.1.4", "1.0.0"),
    "use_dnnl": ("1.1.0", NEWEST),
    "use_preinstalled_eigen": ("0.1.4", "1.21.0"),
    "use_rocm": ("1.6.0", "1.23"),
    "use_armnn": ("1.4.0", "1.24"),
    "use_telemetry": ("1.1.0", "1.28"),
    "no_telemetry": ("1.29", NEWEST),
    "allow_running_as_root": ("1.15.0", NEWEST),
    "compile_no_warning_as_error": ("1.14.0", NEWEST),
    "use_cache": ("1.14.0", NEWEST),
    "skip_pip_install": ("1.24", NEWEST),
    "cmake_deps_mirror_dir": ("1.24", NEWEST),
    "use_tensorrt": ("0.4.0", NEWEST),
    "use_cuda": ("0.1.4", NEWEST),
    "use_nnapi": ("1.4.0", NEWEST),
    "enable_nvtx_profile": ("1.4.0", NEWEST),
    "skip_tests": ("1.1.0", NEWEST),
    "use_xcode": ("1.3.0", NEWEST),
}


def spans_in_file(name: str, version: str) -> list[dict[str, Any]]:
    """Return the raw spans that hold a version, straight from the file."""
    place = VERSIONS.index
    return [
        span
        for option, spans in RAW["flags"].items()
        if option.lstrip("-").replace("-", "_") == name
        for span in spans
        if place(span["since"]) <= place(version) <= place(span["until"])
    ]


@pytest.mark.parametrize("name", ASKED)
def test_every_version_is_answered_as_the_table_says(name: str) -> None:
    every = RAW["flags"][f"--{name}"]
    for version in VERSIONS:
        told = explain(name, version)
        here = spans_in_file(name, version)
        assert told.exists is bool(here), version
        assert (told.since, told.until) == (every[0]["since"], every[-1]["until"]), version
        if here:
            shape = here[0]["shape"]
            assert told.nargs == shape.get("nargs")
            assert told.action == shape.get("action", "store")
            if "choices" in shape:
                assert list(told.values) == shape["choices"]


def test_all_flags_of_all_versions_are_in_their_spans() -> None:
    for version in VERSIONS:
        assert set(flags_of(version)) == {name for name in table() if spans_in_file(name, version)}


@pytest.mark.parametrize("name", FACTS)
def test_first_and_last_version(name: str) -> None:
    first, last = FACTS[name]
    told = explain(name, last)
    assert (told.since, told.until, told.exists) == (first, last, True)
    if last != NEWEST:
        after = VERSIONS[VERSIONS.index(last) + 1]
        assert not explain(name, after).exists
    if first != VERSIONS[0]:
        assert not explain(name, VERSIONS[VERSIONS.index(first) - 1]).exists


@pytest.mark.parametrize(
    ("name", "version", "now"),
    [
        ("use_mkldnn", "1.1.0", "use_dnnl"),
        ("use_mkldnn", "1.21", "use_dnnl"),
        ("use_telemetry", "1.29", "no_telemetry"),
        ("use_ngraph", "1.6.0", "use_openvino"),
        ("use_trt", "0.4.0", "use_tensorrt"),
        ("use_rocm", "1.24", "use_migraphx"),
        ("use_automl", "1.2.0", "use_featurizers"),
        ("use_jemalloc", "1.21", None),
        ("use_openmp", "1.21", None),
    ],
)
def test_what_replaced_a_flag(name: str, version: str, now: str | None) -> None:
    assert explain(name, version).replaced_by == now


def test_a_replacement_exists_in_the_version_that_is_asked_about() -> None:
    # use_automl became use_featurizers, which is gone as well: 1.21 has neither.
    assert explain("use_automl", "1.21").replaced_by is None
    assert "featurizer" in explain("use_automl", "1.21").instead
    for version in VERSIONS:
        have = flags_of(version)
        replaced = {name: explain(name, version).replaced_by for name in table() if name not in have}
        assert {name: by for name, by in replaced.items() if by and by not in have} == {}


def test_a_flag_that_is_there_or_not_yet_there_has_no_replacement() -> None:
    assert explain("use_telemetry", "1.28").replaced_by is None
    assert explain("use_rocm", "1.5.1").replaced_by is None


@pytest.mark.parametrize("name", ["use_jemalloc", "--use_jemalloc", "use-jemalloc", "--use-jemalloc", "USE_JEMALLOC"])
def test_a_name_may_have_dashes(name: str) -> None:
    assert canonical(name) == "use_jemalloc"
    assert explain(name, "1.21").until == "1.6.0"


@pytest.mark.parametrize(
    ("asked", "speaks"),
    [
        ("1.21", "1.21.0"),
        ("1.21.1", "1.21.0"),
        ("1.13.0", "1.13.1"),
        ("1.5.3", "1.5.1"),
        ("1.22.0rc1", "1.22"),
        ("1.30.0", "1.30dev"),
        ("v1.20.2", "1.20"),
    ],
)
def test_patch_releases_count_as_their_minor_version(asked: str, speaks: str) -> None:
    assert moment(asked).version == speaks
    assert not moment(asked).beyond


def test_a_version_newer_than_the_table_is_said_to_be() -> None:
    told = explain("use_dnnl", "1.32.0")
    assert (told.exists, told.certain) == (True, False)
    assert "ends at 1.30dev" in told.note
    assert "own parser decides" in text_of(told)


@pytest.mark.parametrize(
    ("version", "meant"),
    [("0.6", "0.5.0"), ("0.0.1", "0.1.4"), ("1.2l.0", "1.2"), ("latest", ""), ("", ""), ("1,21", "1.21")],
)
def test_an_unknown_version_is_refused_with_the_nearest(version: str, meant: str) -> None:
    with pytest.raises(UsageError) as refused:
        explain("use_dnnl", version)
    assert refused.value.exit_code == ExitCode.USAGE
    assert f"no version {version!r}" in refused.value.what
    assert meant in refused.value.meant


def test_a_flag_that_never_was() -> None:
    told = explain("use_cudaa", "1.21")
    assert (told.exists, told.since, told.until, told.replaced_by, told.nearest) == (
        False,
        None,
        None,
        None,
        "use_cuda",
    )
    assert "no version of build.py ever had it" in text_of(told)


def test_mimalloc_is_accepted_and_lost() -> None:
    assert explain("use_mimalloc", "1.13.1").effect == ""
    for version in VERSIONS[VERSIONS.index("1.14.0") :]:
        told = explain("use_mimalloc", version)
        assert told.exists
        assert "no effect on Linux" in told.effect
        assert 'allocator = "mimalloc"' in text_of(told)


@pytest.mark.parametrize(
    ("name", "version", "systems"),
    [
        ("use_nnapi", "1.21", ("android",)),
        ("use_xcode", "1.21", ("macos",)),
        ("use_xcode", "1.22", ("macos",)),
        ("msvc_toolset", "0.1.4", ("windows",)),
        ("msvc_toolset", "1.30", ("windows",)),
        ("arm64", "1.21", ()),
        ("arm64", "1.22", ("windows",)),
        ("use_dnnl", "1.21", ()),
    ],
)
def test_systems(name: str, version: str, systems: tuple[str, ...]) -> None:
    assert explain(name, version).platforms == systems


def test_since_122_another_systems_flags_are_unknown_to_the_parser() -> None:
    assert "refused as unknown" in explain("msvc_toolset", "1.22").note
    assert "refused as unknown" not in explain("msvc_toolset", "1.21").note


@pytest.mark.parametrize(
    ("version", "good", "bad"),
    [
        ("0.5.0", "VAD-R_FP16", "CPU"),
        ("1.5.1", "VAD-M_FP16", "HETERO:GPU,CPU"),
        ("1.9.0", "MULTI:MYRIAD,CPU", "AUTO:GPU,CPU"),
        ("1.10.0", "CPU_FP32_NO_PARTITION", "CPU_FP16"),
        ("1.14.0", "CPU_FP16", "VPUX_U8"),
        ("1.16.0", "VPUX_U8", "MYRIAD_FP16"),
        ("1.17", "GPU_FP16", "CPU"),
        ("1.18", "NPU_NO_PARTITION", "NPU_NO_CPU_FALLBACK"),
        ("1.21", "HETERO:GPU,CPU", "CPU_FP32"),
        ("1.30", "NPU_NO_CPU_FALLBACK", "HETERO:GPU"),
    ],
)
def test_openvino_values_by_version(version: str, good: str, bad: str) -> None:
    flag = flags_of(version)["use_openvino"]
    accepted = flag.accepted.accepts if flag.accepted else flag.choices.__contains__
    assert accepted(good)
    assert not accepted(bad)


def test_a_flag_that_came_back() -> None:
    told = explain("use_tvm", "1.5.1")
    assert (told.exists, told.spans) == (False, (("0.1.4", "1.4.0"), ("1.11.0", "1.20")))
    assert "existed in 0.1.4 to 1.4.0 and in 1.11.0 to 1.20" in text_of(told)


def test_known_versions_are_the_files() -> None:
    assert list(known_versions()) == VERSIONS
