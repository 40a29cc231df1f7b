"""Why a part of an encoder is not fused, as far as its structure tells: what the optimizer has no pattern for.

Read off the patterns of onnxruntime.transformers 1.31 for its model types bert and t5.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphsurgery.encoder.activations import UNFINISHED, Activation
from graphsurgery.encoder.attention import Attention
from graphsurgery.encoder.blocks import Blocks
from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.norms import COMPUTED, LAYER, RMS, Norm
from graphsurgery.encoder.projections import NORMALISED, Projection, Rotation
from graphsurgery.encoder.scores import CONTENT, POSITION, WINDOW
from graphsurgery.graph.attributes import read_at
from graphsurgery.graph.operators import operator

Steps = frozenset[tuple[str, ...]]
PROJECTED = ("Transpose", "Reshape", "Add")
PATTERNS: dict[str, dict[str, Steps]] = {
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
"""By model type: the operators that the patterns have from the scores back to each projection, and from the softmax to the
scores."""
ADDED = {
    CONTENT: "terms made of queries and keys are added to the scores: the optimizer has no pattern for that",
    POSITION: "a position bias is added to the scores: the optimizer has no pattern for that",
    WINDOW: "a local window limits what is attended to: the optimizer has no pattern for that",
}
COMPUTED_ROWS = "one side of the sum is a table lookup by computed ids: the optimizer leaves such a sum to the embeddings"


def attention_obstacles(blocks: Blocks, attention: Attention, model_type: str) -> tuple[str, ...]:
    """What keeps an attention from any pattern of ``model_type``; empty where nothing is known, or it is one operator."""
    if attention.operator != "Softmax":
        return ()
    reasons = [*_added(attention, model_type), *_built(attention)]
    if model_type != "t5":
        reasons += [*_around(blocks, attention), *_biases(attention)]
        reasons += _scales(attention) if not reasons else ()
    return tuple(reasons) or tuple(_steps(attention, PATTERNS["t5" if model_type == "t5" else "bert"]))


def skip_obstacles(blocks: Blocks, norm: Norm) -> tuple[str, ...]:
    """What keeps the norm of a sum from becoming one operator with it."""
    reasons = list(_norm_obstacles(norm))
    if _leads_to_computed_rows(blocks.flow, norm):
        reasons.append(COMPUTED_ROWS)
    origin = blocks.flow.graph.origin
    normalised = [origin(other.of) for _, other in blocks.norms if other.of is not None]
    if norm.of is not None and normalised.count(origin(norm.of)) > 1:
        reasons.append("the sum is normalised more than once: it goes into one of the norms")
    return tuple(reasons)


def norm_obstacles(norm: Norm) -> tuple[str, ...]:
    """What keeps a norm in pieces from becoming one operator."""
    return tuple(_norm_obstacles(norm))


def embedding_obstacles(norm: Norm) -> tuple[str, ...]:
    """What keeps lookups, their sum and its norm from becoming one operator."""
    reasons = list(_norm_obstacles(norm))
    ways = [lookup.by for lookup in norm.lookups]
    if norm.kind == RMS:
        reasons.append("it is an rms norm: the operator for embeddings has a layer norm")
    if not ways:
        reasons.append("not only rows of tables are summed")
    elif len(ways) > 3:
        reasons.append(f"{len(ways)} tables are looked up in: the operator has three")
    elif len(ways) == 3 and COMPUTED in ways:
        reasons.append("positions are computed from the ids: the pattern has them counted, from 0 on")
    return tuple(reasons)


def gelu_obstacles(activation: Activation) -> tuple[str, ...]:
    """What keeps a GELU from becoming one operator."""
    return ("what follows its erf is no GELU that the patterns have",) if activation.operator == UNFINISHED else ()


def rotary_obstacles(rotation: Rotation) -> tuple[str, ...]:
    """What keeps rotary positions from becoming one operator."""
    reasons = []
    if rotation.made_by not in ("Transpose", "Slice"):
        reasons.append(f"what is rotated is made by {rotation.made_by}: the pattern looks for Transpose or Slice")
    if rotation.halves not in ("Slice", "RotaryEmbedding"):
        reasons.append(f"its halves are made by {rotation.halves}: the pattern looks for Slice")
    return tuple(reasons)


def _added(attention: Attention, model_type: str) -> Iterator[str]:
    for kind, reason in ADDED.items():
        if kind in attention.added and not (kind == POSITION and model_type == "t5"):
            yield reason
    if model_type == "t5" and POSITION not in attention.added:
        yield "no position bias is added to the scores: the patterns for T5 look for one"


def _built(attention: Attention) -> Iterator[str]:
    """How queries, keys and values are made otherwise than by a projection each."""
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
        yield "queries, keys and values do not read one value"
    if attention.weighing:
        yield f"{', '.join(attention.weighing)} between the softmax and the product with values"


def _around(blocks: Blocks, attention: Attention) -> Iterator[str]:
    """What follows: the search starts at the norm of the sum that an attention is added in."""
    norm = blocks.norm_of(attention.sum.value) if attention.sum is not None else None
    if norm is None and attention.sum is not None:
        yield "no norm follows the sum that it is added in: the search starts at norms"
    elif norm is not None and norm.kind == RMS:
        yield "an rms norm follows: the search starts at layer norms"


def _biases(attention: Attention) -> Iterator[str]:
    parts = {"queries": attention.queries, "keys": attention.keys, "values": attention.values}
    without = [name for name, part in parts.items() if part is not None and not part.biased]
    if attention.sum is not None and not attention.sum.biased:
        without.append("output projection")
    if without:
        yield f"no bias in {', '.join(without)}: the pattern looks for one"


def _scales(attention: Attention) -> Iterator[str]:
    """Scores are scaled as a whole, or as queries and keys, once."""
    steps = attention.queries.steps if attention.queries is not None else ()
    early, late = bool({"Mul", "Div"} & set(steps[:1])), bool({"Mul", "Div"} & set(attention.between))
    if early and late:
        yield "scores are scaled twice, before and after the product of queries and keys: the patterns scale once"
    elif not early and not late:
        yield "scores are not scaled, or by a constant on queries and keys: no pattern has that"


def _steps(attention: Attention, patterns: dict[str, Steps]) -> Iterator[str]:
    """What stands between a projection and the scores, or these and the softmax, that no pattern has."""
    parts: dict[str, Projection | None] = {
        "queries": attention.queries, "keys": attention.keys, "values": attention.values,
    }  # fmt: skip
    for name, part in parts.items():
        if part is None:
            yield f"{name} are made by no product with weights"
        elif part.steps not in patterns[name]:
            yield f"{name} pass {_listed(part.steps)}: {_known(patterns[name])}"
    if "Where" in attention.between:
        yield "the mask is put into the scores by Where: only a mask that is added is fused"
    elif attention.between not in patterns["scores"]:
        yield f"scores pass {_listed(attention.between)}: {_known(patterns['scores'])}"


def _listed(steps: tuple[str, ...]) -> str:
    """Operators in the order in which they run; ``steps`` go backwards."""
    return ", ".join(reversed(steps)) or "nothing"


def _known(patterns: Steps) -> str:
    return "the patterns have " + " or ".join(_listed(one) for one in sorted(patterns, key=lambda one: (len(one), one)))


def _norm_obstacles(norm: Norm) -> Iterator[str]:
    if norm.operator == "RMSNormalization":
        yield "the optimizer does not look for RMSNormalization"
    if not norm.whole and norm.kind == LAYER and not norm.biased:
        yield "the layer norm is in pieces and has no bias: the pattern ends in one"
    if not norm.whole and norm.scale is None:
        yield "the norm is in pieces and has no scale: the pattern looks for one"


def _leads_to_computed_rows(flow: Flow, norm: Norm) -> bool:
    """Whether the first Gather that the optimizer meets in the sum takes rows by ids that are no input."""
    makers = [flow.behind(value) for value in norm.summands]
    index = next((read_at(node, 1) for node in makers if node is not None and operator(node) == "Gather"), None)
    return index is not None and not flow.graph.is_fed(flow.graph.origin(index))
