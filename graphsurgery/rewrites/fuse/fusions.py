"""Find what the transformer optimizer should fuse in an encoder, what it did fuse, and why it left the rest.

A part should fuse if the optimizer has an operator for it: attentions, norms of sums, GELUs, embeddings with their norm, rotary
positions, and norms made of several nodes. It has none for a gated SiLU. Each part has a witness, a value of the unfused graph:
the part is fused if the witness is gone, or if another operator makes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx

from graphsurgery.encoder.activations import GELU, QUICK_GELU, TANH_GELU, Activation
from graphsurgery.encoder.architecture import BERT, T5, structure
from graphsurgery.encoder.attention import Attention
from graphsurgery.encoder.blocks import Blocks, blocks_of
from graphsurgery.encoder.norms import LAYER, Norm
from graphsurgery.model.model import Model
from graphsurgery.rewrites.fuse.reasons import (
    attention_obstacles,
    embedding_obstacles,
    gelu_obstacles,
    norm_obstacles,
    rotary_obstacles,
    skip_obstacles,
)
from graphsurgery.rewrites.fuse.report import (
    ACTIVATION,
    ATTENTION,
    COLUMNS,
    EMBEDDINGS,
    NORM,
    ROTARY,
    SKIP_NORM,
    Fusable,
    Fusion,
    FusionReport,
)
from graphsurgery.rewrites.fuse.shapes import Shapes

__all__ = ["COLUMNS", "Fusable", "Fusion", "FusionReport", "find_fusable", "report_fusions"]

ATTENTIONS = (
    "Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention", "PackedMultiHeadAttention", "QAttention",
    "DecoderMaskedMultiHeadAttention",
)  # fmt: skip
OF_SUM = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
GELUS = {GELU: ("Gelu",), TANH_GELU: ("FastGelu",), QUICK_GELU: ("QuickGelu",)}
NEEDING_SHAPES = frozenset({ATTENTION, SKIP_NORM, EMBEDDINGS})
IN_A_ROW = frozenset({SKIP_NORM, ACTIVATION, ROTARY, NORM})
"""Kinds whose operators form a single row."""
UNKNOWN = "no known reason"
FURTHEST = 2


def find_fusable(model: Model, model_type: str | None = None) -> tuple[Fusable, ...]:
    """Find what should fuse in ``model``, layer by layer.

    Args:
        model_type: the optimizer's model type, whose patterns it looks for. By default that of the model's architecture.
    """
    blocks = blocks_of(model)
    model_type = model_type or (T5 if structure(blocks) == "T5" else BERT)
    found = [
        *(part for layer, norm in blocks.norms if (part := _norm(blocks, layer, norm)) is not None),
        *(part for place, one in enumerate(blocks.attentions) for part in _attention(blocks, place, one, model_type)),
        *(_gelu(layer, one) for layer, one in blocks.activations if one.kind in GELUS),
    ]
    order = {name: place for place, node in enumerate(blocks.flow.nodes) for name in node.output}
    return tuple(sorted(found, key=lambda part: (-1 if part.layer is None else part.layer, order.get(part.output, 0))))


def report_fusions(
    parts: Sequence[Fusable],
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    because: Mapping[str, str] | None = None,
    shape_failure: str | None = None,
) -> FusionReport:
    """Report what became of each of ``parts`` between the graphs ``before`` and ``after`` the optimizer.

    Args:
        because: by kind of part, the reason the caller knows for not fusing it. It is reported instead of any other.
        shape_failure: the node at which the optimizer's shape inference failed, if it did.
    """
    old, new = _Made.of(before), _Made.of(after)
    found = [Fusion(part, _operator(part, old, new)) for part in parts]
    reasons = _Reasons(before, new, shape_failure, found[:], because or {})
    return FusionReport(tuple(one if one.fused else replace(one, why=reasons.of(one)) for one in found))


@dataclass(frozen=True)
class _Made:
    """A graph by its values: the node that makes each and the nodes that read it; its outputs; and the weights that are also
    inputs, so that another value may be given to them."""

    makers: dict[str, onnx.NodeProto]
    readers: dict[str, list[onnx.NodeProto]]
    outputs: frozenset[str]
    replaceable: frozenset[str]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Made:
        makers = {name: node for node in model.graph.node for name in node.output if name}
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        inputs = {info.name for info in model.graph.input}
        replaceable = frozenset(tensor.name for tensor in model.graph.initializer if tensor.name in inputs)
        return cls(makers, readers, frozenset(info.name for info in model.graph.output), replaceable)


@dataclass(frozen=True)
class _Reasons:
    """Finds the reasons why a part was not fused: what the caller knows; the part's structure; what became of other parts; the
    shapes of its operands."""

    before: onnx.ModelProto
    after: _Made
    shape_failure: str | None
    found: Sequence[Fusion]
    because: Mapping[str, str]

    @cached_property
    def shapes(self) -> Shapes:
        return Shapes(self.before)

    def of(self, fusion: Fusion) -> tuple[str, ...]:
        part = fusion.part
        if part.kind in self.because:
            return (self.because[part.kind],)
        known = (*part.obstacles, *self._order(part), *self._others(part), *self._shape(part))
        return known or tuple(self._casts(part)) or tuple(self._outside(part)) or (UNKNOWN,)

    def _order(self, part: Fusable) -> Iterator[str]:
        first = self.after.makers.get(part.other_first or "")
        if first is not None and first.op_type == "Add":
            yield "it is the second operand of a sum whose first operand is a sum, too: the optimizer follows the first"

    def _others(self, part: Fusable) -> Iterator[str]:
        first = next((one for one in self.found if one.part.kind == ATTENTION), None)
        if part.kind == EMBEDDINGS and first is not None and not first.fused:
            yield "the first layer's attention is not fused: the optimizer starts there to look for embeddings"

    def _shape(self, part: Fusable) -> Iterator[str]:
        if part.kind not in NEEDING_SHAPES:
            return
        if self.shape_failure is not None:
            yield f"symbolic shape inference failed at {self.shape_failure}"
        elif any(self.shapes.can_differ(part.operands[0], other) for other in part.operands[1:]):
            yield f"its operands can differ in shape: {', '.join(map(self.shapes.show, part.operands))}"

    def _outside(self, part: Fusable) -> Iterator[str]:
        if part.output in self.after.outputs:
            yield "its result is also an output of the graph"
        if self.after.replaceable:
            yield "weights are also inputs of the graph, so that a run may replace them"

    def _casts(self, part: Fusable) -> Iterator[str]:
        near = [part.output] if part.kind in IN_A_ROW else []
        for _ in range(FURTHEST):
            near = [name for one in near if one in self.after.makers for name in self.after.makers[one].input]
            if any(name in self.after.makers and self.after.makers[name].op_type == "Cast" for name in near):
                yield "there are casts among its operators: the optimizer's patterns have none"
                return


def _norm(blocks: Blocks, layer: int | None, norm: Norm) -> Fusable | None:
    made = Fusable(NORM, layer, (), norm.output, norm.output, _maker(blocks, norm.output), norm.scale)
    layer_norm = norm.kind == LAYER
    if layer is None and (norm.lookups or (norm.summands and blocks.attentions)):
        ids = tuple(one.index for one in norm.lookups if blocks.flow.behind(one.index) is None)
        wanted, reasons = ("EmbedLayerNormalization",), embedding_obstacles(norm)
        return replace(made, kind=EMBEDDINGS, wanted=wanted, operands=ids, obstacles=reasons)
    if norm.summands:
        wanted, reasons = (OF_SUM[0 if layer_norm else 1],), skip_obstacles(blocks, norm)
        return replace(made, kind=SKIP_NORM, wanted=wanted, operands=norm.summands, obstacles=reasons)
    if norm.whole:
        return None
    wanted = ("LayerNormalization" if layer_norm else "SimplifiedLayerNormalization",)
    return replace(made, wanted=wanted, obstacles=norm_obstacles(norm))


def _attention(blocks: Blocks, layer: int, one: Attention, model_type: str) -> Iterator[Fusable]:
    wanted = ATTENTIONS if one.operator == "Softmax" else (one.operator, *ATTENTIONS)
    yield Fusable(
        ATTENTION, layer, wanted, one.value, one.output, one.operator,
        other_first=one.sum.stream if one.sum is not None and not one.sum.first else None,
        obstacles=attention_obstacles(blocks, one, model_type),
    )  # fmt: skip
    for rotation in one.rotations:
        name, maker = rotation.value, _maker(blocks, rotation.value)
        yield Fusable(ROTARY, layer, ("RotaryEmbedding",), name, name, maker, obstacles=rotary_obstacles(rotation))


def _gelu(layer: int | None, one: Activation) -> Fusable:
    wanted = ("BiasGelu",) if one.biased and one.kind == GELU else GELUS[one.kind]
    return Fusable(ACTIVATION, layer, wanted, one.output, one.output, one.operator, obstacles=gelu_obstacles(one))


def _maker(blocks: Blocks, name: str) -> str:
    node = blocks.flow.maker(name)
    return node.op_type if node is not None else ""


def _operator(part: Fusable, before: _Made, after: _Made) -> str | None:
    """Return the operator that ``part`` was fused into, or None. It makes the part's output or witness now, or reads its
    weights, or stands before the nodes that used the part."""
    for name in (part.output, part.witness):
        node = after.makers.get(name)
        if node is not None and node.op_type in part.wanted:
            return node.op_type
    node = after.makers.get(part.witness)
    if node is not None:
        return None if node.op_type in (part.operator, "Mul", "Add") else node.op_type
    near = [*after.readers.get(part.scale or "", ()), *_before_users(part, before, after)]
    return next((node.op_type for node in near if node.op_type in part.wanted), None)


def _before_users(part: Fusable, before: _Made, after: _Made) -> Iterator[onnx.NodeProto]:
    """Yield the new nodes right before the nodes that used ``part``, or before their readers if these are new, too."""
    names = [part.output]
    for _ in range(FURTHEST):
        names = [name for one in names for node in before.readers.get(one, ()) for name in node.output]
        kept = [after.makers[name] for name in names if name in after.makers]
        makers = [maker for node in kept for name in node.input if (maker := after.makers.get(name)) is not None]
        if kept:
            yield from (node for node in makers if not any(name in before.makers for name in node.output))
            return
