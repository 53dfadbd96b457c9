"""Wheels are repaired in the real toolchain image, by the real auditwheel, where its environment could mislead it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import LABEL
from package_sample import make_wheel

from ortforge.build import layout
from ortforge.build.request import BuildRequest
from ortforge.container import ContainerSpec, Engine
from ortforge.engine.steps import package
from ortforge.engine.work import ready
from ortforge.errors import BuildError

LIBRARIES = """
mkdir -p /opt/sdk /opt/wheel
cd /opt/wheel
echo 'int b(void) { return 1; }' | gcc -shared -fPIC -x c - -Wl,-soname,libbundled.so.1 -o libbundled.so.1
echo 'int d(void) { return 1; }' | gcc -shared -fPIC -x c - -Wl,-soname,libsdk.so.1 -o /opt/sdk/libsdk.so.1
cp libbundled.so.1 /opt/sdk
echo 'int b(void); int p(void) { return b(); }' > p.c
gcc -shared -fPIC p.c libbundled.so.1 -Wl,-rpath,'$ORIGIN' -o libprovider.so
echo 'int d(void); int p(void) { return d(); }' > q.c
gcc -shared -fPIC q.c /opt/sdk/libsdk.so.1 -o libother.so
"""
"""A library that the wheel bundles beside the one that needs it; one that only the compilers' folder has."""


@pytest.fixture(scope="module")
def image(engine: Engine, toolchain_image: str) -> Iterator[str]:
    """An image whose LD_LIBRARY_PATH names an SDK, as OpenVINO's does."""
    text = f"FROM {toolchain_image}\nENV LD_LIBRARY_PATH=/opt/sdk\nCOPY make /\nRUN sh -eu /make\n"
    files = {"Dockerfile": text.encode(), "make": LIBRARIES.encode()}
    image = engine.build_image(files, dockerfile="Dockerfile", arguments={}, labels={LABEL: "1"}, say=print)
    yield image
    engine.api.remove_image(image, force=True)


def wheel_of(engine: Engine, image: str, tmp_path: Path, *names: str) -> Path:
    with engine.open(ContainerSpec(image=image, labels={LABEL: "1"})) as container:
        container.get("/opt/wheel", tmp_path)
    files: dict[str, bytes | Path] = {f"onnxruntime/capi/{name}": tmp_path / "wheel" / name for name in names}
    return make_wheel(tmp_path, {"onnxruntime/__init__.py": b"", **files})


def test_what_the_wheel_bundles_is_not_copied_from_there(engine: Engine, image: str, tmp_path: Path) -> None:
    wheel = wheel_of(engine, image, tmp_path, "libprovider.so", "libbundled.so.1")
    request = BuildRequest("t", "1.21.0", bundle=("libbundled.so.*",))
    work = ready(str(tmp_path / "store"))
    repaired, _, grafted = package._repair(request, wheel, tmp_path / "out", image, "compiled", work)
    assert grafted == {}
    with zipfile.ZipFile(repaired) as archive:
        assert [name for name in archive.namelist() if "libbundled" in name] == ["onnxruntime/capi/libbundled.so.1"]
    assert engine.api.containers(all=True, filters={"label": f"{layout.PACKAGING}=compiled"}) == []


def test_what_only_the_compilers_find_is_missed(engine: Engine, image: str, tmp_path: Path) -> None:
    wheel = wheel_of(engine, image, tmp_path, "libother.so")
    work = ready(str(tmp_path / "store"))
    with pytest.raises(BuildError, match=r"needs libsdk\.so\.1, which is nowhere in the toolchain image"):
        package._repair(BuildRequest("t", "1.21.0"), wheel, tmp_path / "out", image, "compiled", work)
