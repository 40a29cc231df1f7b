"""The rewrite ``fuse``: ONNX Runtime's transformer optimizer, with a report of what it fused and what it did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import onnx

from graphsurgery.compare.tolerance import FLOAT32
from graphsurgery.deferred import onnxruntime
from graphsurgery.edits.edit import parameter
from graphsurgery.encoder.architecture import BERT, Architecture
from graphsurgery.encoder.head import read_padding_free_form
from graphsurgery.errors import NothingToOptimizeError, RequestError, UnsupportedModelError, require_value
from graphsurgery.graph.attributes import get_int
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import ATTENTIONS, FUSED_ROTATIONS, FUSED_STANDARD, VENDOR, get_operator
from graphsurgery.graph.write_back import LARGEST_INLINE, find_lookup_tables, load_for_rewrite, to_document
from graphsurgery.model.model import Model
from graphsurgery.remarks import Warn
from graphsurgery.rewrites.detect_architecture import detect_architecture
from graphsurgery.rewrites.fuse.adjustments import (
    BIASED_ATTENTION,
    BIASED_NORM,
    POSITION_BIAS,
    TARGETS,
    add_missing_biases,
    count_without_kernel,
    replace_negative_positions,
    restore_position_bias,
    swap_sum_operands,
)
from graphsurgery.rewrites.fuse.embeddings import fuse_embeddings
from graphsurgery.rewrites.fuse.fusions import find_fusable, report_fusions
from graphsurgery.rewrites.fuse.position_sizes import spell_out_position_sizes
from graphsurgery.rewrites.fuse.report import ATTENTION, EMBEDDINGS, Fusable, FusionReport
from graphsurgery.rewrites.fuse.runner import SWITCHES, Fusing, has_own_bytes, require_model_type, run_optimizer
from graphsurgery.rewrites.padding_free.lower import ROW_BY_ROW
from graphsurgery.rewrites.reattach_head import find_pooled_hidden
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten
from graphsurgery.rewrites.unchangeable import require_open_encoder

NOT_GIVEN = "an embedding table was not given to the optimizer: it is too large to be in memory beside the rest"
SWITCHED_OFF = "switched off"
HIDDEN = Warn(
    "a pooled export of another program may hide its encoder from the optimizer: try --rehead (in a recipe, the "
    'rewrite "reattach-head")'
)


@dataclass(frozen=True)
class FusedGraph:
    """What the optimizer made of an encoder's graph."""

    graph: onnx.ModelProto
    notes: tuple[str, ...]
    recorded: dict[str, Any]
    """The parameters that the file records."""
    because: Mapping[str, str] = field(default_factory=dict)
    """For each kind of parts that must not be fused: the reason."""
    shape_failure: str | None = None
    """The node at which the optimizer's shape inference failed, if it did."""


@dataclass(frozen=True)
class Fuse(Rewrite):
    """Run ONNX Runtime's transformer optimizer, without PyTorch."""

    name: ClassVar[str] = "fuse"
    summary: ClassVar[str] = "fuse the encoder for ONNX Runtime"
    exactness: ClassVar[str] = FLOAT32
    doing: ClassVar[str] = "running the transformer optimizer"

    target: str = parameter("Avoid operators that have no kernel there.", "cpu", "|".join(TARGETS))
    model_type: str | None = parameter("The optimizer's model type; found in the graph if left out.", None, "NAME")
    heads: int | None = parameter("Attention heads; found in the graph if left out.", None, "N")
    hidden_size: int | None = parameter("Width of the hidden state; found in the graph if left out.", None, "N")
    off: tuple[str, ...] = parameter(f"Fusions to leave out, from {', '.join(SWITCHES)}.", (), "NAME")
    architecture: Architecture | None = field(default=None, repr=False, compare=False)
    """The encoder's architecture, found by `resolve`. It is not a parameter."""
    parts: tuple[Fusable, ...] | None = field(default=None, repr=False, compare=False)
    """The parts that should fuse, also found by `resolve`."""

    def __post_init__(self) -> None:
        """Raise RequestError for parameters that contradict each other, or for an unknown target or fusion."""
        if self.target not in TARGETS:
            raise RequestError(f"there is no target {self.target!r}", f"choose from {', '.join(TARGETS)}")
        unknown = sorted(set(self.off) - SWITCHES.keys())
        if unknown:
            raise RequestError(f"there is no fusion {unknown[0]!r} to leave out", f"choose from {', '.join(SWITCHES)}")
        if (self.heads is None) != (self.hidden_size is None):
            raise RequestError("the optimizer takes heads and hidden size together", "give both, or none")
        if self.heads is not None and (self.heads < 1 or not self.hidden_size or self.hidden_size % self.heads):
            what = f"{self.hidden_size} dims do not divide by {self.heads} heads"
            raise RequestError(what, "give the numbers of the model's config.json, or none: they are read from the graph")

    @property
    def is_for_gpus(self) -> bool:
        return self.target != "cpu"

    @property
    def fusing(self) -> Fusing:
        """How the optimizer is run."""
        return Fusing(self.model_type or BERT, self.heads or 0, self.hidden_size or 0, frozenset(self.off))

    def check(self, model: Model) -> None:
        if read_padding_free_form(model) == ROW_BY_ROW:
            what = "the encoder is padding-free, and the optimizer fails on the loops over rows in it"
            raise UnsupportedModelError(what, "fuse first, and make the fused file padding-free")
        if self.model_type is not None:
            require_model_type(self.model_type)

    def resolve(self, encoder: Model) -> Self:
        if self.parts is not None:
            return self
        require_open_encoder(encoder)
        found = detect_architecture(encoder)
        model_type = self.model_type or (found.model_type if found is not None else BERT)
        heads = self.heads or (found.heads if found is not None else 0)
        hidden = self.hidden_size or (found.hidden if found is not None else 0)
        fits = found is None or found.head_size is None or found.heads * found.head_size == found.hidden
        known = heads and hidden and hidden % heads == 0 and (fits or self.heads is not None)
        numbers = (heads, hidden) if known else (None, None)
        parts = find_fusable(encoder, model_type)
        return replace(self, model_type=model_type, heads=numbers[0], hidden_size=numbers[1], architecture=found, parts=parts)

    def apply(self, encoder: Model, context: Context) -> Rewritten:
        """Run the optimizer on ``encoder``.

        Raises UnsupportedModelError if it fails, or if no switch of it avoids an operator that the target has no kernel for.
        """
        parts = require_value(self.parts, "the parts that should fuse")
        given = load_for_rewrite(encoder, LARGEST_INLINE)
        made = fuse_graph(given, self.fusing, self.target)
        because = {} if _has_tables(given.graph) else {EMBEDDINGS: NOT_GIVEN}
        because |= {SWITCHES[name].kind: SWITCHED_OFF for name in self.off}
        because |= made.because
        report = report_fusions(parts, given, made.graph, because, made.shape_failure)
        return Rewritten(
            replace(encoder, document=to_document(encoder, given, made.graph), loaded=None),
            made.recorded,
            (*self._describe_encoder(encoder, parts), *made.notes),
            unchanged=None
            if _count_fused_operators(made.graph) - _count_fused_operators(given)
            else _explain_nothing_fused(given, report),
            architecture=self.architecture,
            fusions=report,
        )

    def list_fallbacks(self) -> Iterator[Self]:
        for fusing in list_fallbacks(self.fusing):
            yield replace(self, off=tuple(sorted(fusing.off)))

    @classmethod
    def from_record(cls, parameters: Mapping[str, Any]) -> Self | None:
        if parameters.get("model_type") is None:
            return None
        heads, hidden = parameters.get("heads") or 0, parameters.get("hidden") or 0
        known = heads and hidden % heads == 0 and hidden > 0
        return cls(
            target=parameters.get("for") or "cpu",
            model_type=parameters["model_type"],
            heads=heads if known else None,
            hidden_size=hidden if known else None,
            off=tuple(parameters.get("off") or ()),
        )

    def __str__(self) -> str:
        return str(self.fusing)

    def _describe_encoder(self, encoder: Model, parts: tuple[Fusable, ...]) -> Iterator[str]:
        """Yield notes on the encoder as it was before anything was fused."""
        found = self.architecture
        if find_pooled_hidden(encoder) is not None:
            yield HIDDEN
        yield from found.notes if found is not None else ()
        if found is not None and self.heads and (self.heads, self.hidden_size) != (found.heads, found.hidden):
            asked, has = f"{self.heads} heads and hidden size {self.hidden_size}", f"{found.heads} and {found.hidden}"
            yield Warn(f"{asked} were asked for, but {found.source} says {has}: the optimizer may go by the graph")
        if not any(one.kind == ATTENTION for one in parts):
            yield Warn("no attention was recognised in the graph: the list of parts that should fuse may be incomplete")


def fuse_graph(given: onnx.ModelProto, fusing: Fusing, target: str) -> FusedGraph:
    """Return ``given`` with the optimizer's fusions, except those with an operator that ``target`` has no kernel for.

    Raises UnsupportedModelError if the optimizer fails, or if no switch of it avoids such an operator.
    """
    turned = spell_out_position_sizes(swap_sum_operands(given))
    made = run_optimizer(add_missing_biases(turned, BIASED_NORM), fusing)
    notes = [f"the optimizer warns: {said}" for said in made.warnings]
    graph = made.model
    if count_without_kernel(graph, target)[POSITION_BIAS]:
        graph = restore_position_bias(graph, given)
        notes.append(f"{POSITION_BIAS} was undone, because the CPU has no kernel for it; the bias is computed as before")
    graph = replace_negative_positions(add_missing_biases(graph, BIASED_ATTENTION), given)
    graph = graph if EMBEDDINGS in fusing.off else fuse_embeddings(graph)
    lacking = count_without_kernel(graph, target) - count_without_kernel(given, target)
    if lacking:
        return _fuse_without(lacking, given, fusing, target)
    recorded = {
        "model_type": fusing.model_type, "heads": _count_heads(graph) or fusing.heads, "hidden": fusing.hidden,
        "off": sorted(fusing.off), "for": target, "onnxruntime": onnxruntime.__version__,
    }  # fmt: skip
    return FusedGraph(graph, (*notes, *_describe_tables(given, graph)), recorded, shape_failure=made.shape_failure)


def _fuse_without(lacking: Counter[str], given: onnx.ModelProto, fusing: Fusing, target: str) -> FusedGraph:
    """Return the fusions without those that make the operators ``lacking``, for which ``target`` has no kernel."""
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(lacking.items()))
    what = f"{target} has no kernel for {listed}"
    made_by = {f"{VENDOR}.{name}" for name in lacking}
    off = {name for name, switch in SWITCHES.items() if made_by & switch.operators} - fusing.off
    if not off:
        raise UnsupportedModelError(what, "optimize it with --portable")
    made = fuse_graph(given, fusing.without(*off), target)
    because = {SWITCHES[name].kind: what for name in off}
    return replace(made, notes=(f"{what}: left unfused", *made.notes), because=because | dict(made.because))


def list_fallbacks(fusing: Fusing) -> Iterator[Fusing]:
    """Yield what to try if a fused graph is wrong: without each fusion, the likeliest first; then without more and more."""
    names = [name for name in SWITCHES if name not in fusing.off]
    for name in names:
        yield fusing.without(name)
    for count in range(2, len(names) + 1):
        yield fusing.without(*names[:count])


def _count_heads(made: onnx.ModelProto) -> int:
    """Return the heads of the first fused attention, 0 if there is none: the optimizer goes by the graph where it can."""
    found = (get_int(node, "num_heads", 0) for node in Graph(made).nodes if get_operator(node) in ATTENTIONS)
    return next((heads for heads in found if heads), 0)


def _describe_tables(given: onnx.ModelProto, made: onnx.ModelProto) -> Iterator[str]:
    """Yield a note on the tables that were added for rotary positions."""
    tables = {node.input[2] for node in made.graph.node if get_operator(node) in FUSED_ROTATIONS}
    old = {tensor.name for tensor in given.graph.initializer}
    new = [tensor for tensor in made.graph.initializer if tensor.name in tables - old]
    if new:
        rows, size = new[0].dims[0], 2 * sum(len(tensor.raw_data) for tensor in new) / 2**20
        yield f"rotary positions are now two tables of {rows} rows, {size:.0f} MiB together: later positions are refused"


def _explain_nothing_fused(given: onnx.ModelProto, report: FusionReport) -> NothingToOptimizeError:
    """Return the error for a graph in which nothing fused, with the reasons."""
    what = "the optimizer fuses nothing in this graph"
    advice = "see `graphsurgery inspect`; for half precision ask with --fp16"
    functions = ", ".join(function.name for function in given.functions)
    if functions:
        return NothingToOptimizeError(
            f"{what}, which has functions of its own ({functions}): it does not look into them",
            "inline them first with onnx.inliner.inline_local_functions",
        )
    if not report.fusions:
        return NothingToOptimizeError(f"{what}: it is optimized already, or it holds no transformer", advice)
    reasons = "; ".join(f"{kind}: {reason}" for _, kind, reason in report.misses())
    missed = f" ({report.summary}; {reasons})" if reasons else f": it is optimized already ({report.summary})"
    return NothingToOptimizeError(f"{what}{missed}", advice)


def _count_fused_operators(model: onnx.ModelProto) -> Counter[str]:
    """Count the operators in ``model`` that the optimizer can make."""
    return Counter(node.op_type for node in model.graph.node if node.domain == VENDOR or get_operator(node) in FUSED_STANDARD)


def _has_tables(graph: onnx.GraphProto) -> bool:
    """Return whether all embedding tables hold their own values."""
    tables = find_lookup_tables(graph)
    return all(has_own_bytes(tensor) for tensor in graph.initializer if tensor.name in tables)
