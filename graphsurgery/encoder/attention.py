"""The attentions of an encoder, in the order of its layers: fused operators, or a softmax of scores.

    weights = softmax(scale q k^T + added)      [batch, heads, seq, seq]
    output = heads joined (weights v)           [batch, seq, heads x size]

A Softmax belongs to an attention if it is taken of a product of two token values (see `scores`) and its output is multiplied
with a third token value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.projections import Projection, find_projection
from graphsurgery.encoder.rotations import Rotation
from graphsurgery.encoder.scores import CAUSAL, PADDING, WINDOW, Scores, Term, find_scores, find_terms, sort_kinds
from graphsurgery.graph.attributes import get_input, get_int, get_ints
from graphsurgery.graph.operators import (
    AFTER_ATTENTION,
    ATTENTIONS,
    COPYING,
    EMBEDDING_NORM,
    JOINING,
    LENGTH_STEPS,
    LENGTHS,
    MASK_INDEXES,
    MASK_INPUTS,
    PRODUCT_BIASES,
    PRODUCTS,
    PROJECTING,
    SUMS,
    VENDOR,
    WEIGHT_STEPS,
    get_operator,
)

FURTHEST = 14
"""The search for the parts of an attention after its softmax goes through up to this many nodes."""

COUNTED = (
    "attention is told how many tokens each row has, and not where they are, so it hides the positions behind as many: texts "
    "padded in front or with holes get wrong vectors. Pad behind the tokens, or export the encoder again without fusing its "
    "attention"
)
"""The note on an encoder for which `counts_tokens` is true."""


@dataclass(frozen=True, eq=False)
class Sum:
    """``value = branch + stream``: what a layer adds, and the stream that it is added to."""

    node: ir.Node
    value: ir.Value
    branch: ir.Value
    stream: ir.Value
    branch_first: bool
    """Whether the branch is the first operand."""
    product: ir.Node | None
    """The output projection, which makes the branch."""
    bias: ir.Value | None

    @property
    def biased(self) -> bool:
        return self.bias is not None


@dataclass(frozen=True, eq=False)
class Weighting:
    """The product of weights and values, and the operators from it back to the softmax."""

    product: ir.Node
    values: ir.Value
    steps: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention. A field is None if the graph does not tell it."""

    node: ir.Node
    """The fused operator, or the Softmax of a decomposed attention."""
    output: ir.Value
    """The attended values with their heads joined."""
    heads: int | None
    head_size: int | None
    key_heads: int | None
    """The number of heads of keys and values. There are fewer than ``heads`` if they are repeated for groups of heads."""
    queries: Projection | None
    keys: Projection | None
    values: Projection | None
    scores: Scores | None
    """The scores that the softmax is applied to. None for a fused operator, as is ``weighting``."""
    weighting: Weighting | None
    terms: tuple[Term, ...]
    """The values that change the scores."""
    added: tuple[str, ...]
    """What changes the scores, by values and by attributes: any of `scores.KINDS`."""
    sum: Sum | None
    """The sum that adds the projected output to the stream."""

    @property
    def operator(self) -> str:
        """Softmax, or the name of the fused operator."""
        return self.node.op_type

    @property
    def mask(self) -> ir.Value | None:
        """The first value that masks padding."""
        return next((term.value for term in self.terms if PADDING in term.kinds), None)

    @property
    def score_steps(self) -> tuple[str, ...]:
        """The operators from the softmax back to the product of queries and keys."""
        return () if self.scores is None else self.scores.steps

    @property
    def weight_steps(self) -> tuple[str, ...]:
        """The operators from the product with values back to the softmax."""
        return () if self.weighting is None else self.weighting.steps

    @property
    def packed(self) -> bool:
        """Whether one product makes queries, keys and values."""
        outputs = {one.output for one in (self.queries, self.keys, self.values) if one is not None}
        return len(outputs) == 1 and self.queries is not None and self.keys is not None

    @property
    def sources(self) -> frozenset[ir.Value]:
        """The values that queries, keys and values are made of. In an encoder it is a single one."""
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
        """heads x size, which may differ from the width of the encoder."""
        return None if self.heads is None or self.head_size is None else self.heads * self.head_size


def find_attentions(flow: Flow) -> tuple[Attention, ...]:
    """Return every attention of the main graph, in the order in which they run."""
    return tuple(walk_attentions(flow))


def walk_attentions(flow: Flow) -> Iterator[Attention]:
    """Yield the attentions of `find_attentions` one by one, for those that need not see all of them."""
    for node in flow.graph.nodes:
        if get_operator(node) == "Softmax":
            attention = _match_decomposed(flow, node)
            if attention is not None:
                yield attention
        elif get_operator(node) in ATTENTIONS and flow.token_inputs(node):
            yield _match_fused(flow, node)


def counts_tokens(flow: Flow, attention: Attention) -> bool:
    """Return whether a fused attention is told how many tokens each row has, by a one-dimensional mask_index or by lengths.

    EmbedLayerNormalization gives such an index, or a sum of the mask does. GroupQueryAttention takes lengths.
    """
    for index in MASK_INDEXES.get(get_operator(attention.node), ()):
        value = get_input(attention.node, index)
        node = None if value is None else flow.graph.origin(value).producer()
        if node is not None and get_operator(node) in (EMBEDDING_NORM, "ReduceSum"):
            return True
    for index in LENGTHS.get(get_operator(attention.node), ()):
        value = get_input(attention.node, index)
        behind = [] if value is None else flow.graph.upstream_nodes(value, through=LENGTH_STEPS)
        if any(get_operator(node) == "ReduceSum" for node in behind):
            return True
    return False


def _match_decomposed(flow: Flow, softmax: ir.Node) -> Attention | None:
    """Return the attention whose Softmax is ``softmax``, or None if it belongs to none."""
    scores = find_scores(flow, get_input(softmax, 0))
    weighting = _find_weighting(flow, softmax.outputs[0])
    if scores is None or weighting is None:
        return None
    queries, keys = (find_projection(flow, value) for value in flow.token_inputs(scores.product))
    values = find_projection(flow, weighting.values)
    parts = _count_parts(queries, values)
    heads, size = (queries.heads(parts) if queries is not None else None) or (None, None)
    output, terms = _join_heads(flow, weighting.product.outputs[0]), find_terms(flow, scores.added)
    return Attention(
        node=softmax,
        output=output,
        heads=heads,
        head_size=size,
        key_heads=_count_key_heads(keys, heads, size, parts),
        queries=queries,
        keys=keys,
        values=values,
        scores=scores,
        weighting=weighting,
        terms=terms,
        added=sort_kinds(kind for term in terms for kind in term.kinds),
        sum=_find_sum(flow, output),
    )


def _match_fused(flow: Flow, node: ir.Node) -> Attention:
    """Return the attention of a fused operator. Some make queries, keys and values themselves, others have them as inputs."""
    projects = get_operator(node) in PROJECTING
    queries, keys, values = (None, None, None) if projects else _find_input_projections(flow, node)
    heads = _get_heads(node, "num_heads", "q_num_heads")
    parts = _count_parts(queries, values)
    width = _find_own_width(flow, node) if projects else (queries.width if queries is not None else None)
    size = width // parts // heads if width is not None and heads else None
    if queries is not None and heads is None:
        heads, size = queries.heads(parts) or (None, None)
    key_heads = _get_heads(node, "kv_num_heads") or _count_key_heads(keys, heads, size, parts) or heads
    masks = (get_input(node, index) for index in MASK_INPUTS.get(get_operator(node), range(3, len(node.inputs))))
    terms = find_terms(flow, [value for value in masks if value is not None and flow.weights(value) is None])
    output = _join_heads(flow, node.outputs[0])
    return Attention(
        node=node,
        output=output,
        heads=heads,
        head_size=size,
        key_heads=key_heads,
        queries=queries,
        keys=keys,
        values=values,
        scores=None,
        weighting=None,
        terms=terms,
        added=_find_added_kinds(node, terms),
        sum=_find_sum(flow, output),
    )


def _get_heads(node: ir.Node, *names: str) -> int | None:
    """Return the first of the attributes ``names`` that a node has."""
    return next((heads for name in names if (heads := get_int(node, name, 0))), None)


def _find_input_projections(flow: Flow, node: ir.Node) -> tuple[Projection | None, ...]:
    """Return the projections that make a fused operator's q, k and v. A single input may hold all three."""
    found = [find_projection(flow, value) for value in node.inputs[:3] if value is not None and value in flow.tokens]
    return tuple(found * 3 if len(found) == 1 else [*found, None, None, None])[:3]


def _find_own_width(flow: Flow, node: ir.Node) -> int | None:
    """Return heads x size of an operator that makes q, k and v itself: by its attribute, or a third of its weights' width."""
    sizes = get_ints(node, "qkv_hidden_sizes")
    weight = flow.weights(get_input(node, 1))
    return sizes[0] if sizes else (int(weight.dims[-1]) // 3 if weight is not None and weight.dims else None)


def _find_added_kinds(node: ir.Node, terms: tuple[Term, ...]) -> tuple[str, ...]:
    """Return what changes the scores of a fused operator, by inputs and by attributes."""
    kinds = {kind for term in terms for kind in term.kinds}
    if get_operator(node) == f"{VENDOR}.GroupQueryAttention":  # its further inputs are caches and lengths
        kinds = {CAUSAL, PADDING}
    if get_int(node, "unidirectional", 0) or get_int(node, "is_causal", 0):
        kinds.add(CAUSAL)
    if get_int(node, "local_window_size", -1) > 0:
        kinds.add(WINDOW)
    return sort_kinds(kinds)


def _count_parts(queries: Projection | None, values: Projection | None) -> int:
    """Return how many of queries, keys and values one product makes: 3 or 1."""
    return 3 if queries is not None and values is not None and queries.output is values.output else 1


def _count_key_heads(keys: Projection | None, heads: int | None, size: int | None, parts: int) -> int | None:
    if keys is None or size is None:
        return None
    return heads if parts == 3 or keys.width is None else keys.width // size


def _find_weighting(flow: Flow, weights: ir.Value) -> Weighting | None:
    """Return the nearest product of ``weights`` with values."""
    todo: list[tuple[ir.Value, tuple[str, ...]]] = [(weights, ())]
    seen: set[ir.Value] = set()
    while todo:
        value, steps = todo.pop(0)
        if value in seen or len(seen) > FURTHEST:
            continue
        seen.add(value)
        for node in flow.graph.consumers(value):
            if get_operator(node) in PRODUCTS:
                other = next((one for one in flow.token_inputs(node) if one is not value), None)
                if other is not None:
                    return Weighting(node, other, steps)
            elif get_operator(node) in WEIGHT_STEPS:
                step = () if get_operator(node) in COPYING else (get_operator(node),)
                todo.append((node.outputs[0], step + steps))
    return None


def _join_heads(flow: Flow, value: ir.Value) -> ir.Value:
    """Return the last value that holds the attended values ``value`` in another shape.

    The exporter of transformers 5 also sets the rows to zero that see no key at all.
    """
    for _ in range(FURTHEST):
        readers = flow.graph.consumers(value)
        following = next((node for node in readers if get_operator(node) in JOINING or _zeroes_rows(flow, node, value)), None)
        if following is None:
            break
        value = following.outputs[0]
    return value


def _zeroes_rows(flow: Flow, node: ir.Node, value: ir.Value) -> bool:
    """Return whether a node puts zero in place of some elements of ``value``."""
    if get_operator(node) != "Where" or node.inputs[0] is value:
        return False
    return all(one is value or flow.scalar(one) == 0 for one in node.inputs[1:])


def _find_sum(flow: Flow, value: ir.Value) -> Sum | None:
    """Return the sum that adds the projection of an attention's output ``value`` to the stream."""
    product: ir.Node | None = None
    bias: ir.Value | None = None
    for _ in range(FURTHEST):
        node = next((one for one in flow.graph.consumers(value) if get_operator(one) in AFTER_ATTENTION), None)
        if node is None:
            return None
        one, other = get_input(node, 0), get_input(node, 1)
        is_sum = get_operator(node) in SUMS and one in flow.tokens and other in flow.tokens
        if is_sum and one is not None and other is not None:
            total = node.outputs[3] if len(node.outputs) > 3 and node.outputs[3].name else node.outputs[0]
            branch_first = one is value
            stream = other if branch_first else one
            return Sum(node, total, value, stream, branch_first, product, bias or get_input(node, 4))
        bias = bias or _find_bias(flow, node)
        product = node if get_operator(node) in PRODUCTS else product
        value = node.outputs[0]
    return None


def _find_bias(flow: Flow, node: ir.Node) -> ir.Value | None:
    """Return what a node adds to a product."""
    if get_operator(node) == "Add":
        return next((value for value in node.inputs if value not in flow.tokens), None)
    return get_input(node, PRODUCT_BIASES[get_operator(node)]) if get_operator(node) in PRODUCT_BIASES else None
