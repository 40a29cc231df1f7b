"""Every attention of an encoder, in the order of its layers, found by structure: whole operators, or a softmax of scores.

    weights = softmax(scale q k^T + added)      [batch, heads, seq, seq]
    output = heads joined (weights v)           [batch, seq, heads x size]

A Softmax belongs to an attention where it is taken of a product of two values made of tokens (`scores`), and a third such value
is multiplied with what it gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.projections import Projection, Rotation, find_projection, read_heads
from graphsurgery.encoder.scores import CAUSAL, PADDING, WINDOW, Scores, Term, find_scores, find_terms, in_order
from graphsurgery.graph.attributes import integer, integers, read_at
from graphsurgery.graph.operators import (
    ATTENTIONS,
    BEHIND_ATTENTION,
    COPYING,
    JOINING,
    MASK_INPUTS,
    PRODUCT_BIASES,
    PRODUCTS,
    PROJECTING,
    SUMS,
    VENDOR,
    WEIGHT_STEPS,
    operator,
)

FURTHEST = 14


@dataclass(frozen=True, eq=False)
class Sum:
    """``value = branch + stream``: what a layer adds, and what flows through. ``first``: whether the branch is first."""

    node: ir.Node
    value: ir.Value
    branch: ir.Value
    stream: ir.Value
    first: bool
    product: ir.Node | None
    """The output projection: the product that makes the branch."""
    bias: ir.Value | None

    @property
    def biased(self) -> bool:
        return self.bias is not None


@dataclass(frozen=True, eq=False)
class Weighing:
    """The product of weights and values, and the operators from it back to the softmax."""

    product: ir.Node
    values: ir.Value
    steps: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention. What is None cannot be told from the graph."""

    node: ir.Node
    """The operator that is all of it, or its Softmax."""
    output: ir.Value
    """The attended values, heads joined."""
    heads: int | None
    head_size: int | None
    key_heads: int | None
    """Fewer than ``heads`` where keys and values are repeated for groups of heads."""
    queries: Projection | None
    keys: Projection | None
    values: Projection | None
    scores: Scores | None
    """What the softmax is taken of; None where one operator is the whole attention. So is ``weighed``."""
    weighed: Weighing | None
    terms: tuple[Term, ...]
    """The values that change the scores."""
    added: tuple[str, ...]
    """What changes the scores, by values and by attributes, in the words of `scores`."""
    sum: Sum | None

    @property
    def operator(self) -> str:
        """Softmax, or the name of the operator that is all of it."""
        return self.node.op_type

    @property
    def mask(self) -> ir.Value | None:
        """The first value that masks padding."""
        return next((term.value for term in self.terms if PADDING in term.kinds), None)

    @property
    def between(self) -> tuple[str, ...]:
        """The operators from the softmax back to the product of queries and keys."""
        return () if self.scores is None else self.scores.between

    @property
    def weighing(self) -> tuple[str, ...]:
        """The operators from the product with values back to the softmax."""
        return () if self.weighed is None else self.weighed.steps

    @property
    def packed(self) -> bool:
        """Whether one product makes queries, keys and values."""
        made = {one.output for one in (self.queries, self.keys, self.values) if one is not None}
        return len(made) == 1 and self.queries is not None and self.keys is not None

    @property
    def sources(self) -> frozenset[ir.Value]:
        """The values that queries, keys and values are made of: one in an encoder."""
        return frozenset(one.source for one in (self.queries, self.keys, self.values) if one is not None)

    @property
    def rotations(self) -> tuple[Rotation, ...]:
        """The rotary positions in queries and keys."""
        return tuple(one.rotation for one in (self.queries, self.keys) if one is not None and one.rotation is not None)

    @property
    def grouped(self) -> bool:
        """Whether keys and values are repeated for groups of heads."""
        return self.key_heads is not None and self.heads is not None and self.key_heads < self.heads

    @property
    def width(self) -> int | None:
        """heads x size, which need not be the width of the encoder."""
        return None if self.heads is None or self.head_size is None else self.heads * self.head_size


def find_attentions(flow: Flow) -> tuple[Attention, ...]:
    """Return every attention of the main graph, in the order in which they run."""
    found = []
    for node in flow.graph.nodes:
        if operator(node) == "Softmax":
            found.append(_in_pieces(flow, node))
        elif operator(node) in ATTENTIONS and flow.token_inputs(node):
            found.append(_whole(flow, node))
    return tuple(one for one in found if one is not None)


def _in_pieces(flow: Flow, softmax: ir.Node) -> Attention | None:
    found = find_scores(flow, read_at(softmax, 0))
    weighed = _weighing(flow, softmax.outputs[0])
    if found is None or weighed is None:
        return None
    queries, keys = (find_projection(flow, value) for value in flow.token_inputs(found.product))
    values = find_projection(flow, weighed.values)
    parts = 3 if queries is not None and values is not None and queries.output is values.output else 1
    heads, size = (queries.heads(parts) if queries is not None else None) or (None, None)
    output, terms = _joined(flow, weighed.product.outputs[0]), find_terms(flow, found.added)
    return Attention(
        node=softmax,
        output=output,
        heads=heads,
        head_size=size,
        key_heads=_key_heads(keys, heads, size, parts),
        queries=queries,
        keys=keys,
        values=values,
        scores=found,
        weighed=weighed,
        terms=terms,
        added=in_order(kind for term in terms for kind in term.kinds),
        sum=_sum(flow, output),
    )


def _whole(flow: Flow, node: ir.Node) -> Attention:
    """Return an operator that is an attention. Some project by themselves, the others are given q, k and v."""
    own = operator(node) in PROJECTING
    queries, keys, values = (None, None, None) if own else _given_projections(flow, node)
    heads = read_heads(node, "num_heads", "q_num_heads")
    width = _own_width(flow, node) if own else (queries.width if queries is not None else None)
    size = width // heads if width is not None and heads else None
    if queries is not None and heads is None:
        heads, size = queries.heads() or (None, None)
    given = (read_at(node, place) for place in MASK_INPUTS.get(operator(node), range(3, len(node.inputs))))
    terms = find_terms(flow, [value for value in given if value is not None and flow.weights(value) is None])
    output = _joined(flow, node.outputs[0])
    return Attention(
        node=node,
        output=output,
        heads=heads,
        head_size=size,
        key_heads=read_heads(node, "kv_num_heads") or heads,
        queries=queries,
        keys=keys,
        values=values,
        scores=None,
        weighed=None,
        terms=terms,
        added=_added(node, terms),
        sum=_sum(flow, output),
    )


def _given_projections(flow: Flow, node: ir.Node) -> tuple[Projection | None, ...]:
    """Return what q, k and v are made by; one input that holds all of them counts for each."""
    made = [find_projection(flow, value) for value in node.inputs[:3] if value is not None and value in flow.tokens]
    return tuple(made * 3 if len(made) == 1 else [*made, None, None, None])[:3]


def _own_width(flow: Flow, node: ir.Node) -> int | None:
    """Return heads x size of an operator that projects by itself: a third of its weights, or as it says."""
    sizes = integers(node, "qkv_hidden_sizes")
    weight = flow.weights(read_at(node, 1))
    return sizes[0] if sizes else (int(weight.dims[-1]) // 3 if weight is not None and weight.dims else None)


def _added(node: ir.Node, terms: tuple[Term, ...]) -> tuple[str, ...]:
    """Return what a whole attention adds to its scores, by inputs and by attributes."""
    found = {kind for term in terms for kind in term.kinds}
    if operator(node) == f"{VENDOR}.GroupQueryAttention":  # its further inputs are caches and lengths
        found = {CAUSAL, PADDING}
    if integer(node, "unidirectional", 0) or integer(node, "is_causal", 0):
        found.add(CAUSAL)
    if integer(node, "local_window_size", -1) > 0:
        found.add(WINDOW)
    return in_order(found)


def _key_heads(keys: Projection | None, heads: int | None, size: int | None, parts: int) -> int | None:
    if keys is None or size is None:
        return None
    return heads if parts == 3 or keys.width is None else keys.width // size


def _weighing(flow: Flow, weights: ir.Value) -> Weighing | None:
    """Return the nearest product of ``weights`` with values."""
    todo: list[tuple[ir.Value, tuple[str, ...]]] = [(weights, ())]
    seen: set[ir.Value] = set()
    while todo:
        value, steps = todo.pop(0)
        if value in seen or len(seen) > FURTHEST:
            continue
        seen.add(value)
        for node in flow.graph.readers(value):
            if operator(node) in PRODUCTS:
                other = next((one for one in flow.token_inputs(node) if one is not value), None)
                if other is not None:
                    return Weighing(node, other, steps)
            elif operator(node) in WEIGHT_STEPS:
                own = () if operator(node) in COPYING else (operator(node),)
                todo.append((node.outputs[0], own + steps))
    return None


def _joined(flow: Flow, value: ir.Value) -> ir.Value:
    """Return the last value that is the attended values in another shape."""
    for _ in range(FURTHEST):
        following = next((node for node in flow.graph.readers(value) if operator(node) in JOINING), None)
        if following is None:
            break
        value = following.outputs[0]
    return value


def _sum(flow: Flow, value: ir.Value) -> Sum | None:
    """Return the sum that adds what is made of an attention's output to what flows through the layers."""
    product: ir.Node | None = None
    bias: ir.Value | None = None
    for _ in range(FURTHEST):
        node = next((one for one in flow.graph.readers(value) if operator(one) in BEHIND_ATTENTION), None)
        if node is None:
            return None
        one, other = read_at(node, 0), read_at(node, 1)
        if operator(node) in SUMS and one in flow.tokens and other in flow.tokens and one is not None and other is not None:
            total = node.outputs[3] if len(node.outputs) > 3 and node.outputs[3].name else node.outputs[0]
            first = one is value
            return Sum(node, total, value, other if first else one, first, product, bias or read_at(node, 4))
        bias = bias or _bias(flow, node)
        product = node if operator(node) in PRODUCTS else product
        value = node.outputs[0]
    return None


def _bias(flow: Flow, node: ir.Node) -> ir.Value | None:
    """Return what a node adds to a product."""
    if operator(node) == "Add":
        return next((value for value in node.inputs if value not in flow.tokens), None)
    return read_at(node, PRODUCT_BIASES[operator(node)]) if operator(node) in PRODUCT_BIASES else None
