"""Loads a plugin's module by path: it is a file of ortforge's side, run where ortforge is not installed."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from .protocol import JobError

__all__ = ["load_module"]


def load_module(path: str | Path, function: str) -> ModuleType:
    """Import the file at ``path``. Files and packages beside it are imported relatively, or by their names.

    :param function: what the module must define.
    :raises JobError: it cannot be imported, or lacks the function.
    """
    file = Path(path)
    # At the end: a plugin file called like a package (optimize.py, float16.py …) must not hide that package.
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(f"{_package(file.parent)}.{file.stem}", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise JobError("failed", f"there is no Python file {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise JobError(
            "failed",
            f"{file.name} imports {error.name}, which this environment lacks: "
            "the plugin should name it in its requires",
        ) from error
    if not callable(getattr(module, function, None)):
        raise JobError("failed", f"{file.name} does not define {function}(job)")
    return module


def _package(folder: Path) -> str:
    """Return the name of a package that stands for a folder. Its own ``__init__.py`` may need ortforge and is not run.

    The folders above it are left out: a worker in a container does not see them.
    """
    name = f"ortforge_modules_{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return name
