"""What the tests with a container engine share: the engine, and images that are made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import BASE, LABEL, required

from ortforge.build import toolchain
from ortforge.build.source import store_tree
from ortforge.build.toolchain import build_toolchain, ensure_base
from ortforge.container import ContainerSpec, Engine, connect
from ortforge.engine.steps.source import SourceFetcher
from ortforge.errors import EnvironmentLacksError
from ortforge.plugin_manager import Plugins

VERSION = "1.21.0"
"""Of the ONNX Runtime that Debian trixie has."""


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    try:
        engine = connect()
    except EnvironmentLacksError as error:
        if required():
            raise
        pytest.skip(f"no container engine: {error.what}")
    yield engine
    engine.sweep(LABEL)
    for volume in engine.volumes(LABEL):
        engine.remove_volume(volume.name)


@pytest.fixture(scope="session")
def base_image(engine: Engine) -> str:
    """A plain Debian, made of its packages where no registry gives it."""
    return ensure_base(engine, BASE, print).id


@pytest.fixture(scope="session")
def toolchain_image(engine: Engine, base_image: str) -> str:
    """The image that builds run in; the engine's layer cache has it after the first time."""
    parameters = {"image": "debian", "base": "", "packages": [], "machine": engine.facts.machine}
    return build_toolchain(engine, parameters, print, base_folder=Path())[0]


@pytest.fixture(scope="session")
def proof_image(engine: Engine, base_image: str) -> str:
    """The clean image that wheels are proven in."""
    return toolchain.proof_image(engine, BASE, print)


@pytest.fixture(scope="session")
def real_source(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's source package of ONNX Runtime, as the store keeps it."""
    folder = tmp_path_factory.mktemp("source")
    context = SourceFetcher(workdir=folder / "fetch", base=folder, sha256="", version=VERSION, say=print)
    context.workdir.mkdir()
    fetched = Plugins(third_party=False).sources["debian"].fetch("trixie", context)
    store_tree(context.unpack(fetched.path), folder / "object", version=VERSION)
    return folder / "object"


@pytest.fixture
def spec(base_image: str) -> ContainerSpec:
    """A container of a user who is not root."""
    return ContainerSpec(image=base_image, user="1234:1234", labels={LABEL: "1"})
