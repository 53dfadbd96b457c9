"""From a source target to its build: what is asked, what plugins add, and what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ortforge.api import Allocator, Backend, BuildContext, BuildContribution, Device
from ortforge.build.common import common
from ortforge.build.compose import Contributor, compose
from ortforge.build.dependencies import dependencies as source_of
from ortforge.build.flags import problems_of
from ortforge.build.layout import CMAKE, OPERATORS
from ortforge.build.request import BuildRequest
from ortforge.build.toolchain import base_of, dockerfile_digest
from ortforge.build.vendor import digest as vendor_digest
from ortforge.errors import ConfigurationError, ExitCode, OrtforgeError
from ortforge.matrix import Matrix, SourceTarget
from ortforge.plugin_manager import Plugins
from ortforge.store.hashing import digest_json

STAGES: Final = frozenset({"build", "config", "parallel", "update"})

__all__ = ["build_request", "lay_out", "lay_out_source", "unbuilt"]

_TYPES: Final = "enable_reduced_operator_type_support"


def build_request(name: str, target: SourceTarget, matrix: Matrix, plugins: Plugins, device: Device) -> BuildRequest:
    """Compose the build of a source target.

    Reads patches and an operator list; starts nothing and touches no network.

    :raises ConfigurationError: an EP cannot be built for this version, two plugins disagree, a flag does not exist in
        this version or contradicts another.
    """
    scheme = target.source.partition(":")[0]
    dependencies = target.dependencies or plugins.sources[scheme].dependencies
    if dependencies == "vendored" and not target.vendor:
        raise ConfigurationError(
            f'target {name}: dependencies = "vendored" needs the folder that they lie in.',
            todo=f"Run 'ortforge vendor {name} --out DIR', and write vendor = \"DIR\" into the target.",
        )
    context = BuildContext(
        version=target.version,
        dependencies=dependencies,
        image=target.image,
        base=target.base or "",
        artifact=target.artifact,
        system="linux",
        machine=device.machine,
    )
    backends = [plugins.backends[use] for use in dict.fromkeys(["cpu", *(use.name for use in target.ep_uses)])]
    contributors = [_of_backend(name, backend, context) for backend in backends]
    contributors.insert(0, Contributor("every build", common(target.version, target.artifact)))
    contributors.append(Contributor(f"dependencies = {dependencies!r}", source_of(dependencies).contribution))
    allocator = plugins.allocators[target.allocator] if target.allocator else None
    preload = ""
    if allocator is not None:
        contributors.append(_of_allocator(name, allocator, context))
        # One that comes in by a flag, as in old versions, brings no library that could be loaded first.
        preload = allocator.preload if contributors[-1].contribution.bundle else ""
    reduced = _reduced(target)
    asked = BuildRequest(
        target=name,
        version=target.version,
        artifact=target.artifact,
        eps=tuple(backend.name for backend in backends),
        ep_names=tuple(backend.ep for backend in backends),
        allocator=target.allocator or "",
        preload=preload,
        flags={
            **{key: tuple(value) if isinstance(value, list) else value for key, value in target.flags.items()},
            **reduced,
        },
        defines=target.defines,
        dependencies=dependencies,
        image=target.image,
        base=target.base or "",
        python=target.python or "",
        distribution=target.distribution or "",
        local_version=target.local_version or "",
        operators=_operators(name, target, matrix.base),
        # With it, ORT's build reads types; without it, it leaves them out in silence.
        packages=("python3-flatbuffers",) if _TYPES in reduced and target.image != "manylinux" else (),
    )
    request = compose(asked, contributors)
    found = problems_of(request.flags, request.version, system="linux", artifact=request.artifact)
    if found:
        raise ConfigurationError(
            f"target {name} cannot be built as it stands:\n" + "\n".join(f"- {problem}" for problem in found),
            todo="'ortforge flags list --ort VERSION' shows what a version has.",
        )
    # Said and right, but the stages of a build and the number of jobs are ortforge's to choose, and change no result.
    return replace(request, flags={key: value for key, value in request.flags.items() if key not in STAGES})


def _reduced(target: SourceTarget) -> dict[str, str | bool]:
    """Return the flags of a build with a list of operators; one made from models has types in it, too."""
    if not target.operators:
        return {}
    flags: dict[str, str | bool] = {"include_ops_by_config": f"{CMAKE}/{OPERATORS}"}
    if target.operators == "from-models" and _TYPES not in target.flags:
        flags[_TYPES] = True
    return flags


def _of_backend(target: str, backend: Backend, context: BuildContext) -> Contributor:
    contribution = _asked(f"the {backend.name} backend", backend.build, context)
    if contribution is None and backend.plugin is None and backend.name != "cpu":
        raise ConfigurationError(
            f"target {target}: {backend.ep} cannot be built into ONNX Runtime {context.version}.",
            meant=f"It exists in versions {backend.versions}." if backend.versions else "",
            todo="Choose another version, or take the EP from a package.",
        )
    return Contributor(f"the {backend.name} backend", contribution or BuildContribution())


def _of_allocator(target: str, allocator: Allocator, context: BuildContext) -> Contributor:
    contribution = _asked(f"the allocator {allocator.name}", allocator.build, context)
    if contribution is None:
        raise ConfigurationError(
            f"target {target}: {allocator.name} cannot get into ONNX Runtime {context.version}.",
            meant="Its plugin names neither a flag of this version nor a library that comes with the wheel.",
            todo="Choose another allocator, or leave it out.",
        )
    return Contributor(f"the allocator {allocator.name}", contribution)


def _asked(who: str, build: Any, context: BuildContext) -> BuildContribution | None:
    try:
        given: BuildContribution | None = build(context)
    except OrtforgeError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"{who} could not say what a build of {context.version} needs: {type(error).__name__}: {error}",
            todo="'ortforge plugins list' says where it comes from.",
        ) from error
    return given


def _operators(name: str, target: SourceTarget, base: Path) -> str:
    """Return the operator list's text; ``from-models`` stays as it is until the models are known."""
    if target.operators in (None, "from-models"):
        return target.operators or ""
    path = base / target.operators
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"target {name}: the operator list {target.operators} cannot be read: {error.strerror}.",
            meant='operators is "from-models" or a file of lines such as "ai.onnx;12;Add,MatMul".',
        ) from None


def lay_out(
    name: str,
    matrix: Matrix,
    plugins: Plugins,
    device: Device,
    step: Callable[..., str],
    operators: str = "",
    until: str = "",
) -> tuple[str, str]:
    """Add the steps that build a source target, and return those that package it and that prove it.

    :param step: adds one step: ``(id, kind, parameters, inputs, after, context) -> id``. :param operators: the step
        that finds out which operators the matrix's models need, where only those are to be built.
    :param until: ``configure`` or ``compile``: the compilation ends after it, and its step is the last, for both.
    :raises ConfigurationError: see :func:`build_request`.
    """
    target = matrix.targets[name]
    assert isinstance(target, SourceTarget)
    request = build_request(name, target, matrix, plugins, device)
    source = lay_out_source(target, matrix, plugins, step)
    toolchain = {
        "image": target.image,
        "dockerfile": dockerfile_digest(target.image, matrix.base),
        "base": request.base,
        "packages": list(request.packages),
        "machine": device.machine,
    }
    image = step(
        f"image:{target.image}-{digest_json(toolchain)[:10]}", "image", toolchain, context={"base": str(matrix.base)}
    )
    parallel = target.flags.get("parallel")
    limits = {"memory": target.memory or 0, "jobs": target.jobs or (parallel if isinstance(parallel, int) else 0)}
    vendored = str(matrix.base / target.vendor) if target.vendor else ""
    compiled = step(
        f"compile:{name}",
        "compile",
        {
            **request.compile_parameters(),
            "cmake": digest_json(source_of(request.dependencies, request.eps).files),
            "vendored": vendor_digest(vendored),
            **({"until": until} if until else {}),
        },
        (source, image, *([operators] if operators else [])),
        context={"request": request.to_json(), "tree": request.tree(), "vendored": vendored, **limits},
    )
    if until:
        return compiled, compiled
    package = step(
        f"package:{name}",
        "package",
        request.package_parameters(),
        (compiled, source, image),
        context={"request": request.to_json()},
    )
    prove = step(
        f"prove:{name}",
        "prove",
        {
            "eps": list(request.ep_names),
            "not_run": not_run(request, plugins, device),
            "preload": request.preload,
            "artifact": request.artifact,
            **({"requires": sorted(target.requires)} if target.requires else {}),
        },
        (package,),
        context={"request": request.to_json(), "base": str(matrix.base)},
    )
    return package, prove


def not_run(request: BuildRequest, plugins: Plugins, device: Device) -> dict[str, str]:
    """Return the EPs of a build that no model can be run on here (by ORT's names), and why."""
    answers = {name: plugins.backends[name].availability(device) for name in request.eps}
    return {plugins.backends[name].ep: answer.reason for name, answer in answers.items() if not answer.usable}


def unbuilt(name: str, matrix: Matrix, plugins: Plugins, device: Device) -> str:
    """Return a sentence or two on a source target that a run here does not build, for want of a device."""
    target = matrix.targets[name]
    assert isinstance(target, SourceTarget)
    try:
        request = build_request(name, target, matrix, plugins, device)
        base = request.base or base_of(request.image, matrix.base)
    except ConfigurationError as error:
        said = " ".join(str(error).split("\n"))
        return said if said.startswith(f"target {name}") else f"target {name} cannot be built as it stands: {said}"
    return (
        f"target {name}: no cell of it runs on this device, so it is not built and not proven here. "
        f"'ortforge build {name}' builds it all the same (image {request.image} on {base}; dependencies: "
        f"{request.dependencies}); with '--until configure' it shows what is in force."
    )


def lay_out_source(target: SourceTarget, matrix: Matrix, plugins: Plugins, step: Callable[..., str]) -> str:
    """Add the step that brings a target's source, and return it; ``step`` is as for :func:`lay_out`."""
    scheme, _, reference = target.source.partition(":")
    fingerprint, refused, code = _fingerprint(plugins, scheme, reference, matrix.base)
    parameters = {
        "scheme": scheme,
        "reference": reference if scheme != "archive" else "",
        "fingerprint": fingerprint,
        "sha256": target.sha256 or "",
        "version": target.version,
    }
    return step(
        f"source:{target.source}-{digest_json(parameters)[:10]}",
        "source",
        parameters,
        context={
            "base": str(matrix.base),
            "reference": reference,
            "refused": refused,
            "refused_result": {"exit_code": int(code)},
        },
    )


def _fingerprint(plugins: Plugins, scheme: str, reference: str, base: Path) -> tuple[str, str, ExitCode]:
    """Return a source's fingerprint, or why it has none and with which exit code that ends."""
    try:
        return plugins.sources[scheme].fingerprint(reference, base), "", ExitCode.PASS
    except OrtforgeError as error:
        return "", str(error), error.exit_code
    except Exception as error:
        said = f"the plugin that resolves {scheme}:{reference} failed: {type(error).__name__}: {error}"
        return "", said, ExitCode.ENVIRONMENT
