"""What is rewritten, and what is known of it before anything is tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from graphsurgery.encoder.architecture import BERT, Architecture
from graphsurgery.errors import RequestError, UnsupportedModelError
from graphsurgery.graph.write_back import LARGEST_FOLDED, LARGEST_INLINE, tables_of, with_weights
from graphsurgery.model.filling import filled
from graphsurgery.model.model import Model
from graphsurgery.optimizer.detected import detected
from graphsurgery.optimizer.outcome import Optimized
from graphsurgery.optimizer.request import PRECISIONS, Request
from graphsurgery.proof.golden import recorded_goldens, with_goldens_of
from graphsurgery.proof.golden_values import HALF
from graphsurgery.rewrites.assemble import assembled
from graphsurgery.rewrites.encoder_rewrites import Rewritten, fused_encoder, safer, simplified_encoder
from graphsurgery.rewrites.fuse.fusions import find_fusable, report_fusions
from graphsurgery.rewrites.fuse.report import ATTENTION, EMBEDDINGS, Fusable, FusionReport
from graphsurgery.rewrites.fuse.runner import SWITCHES, VENDOR, Fusing, is_there, require_model_type
from graphsurgery.rewrites.head_parts import Parts, parts_of
from graphsurgery.rewrites.reattach import hidden_behind, reheaded

NOT_TAKEN_OFF = (
    "cannot be taken off, because the encoder below was changed since: the graph is optimized as it is, and its record of "
    "them is lost"
)
NOT_GIVEN = "an embedding table was not given to the optimizer: it is too large to be in memory beside the rest"
FUSED = ("Gelu", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
"""Operators of the standard's domain that the optimizer makes."""
HIDDEN = "warning: a pooled export of another program may hide its encoder from the optimizer: try --rehead"


@dataclass(frozen=True)
class Job:
    """``given``, the encoder of ``parts``, is rewritten for a file that ``source`` is."""

    source: Model
    request: Request
    parts: Parts
    given: onnx.ModelProto
    architecture: Architecture | None
    expected: tuple[Fusable, ...]
    notes: tuple[str, ...]
    tables_given: bool
    """Whether the optimizer gets the values of all embedding tables."""

    @classmethod
    def of(cls, source: Model, request: Request) -> Job:
        """Raises RequestError and what `reheaded` raises for what cannot be done with ``source``, MissingPackageError without
        the optimizer."""
        if request.model_type is not None:
            require_model_type(request.model_type)
        base, notes = _with_our_head(source) if request.rehead else (source, [])
        parts = parts_of(base)
        if parts.head and request.half_io:
            raise RequestError(
                "the head takes float32 and gives what its edits say",
                "leave out --half-io, or take its head off with strip-head",
            )
        architecture = detected(parts.encoder)
        model_type = request.model_type or (architecture.model_type if architecture is not None else None)
        wanted = () if request.portable else find_fusable(parts.encoder, model_type)
        given = with_weights(parts.encoder, LARGEST_FOLDED if request.portable else LARGEST_INLINE)
        job = cls(source, request, parts, given, architecture, wanted, tuple(notes), _has_tables(given.graph))
        return replace(job, notes=(*notes, *job._remarks()))

    def _remarks(self) -> Iterator[str]:
        """What to tell of what was found, before anything is done."""
        request, found = self.request, self.architecture
        if not self.parts.head and hidden_behind(self.source) is not None:
            yield HIDDEN
        if self.parts.lost:
            yield f"warning: {', '.join(self.parts.lost)} {NOT_TAKEN_OFF}"
        try:
            recorded_goldens(self.source)
        except UnsupportedModelError as error:
            yield f"warning: {error}; the output has none"
        yield from found.notes if found is not None else ()
        if found is not None and request.heads and (request.heads, request.hidden_size) != (found.heads, found.hidden):
            asked, has = f"{request.heads} heads and hidden size {request.hidden_size}", f"{found.heads} and {found.hidden}"
            yield f"warning: {asked} were asked for, where {found.source} told {has}: the optimizer may go by the graph"
        if not request.portable and not any(one.kind == ATTENTION for one in self.expected):
            yield "warning: no attention was recognised in the graph: what should fuse is not known for certain"

    @property
    def half(self) -> int | None:
        """The half type that the encoder is to compute in."""
        return PRECISIONS.get(self.request.precision or "")

    def misses(self, outcome: Optimized) -> bool:
        """Whether everything was to fuse, and something did not, or nothing was there to fuse."""
        return self.request.strict and outcome.fusions is not None and not outcome.fusions.complete

    def variants(self) -> Iterator[Fusing | None]:
        """How the optimizer is run, the boldest way first; None: it is not, the graph is simplified."""
        if self.request.portable:
            yield None
            return
        yield self.fusing
        yield from safer(self.fusing)

    @property
    def fusing(self) -> Fusing:
        """How the optimizer is run at first."""
        found, asked = self.architecture, self.request
        model_type = asked.model_type or (found.model_type if found is not None else BERT)
        heads = asked.heads or (found.heads if found is not None else 0)
        hidden = asked.hidden_size or (found.hidden if found is not None else 0)
        fits = found is None or found.head_size is None or found.heads * found.head_size == found.hidden
        known = heads and hidden and hidden % heads == 0 and (fits or asked.heads is not None)
        return Fusing(model_type, heads if known else 0, hidden if known else 0)

    def rewritten(self, fusing: Fusing | None) -> Rewritten:
        """The encoder fused, or simplified where there is no ``fusing``. UnsupportedModelError where that cannot be done."""
        return simplified_encoder(self.given) if fusing is None else fused_encoder(self.given, fusing, self.request.target)

    def with_every_weight(self, made: Rewritten) -> tuple[Job, Rewritten]:
        """The same, all weights of both graphs read: to convert them."""
        given, graph = (filled(one, self.parts.encoder) for one in (self.given, made.graph))
        return replace(self, given=given), replace(made, graph=graph)

    def does_nothing(self, made: Rewritten) -> bool:
        """Whether nothing was fused; or, where the graph is simplified, not one node is another."""
        graphs = (self.given.graph, made.graph.graph)
        if self.request.rehead:
            return False
        if self.request.portable:
            before, after = (sorted(node.SerializeToString(deterministic=True) for node in graph.node) for graph in graphs)
            return before == after
        old, new = (Counter(node.op_type for node in graph.node if _is_fused(node)) for graph in graphs)
        return not new - old

    def outcome(self, made: Rewritten, attempts: Sequence[str], place: Path) -> Optimized:
        """The head on what was ``made``, not proven yet."""
        model = assembled(self.parts, self.given, made, self.source)
        if self.request.precision != "bf16":  # which could not be held against them here
            model = with_goldens_of(self.source, model, None if made.exact is None else HALF)
        notes = (*self.notes, *made.notes)
        fusions = None if self.request.portable else self.fusions(made, attempts)
        return Optimized(
            model, self.source, place, self.architecture, fusions, tuple(attempts), notes, None, None, None, made.kept
        )

    def fusions(self, made: Rewritten, attempts: Sequence[str]) -> FusionReport:
        """What should have fused, and what became of it."""
        because = {} if self.tables_given else {EMBEDDINGS: NOT_GIVEN}
        off = made.recorded.get("off", ())
        because |= {
            SWITCHES[name].kind: "switched off, because what was made with it was not right" for name in off if attempts
        }
        because |= made.because
        return report_fusions(self.expected, self.given, made.exact or made.graph, because, made.shape_failure)


def _with_our_head(source: Model) -> tuple[Model, list[str]]:
    """``source`` with its own head replaced, and what to tell of that."""
    base, head = reheaded(source)
    old, new = ([value.name for value in model.interface.outputs] for model in (source, base))
    told = [f"its own head, {head}, was taken off and ours put in its place"]
    return base, told + ([f"its outputs are in another order: {', '.join(new)}"] if old != new else [])


def _is_fused(node: onnx.NodeProto) -> bool:
    return node.domain == VENDOR or node.op_type in FUSED


def _has_tables(graph: onnx.GraphProto) -> bool:
    """Whether the values of all embedding tables are there."""
    tables = tables_of(graph)
    return all(is_there(tensor) for tensor in graph.initializer if tensor.name in tables)
