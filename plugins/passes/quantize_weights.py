"""``quantize-weights``: weights of MatMul and Gather in blocks of 2, 4 or 8 bits, activations as they are.

All methods are our own numpy (see ``rounding.py``), so that they work on every ONNX Runtime that has the
operators and need no torch; what this runtime's kernels take is found out by running a small product.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ._blocks import block_kernels, block_nodes, gptq, rounding
from ._models import model_file, onnx_graph, self_check
from ._quantization import calibration, quantizer_input, quantizing

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from ortforge.api import Pass, PassJob, PassUse

LEAST_BLOCK: Final = 16
OPERATORS: Final = ("MatMul", "Gather")
SINCE: Final = {8: (1, 22), 2: (1, 24)}
"""ONNX Runtimes below these have no kernel for so many bits on the CPU: seen with 1.21.1 and with 1.23.2."""

SESSION_LEVEL: Final = 4
"""What a session computes a QDQ product in blocks with, unless ``session.qdq_matmulnbits_accuracy_level`` says more."""

WORST: Final = 5


@dataclass(frozen=True)
class Parameters:
    """What ``quantize-weights`` can be told."""

    bits: int = field(default=4, metadata={"doc": "bits of a weight: 2, 4 or 8"})
    method: Literal["default", "rtn", "hqq", "gptq", "k-quant"] = field(
        default="default",
        metadata={"doc": "how scales are chosen; gptq takes calibration samples, the others look at the weights alone"},
    )
    block_size: int = field(
        default=32, metadata={"doc": "weights that share a scale: a power of two from 16 on; fewer: closer, larger"}
    )
    symmetric: bool = field(
        default=False, metadata={"doc": "no zero points: smaller and quicker, less close; default, rtn and gptq only"}
    )
    accuracy_level: int = field(
        default=4,
        metadata={
            "doc": "lowest precision that MatMulNBits may compute in: 0 the kernel's choice, 1 float32, 2 float16, "
            "3 bfloat16, 4 int8: the quickest on CPUs, and the activations' rounding is hardly seen"
        },
    )
    format: Literal["QOperator", "QDQ"] = field(
        default="QOperator",
        metadata={"doc": "QOperator: MatMulNBits; QDQ: DequantizeLinear before MatMul, at opset 21, for other EPs"},
    )
    op_types: tuple[str, ...] = field(
        default=("MatMul",), metadata={"doc": "MatMul, Gather (embedding tables) or both, by name or glob"}
    )
    nodes_to_exclude: tuple[str, ...] = field(
        default=(), metadata={"doc": "nodes that stay float, by name or glob, e.g. /lm_head/*"}
    )
    nodes_to_include: tuple[str, ...] = field(
        default=(), metadata={"doc": "the only nodes to quantize, by name or glob; empty: all"}
    )
    float_zero_points: bool = field(
        default=False,
        metadata={"doc": "hqq: zero points between the codes, as in its paper; the CPU's kernel for them is slow"},
    )
    damping: float = field(
        default=0.01, metadata={"doc": "gptq: share of the mean square of the inputs that steadies the solution"}
    )


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="quantize-weights",
            summary="weights in blocks of 2, 4 or 8 bits, activations in float",
            parameters=Parameters,
            module=__file__,
            kind="quantize",
            needs_calibration=_needs_calibration,
            objection=_objection,
            example={"bits": 4, "block_size": 32},
        )
    ]


def _needs_calibration(parameters: Any, has_calibration: bool) -> bool:
    return bool(parameters.method == "gptq")


def _objection(use: PassUse) -> str:
    wanted: Parameters = use.parameters
    since = SINCE.get(wanted.bits)
    version = tuple(int(part) for part in use.ort_version.split(".")[:2] if part.isdigit())
    without = wanted.format == "QOperator" or wanted.bits == 2
    if since and version and version < since and without:
        return (
            f"ONNX Runtime {use.ort_version} has no kernel for {wanted.bits}-bit weights in blocks (versions from "
            f"{since[0]}.{since[1]} on may have); use bits = 4"
        )
    if wanted.method == "gptq" and not use.has_calibration:
        return "gptq needs calibration data: give the model a calibration dataset, or use k-quant, which needs none"
    return contradiction(wanted)


def contradiction(wanted: Parameters) -> str:
    """Say which parameters cannot work on any runtime, or return ``""``."""
    block = wanted.block_size
    if wanted.bits not in block_nodes.QDQ_OPSET:
        return f"bits = {wanted.bits} is not 2, 4 or 8"
    if block < LEAST_BLOCK or block & (block - 1):
        near = max(LEAST_BLOCK, 1 << max(block, 1).bit_length() - 1)
        return f"block_size = {block} is no power of two from {LEAST_BLOCK} on, which the kernels need; try {near}"
    if wanted.accuracy_level not in range(5):
        return f"accuracy_level = {wanted.accuracy_level} is not 0 (the kernel's choice) to 4 (int8)"
    if wanted.symmetric and wanted.method in ("hqq", "k-quant"):
        return f"{wanted.method} chooses zero points, and symmetric = true has none; use default, rtn or gptq with it"
    if wanted.float_zero_points and (wanted.method != "hqq" or wanted.bits == 8 or wanted.format == "QDQ"):
        return "float_zero_points goes with method = 'hqq', 2 or 4 bits and format = 'QOperator' alone"
    if wanted.damping <= 0:
        return f"damping = {wanted.damping:g} must be above 0 (0.01 is what the method's paper has)"
    if wanted.damping != Parameters.damping and wanted.method != "gptq":
        return f"damping steadies gptq, and method is {wanted.method!r}; leave it out, or use method = 'gptq'"
    if wanted.accuracy_level != Parameters.accuracy_level and tuple(wanted.op_types) == ("Gather",):
        return "accuracy_level is for products (MatMulNBits), and op_types has Gather alone; leave it out"
    if wanted.format == "QDQ" and wanted.accuracy_level != SESSION_LEVEL:
        return (
            "in the QDQ format the session decides (session.qdq_matmulnbits_accuracy_level); leave accuracy_level out"
        )
    if wanted.format == "QDQ" and any(fnmatchcase("Gather", op) for op in wanted.op_types):
        return "embedding tables have no QDQ format; use format = 'QOperator', or leave Gather out of op_types"
    if not wanted.op_types:
        return f"op_types is empty; weights in blocks are for {' and '.join(OPERATORS)}"
    if unknown := [op for op in wanted.op_types if op not in OPERATORS and not any(mark in op for mark in "*?[")]:
        return f"op_types has {unknown[0]!r}; weights in blocks are for {' and '.join(OPERATORS)}"
    return ""


def apply(job: PassJob) -> dict[str, Any]:
    """Round the weights of ``job.model`` into ``job.output``.

    :raises ValueError: the model is quantized or half precision already, a name is unknown, or calibration data is
        missing or does not fit.
    :raises NotImplementedError: this runtime has no kernel for the result.
    :raises RuntimeError: the opset cannot be raised, or the model does not run on a sample.
    """
    wanted = Parameters(**job.parameters)
    wanted = replace(wanted, op_types=tuple(wanted.op_types))
    if refused := contradiction(wanted):
        raise ValueError(f"{refused}.")
    source, output, workdir = Path(job.model), Path(job.output), Path(job.workdir)
    qdq = wanted.format == "QDQ"
    prepared = quantizing.prepare(
        source,
        workdir,
        constants=True,
        least_opset=block_nodes.QDQ_OPSET[wanted.bits] if qdq else 1,
        why="DequantizeLinear with blocks",
        named={"nodes_to_exclude": wanted.nodes_to_exclude, "nodes_to_include": wanted.nodes_to_include},
        op_types=wanted.op_types,
        takes=OPERATORS,
        name_nodes=True,
        written=bool(job.samples),
    )
    model = prepared.model
    if reason := quantizing.why_classical(model):
        return quantizing.unchanged(source, output, reason)
    found = _chosen(prepared, wanted)
    if not found:
        return quantizing.unchanged(source, output, _why_nothing(model, wanted))
    if wanted.method == "gptq" and not job.samples:
        raise ValueError("There are no calibration samples. Give the model a calibration dataset with real inputs.")
    longest = max(target.depth for target in found)
    most = max(Parameters.block_size, 1 << (longest - 1).bit_length())
    if wanted.block_size > most:
        raise ValueError(
            f"block_size = {wanted.block_size} is more than any chosen weight is long ({longest}): blocks are filled "
            f"up, and the file grows. Use at most {most}."
        )
    for op in sorted({target.node.op_type for target in found}):
        block_kernels.refuse(op, wanted, job.ort_version)
    # Of the model as it was, the nodes are compared with those that come; weights would be a second copy of them.
    before = type(model)()
    before.graph.node.extend(model.graph.node)
    errors = _replace(model, _rounded(job, wanted, model, found), wanted)
    if qdq or any(target.node.op_type == "Gather" for target in found):
        prepared = _raised_ir(prepared, 13 if qdq and wanted.bits == 2 else 10)
    result = quantizing.finish(
        job,
        model,
        replace(prepared, model=before),
        advice=_advice(wanted, prepared, model),
    )
    warnings = quantizing.said_of_dropped(result, job)
    if job.samples:
        checked, ruined = self_check.against_float(prepared.path, job, job.feeds())
        result["self_check"] = checked
        warnings += [ruined] if ruined else []
    worst = sorted(errors.items(), key=lambda item: item[1])[:WORST]
    return {
        **result,
        "method": wanted.method,
        "nodes_rounded": len(found),
        "weight_sqnr_db": {"least": dict(worst), "mean": round(sum(errors.values()) / len(errors), 2)},
        "warnings": warnings,
    }


def _advice(wanted: Parameters, prepared: quantizing.Prepared, model: ModelProto) -> str:
    """Return what may help where the result does not load; nothing that the recipe has already."""
    raised = onnx_graph.opset(model)
    if wanted.format == "QDQ" and raised != prepared.opset:
        return (
            f"onnx's converter raised the opset from {prepared.opset} to {raised} for the QDQ format. "
            "Use format = 'QOperator', which needs no other opset."
        )
    better = [] if wanted.bits == 4 else ["bits = 4"]
    better += [] if wanted.format == "QOperator" else ["format = 'QOperator'"]
    return f"More versions have {' and '.join(better)}." if better else ""


def _chosen(prepared: quantizing.Prepared, wanted: Parameters) -> list[block_nodes.Target]:
    """Return the nodes to round, in the order of the graph."""
    include, exclude = prepared.names["nodes_to_include"], prepared.names["nodes_to_exclude"]
    return [
        target
        for target in block_nodes.targets(prepared.model, prepared.op_types)
        if target.fits(wanted.bits)
        and target.node.name not in exclude
        and (not wanted.nodes_to_include or target.node.name in include)
    ]


def _raised_ir(prepared: quantizing.Prepared, least: int) -> quantizing.Prepared:
    """Raise the IR version: tensors of 4 bits came with 10, of 2 bits with 13, and onnx wants it to say so."""
    if prepared.ir_version >= least:
        return prepared
    said = {**prepared.said, "ir_version": f"{prepared.ir_version} -> {least}"}
    return replace(prepared, ir_version=least, said=said)


def _rounded(
    job: PassJob, wanted: Parameters, model: ModelProto, targets: list[block_nodes.Target]
) -> list[tuple[block_nodes.Target, rounding.Blocks]]:
    """Return the targets with their weights in blocks, in the order of the graph; a weight is rounded once."""
    by_calibration = dict(_calibrated(job, wanted, model, targets)) if wanted.method == "gptq" else {}
    known: dict[str, rounding.Blocks] = {}
    done = []
    for target in targets:
        blocks = by_calibration.get(target.node.output[0]) or known.get(target.weight.name)
        if blocks is None:
            blocks = known[target.weight.name] = rounding.round_blocks(
                target.matrix,
                bits=wanted.bits,
                block=wanted.block_size,
                method="default" if wanted.method == "gptq" else wanted.method,
                symmetric=wanted.symmetric,
                # A table of embeddings takes whole zero points only.
                float_zero_points=wanted.float_zero_points and target.node.op_type == "MatMul",
            )
        done.append((target, blocks))
    return done


def _calibrated(
    job: PassJob, wanted: Parameters, model: ModelProto, targets: list[block_nodes.Target]
) -> Iterator[tuple[str, rounding.Blocks]]:
    """Round by GPTQ what it can be done for, products in the main graph; yield them by their output."""
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [
        one
        for one in targets
        if one.node.op_type == "MatMul" and one.graph is model.graph and one.node.input[0] not in weights
    ]
    inputs = {value.name for value in model.graph.input} - weights
    reader = calibration.SampleReader(job.feeds, len(job.samples), inputs)
    widths = {one.node.input[0]: int(one.weight.dims[0]) for one in products}
    scratch = Path(job.workdir) / "observed.onnx"
    for name, hessian in gptq.hessians(model, widths, reader, scratch):
        for one in products:
            if one.node.input[0] == name:
                yield (
                    one.node.output[0],
                    gptq.rounded(
                        one.matrix.T,
                        hessian,
                        bits=wanted.bits,
                        block=wanted.block_size,
                        symmetric=wanted.symmetric,
                        damping=wanted.damping,
                    ),
                )


def _replace(
    model: ModelProto, rounded: list[tuple[block_nodes.Target, rounding.Blocks]], wanted: Parameters
) -> dict[str, float]:
    """Put the new nodes in the old ones' places; return the SQNR of each weight in dB, by node."""
    made: dict[str, list[NodeProto]] = {}
    errors: dict[str, float] = {}
    taken = quantizer_input.tensor_names(model)
    main, named = model.graph, dict[tuple[int, int], str]()
    for target, blocks in rounded:
        # A session fuses a DequantizeLinear with what stands in the same graph alone: a branch has its own.
        graph = target.graph if wanted.format == "QDQ" else main
        first = (id(blocks), id(graph)) not in named
        name = named.setdefault((id(blocks), id(graph)), _unused(target, wanted.bits, taken))
        if wanted.format == "QDQ":
            nodes, constants = block_nodes.qdq_nodes(target, blocks, name)
            # Products that share a weight share what makes it float, too: the first one has it.
            nodes = nodes if first else nodes[1:]
        elif target.node.op_type == "Gather":
            node, constants = block_nodes.lookup(target, blocks, name)
            nodes = [node]
        else:
            node, constants = block_nodes.product(target, blocks, name, wanted.accuracy_level)
            nodes = [node]
        made[target.node.output[0]] = nodes
        errors[target.node.name] = block_kernels.sqnr(target.matrix, blocks.values())
        if first:
            taken.update(constant.name for constant in constants)
            # In the main graph, they are seen from everywhere.
            graph.initializer.extend(constants)
    for graph in reversed(list(onnx_graph.graphs(model))):
        if any(_made_by(node) in made for node in graph.node):
            new = [part for node in graph.node for part in made.get(_made_by(node), [node])]
            del graph.node[:]
            graph.node.extend(new)
    block_nodes.drop_unread(model)
    return errors


def _made_by(node: NodeProto) -> str:
    """Return what tells a node from all others: names may be given twice, tensors may not."""
    return node.output[0] if node.output else ""


def _unused(target: block_nodes.Target, bits: int, taken: set[str]) -> str:
    """Return the weight's name, or one with the node's where names that are made of it are taken already."""
    made = (f"_Q{bits}", "_scales", "_zero_points", "_DequantizeLinear_Output")

    def is_free(name: str) -> bool:
        return taken.isdisjoint(name + suffix for suffix in made)

    names = [target.weight.name, f"{target.weight.name}_{target.node.name}"]
    return next((name for name in names if is_free(name)), f"{names[1]}_{len(taken)}")


def _why_nothing(model: ModelProto, wanted: Parameters) -> str:
    from onnx import TensorProto

    counts = onnx_graph.op_counts(model)
    ops = " or ".join(wanted.op_types)
    if not any(onnx_graph.float_weights(model)) and any(
        tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for tensor in model_file.tensors(model)
    ):
        raise ValueError(
            "The model is in half precision: scales are taken from float32 weights. Quantize the float32 model."
        )
    if "Gather" not in wanted.op_types and any(True for _ in block_nodes.targets(model, ["Gather"])):
        return (
            f"NO-OP: no {ops} of the model has a constant float32 matrix; its embedding tables can be quantized: "
            "op_types = ['MatMul', 'Gather']."
        )
    others = [op for op in ("Conv", "Gemm", "LSTM", "GRU") if counts.get(op)]
    hint = f" Its weights are in {', '.join(others)}: use quantize-dynamic or quantize-static." if others else ""
    return f"NO-OP: nothing was quantized; no {ops} that was chosen has a constant float32 matrix.{hint}"
