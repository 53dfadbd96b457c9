"""Makes the InferenceSession that a job describes, on every ORT from 1.16 on, plugin EPs included.

ORT prefers to go on in silence: an EP that it lacks becomes the CPU, a library that does not load becomes a warning.
Here each of these is an error with the EP's name in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import blame, nvidia
from .protocol import JobError

__all__ = ["Opened", "describe_device", "laid_over", "open_session", "register_plugin"]

_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}
"""GraphOptimizationLevel by the names used in jobs; the layout level exists since ORT 1.23."""


MODEL_FOLDER = "{model_folder}"
"""Stands, in a provider option that a pass gave, for the folder of the model."""

_REGISTERED: set[tuple[str, str]] = set()
"""Plugin EPs of this process, by registration and library: ORT takes each once, however many sessions use it."""

_SWITCHES = ("enable_cpu_mem_arena", "enable_mem_pattern")
"""Settings that jobs and ORT's SessionOptions call by the same name, on or off."""


@dataclass(frozen=True)
class Opened:
    """A session, and the name under which ORT knows the EP that was asked for (``""``: none in particular)."""

    session: Any
    ep: str


def laid_over(session: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return session options with others on top; configuration entries are merged one by one.

    >>> laid_over({"intra_op_threads": 2, "config": {"a": "1"}}, {"config": {"b": "1"}})
    {'intra_op_threads': 2, 'config': {'a': '1', 'b': '1'}}
    """
    merged = {**session, **more}
    if config := {**(session.get("config") or {}), **(more.get("config") or {})}:
        merged["config"] = config
    return merged


def open_session(
    ort: Any,
    model: str,
    providers: Sequence[Sequence[Any]],
    session: Mapping[str, Any],
    *,
    config: Mapping[str, str] | None = None,
    profile: str = "",
    samples: str | None = None,
    optimized: str = "",
) -> Opened:
    """Load a model on the EPs that were asked for.

    :param ort: the onnxruntime module. :param providers: ``[[EP name, {option: value}], …]``, the wanted EP first.
    :param session: the job's session options. :param config: further configuration entries, unless the job sets them.
    :param profile: prefix of the profile's file, or ``""`` not to profile.
    :param samples: samples folder that shows, where an EP does not load the model, whether the CPU EP runs it.
    :param optimized: where ORT writes the graph that it made of the model, or ``""``.
    :raises JobError: kind ``unsupported``, when the runtime lacks an EP or cannot capture the model as a CUDA graph,
        ``incompatible``, when the versions of EP and ORT do not go together, and ``failed``, when it dropped an EP
        that it has.
    """
    options = _session_options(ort, session, config or {})
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    if optimized:
        options.optimized_model_filepath = optimized
    if session.get("library") or session.get("module"):
        return _open_on_plugin(ort, model, providers, session, options, samples)
    # An artefact's own files, such as a calibration table, lie beside the model, wherever that is.
    beside = os.path.dirname(os.path.abspath(model))  # noqa: PTH100, PTH120
    wanted = [
        (str(name), {str(k): str(v).replace(MODEL_FOLDER, beside) for k, v in (given or {}).items()})
        for name, given in providers
    ]
    offered = ort.get_available_providers()
    for name, _ in wanted:
        if name not in offered:
            raise JobError(
                "unsupported",
                f"this onnxruntime {ort.__version__} has no {name}: it offers {', '.join(offered) or 'nothing'}",
            )
    names, settings = [name for name, _ in wanted], [given for _, given in wanted]
    nvidia.preload(ort, wanted)
    try:
        made = ort.InferenceSession(model, options, providers=names, provider_options=settings, enable_fallback=0)
    except Exception as error:
        if nvidia.captures(wanted) and (why := nvidia.refused_capture(error)):
            raise JobError("unsupported", why) from error
        if why := nvidia.absent_gpu(error):
            raise JobError("unsupported", why) from error
        # TensorRT's EP does not fall away: ORT refuses the session, and asks for the libraries without a name.
        if missing := next(filter(None, (nvidia.missing_library(ort, name) for name in names)), ""):
            raise JobError("failed", f"{names[0]} cannot be used: its library does not load ({missing})") from error
        if failure := blame.of_the_ep(model, names[0] if names else "", error, samples, session):
            raise failure from error
        raise
    in_force = made.get_providers()
    for name in names:
        if name not in in_force:
            missing = nvidia.missing_library(ort, name)
            why = f"Its library does not load ({missing})." if missing else "The log may say why."
            raise JobError(
                "failed",
                f"{name} fell away when the session was made, and {', '.join(in_force)} would have done its work. "
                f"{why}",
            )
    return Opened(made, names[0] if names else "")


def _session_options(ort: Any, session: Mapping[str, Any], config: Mapping[str, str]) -> Any:
    options = ort.SessionOptions()
    level = str(session.get("graph_optimization_level") or "all")
    if level not in _LEVELS:
        raise JobError("failed", f"unknown graph_optimization_level {level!r}: one of {', '.join(_LEVELS)}")
    if not hasattr(ort.GraphOptimizationLevel, _LEVELS[level]):
        raise JobError(
            "incompatible",
            f"onnxruntime {ort.__version__} has no graph optimization level {level!r} (1.23 and newer have).",
        )
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[level])
    if session.get("intra_op_threads") is not None:
        options.intra_op_num_threads = int(session["intra_op_threads"])
    if session.get("inter_op_threads") is not None:
        options.inter_op_num_threads = int(session["inter_op_threads"])
    if session.get("execution_mode") == "parallel":
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    for name in _SWITCHES:
        if session.get(name) is not None:
            setattr(options, name, bool(session[name]))
    for name, value in {**config, **(session.get("config") or {})}.items():
        options.add_session_config_entry(str(name), str(value))
    return options


def register_plugin(ort: Any, session: Mapping[str, Any]) -> str:
    """Register the plugin EP's library; return the name it was registered under.

    :raises JobError: kind ``unsupported``, when this ORT knows no plugin EPs or the library cannot be used.
    """
    if not hasattr(ort, "register_execution_provider_library"):
        raise JobError("incompatible", f"A plugin EP needs ONNX Runtime 1.23 or newer, and this is {ort.__version__}.")
    library = session.get("library")
    if not library:
        # The module brings the library; some preload what it needs when imported, which is why it is done here.
        import importlib

        module = str(session["module"])
        try:
            library = importlib.import_module(module).get_library_path()
        except ImportError as error:
            raise JobError("unsupported", f"the plugin EP's module {module} cannot be imported: {error}") from error
    registration = str(session.get("registration") or os.path.basename(str(library)))  # noqa: PTH119
    if (registration, str(library)) in _REGISTERED:
        return registration
    try:
        ort.register_execution_provider_library(registration, str(library))
    except Exception as error:
        kind = "incompatible" if re.search("API version|ort_version", str(error)) else "unsupported"
        raise JobError(
            kind, f"onnxruntime {ort.__version__} cannot register the plugin EP {registration}: {error}"
        ) from error
    _REGISTERED.add((registration, str(library)))
    return registration


def _open_on_plugin(
    ort: Any,
    model: str,
    providers: Sequence[Sequence[Any]],
    session: Mapping[str, Any],
    options: Any,
    samples: str | None,
) -> Opened:
    registration = register_plugin(ort, session)
    wanted, given = str(providers[0][0]), dict(providers[0][1] or {})
    # ORT takes the registration as the EP's name for some EPs; others keep their own.
    everything = ort.get_ep_devices()
    devices = [device for device in everything if device.ep_name in (wanted, registration)]
    if not devices:
        others = ", ".join(sorted({device.ep_name for device in everything})) or "none"
        raise JobError(
            "unsupported",
            f"the plugin EP {wanted} is registered and offers no device here (EPs with devices: {others})",
        )
    options.add_provider_for_devices(devices[:1], {str(key): str(value) for key, value in given.items()})
    name = str(devices[0].ep_name)
    try:
        made = ort.InferenceSession(model, options, enable_fallback=0)
    except Exception as error:
        if failure := blame.of_the_ep(model, name, error, samples, session):
            raise failure from error
        raise
    if name not in made.get_providers():
        raise JobError("unsupported", f"{name} fell away when the session was made. The log may say why.")
    return Opened(made, name)


def describe_device(device: Any) -> dict[str, Any]:
    """Return an ``OrtEpDevice`` as JSON: EP name and vendor, and the hardware it stands for."""
    hardware = device.device
    return {
        "ep": device.ep_name,
        "ep_vendor": device.ep_vendor,
        "type": str(hardware.type).rsplit(".", 1)[-1].lower(),
        "vendor": hardware.vendor,
        "vendor_id": hardware.vendor_id,
        "device_id": hardware.device_id,
        "metadata": {str(key): str(value) for key, value in dict(device.ep_metadata).items()},
    }
