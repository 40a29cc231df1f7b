"""Find the parts of an encoder that the transformer optimizer should fuse, what it fused, and why it left the rest.

A part should fuse if the optimizer has an operator for it: attentions, norms of sums, GELUs, embeddings with their norm, rotary
positions, and norms made of several nodes. It has none for a gated SiLU. Each part has a witness, a value of the unfused graph.
The part is fused if the witness does not exist any more, or if another operator makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.activations import GELU, QUICK_GELU, TANH_GELU, Activation
from graphsurgery.encoder.architecture import BERT, T5, find_family
from graphsurgery.encoder.attention import Attention
from graphsurgery.encoder.blocks import Blocks, find_blocks
from graphsurgery.encoder.norms import LAYER, Norm
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import ATTENTION_NAMES, LAST_STEPS, get_operator, get_short_name
from graphsurgery.graph.symbolic import Size, Sizes
from graphsurgery.model.model import Model
from graphsurgery.rewrites.fuse.reasons import (
    find_attention_obstacles,
    find_embedding_obstacles,
    find_gelu_obstacles,
    find_norm_obstacles,
    find_rotary_obstacles,
    find_skip_norm_obstacles,
)
from graphsurgery.rewrites.fuse.report import (
    ACTIVATION,
    ATTENTION,
    EMBEDDINGS,
    NORM,
    ROTARY,
    SKIP_NORM,
    Fusable,
    Fusion,
    FusionReport,
)

GELUS = {GELU: ("Gelu",), TANH_GELU: ("FastGelu",), QUICK_GELU: ("QuickGelu",)}
NEEDING_SHAPES = frozenset({ATTENTION, SKIP_NORM, EMBEDDINGS})
IN_A_ROW = frozenset({SKIP_NORM, ACTIVATION, ROTARY, NORM})
"""Kinds of parts whose operators form a single row."""
UNKNOWN = "no known reason"
FURTHEST = 2
"""How many nodes away from a part the search goes."""


def find_fusable(model: Model, model_type: str | None = None) -> tuple[Fusable, ...]:
    """Find what should fuse in ``model``, layer by layer.

    Args:
        model_type: the optimizer's model type, whose patterns it looks for. By default that of the model's architecture.
    """
    blocks = find_blocks(model)
    model_type = model_type or (T5 if find_family(blocks) == "T5" else BERT)
    found = [
        *(part for layer, norm in blocks.norms if (part := _match_norm(blocks, layer, norm)) is not None),
        *(part for place, one in enumerate(blocks.attentions) for part in _match_attention(blocks, place, one, model_type)),
        *(_match_gelu(layer, one) for layer, one in blocks.activations if one.kind in GELUS),
    ]
    order = {value.name: place for place, node in enumerate(blocks.flow.graph.nodes) for value in node.outputs}
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
    old, new = Graph(before), Graph(after)
    found = [Fusion(part, _find_fused_operator(part, old, new)) for part in parts]
    reasons = _Reasons(old, new, shape_failure, found, because or {})
    return FusionReport(tuple(one if one.fused else replace(one, why=reasons.explain(one)) for one in found))


@dataclass(frozen=True)
class _Reasons:
    """Finds the reasons why a part was not fused. Reasons that the caller knows come first, then those in the part's structure,
    those in other parts, and those in the shapes of its operands."""

    before: Graph
    after: Graph
    shape_failure: str | None
    found: Sequence[Fusion]
    because: Mapping[str, str]

    @cached_property
    def shapes(self) -> Shapes:
        return Shapes(self.before)

    def explain(self, fusion: Fusion) -> tuple[str, ...]:
        """Return the reasons."""
        part = fusion.part
        if part.kind in self.because:
            return (self.because[part.kind],)
        known = (*part.obstacles, *self._check_order(part), *self._check_others(part), *self._check_shape(part))
        return known or tuple(self._check_casts(part)) or tuple(self._check_outside(part)) or (UNKNOWN,)

    def _check_order(self, part: Fusable) -> Iterator[str]:
        first = _find_maker(self.after, part.other_first)
        if first is not None and get_operator(first) == "Add":
            yield "it is the second operand of a sum whose first operand is a sum, too: the optimizer follows the first"

    def _check_others(self, part: Fusable) -> Iterator[str]:
        first = next((one for one in self.found if one.part.kind == ATTENTION), None)
        if part.kind == EMBEDDINGS and first is not None and not first.fused:
            yield "the first layer's attention is not fused: the optimizer starts there to look for embeddings"

    def _check_shape(self, part: Fusable) -> Iterator[str]:
        if part.kind not in NEEDING_SHAPES:
            return
        if self.shape_failure is not None:
            yield f"symbolic shape inference failed at {self.shape_failure}"
        elif any(self.shapes.can_differ(part.operands[0], other) for other in part.operands[1:]):
            yield f"its operands can differ in shape: {', '.join(map(self.shapes.show, part.operands))}"

    def _check_outside(self, part: Fusable) -> Iterator[str]:
        if any(value.name == part.output for value in self.after.main.outputs):
            yield "its result is also an output of the graph"
        if any(self.after.tensor(value) is not None for value in self.after.main.inputs):
            yield "weights are also inputs of the graph, so that a run may replace them"

    def _check_casts(self, part: Fusable) -> Iterator[str]:
        output = self.after.value(part.output)
        near = [output] if output is not None and part.kind in IN_A_ROW else []
        for _ in range(FURTHEST):
            near = _list_operands(near)
            if any(get_operator(node) == "Cast" for node in _find_makers(near)):
                yield "there are casts among its operators: the optimizer's patterns have none"
                return


def _match_norm(blocks: Blocks, layer: int | None, norm: Norm) -> Fusable | None:
    output, scale = norm.output.name or "", None if norm.scale is None else norm.scale.name
    made = Fusable(NORM, layer, (), output, output, _name_maker(norm.output), scale)
    layer_norm = norm.kind == LAYER
    if layer is None and (norm.lookups or (norm.summands and blocks.attentions)):
        rows = [one.index for one in norm.lookups if one.index is not None]
        ids = tuple(index.name or "" for index in rows if blocks.flow.find_producer(index) is None)
        wanted, reasons = ("EmbedLayerNormalization",), find_embedding_obstacles(norm)
        return replace(made, kind=EMBEDDINGS, wanted=wanted, operands=ids, obstacles=reasons)
    if norm.summands:
        name = "SkipLayerNormalization" if layer_norm else "SkipSimplifiedLayerNormalization"
        summands = tuple(value.name or "" for value in norm.summands)
        reasons = find_skip_norm_obstacles(blocks, norm)
        return replace(made, kind=SKIP_NORM, wanted=(name,), operands=summands, obstacles=reasons)
    if norm.fused:
        return None
    wanted = ("LayerNormalization" if layer_norm else "SimplifiedLayerNormalization",)
    return replace(made, wanted=wanted, obstacles=find_norm_obstacles(norm))


def _match_attention(blocks: Blocks, layer: int, one: Attention, model_type: str) -> Iterator[Fusable]:
    wanted = ATTENTION_NAMES if one.operator == "Softmax" else (one.operator, *ATTENTION_NAMES)
    yield Fusable(
        ATTENTION, layer, wanted, one.node.outputs[0].name or "", one.output.name or "", one.operator,
        other_first=one.sum.stream.name if one.sum is not None and not one.sum.branch_first else None,
        obstacles=find_attention_obstacles(blocks, one, model_type),
    )  # fmt: skip
    for rotation in one.rotations:
        name, made = rotation.value.name or "", get_short_name(rotation.node)
        yield Fusable(ROTARY, layer, ("RotaryEmbedding",), name, name, made, obstacles=find_rotary_obstacles(rotation))


def _match_gelu(layer: int | None, one: Activation) -> Fusable:
    wanted = ("BiasGelu",) if one.biased and one.kind == GELU else GELUS[one.kind]
    output = one.output.name or ""
    return Fusable(ACTIVATION, layer, wanted, output, output, one.operator, obstacles=find_gelu_obstacles(one))


def _name_maker(value: ir.Value) -> str:
    node = value.producer()
    return get_short_name(node) if node is not None else ""


def _find_fused_operator(part: Fusable, before: Graph, after: Graph) -> str | None:
    """Return the operator that ``part`` was fused into, or None.

    It makes the part's output or witness now, or it reads its weights, or it stands before the nodes that read the part.
    """
    for name in (part.output, part.witness):
        node = _find_maker(after, name)
        if node is not None and _is_wanted(part, node):
            return get_short_name(node)
    node = _find_maker(after, part.witness)
    if node is not None:
        return None if get_short_name(node) in LAST_STEPS | {part.operator} else get_short_name(node)
    scale = after.value(part.scale or "")
    near = [*(after.consumers(scale) if scale is not None else ()), *_find_before_users(part, before, after)]
    return next((get_short_name(node) for node in near if _is_wanted(part, node)), None)


def _is_wanted(part: Fusable, node: ir.Node) -> bool:
    return get_short_name(node) in part.wanted


def _find_before_users(part: Fusable, before: Graph, after: Graph) -> Iterator[ir.Node]:
    """Yield the new nodes right before the nodes that read ``part``, or before their readers if these are new, too."""
    output = before.value(part.output)
    values = [output] if output is not None else []
    for _ in range(FURTHEST):
        values = [one for value in values for node in before.consumers(value) for one in node.outputs]
        kept = [one for value in values if (one := after.value(value.name or "")) is not None and one.producer() is not None]
        if kept:
            yield from (
                node for node in _find_makers(_list_operands(kept)) if not any(_is_made(before, one) for one in node.outputs)
            )
            return


def _find_maker(graph: Graph, name: str | None) -> ir.Node | None:
    value = graph.value(name or "")
    return None if value is None else value.producer()


def _is_made(graph: Graph, value: ir.Value) -> bool:
    return _find_maker(graph, value.name) is not None


def _find_makers(values: Iterable[ir.Value]) -> list[ir.Node]:
    return [node for value in values if (node := value.producer()) is not None]


def _list_operands(values: Iterable[ir.Value]) -> list[ir.Value]:
    """Return the inputs of the nodes that make ``values``."""
    return [value for node in _find_makers(values) for value in node.inputs if value is not None]


UNNAMED = "?"


class Shapes:
    """The shapes of the values of ``graph``, in terms of the dims of its inputs.

    The optimizer fuses a sum or an embedding only if it infers the same shape for all operands.
    """

    def __init__(self, graph: Graph) -> None:
        """Infer the shapes."""
        self._graph = graph
        self._facts = Facts(graph)
        self._names: dict[Size, str] = {}
        for info in graph.source.graph.input:
            declared = info.type.tensor_type.shape.dim
            for size, dim in zip(self._find_dims(info.name) or (), declared, strict=False):
                self._names.setdefault(size, dim.dim_param or UNNAMED)

    def can_differ(self, one: str, other: str) -> bool:
        """Return whether inputs of some size give two values different shapes. False if that is not known."""
        shapes = [self._find_dims(name) for name in (one, other)]
        return shapes[0] != shapes[1] and all(self._is_known(size) for dims in shapes for size in dims or (None,))

    def show(self, name: str) -> str:
        """Return a shape as text, for example ``[batch_size, 32]``."""
        return f"[{', '.join(self._names.get(size, str(size)) for size in self._find_dims(name) or ())}]"

    def _find_dims(self, name: str) -> Sizes | None:
        return self._facts[self._graph.value(name)].dims

    def _is_known(self, size: Size | None) -> bool:
        """Return whether a size is a number or a dim of an input. Any other size may still equal one of these."""
        return isinstance(size, int) or size in self._names
