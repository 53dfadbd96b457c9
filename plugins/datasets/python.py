"""``python:`` datasets: samples that a function of the user's makes, in a runtime's tools environment.

``python:FILE.py:function`` takes a file relative to the folder of matrix.toml, ``python:module:function`` a module that
can be imported there (from that folder, or from what ``requires`` names). The function yields ``{input: array}`` or
``({input: array}, label)``, or returns an object with ``get_next()`` (the CalibrationDataReader protocol of
onnxruntime.quantization). It is called with those of ``limit``, ``seed``, ``split`` (``"validation"`` or
``"calibration"``), ``inputs`` and ``options`` that it takes, by name.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ortforge.api import DatasetSource


def ortforge_datasets() -> list[DatasetSource]:
    """Give ``python:``."""
    from ortforge.api import DatasetSource

    return [
        DatasetSource(
            scheme="python",
            summary="a function that yields samples, from a file or a module",
            example="python:data/inputs.py:validation",
            module=__file__,
            fingerprint=fingerprint,
            runs_user_code=True,
        )
    ]


def fingerprint(reference: str, base: Path) -> str:
    """Return a digest of the file that defines the function, or of the module's file below ``base``.

    Modules that it imports and files that it reads are recorded while the samples are made, and checked before they are
    used again. A module of an installed distribution is known by its name alone: its version is part of ``requires``.

    :raises FetchError: the reference has no function, or the file does not exist.
    """
    from ortforge.api import FetchError, nearest

    place, _, function = reference.rpartition(":")
    if not place or not function.isidentifier():
        raise FetchError(
            f"python:{reference} names no function.",
            meant=f"Perhaps python:{function}:NAME was meant." if function and not place else "",
            todo="Write python:FILE.py:FUNCTION or python:MODULE:FUNCTION.",
        )
    if place.endswith(".py"):
        path = base / place
        if not path.is_file():
            close = nearest(path.name, [file.name for file in path.parent.glob("*.py")])
            raise FetchError(
                f"The file {path} does not exist.",
                meant=f"Perhaps {close} was meant." if close else "",
                todo="Correct the path; it is relative to the folder of matrix.toml.",
            )
        return _digest([path], path.parent, reference)
    module = base.joinpath(*place.split("."))
    candidates = (module.with_suffix(".py"), module / "__init__.py")
    return _digest([file for file in candidates if file.is_file()], base, reference)


def _digest(files: Iterable[Path], root: Path, reference: str) -> str:
    total = hashlib.blake2b(reference.encode() + b"\n", digest_size=32)
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(root).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


# In a tools environment: numpy and onnx are there, ortforge is not.


def materialize(job: Any) -> dict[str, Any]:
    """Call the function and write what it gives, at most ``job.limit`` samples.

    :raises ImportError, ValueError: it cannot be called, or gives no samples of the
        model's inputs; the message says why.
    :raises RuntimeError: the function itself raised; the message has the exception, the file and the line.
    """
    function = _function(job.reference, Path(job.base))
    inputs = {entry["name"]: entry for entry in job.inputs}
    options = dict(job.options)
    offered = {
        "limit": job.limit,
        "seed": options.pop("seed", 0),
        "split": options.pop("split", "validation"),
        "inputs": [dict(entry) for entry in job.inputs],
        "options": options,
    }
    count = 0
    accepted = _accepted(function, offered)
    with _named_errors(job.reference):
        result = function(**accepted)
    for count, given in enumerate(_guarded(_given(result, job.reference), job.reference), 1):
        feeds, label = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        job.write(_feeds(feeds, inputs, job.reference), _plain(label))
        if job.limit and count >= job.limit:
            break
    if not count:
        raise ValueError(f"python:{job.reference} gave no samples")
    return {"random": False}


@contextmanager
def _named_errors(reference: str) -> Iterator[None]:
    """Say of what the user's code raises what it is and where, as a traceback would."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise RuntimeError(
            f"python:{reference} raised {type(error).__name__}: {error} ({Path(frame.filename).name}, line "
            f"{frame.lineno})"
        ) from error


def _guarded(given: Iterator[Any], reference: str) -> Iterator[Any]:
    while True:
        with _named_errors(reference):
            try:
                item = next(given)
            except StopIteration:
                return
        yield item


def _function(reference: str, base: Path) -> Callable[..., Any]:
    place, _, name = reference.rpartition(":")
    if place.endswith(".py"):
        module = _file_module(base / place)
    else:
        sys.path.insert(0, str(base))
        module = importlib.import_module(place)
    found = getattr(module, name, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    known = [entry for entry, value in vars(module).items() if callable(value) and not entry.startswith("_")]
    close = get_close_matches(name, known, n=1)
    raise ValueError(f"{place} has no function {name}" + (f"; perhaps {close[0]} was meant" if close else ""))


def _file_module(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"the file {path} does not exist")
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _accepted(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(offered)
    by_name = {entry.name for entry in parameters if entry.kind in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY)}
    needed = [
        entry.name for entry in parameters if entry.default is entry.empty and entry.kind is not entry.VAR_POSITIONAL
    ]
    strange = [name for name in needed if name not in offered]
    if strange:
        raise ValueError(f"{function.__name__} needs {', '.join(strange)}; it can be given {', '.join(offered)}")
    return {name: value for name, value in offered.items() if name in by_name}


def _given(result: Any, reference: str) -> Iterator[Any]:
    """Iterate what the function returned: an iterable, or a CalibrationDataReader's ``get_next`` until ``None``."""
    if hasattr(result, "get_next"):
        return iter(result.get_next, None)
    if isinstance(result, Mapping) or not isinstance(result, Iterable):
        raise ValueError(
            f"python:{reference} returned a {type(result).__name__}; it must yield dicts or (dict, label), "
            "or return an object with get_next()"
        )
    return iter(result)


def _feeds(feeds: Any, inputs: Mapping[str, Any], reference: str) -> dict[str, Any]:
    import numpy as np

    if not isinstance(feeds, Mapping):
        raise ValueError(
            f"python:{reference} gave a {type(feeds).__name__}; a sample is a dict from input name to array"
        )
    strange = [str(name) for name in feeds if name not in inputs]
    if strange:
        close = get_close_matches(strange[0], inputs, n=1)
        hint = f"; perhaps {close[0]} was meant" if close else ""
        raise ValueError(
            f"python:{reference} gave {strange[0]}, which is no input of the model ({', '.join(inputs)}){hint}"
        )
    missing = [name for name, entry in inputs.items() if name not in feeds and "optional" not in str(entry["dtype"])]
    if missing:
        raise ValueError(f"python:{reference} gave no {', '.join(missing)}, which the model needs")
    # Sequences (lists of arrays), maps (dicts) and absent optionals (None) are taken apart by what writes the samples.
    arrays = {
        name: value if "(" in str(inputs[name]["dtype"]).removeprefix("tensor(") else np.asarray(value)
        for name, value in feeds.items()
    }
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and array.dtype == object:
            if not all(isinstance(item, str) for item in array.flat):
                raise ValueError(
                    f"python:{reference} gave Python objects for {name}; an array of numbers or strings is needed"
                )
            arrays[name] = array.astype(str)
    return arrays


def _plain(label: Any) -> Any:
    """Return a label as a JSON value: numpy's scalars and arrays become Python's."""
    return label.tolist() if hasattr(label, "tolist") else label
