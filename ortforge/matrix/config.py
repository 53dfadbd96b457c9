"""The sections of matrix.toml besides targets: their keys, defaults and descriptions.

The JSON schema and its descriptions are made from these classes.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ortforge.matrix.fields import (
    Bytes,
    CellGlobs,
    CosineLimit,
    Count,
    DatasetReference,
    DeviceGlobs,
    EpGlobs,
    LibraryReference,
    Limit,
    MetricName,
    ModelGlobs,
    ModelReference,
    PythonVersion,
    RecipeGlobs,
    Requirements,
    Seconds,
    Sha256,
    ShareLimit,
    Statuses,
    Table,
    TargetGlobs,
    TierNames,
    context_of,
)
from ortforge.matrix.parameters import parameters_of
from ortforge.matrix.problems import perhaps, refusal, refuse_all
from ortforge.matrix.targets import PackageTarget, SessionConfig, SourceTarget, WheelTarget
from ortforge.portable.comparison.roles import ROLES

NAMED_SECTIONS: Final = ("datasets", "models", "targets", "recipes", "devices")
"""Sections whose tables have names that the user chooses."""

__all__ = [
    "NAMED_SECTIONS",
    "BaselineConfig",
    "DatasetConfig",
    "DeviceConfig",
    "EntryConfig",
    "ExpectConfig",
    "LimitsConfig",
    "MatrixFile",
    "ModelConfig",
    "PassConfig",
    "ProjectConfig",
    "RecipeConfig",
    "ReferenceConfig",
    "Selection",
    "ToleranceConfig",
]


class ProjectConfig(Table):
    """What the file is about."""

    name: str = Field(default="", description="Name of the project, for report titles.")


class DatasetConfig(Table):
    """Real inputs for a model."""

    source: DatasetReference = Field(
        description='Where samples come from: "path:FILE or FOLDER", "python:FILE.py:FUNCTION", "random:".'
    )
    requires: Requirements = Field(
        default=(), description='Distributions that a python: source needs beside numpy, e.g. ["scikit-image==0.25.0"].'
    )
    limit: Count | None = Field(default=None, description="Most samples to take. Default: limits.samples.")
    options: dict[str, Any] = Field(default_factory=dict, description="What the source itself can be told.")
    seed: int = Field(default=0, strict=True, ge=0, description="Seed of everything random in making the samples.")


def _dataset(value: Any, info: ValidationInfo) -> Any:
    """Turn a dataset's name into that dataset, and a bare reference into a table."""
    if not isinstance(value, str):
        return value
    if ":" in value:
        return {"source": value}
    if (context := context_of(info)) is None:
        raise refusal("a dataset's name means nothing outside of a matrix file")
    if value in context.datasets:
        return context.datasets[value]
    if value in context.names["dataset"]:
        return None
    meant = ' A reference has a colon, e.g. "path:data/inputs.npz".'
    raise refusal("no such dataset." + perhaps(value, sorted(context.names["dataset"]), what="Datasets") + meant)


DatasetUse = Annotated[DatasetConfig | None, BeforeValidator(_dataset, json_schema_input_type=str | DatasetConfig)]


def _role(value: Any) -> Any:
    if isinstance(value, str) and value not in ROLES:
        raise refusal("no such role." + perhaps(value, ROLES))
    return value


OutputRole = Annotated[str, BeforeValidator(_role), Field(json_schema_extra={"enum": list(ROLES)})]


class ToleranceConfig(Table):
    """How far from the reference a model may be. A limit that is not given has its default; false turns it off."""

    cosine: CosineLimit = Field(
        default=None, description="Least cosine similarity of any sample's output with the reference's."
    )
    sqnr_db: Limit = Field(default=None, description="Least signal-to-quantization-noise ratio, in dB.")
    max_rel_range: Limit = Field(
        default=None, description="Largest error of any element, as a share of the output's range."
    )
    slice_error: Limit = Field(
        default=None,
        description="Maximum error of any row of any axis of an output, as a share of the row's own variation.",
    )
    agreement: ShareLimit = Field(
        default=None,
        description="Least share of samples with the same top-1 class or nearest neighbour as the reference.",
    )
    task_drop: Limit = Field(
        default=None, description="Largest drop of a task metric (one that uses labels), absolute."
    )
    placement: ShareLimit = Field(
        default=None, description="Least share of the model that the EP must take to count as used."
    )
    speed: Literal["faster", "not-slower", "any"] | None = Field(
        default=None, description="What to ask of the time: faster than the baseline, not slower, or anything."
    )

    def overrides(self) -> dict[str, float | str | None]:
        """Return the limits that the file sets; ``None`` for one that it turns off."""
        given = self.model_dump(exclude_none=True)
        return {name: None if value is False else value for name, value in given.items()}


class ModelConfig(Table):
    """An ONNX model, its data and what counts as correct."""

    path: ModelReference = Field(
        description='The ONNX file: "path:FILE", "package:NAME==VERSION/FILE", "https:URL", "hf:REPOSITORY/FILE".'
    )
    sha256: Annotated[Sha256 | None, Field(validate_default=True)] = Field(
        default=None, description="Digest that the file must have; https: references need it."
    )
    validation: DatasetUse = Field(
        default=None,
        description="Real inputs to judge it on: a dataset's name, a reference or a table. Default: random.",
    )
    calibration: DatasetUse = Field(
        default=None, description="Real inputs for static quantization, others than those for validation."
    )
    tolerance: ToleranceConfig = Field(
        default=ToleranceConfig(), description="Limits for this model, on top of the file's [tolerance]."
    )
    outputs: dict[str, OutputRole] = Field(
        default_factory=dict,
        description='What its outputs are, where that is not recognized rightly: { output0 = "detector" }. '
        '"constant": does not depend on the input; "ignored": is not compared.',
    )
    tiers: TierNames | None = Field(
        default=None,
        description='CPUs it must be correct on, e.g. ["avx2", "avx512-vnni"] or ["x86-64", "aarch64"]. '
        "Default: all x86-64 CPUs with AVX2; only tiers that are listed here change a cell's status.",
    )
    custom_ops: tuple[LibraryReference, ...] = Field(
        default=(),
        description='Libraries with its custom operators: ["path:LIB.so"]. Every session of the model registers them.',
    )
    tasks: tuple[MetricName, ...] = Field(
        default=(),
        description='Metrics to compute, e.g. ["top1-accuracy"]; those that use labels need a dataset that has them.',
    )

    @field_validator("sha256", mode="after")
    @classmethod
    def _needs_digest(cls, value: str | None, info: ValidationInfo) -> str | None:
        context, path = context_of(info), info.data.get("path", "")
        if value is None and context and path.partition(":")[0] in context.known.digest_schemes:
            raise refusal(
                "sha256 is missing: what comes over the network needs its digest ('sha256sum FILE' prints it)"
            )
        return value


class PassConfig(Table):
    """One pass of a recipe.

    ``parameters`` holds every parameter of the pass as JSON, defaults too, so that a default
    written out means the same; ``typed`` is the pass's own parameter object.
    """

    use: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    typed: Any = Field(default=None, exclude=True, repr=False)


class PassTable(Table):
    """A pass as the file has it: its name, and the pass's own parameters beside it."""

    model_config = ConfigDict(extra="allow")

    use: str = Field(description="Name of the pass, e.g. \"quantize-static\"; 'ortforge plugins list' knows them.")


def _pass_use(value: Any, info: ValidationInfo) -> Any:
    """Check a pass and its parameters with what its plugin says."""
    if isinstance(value, str):
        value = {"use": value}
    if not isinstance(value, dict):
        return value
    given = dict(value)
    name = given.pop("use", None)
    if not isinstance(name, str):
        raise refusal('must name its pass: { use = "NAME", … }')
    if (context := context_of(info)) is None:
        return {"use": name, "parameters": given}
    if name not in context.known.passes:
        reason = "no such pass." + perhaps(name, sorted(context.known.passes))
        refuse_all("pass", [(("use",), reason, name)])
    parameters, typed = parameters_of(context.known.passes[name], given)
    return {"use": name, "parameters": parameters, "typed": typed}


PassUseConfig = Annotated[PassConfig, BeforeValidator(_pass_use, json_schema_input_type=str | PassTable)]


def _order(passes: tuple[PassConfig, ...], info: ValidationInfo) -> tuple[PassConfig, ...]:
    """Refuse a pass after one whose result no pass can read."""
    if (context := context_of(info)) is not None:
        for number, use in enumerate(passes[:-1]):
            if context.known.passes[use.use].suffix == ".ort":
                reason = f'"{use.use}" makes an .ort file, which no later pass can read: put it last'
                refuse_all("passes", [((number,), reason, None)])
    return passes


AUTO: Final = "quantize-auto"
"""The pass that ``quantize = { auto = true }`` stands for."""


class QuantizeTable(Table):
    """The short form of a search for the best quantization."""

    model_config = ConfigDict(extra="allow")

    auto: Literal[True] = Field(description="Search; the other keys are parameters of the pass quantize-auto.")


def _auto_use(value: Any, info: ValidationInfo) -> Any:
    """Turn the short form into the pass that it stands for."""
    if not isinstance(value, dict):
        return value
    given = dict(value)
    if given.pop("auto", None) is not True:
        raise refusal(
            "must have auto = true: it is the short form of a search. For one kind of quantization write "
            'passes = [{ use = "quantize-static" }]'
        )
    return _pass_use({**given, "use": AUTO}, info)


QuantizeUse = Annotated[PassConfig | None, BeforeValidator(_auto_use, json_schema_input_type=QuantizeTable)]


def _with_quantize(passes: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Put the pass of the short form behind the others; a recipe of session options alone has none."""
    quantize = info.data.get("quantize")
    if quantize is not None and isinstance(passes, list | tuple):
        return handler([*passes, quantize])
    if passes == () and not {"quantize", "session"} <= info.data.keys():  # refused for a reason of its own
        return handler([PassConfig.model_construct(use=AUTO)])
    if passes == () and info.data["session"].given():
        return ()
    if passes == ():
        raise PydanticCustomError("missing", "missing")
    return handler(passes)


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]  # it only says that the key may be left out beside the short form


class RecipeConfig(Table):
    """An ordered list of passes, session options, or both."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [name]} for name in ("passes", "quantize", "session")]}
    )

    session: SessionConfig = Field(
        default=SessionConfig(),
        description="Session options of its cells, on top of the target's and the EP's: { intra_op_threads = 1 }. "
        "The baseline keeps the target's.",
    )

    quantize: QuantizeUse = Field(
        default=None,
        exclude=True,
        description="{ auto = true }: search for the fastest quantization that holds the tolerance, after the passes.",
    )
    passes: Annotated[
        tuple[PassUseConfig, ...], Field(min_length=1), AfterValidator(_order), WrapValidator(_with_quantize)
    ] = Field(
        default=(),
        validate_default=True,
        json_schema_extra=_without_default,
        description='The passes, in order: [{ use = "preprocess" }, { use = "quantize-static", per_channel = true }].',
    )
    goal: Literal["latency", "load", "size", "any"] = Field(
        default="latency", description="What the recipe is for: what it must improve to be worth it."
    )
    summary: str = Field(default="", description="What it does, in a line, for reports.")


class DeviceConfig(Table):
    """A filter on the probed device: cells run where it matches, and are unsupported elsewhere."""

    kind: Literal["cpu", "gpu", "npu"] | None = Field(default=None, description="What the device must have.")
    flags: tuple[str, ...] = Field(
        default=(), description='CPU flags it must have, as Linux names them, e.g. ["avx512_vnni"].'
    )
    model: str | None = Field(default=None, description='Glob on the CPU\'s model name, e.g. "*EPYC*".')
    gpu: str | None = Field(default=None, description='Glob on a GPU\'s name, e.g. "*H200*".')
    cores: Count | None = Field(default=None, description="Fewest cores it must have.")


class Selection(Table):
    """Some cells: each key a name or glob, or a list of them."""

    target: TargetGlobs | None = Field(default=None, description="Targets. Default: the entry's.")
    model: ModelGlobs | None = Field(default=None, description="Models. Default: the entry's.")
    recipe: RecipeGlobs | None = Field(default=None, description="Recipes. Default: the entry's.")
    ep: EpGlobs | None = Field(default=None, description="EPs, by name or label. Default: the entry's.")
    device: DeviceGlobs | None = Field(default=None, description="Devices. Default: the entry's.")

    @model_validator(mode="after")
    def _selects(self) -> Selection:
        if not self.model_fields_set:
            raise refusal("would select every cell: give at least one of target, model, recipe, ep, device")
        return self


class EntryConfig(Table):
    """Cells to run: every combination of what is listed, less what is excluded, plus what is included."""

    targets: TargetGlobs = Field(default=("*",), description="Targets, by name or glob.")
    models: ModelGlobs = Field(default=("*",), description="Models, by name or glob.")
    recipes: RecipeGlobs = Field(
        default=("*",), description='Recipes, by name or glob; "none", the model as it is, is one of them.'
    )
    eps: EpGlobs = Field(default=("*",), description="EPs of the targets, by name, label or glob.")
    devices: DeviceGlobs = Field(default=("*",), description="Devices, by name or glob.")
    include: tuple[Selection, ...] = Field(
        default=(),
        description="Cells to add, after the exclusions: exceptions to them, or combinations outside the lists.",
    )
    exclude: tuple[Selection, ...] = Field(
        default=(), description='Cells to leave out, e.g. [{ target = "dnnl", recipe = "fp16" }].'
    )


class ExpectConfig(Table):
    """What is expected of some cells, and why. The last entry that matches a cell counts."""

    cells: CellGlobs = Field(
        description='Cells, by name or glob: "vad/*@openvino:*/here". The names are those that reports show.'
    )
    status: Statuses = Field(description='Allowed statuses: ["pass", "no-gain"]. A better one is as expected, too.')
    reason: str = Field(min_length=1, description="Why this is expected; reports show it.")


class ReferenceConfig(Table):
    """The runtime whose CPU EP, without graph optimizations, says what is right."""

    requires: Annotated[Requirements, Field(min_length=1)] = Field(
        default=("onnxruntime==1.32.0",), description='What to install. Default: ["onnxruntime==1.32.0"].'
    )
    python: PythonVersion | None = Field(default=None, description="Python version of its environment.")


class BaselineConfig(Table):
    """The cells that others are compared with: this target and EP, with no recipe."""

    target: str | None = Field(default=None, description="A target's name. Default: the file's first.")
    ep: str | None = Field(default=None, description="One of its EPs, by name or label. Default: its first.")


class LimitsConfig(Table):
    """What a cell may use before it is stopped, and how much is measured. Times in seconds."""

    import_s: Seconds = Field(default=60.0, description="Longest time to start a worker and import ONNX Runtime.")
    load_s: Seconds = Field(default=180.0, description="Longest time to create a session.")
    run_s: Seconds = Field(default=300.0, description="Longest time to run the samples of one cell.")
    pass_s: Seconds = Field(default=900.0, description="Longest time for one pass, or for making a dataset.")
    memory: Bytes = Field(
        default=8_000_000_000,
        description='Most memory of one process: bytes, or a string such as "4GB". Default: 8 GB.',
    )
    timing_s: float = Field(
        default=4.0, strict=True, ge=0, description="Time to spend on timing one cell; 0 turns timing off."
    )
    rounds: Count = Field(
        default=5,
        description="Maximum number of fresh pairs of processes among which a cell's timing is divided. "
        "It stops earlier when the comparison is decided.",
    )
    cores: Count | None = Field(default=None, description="Cores to use. Default: all that this process may use.")
    samples: Count = Field(default=64, description="Most samples of a dataset that sets no limit of its own.")
    retries: int = Field(
        default=1, strict=True, ge=0, description="How often a crashed cell is tried again before it is called crashed."
    )


class MatrixFile(Table):
    """A matrix for ortforge: which models, on which ONNX Runtimes, with which recipes."""

    # Sections are validated one by one; the whole serves the JSON schema alone.
    model_config = ConfigDict(defer_build=True)

    project: ProjectConfig = Field(default=ProjectConfig(), description="What the file is about.")
    datasets: dict[str, DatasetConfig] = Field(default_factory=dict, description="Named datasets, for models to share.")
    models: dict[str, ModelConfig] = Field(default_factory=dict, description="ONNX models, by name.")
    targets: dict[str, Annotated[PackageTarget | WheelTarget | SourceTarget, Field(discriminator="from_")]] = Field(
        default_factory=dict, description="ONNX Runtimes, by name."
    )
    recipes: dict[str, RecipeConfig] = Field(
        default_factory=dict, description='Ordered lists of passes, by name. "none", without passes, is always there.'
    )
    devices: dict[str, DeviceConfig] = Field(
        default_factory=dict,
        description='Filters on the probed device, by name. Default: one called "here" that matches any.',
    )
    matrix: tuple[EntryConfig, ...] = Field(
        default=(EntryConfig(),),
        description="What to run: [[matrix]], as often as needed. Default: everything with everything.",
    )
    expect: tuple[ExpectConfig, ...] = Field(
        default=(),
        description="Which verdicts are expected: [[expect]], as often as needed. A run exits with 0 when every "
        "verdict is as expected or better.",
    )
    reference: ReferenceConfig = Field(default=ReferenceConfig(), description="The runtime that says what is right.")
    baseline: BaselineConfig = Field(default=BaselineConfig(), description="What others are compared with.")
    tolerance: ToleranceConfig = Field(default=ToleranceConfig(), description="Limits for all models.")
    limits: LimitsConfig = Field(
        default=LimitsConfig(), description="Limits on time and memory, and how much to measure."
    )
