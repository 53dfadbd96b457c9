"""From a Matrix to a plan: which steps there are, and what each one's result depends on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ortforge.api import Backend, Device
from ortforge.errors import ConfigurationError, OrtforgeError
from ortforge.matrix import CellSpec, DatasetConfig, EpUse, Matrix, cells
from ortforge.plan.code import code_of, module_digest
from ortforge.plan.graph import Cell, Kind, Plan, Step
from ortforge.plan.locked_targets import REFERENCE_NAME, LockedTargets
from ortforge.plan.refusals import Refusals
from ortforge.plugin_manager import Plugins
from ortforge.portable.cpu_tiers import DEFAULT, expand, other_arithmetic, tier_of
from ortforge.runtime import device as devices
from ortforge.runtime.driver_variables import driver_variables
from ortforge.runtime.index_settings import index_digest
from ortforge.store.hashing import digest_json, sha256_file
from ortforge.verdict.tolerance import Tolerance
from ortforge.worker.session import laid_over

__all__ = ["REFERENCE", "TOOLS", "BuildPlan", "make_build_plan", "make_plan"]

TOOLS: Final = ("onnx>=1.17",)
"""What every tools environment holds beside the runtime."""

REFERENCE: Final = REFERENCE_NAME
"""The runtime that gives the reference outputs."""

FULL: Final = "@full-"
"""Names the published runtime of a version, whose tools serve reduced builds of that version."""

_REFERENCE_SESSION: Final[Mapping[str, Any]] = {"graph_optimization_level": "disable"}


def make_plan(matrix: Matrix, plugins: Plugins, device: Device, *, worker: str) -> Plan:
    """Turn a matrix into steps and cells for the device at hand.

    Reads local files to fingerprint them; starts nothing and touches no network. A local file that cannot be read is
    the failure of its step, not of the plan.

    :param worker: digest of the worker's sources, part of the key of every step that a worker does.
    """
    planner = _Planner(matrix, plugins, device, worker)
    planned = tuple(planner.cell(spec) for spec in cells(matrix))
    if not matrix.models:  # a file for building wheels
        for target in matrix.targets:
            planner.build(target)
    planner.note_builds({cell.target for cell in planned})
    planner.note_variables()
    planner.notes += planner.locked.unlocked.values()
    return Plan(planner.steps, planned, matrix.digest, (*matrix.warnings, *planner.notes))


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """The steps that build source targets; ``targets`` names for each those that package and prove it."""

    steps: Mapping[str, Step]
    targets: Mapping[str, tuple[str, str]]


def make_build_plan(
    matrix: Matrix, plugins: Plugins, device: Device, targets: Sequence[str], *, worker: str, until: str = ""
) -> BuildPlan:
    """Lay out the builds of source targets alone.

    :param until: see :func:`ortforge.plan.building.lay_out`.
    :raises ConfigurationError: a target asks for what cannot be built.
    """
    planner = _Planner(matrix, plugins, device, worker)
    for target in targets:
        planner.build(target, until)
    return BuildPlan(planner.steps, planner.builds)


@dataclass(slots=True)
class _Planner:
    """Collects steps while cells are laid out; each method returns the id of the step it stands for."""

    matrix: Matrix
    plugins: Plugins
    device: Device
    worker: str
    steps: dict[str, Step] = field(default_factory=dict)
    device_identity: str = ""
    cpu_flags: list[str] = field(default_factory=list)
    refusals: Refusals = field(init=False)
    locked: LockedTargets = field(init=False)
    sessions: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    builds: dict[str, tuple[str, str]] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    baselines: dict[str, tuple[str, EpUse]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device_identity = devices.identity(self.device)
        self.cpu_flags = sorted(self.device.cpu_flags)
        self.refusals = Refusals(self.matrix, self.plugins, self.device)
        self.locked = LockedTargets(self.matrix, self.device)

    def step(
        self,
        name: str,
        kind: Kind,
        parameters: Mapping[str, Any],
        inputs: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        context: Mapping[str, Any] | None = None,
    ) -> str:
        self.steps[name] = Step(name, kind, parameters, inputs, after, context or {})
        return name

    # Runtimes

    def provision(self, target: str) -> str:
        name = f"provision:{target}"
        if name in self.steps:
            return name
        wheels: list[Path] = []
        digests: list[list[str]] = []
        refused, where = "", "auto"
        inputs: tuple[str, ...] = ()
        after: tuple[str, ...] = ()
        if target == REFERENCE:
            requires, python = self.matrix.reference.requires, self.matrix.reference.python
        elif target.startswith(FULL):
            requires, python = (f"onnxruntime=={target.removeprefix(FULL)}",), None
        else:
            config = self.matrix.targets[target]
            requires, python = getattr(config, "requires", ()), config.python
            where = config.container
            if config.from_ == "source":
                package, prove = self.build(target)
                inputs, after = (package,), (prove,)
            elif config.from_ == "wheel":
                wheels = [self.matrix.base / config.wheel]
                found, refused = _wheel_digest(wheels[0])
                digests = [[wheels[0].name, found]]
                if found and config.sha256 and config.sha256.lower() != found:
                    refused = (
                        f"{config.wheel} is not what its sha256 says: {config.sha256} was asked for, {found} is there"
                    )
        parameters: dict[str, Any] = {
            "requires": sorted(requires),
            "wheels": digests,
            "python": python or "",
            # Without a wish for one, it is the Python that ortforge runs on.
            "here": "" if python else f"{sys.implementation.name} {sys.version}",
            "platform": f"{self.device.system}-{self.device.machine}",
            "worker": self.worker,
            "container": where,
            **self.index(),
        }
        context: dict[str, Any] = {
            "requires": list(requires),
            "python": python or "",
            "wheels": [str(wheel) for wheel in wheels],
        }
        context["refused"] = refused
        pins = self.locked.pins(target)
        if pins:
            context["locked"] = parameters["locked"] = [[pin.name, pin.version, list(pin.wheels)] for pin in pins]
        return self.step(name, "provision", parameters, inputs, after, context)

    def index(self) -> dict[str, str]:
        """Return what identifies the package indexes, where they are not uv's default."""
        digest = index_digest(os.environ)
        return {"index": digest} if digest else {}

    def build(self, target: str, until: str = "") -> tuple[str, str]:
        """Return the steps that package a source target's wheel and that prove it."""
        from ortforge.plan.building import lay_out  # most matrices build nothing

        if target not in self.builds:
            needed = self.operators(target)
            self.builds[target] = lay_out(target, self.matrix, self.plugins, self.device, self.step, needed, until)
        return self.builds[target]

    def note_builds(self, targets: Collection[str]) -> None:
        """Say what this device leaves open: EPs that no wheel is proven on, and targets that are not built at all."""
        for target, (_, prove) in sorted(self.builds.items()):
            for ep, why in self.steps[prove].parameters["not_run"].items():
                self.notes.append(f"target {target}: its wheel is not proven on {ep} here: {why}")
        for target in sorted(targets):
            if self.matrix.targets[target].from_ == "source" and target not in self.builds:
                from ortforge.plan.building import unbuilt

                self.notes.append(unbuilt(target, self.matrix, self.plugins, self.device))

    def note_variables(self) -> None:
        """Name the environment variables that are part of keys."""
        names = {name for step in self.steps.values() for name in step.parameters.get("variables", ())}
        if names:
            self.notes.append(
                f"results depend on these environment variables, which are set here: {', '.join(sorted(names))}"
            )

    def operators(self, target: str) -> str:
        """Return the step that finds out which operators the target's cells need, if only those are to be built."""
        if not self.is_reduced(target):
            return ""
        config = self.matrix.targets[target]
        specs = [spec for spec in cells(self.matrix) if spec.target == target and not self.refusals.of(spec)]
        if not specs:
            raise ConfigurationError(
                f'target {target}: operators = "from-models", and no cell of the matrix runs a model on it.',
                todo="Add the target to a [[matrix]] entry, or give it a list of operators.",
            )
        made = [self.transforms(spec) or (self.fetch(spec.model),) for spec in specs]
        artefacts = dict.fromkeys(path[-1] for path in made)
        inputs = (self.tools(self.maker(target)), *artefacts)
        parameters = {"version": getattr(config, "version", ""), "worker": self.worker}
        return self.step(f"operators:{target}", "operators", parameters, inputs)

    def is_reduced(self, target: str) -> bool:
        """Say whether a target is built with the operators of the matrix's models only."""
        config = self.matrix.targets.get(target)
        return config is not None and getattr(config, "operators", None) == "from-models"

    def maker(self, target: str) -> str:
        """Return the runtime whose tools make the target's artefacts: its own, unless that lacks operators.

        A reduced build is made for the artefacts, so they come from the published wheel of the same version.
        """
        if not self.is_reduced(target):
            return target
        version: str = getattr(self.matrix.targets[target], "version", "")
        return FULL + version

    def tools(self, target: str, extra: Sequence[str] = ()) -> str:
        bare = self.provision(target)
        requires = sorted({*TOOLS, *extra})
        suffix = "" if requires == sorted(TOOLS) else "+" + ",".join(sorted(extra))
        name = f"tools:{target}{suffix}"
        if name not in self.steps:
            context = self.steps[bare].context
            # The bare runtime's wheel, where it was built, is needed again.
            inputs = (bare, *self.steps[bare].inputs)
            self.step(
                name,
                "provision",
                {"extra": requires, "worker": self.worker, **self.index()},
                inputs,
                context=context,
            )
        return name

    # Models and data

    def fetch(self, model: str) -> str:
        name = f"fetch:{model}"
        if name in self.steps:
            return name
        config = self.matrix.models[model]
        scheme, _, reference = config.path.partition(":")
        resolver = self.plugins.models[scheme]
        fingerprint, refused = self.fingerprint(resolver.fingerprint, reference)
        parameters: dict[str, Any] = {
            "reference": reference if scheme != "path" else "",
            "scheme": scheme,
            "fingerprint": fingerprint,
            "sha256": config.sha256 or "",
            "owner": self.stranger("models", scheme),
        }
        context: dict[str, Any] = {"base": str(self.matrix.base), "reference": reference, "refused": refused}
        if config.custom_ops:
            paths = [self.matrix.base / text.partition(":")[2] for text in config.custom_ops]
            digests, missing = _library_digests(paths)
            parameters["custom_ops"] = digests
            context |= {"custom_ops": [str(path) for path in paths], "refused": refused or missing}
        return self.step(name, "fetch", parameters, context=context)

    def code(self, module: str) -> str:
        if module not in self.codes:
            self.codes[module] = module_digest(module)
        return self.codes[module]

    def stranger(self, kind: str, name: str) -> list[str]:
        """Return who gives a thing when another distribution does: its version may change what its files don't show."""
        owner = self.plugins.owner(kind, name)
        return [] if owner[1] == "ortforge" else list(owner)

    def fingerprint(self, make: Callable[[str, Path], str], reference: str) -> tuple[str, str]:
        """Fingerprint a reference; a bad one is the step's failure later, not the end of its siblings."""
        try:
            return make(reference, self.matrix.base), ""
        except OrtforgeError as error:
            return "", str(error)
        except Exception as error:
            return "", f"the plugin that resolves {reference!r} failed: {type(error).__name__}: {error}"

    def inspect(self, model: str) -> str:
        return self.step(
            f"inspect:{model}", "inspect", {"worker": self.worker}, (self.fetch(model), self.tools(REFERENCE))
        )

    def dataset(self, model: str, split: str) -> str:
        name = f"dataset:{model}/{split}"
        if name in self.steps:
            return name
        config = self.data(model, split)
        scheme, _, reference = config.source.partition(":")
        source = self.plugins.datasets[scheme]
        fingerprint, refused = self.fingerprint(source.fingerprint, reference)
        parameters = {
            "scheme": scheme,
            "reference": reference if scheme != "path" else "",
            "fingerprint": fingerprint,
            "module": self.code(source.module),
            "owner": self.stranger("datasets", scheme),
            "options": {"seed": config.seed, "split": split, **config.options},
            "limit": config.limit or self.matrix.limits.samples,
            "worker": self.worker,
        }
        context: dict[str, Any] = {"base": str(self.matrix.base), "reference": reference, "refused": refused}
        context["limits"] = self.limits("pass_s")
        inputs = (self.inspect(model), self.tools(REFERENCE, config.requires))
        return self.step(name, "dataset", parameters, inputs, context=context)

    def data(self, model: str, split: str) -> DatasetConfig:
        config = self.matrix.models[model]
        chosen = config.validation if split == "validation" else config.calibration
        return chosen or DatasetConfig(source="random:")

    def reference(self, model: str) -> str:
        name = f"reference:{model}"
        if name in self.steps:
            return name
        parameters = {
            "session": _REFERENCE_SESSION,
            "device": self.device_identity,
            "variables": driver_variables(os.environ),
            "worker": self.worker,
        }
        # The tools see which branches the samples take.
        tools = (self.inspect(model), self.tools(REFERENCE))
        inputs = (self.fetch(model), self.provision(REFERENCE), self.dataset(model, "validation"), *tools)
        return self.step(name, "reference", parameters, inputs, context={"limits": self.limits("run_s")})

    # Recipes

    def transforms(self, spec: CellSpec) -> tuple[str, ...]:
        """Lay out one step per pass; recipes that begin with the same passes share those steps."""
        made: list[str] = []
        model, path = self.fetch(spec.model), spec.model
        backend = self.plugins.backends[spec.ep.name]
        maker = where = self.maker(spec.target)
        for use in self.matrix.recipes[spec.recipe].passes:
            known = self.plugins.passes[use.use]
            parameters: dict[str, Any] = {
                "pass": use.use,
                "parameters": use.parameters,
                "module": self.code(known.module),
                "owner": self.stranger("passes", use.use),
                "suffix": known.suffix,
                "variables": driver_variables(os.environ),
                "worker": self.worker,
            }
            if known.per_ep(use.typed) if callable(known.per_ep) else known.per_ep:
                where = f"{maker}:{spec.ep.label}{self.session_mark(spec)}"  # so is all that is made from it
                parameters |= {
                    "ep": backend.name,
                    "providers": self.session(spec)["providers"],
                    "cpu_flags": self.cpu_flags,
                }
            elif backend.ep != "CPUExecutionProvider" and known.kind in ("quantize", "convert"):
                # Whether its result has kernels is asked of the cell's EP: the answer is no other EP's.
                where = f"{maker}:{spec.ep.label}{self.session_mark(spec)}"
                parameters |= {"ep": backend.name, "providers": self.session(spec)["providers"]}
            if known.measures:
                where = f"{maker}:{spec.ep.label}{self.session_mark(spec)}"
                tolerance = asdict(Tolerance(**self.tolerance(spec.model)))
                parameters["measures"] = {**self.session(spec), "tolerance": tolerance}
                if other := other_arithmetic(tier_of(self.cpu_flags), self.required_tiers(spec.model)):
                    parameters["measures"]["other_arithmetic"] = other
            if "ep" in parameters or "measures" in parameters:
                parameters["variables"] = driver_variables(os.environ, backend.variables)
            path = f"{path}/{use.use}" if not use.parameters else f"{path}/{use.use}-{digest_json(use.parameters)[:10]}"
            name = f"transform:{path}@{where}"
            if name not in self.steps:
                inputs = [model, self.tools(maker, known.requires)]
                if known.calibrates(use.typed, self.matrix.models[spec.model].calibration is not None):
                    inputs.append(self.dataset(spec.model, "calibration"))
                context: dict[str, Any] = {"limits": self.limits("pass_s"), "module": known.module}
                if "providers" in parameters or "measures" in parameters:
                    context["address_space"] = backend.address_space_limit
                self.step(name, "transform", parameters, tuple(inputs), context=context)
            model = name
            made.append(name)
        return tuple(made)

    # Cells

    def session_mark(self, spec: CellSpec) -> str:
        """Return what tells a recipe's own session options from others', or ``""`` where it has none."""
        own = self.matrix.recipes[spec.recipe].session.given()
        return f"+{digest_json(own)[:10]}" if own else ""

    def session(self, spec: CellSpec) -> dict[str, Any]:
        """Return how a session is made for this target, EP and recipe: the same dict for all cells that share it."""
        key = (spec.target, spec.ep.label, self.session_mark(spec))
        if key not in self.sessions:
            backend = self.plugins.backends[spec.ep.name]
            options = {name: str(value) for name, value in {**backend.options, **spec.ep.options}.items()}
            providers: list[list[Any]] = [[backend.ep, options]]
            if backend.ep != "CPUExecutionProvider":
                providers.append(["CPUExecutionProvider", {}])
            given = laid_over(spec.ep.session, self.matrix.recipes[spec.recipe].session.given())
            session = {"graph_optimization_level": "all", "intra_op_threads": self.device.cores, **given}
            if session.pop("io_binding", None) is not False and backend.memory:
                session["io_binding"] = backend.memory
            if backend.threads_option:
                options.setdefault(backend.threads_option, str(session["intra_op_threads"]))
            if backend.plugin is not None:
                session |= {"module": backend.plugin.module, "registration": backend.plugin.registration}
            environment = {**backend.environment, **dict(self.matrix.targets[spec.target].environment)}
            self.sessions[key] = {
                "ep": backend.name,
                "ep_name": backend.ep,
                "providers": providers,
                "session": session,
                "environment": environment,
                "variables": driver_variables(os.environ, backend.variables, environment),
                "device": self.device_identity,
                "worker": self.worker,
            }
        return self.sessions[key]

    def limits(self, phase: str) -> dict[str, Any]:
        limits = self.matrix.limits
        return {
            "import_s": limits.import_s,
            "load_s": limits.load_s,
            "run_s": getattr(limits, phase),
            "memory": limits.memory,
        }

    def cell(self, spec: CellSpec) -> Cell:
        name = _cell_id(spec.model, spec.recipe, spec)
        plain = _cell_id(spec.model, "none", spec)
        refusal = self.refusals.of(spec)
        if refusal:
            return Cell(name, spec.model, spec.recipe, spec.target, spec.ep.label, spec.device, unsupported=refusal)
        backend = self.plugins.backends[spec.ep.name]
        is_baseline = spec.recipe == "none" and self.is_baseline(spec)
        transforms = self.transforms(spec)
        artefact = transforms[-1] if transforms else self.fetch(spec.model)
        runtime, data = self.provision(spec.target), self.dataset(spec.model, "validation")
        how = self.session(spec)
        limits: dict[str, Any] = {"limits": self.limits("run_s"), "address_space": backend.address_space_limit}
        inputs = (artefact, runtime, data, self.inspect(spec.model))
        context = {**limits, "cpu_flags": self.cpu_flags}
        check = self.step(f"check:{name}", "check", how, inputs, context=context)
        reference = self.reference(spec.model)
        compare = self.step(
            f"compare:{name}", "compare", self.metrics(spec.model), (reference, check, data), context=limits
        )
        steps = {"artefact": artefact, "provision": runtime, "dataset": data, "inspect": self.inspect(spec.model)}
        steps |= {"check": check, "compare": compare, "reference": reference, "fetch": self.fetch(spec.model)}
        if not backend.memory:  # an EP with memory of its own multiplies there
            steps["tiers"] = self.tiers(spec, name, artefact, context)
        untimed = self.untimed(spec)
        if self.matrix.limits.timing_s > 0 and not untimed:
            if is_baseline:
                steps["noise"] = self.noise(spec, compare)
            else:
                steps["time"] = self.time(spec, artefact, (check, compare))
        facts = {**self.facts(spec, backend, is_baseline), "untimed": untimed}
        if facts["quantized_static"]:
            steps["calibration"] = self.dataset(spec.model, "calibration")
        baseline = "" if is_baseline else (plain if spec.recipe != "none" else self.baseline_cell(spec))
        return Cell(
            name,
            spec.model,
            spec.recipe,
            spec.target,
            spec.ep.label,
            spec.device,
            baseline,
            "",
            steps,
            transforms,
            facts,
        )

    def tiers(self, spec: CellSpec, name: str, artefact: str, context: Mapping[str, Any]) -> str:
        """Return the step that finds out on which CPU tiers the artifact's integer products are right."""
        cpu = self.plugins.backends[spec.ep.name].ep == "CPUExecutionProvider"
        names = ("graph_optimization_level", "intra_op_threads", "config")
        session = {key: value for key, value in self.session(spec)["session"].items() if key in names} if cpu else {}
        parameters = {"cpu_ep": cpu, "session": session, "here": tier_of(self.cpu_flags), "worker": self.worker}
        parameters |= self.metrics(spec.model)
        # The tools of the target are there for a recipe; for a plain model they would be provisioned for this alone.
        plain = not self.matrix.recipes[spec.recipe].passes
        tools = self.tools(REFERENCE if plain else self.maker(spec.target))
        inputs = (artefact, tools, self.dataset(spec.model, "validation"), self.reference(spec.model))
        return self.step(f"tiers:{name}", "tiers", parameters, inputs, context=context)

    def timing(self, spec: CellSpec, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
        limits = self.matrix.limits
        return {"candidate": candidate, "baseline": baseline, "budget_s": limits.timing_s, "rounds": limits.rounds}

    def untimed(self, spec: CellSpec) -> str:
        """Return why a cell is not timed: timing is off, or times would not be those of hardware; or ``""``."""
        if self.matrix.limits.timing_s <= 0:
            return "timing is off (limits.timing_s = 0)."
        if reason := self.plugins.backends[spec.ep.name].software(self.device):
            return f"{reason}."
        base = spec if spec.recipe != "none" else self.baseline_spec(spec)
        reason = self.plugins.backends[base.ep.name].software(self.device)
        return f"its baseline is not hardware: {reason}." if reason else ""

    def noise(self, spec: CellSpec, compare: str) -> str:
        """The model's own baseline against itself: the timing of the baseline's cell."""
        base = self.baseline_spec(spec)
        name = f"noise:{spec.model}@{base.target}:{base.ep.label}/{spec.device}"
        if name not in self.steps:
            how = self.session(base)
            inputs = (self.fetch(spec.model), self.provision(base.target), self.dataset(spec.model, "validation"))
            limits = self.timing_limits(base)
            self.step(name, "noise", self.timing(spec, how, how), inputs, (compare,), limits)
        return name

    def time(self, spec: CellSpec, artefact: str, after: tuple[str, ...]) -> str:
        """A cell in turns with its baseline.

        :param after: the steps that show whether the cell is worth timing.
        """
        base = replace(spec, recipe="none") if spec.recipe != "none" else self.baseline_spec(spec)
        inputs = (
            artefact,
            self.provision(spec.target),
            self.fetch(spec.model),
            self.provision(base.target),
            self.dataset(spec.model, "validation"),
        )
        name = _cell_id(spec.model, spec.recipe, spec)
        loads = self.matrix.recipes[spec.recipe].goal in ("load", "any")
        parameters = {**self.timing(spec, self.session(spec), self.session(base)), "loads": loads}
        return self.step(f"time:{name}", "time", parameters, inputs, after, self.timing_limits(spec, base))

    def timing_limits(self, *sides: CellSpec) -> dict[str, Any]:
        limited = all(self.plugins.backends[side.ep.name].address_space_limit for side in sides)
        return {"limits": self.limits("run_s"), "address_space": limited}

    def baseline_spec(self, spec: CellSpec) -> CellSpec:
        target, ep = self.baseline(spec)
        return CellSpec(spec.model, "none", target, ep, spec.device)

    def baseline(self, spec: CellSpec) -> tuple[str, EpUse]:
        """Return the matrix's baseline; where that cannot run here, the first target and EP that can."""
        if spec.device not in self.baselines:
            chosen = self.matrix.baseline
            uses = self.matrix.targets[chosen.target].ep_uses
            wanted = chosen.target, next((use for use in uses if use.label == chosen.ep), uses[0])
            others = [(target, use) for target, config in self.matrix.targets.items() for use in config.ep_uses]
            why = {
                place: self.refusals.of(replace(spec, recipe="none", target=place[0], ep=place[1])) for place in others
            }
            found = wanted if not why[wanted] else next((place for place in others if not why[place]), wanted)
            if found != wanted:
                self.notes.append(
                    f"the baseline {wanted[0]}:{wanted[1].label} is unsupported here ({why[wanted]}): "
                    f"{found[0]}:{found[1].label} stands in for it"
                )
            self.baselines[spec.device] = found
        return self.baselines[spec.device]

    def baseline_cell(self, spec: CellSpec) -> str:
        base = self.baseline_spec(spec)
        return _cell_id(base.model, base.recipe, base)

    def is_baseline(self, spec: CellSpec) -> bool:
        target, ep = self.baseline(spec)
        return spec.target == target and spec.ep.label == ep.label

    def metrics(self, model: str) -> dict[str, Any]:
        tasks = self.matrix.models[model].tasks
        owners = {name: list(self.plugins.owner("metrics", name)) for name in tasks}
        code = {name: self.metric_code(name) for name in tasks}
        roles = dict(self.matrix.models[model].outputs)
        return {"tasks": list(tasks), "owners": owners, "code": code, "roles": roles}

    def metric_code(self, name: str) -> str:
        if f"metric:{name}" not in self.codes:
            self.codes[f"metric:{name}"] = code_of(self.plugins.metrics[name].compute)
        return self.codes[f"metric:{name}"]

    def facts(self, spec: CellSpec, backend: Backend, is_baseline: bool) -> dict[str, Any]:
        recipe = self.matrix.recipes[spec.recipe]
        given = self.matrix.models[spec.model].calibration is not None
        passes = [(self.plugins.passes[use.use], use.typed) for use in recipe.passes]
        static = any(known.kind == "quantize" and known.calibrates(typed, given) for known, typed in passes)
        return {
            "goal": recipe.goal,
            "tiers": list(self.required_tiers(spec.model)),
            "tiers_listed": bool(self.matrix.models[spec.model].tiers),
            "here": tier_of(self.cpu_flags),
            "session": recipe.session.given(),
            "tolerance": self.tolerance(spec.model),
            "ep_name": backend.ep,
            "is_baseline": is_baseline,
            "on_baseline": self.is_baseline(spec),
            "quantized_static": static,
            "lossy": any(known.kind in ("quantize", "convert") for known, _ in passes),
            "random_validation": self.is_random(spec.model, "validation"),
            "cores": self.device.cores,
            "random_calibration": static and self.is_random(spec.model, "calibration"),
        }

    def required_tiers(self, model: str) -> tuple[str, ...]:
        """Return the CPU tiers that a model must run on."""
        return expand(self.matrix.models[model].tiers or DEFAULT)

    def tolerance(self, model: str) -> dict[str, Any]:
        """Return the limits that the file sets for a model."""
        return {**self.matrix.tolerance.overrides(), **self.matrix.models[model].tolerance.overrides()}

    def is_random(self, model: str, split: str) -> bool:
        return self.plugins.datasets[self.data(model, split).source.partition(":")[0]].random


def _wheel_digest(wheel: Path) -> tuple[str, str]:
    """Return a wheel's sha256, or why it cannot be read: its cells' failure, not the plan's."""
    try:
        return sha256_file(wheel), ""
    except OSError as error:
        return "", f"the wheel {wheel} cannot be read: {error.strerror}"


def _library_digests(paths: Sequence[Path]) -> tuple[list[list[str]], str]:
    """Return names and sha256 of custom-operator libraries, or why they cannot be used: the failure of their cells."""
    digests: list[list[str]] = []
    for path in paths:
        try:
            digests.append([path.name, sha256_file(path)])
        except OSError as error:
            return [], f"The custom-operator library {path} cannot be read: {error.strerror}. Correct custom_ops."
    names = [name for name, _ in digests]
    if len(set(names)) < len(names):
        return [], f"Two custom-operator libraries have the same file name ({', '.join(sorted(names))}). Rename one."
    return digests, ""


def _cell_id(model: str, recipe: str, spec: CellSpec) -> str:
    return f"{model}/{recipe}@{spec.target}:{spec.ep.label}/{spec.device}"
