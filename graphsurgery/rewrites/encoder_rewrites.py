"""The rewrites of an encoder's graph: fused for ONNX Runtime, or simplified with standard operators; in half precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
import onnxruntime

from graphsurgery.errors import NothingToOptimizeError, UnsupportedModelError
from graphsurgery.graph.element_types import FLOAT
from graphsurgery.graph.portable import vendor_operators
from graphsurgery.model.dtypes import NAMES
from graphsurgery.rewrites.fuse.kernels import (
    POSITION_BIAS,
    add_missing_biases,
    count_without_kernel,
    replace_negative_positions,
    restore_position_bias,
)
from graphsurgery.rewrites.fuse.prepare import prepare
from graphsurgery.rewrites.fuse.runner import SWITCHES, VENDOR, Fusing, run_optimizer
from graphsurgery.rewrites.half.convert import to_half
from graphsurgery.rewrites.half.measure import kept
from graphsurgery.rewrites.half.probes import Feed
from graphsurgery.rewrites.simplify.simplify import simplify

FOR_GPUS = {
    "FLOAT16": "half precision pays on GPUs: ONNX Runtime's CPU computes much of float16 in float32, with casts around it",
    "BFLOAT16": "half precision pays on GPUs: ONNX Runtime's CPU has no kernels for bfloat16, and does not load this file",
}
OLDEST_IR = 4
"""The IR version from which weights need not be inputs."""


@dataclass(frozen=True)
class Rewritten:
    """The encoder's graph after a rewrite, what to tell of it, and what the file is to record of it."""

    graph: onnx.ModelProto
    notes: tuple[str, ...]
    recorded: dict[str, Any]
    kept: dict[str, Any] | None = None
    """Of half precision: what stays float32, and why."""
    exact: onnx.ModelProto | None = None
    """Of half precision: the graph in float32."""
    because: Mapping[str, str] = field(default_factory=dict)
    """Why a kind of parts was not to be fused."""
    shape_failure: str | None = None
    """The node at which the optimizer's shape inference failed, if it did."""


def fused_encoder(given: onnx.ModelProto, fusing: Fusing, target: str) -> Rewritten:
    """Return ``given`` with the optimizer's fusions, except those with an operator that ``target`` has no kernel for.

    Raises UnsupportedModelError if the optimizer fails, or if no switch of it avoids such an operator.
    """
    made = run_optimizer(prepare(given), fusing)
    notes = [f"the optimizer warns: {said}" for said in made.warnings]
    graph = made.model
    if count_without_kernel(graph, target)[POSITION_BIAS]:
        graph = restore_position_bias(graph, given)
        notes.append(f"{POSITION_BIAS} was taken back, because the CPU has no kernel for it; the bias is computed as before")
    graph = replace_negative_positions(add_missing_biases(graph), given)
    lacking = count_without_kernel(graph, target) - count_without_kernel(given, target)
    if lacking:
        return _without_these(lacking, given, fusing, target)
    recorded = {
        "model_type": fusing.model_type, "heads": _heads(graph) or fusing.heads, "hidden": fusing.hidden,
        "off": sorted(fusing.off), "for": target, "onnxruntime": onnxruntime.__version__,
    }  # fmt: skip
    return Rewritten(graph, (*notes, *_grown(given, graph)), recorded, shape_failure=made.shape_failure)


def _without_these(lacking: Counter[str], given: onnx.ModelProto, fusing: Fusing, target: str) -> Rewritten:
    """Return the fusions without those that make the operators ``lacking``, for which ``target`` has no kernel."""
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(lacking.items()))
    what = f"{target} has no kernel for {listed}"
    off = {name for name, switch in SWITCHES.items() if lacking.keys() & set(switch.operators)} - fusing.off
    if not off:
        raise UnsupportedModelError(what, "optimize it with --portable")
    made = fused_encoder(given, fusing.without(*off), target)
    because = {SWITCHES[name].kind: what for name in off}
    return replace(made, notes=(f"{what}: left unfused", *made.notes), because=because | dict(made.because))


def _heads(made: onnx.ModelProto) -> int:
    """The heads of the first attention that was fused, 0 where there is none: the optimizer goes by the graph where it can."""
    attentions = (node for node in made.graph.node if node.domain == VENDOR and node.op_type.endswith("Attention"))
    found = (attribute.i for node in attentions for attribute in node.attribute if attribute.name == "num_heads")
    return next(found, 0)


def _grown(given: onnx.ModelProto, made: onnx.ModelProto) -> Iterator[str]:
    """What to tell of tables that came in with rotary positions."""
    tables = {node.input[2] for node in made.graph.node if node.op_type == "RotaryEmbedding" and node.domain == VENDOR}
    old = {tensor.name for tensor in given.graph.initializer}
    new = [tensor for tensor in made.graph.initializer if tensor.name in tables - old]
    if new:
        rows, size = new[0].dims[0], 2 * sum(len(tensor.raw_data) for tensor in new) / 2**20
        yield f"rotary positions are tables of {rows} rows now, {size:.0f} MiB with both: positions beyond are refused"


def simplified_encoder(given: onnx.ModelProto) -> Rewritten:
    """``given`` with fewer nodes, all of them standard operators. UnsupportedModelError where it has others already."""
    vendors = vendor_operators(given)
    if vendors:
        listed = ", ".join(f"{name} ({count})" for name, count in vendors.items())
        raise UnsupportedModelError(f"the graph has operators of one vendor: {listed}", "take the file it was made from")
    made = simplify(given)
    told = ", ".join(f"{name} {count}" for name, count in made.counts.items() if count)
    notes = (f"{made.before} nodes became {made.after}" + (f": {told}" if told else ""),)
    return Rewritten(made.model, notes, {"portable": True})


def halved(made: Rewritten, kind: int, feeds: Sequence[Feed], io: bool = False) -> Rewritten:
    """``made`` in half precision but for the nodes that overflow or lose most on ``feeds``; its inputs and outputs stay as they
    are, unless with ``io``. Raises as `to_half` and `kept`, and NothingToOptimizeError where no node can be converted."""
    if made.graph.ir_version < OLDEST_IR:
        what = f"the file is of IR version {made.graph.ir_version}, in which every weight is an input"
        raise UnsupportedModelError(what, "export it again, or raise it with onnx.version_converter")
    inputs = {info.name for info in made.graph.graph.input}
    stays = kept(made.graph, [{name: array for name, array in feed.items() if name in inputs} for feed in feeds], kind)
    if not stays.others:
        what = f"no node of this graph can compute in {NAMES[kind].lower()}"
        raise NothingToOptimizeError(what, "leave out --fp16 and --bf16")
    recorded = made.recorded | {"precision": NAMES[kind].lower(), "float32_nodes": len(stays.nodes)}
    graph = to_half(made.graph, kind, stays.nodes, kind if io else FLOAT)
    return replace(
        made,
        graph=graph,
        notes=(*made.notes, *stays.summary(), FOR_GPUS[NAMES[kind]]),
        recorded=recorded,
        kept=stays.to_json(),
        exact=made.graph,
    )


def safer(fusing: Fusing) -> Iterator[Fusing]:
    """What to try when a fused graph is wrong: without each fusion, the likeliest first; then without more and more."""
    names = [name for name in SWITCHES if name not in fusing.off]
    for name in names:
        yield fusing.without(name)
    for count in range(2, len(names) + 1):
        yield fusing.without(*names[:count])
