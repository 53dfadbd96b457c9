"""A ``simple/`` index beside wheels: a folder that pip and uv install from, with or without a web server (PEP 503)."""

from __future__ import annotations

import hashlib
import html
from pathlib import Path
from urllib.parse import quote

from packaging.utils import canonicalize_name

from ortforge.build.package.archive import open_wheel

__all__ = ["write_index"]

_PAGE = """<!DOCTYPE html>
<html>
<head><meta name="pypi:repository-version" content="1.0"><title>{title}</title></head>
<body>
{lines}
</body>
</html>
"""


def write_index(folder: Path) -> Path:
    """Write ``simple/`` for all wheels that lie in a folder, and return it.

    Links are relative, so that the folder can be moved. Beside each wheel lies its metadata, so that a resolver need
    not read the wheel (PEP 658, PEP 714). What a former index listed and is no longer there disappears from it.

    ``pip install --index-url file:///the/folder/simple --no-deps NAME``

    :raises BuildError: one of the wheels is damaged.
    """
    projects: dict[str, list[str]] = {}
    for wheel in sorted(folder.glob("*.whl")):
        with open_wheel(wheel) as opened:
            project: str = canonicalize_name(str(opened.headers("METADATA")["Name"]))
            metadata = opened.read(f"{opened.dist_info}/METADATA")
            requires = str(opened.headers("METADATA").get("Requires-Python", ""))
        wheel.with_name(f"{wheel.name}.metadata").write_bytes(metadata)
        projects.setdefault(project, []).append(_link(wheel, hashlib.sha256(metadata).hexdigest(), requires))
    simple = folder / "simple"
    simple.mkdir(exist_ok=True)
    for known in simple.iterdir():
        if known.is_dir() and known.name not in projects:
            (known / "index.html").unlink(missing_ok=True)
            known.rmdir()
    for project, links in projects.items():
        (simple / project).mkdir(exist_ok=True)
        _write(simple / project, f"Links for {project}", links)
    _write(simple, "Simple index", [f'<a href="{name}/">{name}</a><br>' for name in sorted(projects)])
    return simple


def _link(wheel: Path, metadata: str, requires: str) -> str:
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    attributes = [f'href="../../{quote(wheel.name)}#sha256={digest}"']
    if requires:
        attributes.append(f'data-requires-python="{html.escape(requires)}"')
    attributes += [f'data-{name}="sha256={metadata}"' for name in ("core-metadata", "dist-info-metadata")]
    return f"<a {' '.join(attributes)}>{html.escape(wheel.name)}</a><br>"


def _write(folder: Path, title: str, lines: list[str]) -> None:
    text = _PAGE.format(title=html.escape(title), lines="\n".join(lines))
    (folder / "index.html").write_text(text, encoding="utf-8")
