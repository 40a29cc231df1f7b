"""The core of a decomposed attention: softmax(scale q k^T + bias) v.

com.microsoft.MultiHeadAttention computes it without holding all scores of a text in memory at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphsurgery.deferred import ir
from graphsurgery.encoder.attention import Attention
from graphsurgery.errors import require_value
from graphsurgery.graph.operators import COPYING, SCALING, get_operator
from graphsurgery.rewrites.padding_free.layout import Layout
from graphsurgery.runtime.observed_dims import POSITIONS, ROWS

LONGEST = 16
"""The scores and the weights of an attention are followed through up to this many nodes."""
FLOAT32 = "float32"
"""ONNX Runtime's CPU has the operator for this type alone."""


@dataclass(frozen=True)
class Core:
    """The nodes of a core, and what they compute with."""

    nodes: frozenset[ir.Node]
    """From the product of queries and keys to the product of weights and values."""
    queries: ir.Value
    """``[batch, heads, seq, size]``."""
    keys: ir.Value
    """``[batch, heads, size, seq]``."""
    values: ir.Value
    """``[batch, heads, seq, size]``."""
    scales: tuple[tuple[str, ir.Value], ...]
    """Mul or Div, and the number by which it scales the scores."""
    bias: ir.Value | None
    """What is added to the scaled scores, besides the padding mask."""
    output: ir.Value
    """``[batch, heads, seq, size]``."""
    zeroes_nan: bool
    """Whether weights that are not numbers become 0, as in rows where every score is minus infinity."""


def find_core(attention: Attention, layout: Layout, masks: frozenset[str]) -> Core | None:
    """Return the core of ``attention``, or None if it is fused, or computes anything else.

    ``masks`` are the values that mask padding and do nothing else.
    """
    if attention.scores is None or attention.weighting is None:
        return None
    first, last, softmax = (
        _find_node(layout, node) for node in (attention.scores.product, attention.weighting.product, attention.node)
    )
    weights = _follow_weights(last, softmax)
    scores = _follow_scores(first, softmax, layout, masks)
    if weights is None or scores is None or get_operator(first) != "MatMul" or get_operator(last) != "MatMul":
        return None
    nodes, scales, biases = scores
    inside = frozenset({*nodes, *weights, first, last, softmax})
    (queries, keys), values, output = first.inputs[:2], last.inputs[1], last.outputs[0]
    if len(biases) > 1 or queries is None or keys is None or values is None:
        return None
    read_elsewhere = any(node not in inside for one in inside - {last} for value in one.outputs for node, _ in value.uses())
    zeroes = any(get_operator(node) == "IsNaN" for node in weights)
    core = Core(inside, queries, keys, values, tuple(scales), next(iter(biases), None), output, zeroes)
    return core if not read_elsewhere and _fits(core, layout) else None


def _find_node(layout: Layout, node: ir.Node) -> ir.Node:
    """Return the node of the layout's graph that computes the same value as ``node``."""
    value = layout.graph.value(node.outputs[0].name or "")
    return require_value(None if value is None else value.producer(), "the node of an attention")


def _follow_scores(
    first: ir.Node, softmax: ir.Node, layout: Layout, masks: frozenset[str]
) -> tuple[list[ir.Node], list[tuple[str, ir.Value]], list[ir.Value]] | None:
    """Return the nodes between the product and the softmax, the scales, and what is added. None if another node is there."""
    nodes: list[ir.Node] = []
    scales: list[tuple[str, ir.Value]] = []
    biases: list[ir.Value] = []
    downstream = {*first.outputs} | layout.graph.descendants(first.outputs)
    value = softmax.inputs[0]
    while value is not None and (node := value.producer()) is not None and node is not first and len(nodes) < LONGEST:
        nodes.append(node)
        others = [one for one in node.inputs if one is not None and one not in downstream]
        value = next((one for one in node.inputs if one in downstream), None)
        if get_operator(node) in COPYING and not others:
            continue
        if len(others) != 1 or len(node.inputs) != 2:
            return None
        if get_operator(node) == "Add" and (others[0].name in masks or not scales):  # a bias is added to scaled scores
            biases += [] if others[0].name in masks else others
        elif get_operator(node) in SCALING and node.inputs[0] is value and _is_number(others[0], layout):
            scales.append((get_operator(node), others[0]))
        else:
            return None
    return (nodes, scales, biases) if value in first.outputs else None


def _follow_weights(last: ir.Node, softmax: ir.Node) -> list[ir.Node] | None:
    """Return the nodes between the softmax and the product with values, which change nothing but weights of a row without any
    key. None if another node is there."""
    nodes: list[ir.Node] = []
    value = last.inputs[0]
    while value is not None and (node := value.producer()) is not None and node is not softmax and len(nodes) < LONGEST:
        nodes.append(node)
        asked = node.inputs[0].producer() if node.inputs[0] is not None else None
        if get_operator(node) == "Where" and asked is not None and get_operator(asked) == "IsNaN":
            nodes.append(asked)
            value = node.inputs[2]
            if asked.inputs[0] is not value:
                return None
        elif get_operator(node) in COPYING:
            value = node.inputs[0]
        else:
            return None
    return nodes if value in softmax.outputs else None


def _fits(core: Core, layout: Layout) -> bool:
    """Return whether the dims of a core are those of an attention with as many heads of keys as of queries."""
    queries, keys, values, output = (layout.dims(one) for one in (core.queries, core.keys, core.values, core.output))
    if queries is None or keys is None or layout.observed[core.queries.name or ""].dtype != FLOAT32:
        return False
    axes = [(dims or ())[:1] + (dims or ())[2:3] for dims in (queries, values, output)]
    heads = {dims[1] for dims in (queries, keys, values, output) if dims is not None and len(dims) == 4}
    literal = all(size is not None and size.is_literal for size in (queries[-1], *heads, *(values or ())[-1:]))
    return axes == [(ROWS, POSITIONS)] * 3 and (keys[:1], keys[3:]) == ((ROWS,), (POSITIONS,)) and len(heads) == 1 and literal


def _is_number(value: ir.Value, layout: Layout) -> bool:
    """Return whether ``value`` has one element."""
    tensor, dims = layout.graph.tensor(value), layout.dims(value)
    if tensor is not None:
        return math.prod(tensor.dims) == 1
    return dims is not None and all(size is not None and size == (1, 0, 0) for size in dims)
