"""Which values get too large for a half type on real feeds, those inside fused operators counted in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphsurgery.compare.reference_attention import heads_apart
from graphsurgery.graph.element_types import FLOAT, key_of
from graphsurgery.rewrites.half.convert import InFloat32
from graphsurgery.rewrites.half.probes import Feed, Ranges
from graphsurgery.rewrites.half.values import largest

Array = np.ndarray
HEADROOM = 4
"""How much larger than on the feeds a value may get on other texts."""
CALM_MASK = -1000.0
"""What masks add to scores while ranges are measured: enough to mask, and far from what would count as an overflow."""
SUMMED = {
    "SkipLayerNormalization": (0, 1, 4), "SkipSimplifiedLayerNormalization": (0, 1, 3), "BiasGelu": (0, 1), "FastGelu": (0, 1),
    "EmbedLayerNormalization": (2, 3, 4),
}  # fmt: skip
"""Fused operators that add some of their inputs first, and which."""
ATTENTIONS = frozenset({"Attention", "MultiHeadAttention"})


def overflowing(
    calm: InFloat32, kind: int, rounded: Sequence[str], convertible: Sequence[onnx.NodeProto], feeds: Sequence[Feed]
) -> dict[str, str]:
    """The nodes (by `key_of`) that take or give a value beyond 1 / `HEADROOM` of what ``kind`` reaches, and why.

    ``calm``: the model in float32 with masks of `CALM_MASK`; ``rounded``: its values that would be ``kind``; ``convertible``:
    its nodes that would be. What is infinite in float32 already does not count.
    """
    limit = largest(kind) / HEADROOM
    attentions = [node for node in convertible if node.op_type in ATTENTIONS]
    watched = sorted({name for node in attentions for name in node.input[:3]} & set(rounded))
    ranges = Ranges(calm, rounded, watched)
    inside = {name for node in convertible if node.op_type in ATTENTIONS | SUMMED.keys() for name in node.input}
    fixed = {one.name: numpy_helper.to_array(one) for one in calm.weights if one.name in inside and one.data_type == FLOAT}
    sizes = {name: float(np.abs(values).max(initial=0)) for name, values in fixed.items()}
    found: dict[str, str] = {}
    for feed in feeds:
        measured, values = ranges.of(feed)
        sizes |= measured
        for node in convertible:
            size = max(_largest_value(node, measured), _largest_sum(node, sizes))
            size = max(size, _largest_score(node, {**fixed, **values}) if node.op_type in ATTENTIONS else 0.0)
            if size > limit:
                found[key_of(node)] = f"a value too large: {size:.2g}"
    return found


def _largest_value(node: onnx.NodeProto, sizes: Mapping[str, float]) -> float:
    return max((sizes.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)


def _largest_sum(node: onnx.NodeProto, sizes: Mapping[str, float]) -> float:
    """At most this is what a fused operator gets by adding its inputs."""
    places = SUMMED.get(node.op_type, ())
    return sum(sizes.get(node.input[place], 0.0) for place in places if place < len(node.input))


def _largest_score(node: onnx.NodeProto, values: Mapping[str, Array]) -> float:
    """max over queries, keys, values and scaled scores of a fused attention; 0 for what is not known of it."""
    options = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    given = [values.get(name) for name in node.input] + [None] * 4
    apart = _projected(given, options) if node.op_type == "Attention" else _shifted(given)
    if len(apart) < 3:
        return 0.0
    query, key = (heads_apart(one, options["num_heads"]) if one.ndim == 3 else one for one in apart[:2])
    scale = options.get("scale", 0.0) or query.shape[-1] ** -0.5
    scores = np.abs(query @ key.swapaxes(-1, -2)).max(initial=0) * scale
    return float(max(scores, *(np.abs(one).max(initial=0) for one in apart)))


def _projected(given: Sequence[Array | None], options: Mapping[str, Any]) -> list[Array]:
    """Queries, keys and values ``[batch, seq, hidden]`` of an Attention."""
    x, weights, bias = given[:3]
    if x is None or weights is None:
        return []
    sizes = options.get("qkv_hidden_sizes") or [weights.shape[1] // 3] * 3
    return np.split(x @ weights + (0 if bias is None else bias), np.cumsum(sizes)[:2], axis=-1)


def _shifted(given: Sequence[Array | None]) -> list[Array]:
    """Those of a MultiHeadAttention, with their bias; keys and values with the heads apart have none."""
    known, bias = [one for one in given[:3] if one is not None], given[3]
    if bias is None or len(known) < 3:
        return known
    ends = np.cumsum([known[0].shape[-1], known[0].shape[-1]])
    return [one + shift if one.ndim == 3 else one for one, shift in zip(known, np.split(bias, ends), strict=True)]
