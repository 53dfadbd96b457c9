"""Wheels for the tests of packaging, made with the standard library alone, and libraries made with the C compiler."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

CAPI = "onnxruntime/capi"
TAG = "cp313-cp313-linux_x86_64"

SYMBOLS_OF_GLIBC_2_34 = (
    "extern int pthread_create(void*, void*, void*, void*); int go(void) { return pthread_create(0,0,0,0); }"
)


def compile_library(
    path: Path, source: str = "int answer(void) { return 42; }", *flags: str, language: str = "c"
) -> Path:
    """Compile one source text into a shared library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    argv = ["gcc", "-shared", "-fPIC", "-O1", "-w", "-x", language, "-", "-x", "none", "-o", str(path), *flags]
    done = subprocess.run(argv, input=source, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


def record_line(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}\n"


def make_wheel(
    folder: Path,
    files: Mapping[str, bytes | Path],
    *,
    name: str = "onnxruntime",
    version: str = "1.21.0",
    tag: str = TAG,
    tags: Iterable[str] | None = None,
    metadata: str = "",
    record: str | None = None,
    purelib: bool = False,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Make a wheel that is right in everything but what the arguments make wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    python, abi, platforms = tag.split("-")
    info = f"{name}-{version}.dist-info"
    tags = [f"{python}-{abi}-{platform}" for platform in platforms.split(".")] if tags is None else tags
    content = {path: data.read_bytes() if isinstance(data, Path) else data for path, data in files.items()}
    content[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        f"Requires-Python: >=3.10\n{metadata}\nName: not this\n"
    ).encode()
    lines = [f"Tag: {tag}\n" for tag in tags]
    root = "true" if purelib else "false"
    content[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: {root}\n{''.join(lines)}".encode()
    )
    if record is None:
        record = "".join(record_line(path, data) for path, data in content.items()) + f"{info}/RECORD,,\n"
    content[f"{info}/RECORD"] = record.encode()
    wheel = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", compression) as archive:
        for path, data in content.items():
            archive.writestr(path, data)
    return wheel
