"""The scores of an attention: the product of queries and keys, and what changes them before the softmax.

weights = softmax(scale q k^T + added)      [batch, heads, seq, seq]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow, find_summands, is_lookup
from graphsurgery.graph.operators import (
    BLENDING,
    COMPARING,
    COPYING,
    POSITION_BIASES,
    PRODUCTS,
    SCALING,
    SCORE_STEPS,
    SHIFTING,
    VIEWS,
    get_operator,
)
from graphsurgery.model.dtypes import FLOATS, count_elements

PADDING = "padding mask"
"""Computed from an input: the mask, or the ids."""
CAUSAL = "causal mask"
WINDOW = "local window"
POSITION = "position bias"
"""Not computed from tokens: table rows by distance, or slopes."""
CONTENT = "terms of queries and keys"
KINDS = (PADDING, CAUSAL, WINDOW, POSITION, CONTENT)
MOST_NODES = 4000
"""A term's kinds are read off up to this many nodes that compute it."""
DEEPEST = 6
"""Positions are followed back through up to this many nodes."""
LONGEST = 60
"""Scores are followed back through up to this many nodes."""


@dataclass(frozen=True, eq=False)
class Term:
    """A value that changes scores, and what it contains: any of `KINDS`."""

    value: ir.Value
    kinds: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Scores:
    """The product of queries and keys, and what happens to it before the softmax."""

    product: ir.Node
    steps: tuple[str, ...] = ()
    """The operators from the softmax back to the product."""
    scale: ir.Value | None = None
    """The factor or divisor of the product."""
    added: tuple[ir.Value, ...] = ()
    """The values that change the scores: they are added to them, or select or multiply them."""


def find_scores(flow: Flow, value: ir.Value | None) -> Scores | None:
    """Return the scores that ``value`` is made of, or None if it is not computed from a product of two token values."""
    return None if value is None else _find_scores(flow, value, set())


def find_terms(flow: Flow, added: Iterable[ir.Value]) -> tuple[Term, ...]:
    """Return each of the values that change scores with its kinds."""
    found = {value: {kind for term in find_summands(flow, value) for kind in _find_kinds(flow, term)} for value in added}
    return tuple(Term(value, sort_kinds(kinds)) for value, kinds in found.items())


def sort_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return each kind once, in the order of `KINDS`."""
    given = set(kinds)
    return tuple(kind for kind in KINDS if kind in given)


def _find_scores(flow: Flow, value: ir.Value, seen: set[ir.Value]) -> Scores | None:
    node = value.producer()
    if node is None or value in seen or value not in flow.tokens or len(seen) == LONGEST:
        return None
    seen.add(value)
    operator = get_operator(node)
    if operator in PRODUCTS:
        return Scores(node) if len(flow.token_inputs(node)) == 2 else None
    for operand in flow.token_inputs(node) if operator in SCORE_STEPS else ():
        scores = _find_scores(flow, operand, seen)
        if scores is not None:
            others = [other for other in node.inputs if other is not None and other is not operand]
            step = () if operator in COPYING else (operator,)
            added = _find_added(flow, node, others)
            scale = scores.scale or _find_scale(flow, node, others)
            return replace(scores, steps=step + scores.steps, scale=scale, added=scores.added + added)
    return None


def _find_added(flow: Flow, node: ir.Node, others: list[ir.Value]) -> tuple[ir.Value, ...]:
    """Return the other operands of a node that change scores, but not all of them alike as a constant number does."""
    if get_operator(node) == "Mul":
        others = [value for value in others if value in flow.fed]
    elif get_operator(node) not in BLENDING:
        return ()
    return tuple(value for value in others if flow.scalar(value) is None)


def _find_scale(flow: Flow, node: ir.Node, others: list[ir.Value]) -> ir.Value | None:
    factors = others if get_operator(node) in SCALING else []
    return next((value for value in factors if value not in flow.fed), None)


def _find_kinds(flow: Flow, value: ir.Value) -> Iterator[str]:
    """Yield the kinds of a value that is not a sum."""
    if value in flow.tokens:
        yield CONTENT
        return
    if value in flow.fed:
        yield PADDING
    stored = flow.weights(value)
    nodes = list(islice(flow.graph.upstream_nodes(value), MOST_NODES))
    if stored is not None and count_elements(stored.dims) > 1:
        yield CAUSAL if _is_square(stored) else POSITION
    elif any(_has_position_numbers(flow, node) for node in nodes):
        yield POSITION
    else:
        yield from (kind for node in nodes if (kind := _find_limit(flow, node)) is not None)


def _has_position_numbers(flow: Flow, node: ir.Node) -> bool:
    """Return whether a node reads stored floats that differ by position: rows of a table, slopes, a whole table."""
    if is_lookup(flow.graph, node) or get_operator(node) in POSITION_BIASES:
        return True
    return any(tensor.data_type in FLOATS and not _is_square(tensor) for tensor in _list_stored(flow, node))


def _list_stored(flow: Flow, node: ir.Node) -> list[onnx.TensorProto]:
    """Return the tensors of more than one element that a node reads."""
    stored = (flow.graph.tensor(value) for value in node.inputs)
    return [tensor for tensor in stored if tensor is not None and count_elements(tensor.dims) > 1]


def _is_square(tensor: onnx.TensorProto) -> bool:
    """Return whether a constant has one number for each pair of positions, the same for all heads, as a causal mask has."""
    return len(tensor.dims) > 1 and tensor.dims[-1] == tensor.dims[-2] and count_elements(tensor.dims[:-2]) == 1


def _find_limit(flow: Flow, node: ir.Node) -> str | None:
    """Return how ``node`` limits attention by comparing positions: to earlier ones, or to a window."""
    if get_operator(node) == "Trilu" or any(_is_square(tensor) for tensor in _list_stored(flow, node)):
        return CAUSAL
    if get_operator(node) not in COMPARING:
        return None
    sides = {_classify_positions(flow, value, DEEPEST) for value in node.inputs}
    if sides == {"position"}:
        return CAUSAL
    return WINDOW if "shifted" in sides and sides <= {"shifted", "position", "number"} else None


def _classify_positions(flow: Flow, side: ir.Value | None, depth: int) -> str:
    """Return what one side of a comparison contains.

    ``position``: counted positions, or the ones next to them. ``shifted``: positions further away, or distances.
    ``number``: one number. ``other``: anything else.
    """
    if side is None:
        return "other"
    value = flow.graph.origin(side, VIEWS)
    node = value.producer()
    if flow.scalar(value) is not None:
        return "number"
    if node is None:
        return "other"
    if get_operator(node) == "Range":
        return "position"
    if not depth or get_operator(node) not in SHIFTING:
        return "other"
    sides = [_classify_positions(flow, one, depth - 1) for one in node.inputs]
    if not set(sides) <= {"position", "number", "shifted"}:
        return "other"
    by_one = any(abs(flow.scalar(one) or 2) == 1 for one in node.inputs)
    return "position" if by_one and sorted(sides) == ["number", "position"] else "shifted"
