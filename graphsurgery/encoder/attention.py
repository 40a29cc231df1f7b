"""Every attention of an encoder, in the order of its layers, found by structure: whole operators, or a softmax of scores.

    weights = softmax(scale q k^T + added)      [batch, heads, seq, seq]
    output = heads joined (weights v)           [batch, seq, heads x size]

A Softmax is an attention's where it is taken of a product of two computed values (`scores`) and multiplied with a third.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.projections import PRODUCTS, Projection, Rotation, attribute_heads, projection
from graphsurgery.encoder.scores import CAUSAL, PADDING, WINDOW, kinds_added, scores
from graphsurgery.graph.wiring import PASS_THROUGH, attribute_int

JOINING = PASS_THROUGH | {"Transpose", "Reshape", "Squeeze", "Flatten"}
WEIGHING = PASS_THROUGH | {"Where", "Reshape", "Mul"}
"""Operators between the softmax and the product with values."""
SUMS = frozenset({"Add", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
AFTERWARDS = PRODUCTS | SUMS | JOINING | {"Mul", "LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"}
"""Operators between an attention's output and the sum that adds it to what flows through the layers."""
FURTHEST = 14


@dataclass(frozen=True)
class Sum:
    """``value = branch + stream``: what a layer adds, and what flows through. ``first``: whether the branch is first."""

    value: str
    branch: str
    stream: str
    first: bool
    biased: bool
    """Whether the product that makes the branch has a bias."""


@dataclass(frozen=True)
class Attention:
    """One attention. What is None cannot be told from the graph."""

    operator: str
    """Softmax, or the operator that is all of it."""
    value: str
    """What that operator gives: weights of the values, or values joined."""
    output: str
    heads: int | None
    head_size: int | None
    key_heads: int | None
    """Fewer than ``heads`` where keys and values are repeated for groups of heads."""
    queries: Projection | None
    keys: Projection | None
    values: Projection | None
    added: tuple[str, ...]
    """What is added to the scores, see `scores`."""
    between: tuple[str, ...]
    """Operators from the softmax back to the product of queries and keys."""
    weighing: tuple[str, ...]
    """Operators from the product with values back to the softmax."""
    sum: Sum | None

    @property
    def packed(self) -> bool:
        """Whether one product makes queries, keys and values."""
        made = {one.output for one in (self.queries, self.keys, self.values) if one is not None}
        return len(made) == 1 and self.queries is not None and self.keys is not None

    @property
    def sources(self) -> frozenset[str]:
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


def attentions(flow: Flow) -> tuple[Attention, ...]:
    """Every attention of the main graph, in the order in which they run."""
    found = []
    for node in flow.nodes:
        if node.op_type == "Softmax":
            found.append(_taken_apart(flow, node))
        elif node.op_type.endswith("Attention") and any(name in flow.tokens for name in node.input):
            found.append(_whole(flow, node))
    return tuple(one for one in found if one is not None)


def _taken_apart(flow: Flow, softmax: onnx.NodeProto) -> Attention | None:
    found = scores(flow, softmax.input[0])
    weighed = _weighed(flow, softmax.output[0])
    if found is None or weighed is None:
        return None
    product, values, weighing = weighed
    queries, keys = (projection(flow, name) for name in flow.token_inputs(found.product))
    made = projection(flow, values)
    parts = 3 if queries is not None and made is not None and queries.output == made.output else 1
    heads, size = (queries.heads(parts) if queries is not None else None) or (None, None)
    output = _joined(flow, product.output[0])
    return Attention(
        operator="Softmax",
        value=softmax.output[0],
        output=output,
        heads=heads,
        head_size=size,
        key_heads=_key_heads(keys, heads, size, parts),
        queries=queries,
        keys=keys,
        values=made,
        added=kinds_added(flow, found.added),
        between=found.between,
        weighing=weighing,
        sum=_sum(flow, output),
    )


def _whole(flow: Flow, node: onnx.NodeProto) -> Attention:
    """An operator that is an attention: com.microsoft's Attention projects by itself, others are given q, k and v."""
    heads = attribute_heads(node, "num_heads", "q_num_heads")
    made = [projection(flow, name) for name in node.input[:3] if name in flow.tokens]
    own = node.op_type in ("Attention", "QAttention") and node.domain == "com.microsoft"
    queries, keys, values = [None] * 3 if own else ([*made, *made[:1] * 2] if len(made) == 1 else [*made, None, None])[:3]
    width = _own_width(flow, node) if own else (queries.width if queries is not None else None)
    size = width // heads if width is not None and heads else None
    parted = attribute_heads(node, "kv_num_heads") or heads
    if queries is not None and heads is None:
        heads, size = queries.heads() or (None, None)
    return Attention(
        operator=node.op_type,
        value=node.output[0],
        output=_joined(flow, node.output[0]),
        heads=heads,
        head_size=size,
        key_heads=parted or heads,
        queries=queries,
        keys=keys,
        values=values,
        added=_given(flow, node),
        between=(),
        weighing=(),
        sum=_sum(flow, _joined(flow, node.output[0])),
    )


def _own_width(flow: Flow, node: onnx.NodeProto) -> int | None:
    """heads x size of an operator that projects by itself: a third of its weights, or as it says."""
    sizes = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "qkv_hidden_sizes"), [])
    weight = flow.constant(node.input[1])
    return int(sizes[0]) if sizes else (int(weight.dims[-1]) // 3 if weight is not None else None)


def _given(flow: Flow, node: onnx.NodeProto) -> tuple[str, ...]:
    """What a whole attention is given to add to its scores, by inputs and by attributes."""
    found = set(kinds_added(flow, [name for name in node.input[3:] if name and flow.constant(name) is None]))
    if node.op_type == "GroupQueryAttention":  # its further inputs are caches and lengths
        found = {CAUSAL, PADDING}
    if attribute_int(node, "unidirectional", 0) or attribute_int(node, "is_causal", 0):
        found.add(CAUSAL)
    if attribute_int(node, "local_window_size", -1) > 0:
        found.add(WINDOW)
    return tuple(sorted(found))


def _key_heads(keys: Projection | None, heads: int | None, size: int | None, parts: int) -> int | None:
    if keys is None or size is None:
        return None
    return heads if parts == 3 or keys.width is None else keys.width // size


def _weighed(flow: Flow, weights: str) -> tuple[onnx.NodeProto, str, tuple[str, ...]] | None:
    """The product of weights and values, the values, and the operators from that product back to ``weights``."""
    todo: list[tuple[str, tuple[str, ...]]] = [(weights, ())]
    seen: set[str] = set()
    while todo:
        name, steps = todo.pop(0)
        if name in seen or len(seen) > FURTHEST:
            continue
        seen.add(name)
        for node in flow.users.get(name, ()):
            if node.op_type in PRODUCTS:
                other = next((one for one in flow.token_inputs(node) if one != name), None)
                if other is not None:
                    return node, other, steps
            elif node.op_type in WEIGHING:
                own = () if node.op_type in PASS_THROUGH else (node.op_type,)
                todo.append((node.output[0], own + steps))
    return None


def _joined(flow: Flow, name: str) -> str:
    """The last value that is the attended values in another shape."""
    for _ in range(FURTHEST):
        following = next((node for node in flow.users.get(name, ()) if node.op_type in JOINING), None)
        if following is None:
            break
        name = following.output[0]
    return name


def _sum(flow: Flow, name: str) -> Sum | None:
    """The sum that adds what is made of an attention's output to what flows through the layers."""
    biased = False
    for _ in range(FURTHEST):
        node = next((one for one in flow.users.get(name, ()) if one.op_type in AFTERWARDS), None)
        if node is None:
            return None
        if node.op_type in SUMS and all(one in flow.tokens for one in node.input[:2]):
            first = node.input[0] == name
            value = node.output[3] if len(node.output) > 3 and node.output[3] else node.output[0]
            return Sum(value, name, node.input[1 if first else 0], first, biased or len(node.input) > 4)
        biased = biased or node.op_type == "Add" or (node.op_type == "Gemm" and len(node.input) > 2)
        name = node.output[0]
    return None
