"""Find the values that get too large for a half type on real feeds, also inside fused operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import numpy_helper

from graphsurgery.compare.reference_formulas import split_heads
from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_int, get_ints
from graphsurgery.graph.element_types import FLOAT, get_node_key
from graphsurgery.graph.operators import ADDED_INPUTS, FUSED_ATTENTIONS, VENDOR, get_operator
from graphsurgery.rewrites.half.constants import largest
from graphsurgery.rewrites.half.convert import Float32Baseline
from graphsurgery.rewrites.half.probes import Feed, RangeProbe

Array = np.ndarray
HEADROOM = 4
"""The factor by which a value may be larger on other texts than on the feeds."""
CALM_MASK = -1000.0
"""The number that masks add to scores while ranges are measured: enough to mask, and far from any overflow."""
PROJECTING, SHIFTING = f"{VENDOR}.Attention", f"{VENDOR}.MultiHeadAttention"
MEASURED = FUSED_ATTENTIONS | {"Attention"}
"""Attentions whose scores are measured."""


def find_overflows(
    calm: Float32Baseline, kind: int, rounded: Sequence[str], convertible: Sequence[ir.Node], feeds: Sequence[Feed]
) -> dict[str, str]:
    """Return the nodes that read or make a value beyond 1 / `HEADROOM` of the range of ``kind``, by `get_node_key`, and why.

    Numbers that are infinite in float32 already do not count.

    Args:
        calm: the model in float32 with masks of `CALM_MASK`.
        rounded: its values that would become ``kind``.
        convertible: its nodes that would compute in ``kind``.
    """
    limit = largest(kind) / HEADROOM
    attentions = [node for node in convertible if get_operator(node) in MEASURED]
    watched = sorted({name for node in attentions for name in _list_inputs(node)[:3]} & set(rounded))
    ranges = RangeProbe(calm, rounded, watched)
    inside = {
        name for node in convertible if get_operator(node) in MEASURED | ADDED_INPUTS.keys() for name in _list_inputs(node)
    }
    fixed = {one.name: numpy_helper.to_array(one) for one in calm.weights if one.name in inside and one.data_type == FLOAT}
    sizes = {name: float(np.abs(values).max(initial=0)) for name, values in fixed.items()}
    found: dict[str, str] = {}
    for feed in feeds:
        measured, values = ranges.measure(feed)
        sizes |= measured
        for node in convertible:
            size = max(_find_largest_value(node, measured), _bound_sum(node, sizes))
            size = max(size, _find_largest_score(node, {**fixed, **values}) if get_operator(node) in MEASURED else 0.0)
            if size > limit:
                found[get_node_key(node)] = f"a value too large: {size:.2g}"
    return found


def _list_inputs(node: ir.Node) -> list[str]:
    """Return the names of the inputs of a node, "" for one that is left out."""
    return ["" if value is None else value.name or "" for value in node.inputs]


def _find_largest_value(node: ir.Node, sizes: Mapping[str, float]) -> float:
    names = (*_list_inputs(node), *(value.name or "" for value in node.outputs))
    return max((sizes.get(name, 0.0) for name in names), default=0.0)


def _bound_sum(node: ir.Node, sizes: Mapping[str, float]) -> float:
    """Return an upper bound on the sum that a fused operator makes of its inputs."""
    places, names = ADDED_INPUTS.get(get_operator(node), ()), _list_inputs(node)
    return sum(sizes.get(names[place], 0.0) for place in places if place < len(names))


def _find_largest_score(node: ir.Node, values: Mapping[str, Array]) -> float:
    """Return the largest query, key, value or scaled score of an attention, 0 if they are not known."""
    given = [values.get(name) for name in _list_inputs(node)] + [None] * 4
    apart = {PROJECTING: _project, SHIFTING: _add_biases}.get(get_operator(node), _take_separate)
    known = apart(node, given)
    if len(known) < 3:
        return 0.0
    query, key = _split_heads(node, known)
    held = node.attributes.get("scale")
    scale = (held.as_float() if held is not None else 0.0) or query.shape[-1] ** -0.5
    scores = np.abs(query @ key.swapaxes(-1, -2)).max(initial=0) * scale
    return float(max(scores, *(np.abs(one).max(initial=0) for one in known)))


def _split_heads(node: ir.Node, known: Sequence[Array]) -> tuple[Array, Array]:
    """Return queries and keys as ``[batch, heads, seq, size]``, with keys repeated if several heads share them."""
    heads = get_int(node, "num_heads", 0) or get_int(node, "q_num_heads", 0)
    query = split_heads(known[0], heads) if known[0].ndim == 3 else known[0]
    key = split_heads(known[1], get_int(node, "kv_num_heads", heads)) if known[1].ndim == 3 else known[1]
    return query, np.repeat(key, query.shape[1] // key.shape[1], axis=1)


def _take_separate(_: ir.Node, given: Sequence[Array | None]) -> list[Array]:
    """Return the queries, keys and values that an attention reads as they are, [] if one input holds all of them."""
    known = [one for one in given[:3] if one is not None]
    return known if len(known) == 3 else []


def _project(node: ir.Node, given: Sequence[Array | None]) -> list[Array]:
    """Return the queries, keys and values ``[batch, seq, hidden]`` that an Attention projects."""
    x, weights, bias = given[:3]
    if x is None or weights is None:
        return []
    sizes = get_ints(node, "qkv_hidden_sizes") or [weights.shape[1] // 3] * 3
    return np.split(x @ weights + (0 if bias is None else bias), np.cumsum(sizes)[:2], axis=-1)


def _add_biases(_: ir.Node, given: Sequence[Array | None]) -> list[Array]:
    """Return the queries, keys and values of a MultiHeadAttention with their bias. Those with separate heads have none."""
    known, bias = [one for one in given[:3] if one is not None], given[3]
    if bias is None or len(known) < 3:
        return known
    ends = np.cumsum([known[0].shape[-1], known[0].shape[-1]])
    return [one + shift if one.ndim == 3 else one for one, shift in zip(known, np.split(bias, ends), strict=True)]
