"""Find why a part of an encoder is not fused: how its structure differs from the optimizer's patterns.

The patterns were read from onnxruntime.transformers 1.31, for its model types bert and t5.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphsurgery.encoder.activations import UNFINISHED, Activation
from graphsurgery.encoder.attention import Attention
from graphsurgery.encoder.blocks import Blocks
from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.norms import COMPUTED, LAYER, RMS, Norm
from graphsurgery.encoder.projections import NORMALISED, Projection
from graphsurgery.encoder.rotations import Rotation
from graphsurgery.encoder.scores import CONTENT, POSITION, WINDOW
from graphsurgery.graph.attributes import get_input
from graphsurgery.graph.operators import ROTATIONS, SCALING, TURNED, Path, get_operator

PROJECTED: Path = ("Transpose", "Reshape", "Add")
PATTERNS: dict[str, dict[str, frozenset[Path]]] = {
    "bert": {
        "queries": frozenset({("Mul", *PROJECTED), ("Div", *PROJECTED), PROJECTED}),
        "keys": frozenset({("Mul", *PROJECTED), ("Transpose", *PROJECTED), PROJECTED}),
        "values": frozenset({PROJECTED}),
        "scores": frozenset({("Add",), ("Add", "Div"), ("Add", "Mul"), ("Div",)}),
    },
    "t5": {
        "queries": frozenset({("Transpose", "Reshape")}),
        "keys": frozenset({("Transpose", "Reshape")}),
        "values": frozenset({("Transpose", "Reshape")}),
        "scores": frozenset({("Add",)}),
    },
}
"""The optimizer's patterns by model type: the operators from the scores back to each projection, and from the softmax back
to the scores."""
ADDED = {
    CONTENT: "terms made of queries and keys are added to the scores: the optimizer has no pattern for that",
    POSITION: "a position bias is added to the scores: the optimizer has no pattern for that",
    WINDOW: "attention is limited to a local window: the optimizer has no pattern for that",
}
COMPUTED_ROWS = "one side of the sum is a table lookup by computed ids: the optimizer leaves such a sum to the embeddings"


def find_attention_obstacles(blocks: Blocks, attention: Attention, model_type: str) -> tuple[str, ...]:
    """Return why no pattern of ``model_type`` matches an attention. There is no reason if it is one operator already."""
    if attention.operator != "Softmax":
        return ()
    reasons = [*_check_added_terms(attention, model_type), *_check_projections(attention)]
    if model_type != "t5":
        reasons += [*_check_following_norm(blocks, attention), *_check_biases(attention)]
        reasons += _check_scaling(attention) if not reasons else ()
    return tuple(reasons) or tuple(_check_steps(attention, PATTERNS["t5" if model_type == "t5" else "bert"]))


def find_skip_norm_obstacles(blocks: Blocks, norm: Norm) -> tuple[str, ...]:
    """Return why a norm and the sum before it do not become one operator."""
    reasons = list(find_norm_obstacles(norm))
    if _leads_to_computed_rows(blocks.flow, norm):
        reasons.append(COMPUTED_ROWS)
    origin = blocks.flow.graph.origin
    normalised = [origin(other.source) for _, other in blocks.norms if other.source is not None]
    if norm.source is not None and normalised.count(origin(norm.source)) > 1:
        reasons.append("the sum is normalised more than once, and can be fused into one of the norms only")
    return tuple(reasons)


def find_norm_obstacles(norm: Norm) -> tuple[str, ...]:
    """Return why a norm made of several nodes does not become one operator."""
    reasons = []
    if norm.operator == "RMSNormalization":
        reasons.append("the optimizer does not look for RMSNormalization")
    if not norm.fused and norm.kind == LAYER and not norm.biased:
        reasons.append("the layer norm is in pieces and has no bias: the pattern ends in one")
    if not norm.fused and norm.scale is None:
        reasons.append("the norm is in pieces and has no scale: the pattern looks for one")
    return tuple(reasons)


def find_embedding_obstacles(norm: Norm) -> tuple[str, ...]:
    """Return why lookups, their sum and its norm do not become one operator."""
    reasons = list(find_norm_obstacles(norm))
    ways = [lookup.indexed_by for lookup in norm.lookups]
    if norm.kind == RMS:
        reasons.append("it is an RMS norm: the operator for embeddings has a layer norm")
    if not ways:
        reasons.append("something else than rows of tables is added")
    elif len(ways) > 3:
        reasons.append(f"{len(ways)} tables are used: the operator has three")
    elif len(ways) == 3 and COMPUTED in ways:
        reasons.append("positions are computed from the ids: the pattern expects them to count up from 0")
    return tuple(reasons)


def find_gelu_obstacles(activation: Activation) -> tuple[str, ...]:
    """Return why a GELU does not become one operator."""
    return ("no pattern matches the nodes after its erf",) if activation.operator == UNFINISHED else ()


def find_rotary_obstacles(rotation: Rotation) -> tuple[str, ...]:
    """Return why rotary positions do not become one operator."""
    reasons = []
    if rotation.made_by not in TURNED:
        reasons.append(f"the rotated value is made by {rotation.made_by}: the pattern looks for Transpose or Slice")
    if rotation.halves not in ROTATIONS | {"Slice"}:
        reasons.append(f"its halves are made by {rotation.halves}: the pattern looks for Slice")
    elif rotation.fixed:
        reasons.append("its halves are cut at constant places: the pattern computes them from the shape")
    return tuple(reasons)


def _check_added_terms(attention: Attention, model_type: str) -> Iterator[str]:
    for kind, reason in ADDED.items():
        if kind in attention.added and not (kind == POSITION and model_type == "t5"):
            yield reason
    if model_type == "t5" and POSITION not in attention.added:
        yield "no position bias is added to the scores: the patterns for T5 look for one"


def _check_projections(attention: Attention) -> Iterator[str]:
    """Yield how queries, keys and values differ from three projections of the same value."""
    if attention.rotations:
        yield "rotary positions between projection and scores"
    if attention.packed:
        yield "one product makes queries, keys and values: the pattern looks for three"
    if attention.grouped:
        yield f"keys are repeated for groups of heads: {attention.key_heads} for {attention.heads}"
    if any(one is not None and NORMALISED in one.steps for one in (attention.queries, attention.keys)):
        yield "queries and keys are normalised"
    if any(one is not None and not one.stored for one in (attention.queries, attention.keys, attention.values)):
        yield "weights are cast or dequantised before they are used: the optimizer joins them as they are stored"
    if len(attention.sources) > 1:
        yield "queries, keys and values are computed from different values"
    if attention.weight_steps:
        yield f"{', '.join(attention.weight_steps)} between the softmax and the product with values"


def _check_following_norm(blocks: Blocks, attention: Attention) -> Iterator[str]:
    """Yield what is wrong after an attention. The optimizer starts its search at the norm that follows the attention."""
    norm = blocks.find_norm(attention.sum.value) if attention.sum is not None else None
    if norm is None and attention.sum is not None:
        yield "no norm follows the sum that it is added to: the optimizer starts its search at norms"
    elif norm is not None and norm.kind == RMS:
        yield "an RMS norm follows: the optimizer starts its search at layer norms"


def _check_biases(attention: Attention) -> Iterator[str]:
    parts = {"queries": attention.queries, "keys": attention.keys, "values": attention.values}
    without = [name for name, part in parts.items() if part is not None and not part.biased]
    if attention.sum is not None and not attention.sum.biased:
        without.append("output projection")
    if without:
        yield f"no bias in {', '.join(without)}: the pattern looks for one"


def _check_scaling(attention: Attention) -> Iterator[str]:
    """Yield how the scores are not scaled exactly once, as a whole or by way of queries and keys."""
    steps = attention.queries.steps if attention.queries is not None else ()
    early, late = bool(SCALING.intersection(steps[:1])), bool(SCALING.intersection(attention.score_steps))
    if early and late:
        yield "scores are scaled twice, before and after the product of queries and keys: the patterns scale once"
    elif not early and not late:
        yield "scores are not scaled, or queries and keys are scaled by a constant: no pattern has that"


def _check_steps(attention: Attention, patterns: dict[str, frozenset[Path]]) -> Iterator[str]:
    """Yield the operators between projections, scores and softmax that are in no pattern."""
    parts: dict[str, Projection | None] = {
        "queries": attention.queries, "keys": attention.keys, "values": attention.values,
    }  # fmt: skip
    for name, part in parts.items():
        if part is None:
            yield f"{name} are not made by a product with weights"
        elif part.steps not in patterns[name]:
            yield f"{name} pass {_list_forwards(part.steps)}: {_list_patterns(patterns[name])}"
    if "Where" in attention.score_steps:
        yield "the mask is put into the scores by Where: only a mask that is added is fused"
    elif attention.score_steps not in patterns["scores"]:
        yield f"scores pass {_list_forwards(attention.score_steps)}: {_list_patterns(patterns['scores'])}"


def _list_forwards(steps: tuple[str, ...]) -> str:
    """Return the operators in the order in which they run. ``steps`` go backwards."""
    return ", ".join(reversed(steps)) or "nothing"


def _list_patterns(patterns: frozenset[Path]) -> str:
    return "the patterns have " + " or ".join(_list_forwards(one) for one in sorted(patterns, key=lambda one: (len(one), one)))


def _leads_to_computed_rows(flow: Flow, norm: Norm) -> bool:
    """Return whether the first Gather that the optimizer finds in the sum looks up computed ids."""
    makers = [flow.find_producer(value) for value in norm.summands]
    index = next((get_input(node, 1) for node in makers if node is not None and get_operator(node) == "Gather"), None)
    return index is not None and not flow.graph.is_fed(flow.graph.origin(index))
