"""What stands between the product of queries and keys and the softmax, and what is added there.

weights = softmax(scale q k^T + added)      [batch, heads, seq, seq]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import onnx
import onnx_ir as ir

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
    operator,
)
from graphsurgery.model.dtypes import FLOATS, element_count

PADDING = "padding mask"
"""Made of an input: the mask, or the ids."""
CAUSAL = "causal mask"
WINDOW = "local window"
POSITION = "position bias"
"""Computed from no token: rows of a table by distance, or slopes."""
CONTENT = "terms of queries and keys"
KINDS = (PADDING, CAUSAL, WINDOW, POSITION, CONTENT)
MOST_BEHIND = 4000
"""How many values behind what is added are looked at."""
DEEPEST, LONGEST = 6, 60
"""How far back positions are followed, and scores."""


@dataclass(frozen=True, eq=False)
class Term:
    """A value that scores are changed by, and what is in it: any of `KINDS`."""

    value: ir.Value
    kinds: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Scores:
    """The product of queries and keys, and what happens to it up to the softmax."""

    product: ir.Node
    between: tuple[str, ...] = ()
    """The operators from the softmax back to the product."""
    scale: ir.Value | None = None
    """The number that the product is multiplied with, or divided by."""
    added: tuple[ir.Value, ...] = ()


def find_scores(flow: Flow, value: ir.Value | None) -> Scores | None:
    """Return the scores that ``value`` is made of, or None where no product of two values made of tokens is behind it."""
    return None if value is None else _scores(flow, value, set())


def find_terms(flow: Flow, added: Iterable[ir.Value]) -> tuple[Term, ...]:
    """Return the values that are added to scores, each with its kinds."""
    found = {value: {kind for leaf in find_summands(flow, value) for kind in _kinds(flow, leaf)} for value in added}
    return tuple(Term(value, in_order(kinds)) for value, kinds in found.items())


def in_order(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return what scores are changed by, in the order of `KINDS`, each kind once."""
    found = set(kinds)
    return tuple(kind for kind in KINDS if kind in found)


def _scores(flow: Flow, value: ir.Value, seen: set[ir.Value]) -> Scores | None:
    node = value.producer()
    if node is None or value in seen or value not in flow.tokens or len(seen) == LONGEST:
        return None
    seen.add(value)
    if operator(node) in PRODUCTS:
        return Scores(node) if len(flow.token_inputs(node)) == 2 else None
    for operand in flow.token_inputs(node) if operator(node) in SCORE_STEPS else ():
        found = _scores(flow, operand, seen)
        if found is not None:
            others = [other for other in node.inputs if other is not None and other is not operand]
            steps = () if operator(node) in COPYING else (operator(node),)
            added = _added(flow, node, others)
            scale = found.scale or _scale(flow, node, others)
            return replace(found, between=steps + found.between, scale=scale, added=found.added + added)
    return None


def _added(flow: Flow, node: ir.Node, others: list[ir.Value]) -> tuple[ir.Value, ...]:
    """Return those of a node's other operands that change scores, and not all alike: no number, and no target of a Reshape."""
    counts = operator(node) in BLENDING or operator(node) == "Mul"
    found = [value for value in others if counts and flow.number(value) is None]
    return tuple(found if operator(node) != "Mul" else [value for value in found if value in flow.fed])


def _scale(flow: Flow, node: ir.Node, others: list[ir.Value]) -> ir.Value | None:
    factors = others if operator(node) in SCALING else []
    return next((value for value in factors if value not in flow.fed), None)


def _kinds(flow: Flow, value: ir.Value) -> Iterator[str]:
    if value in flow.tokens:
        yield CONTENT
        return
    nodes = list(islice(flow.graph.nodes_behind(value), MOST_BEHIND))
    whole = flow.weights(value)
    if value in flow.fed:
        yield PADDING
    if whole is not None and element_count(whole.dims) > 1:
        yield CAUSAL if _is_square(whole) else POSITION
    elif any(_holds_numbers(flow, node) for node in nodes):
        yield POSITION
    else:
        yield from (kind for node in nodes if (kind := _limit(flow, node)) is not None)


def _holds_numbers(flow: Flow, node: ir.Node) -> bool:
    """Return whether a node brings floats of its own that differ by position: rows of a table, slopes, a whole table."""
    if is_lookup(flow.graph, node) or operator(node) in POSITION_BIASES:
        return True
    return any(tensor.data_type in FLOATS and not _is_square(tensor) for tensor in _held(flow, node))


def _held(flow: Flow, node: ir.Node) -> list[onnx.TensorProto]:
    """Return the constants of more than one number that a node reads."""
    held = (flow.graph.tensor(value) for value in node.inputs)
    return [tensor for tensor in held if tensor is not None and element_count(tensor.dims) > 1]


def _is_square(tensor: onnx.TensorProto) -> bool:
    """Return whether a constant has a number for each two positions, the same for all heads: a triangle of what may be seen."""
    return len(tensor.dims) > 1 and tensor.dims[-1] == tensor.dims[-2] and element_count(tensor.dims[:-2]) == 1


def _limit(flow: Flow, node: ir.Node) -> str | None:
    """Return what ``node`` limits attention to by comparing positions: what came before, or a window."""
    if operator(node) == "Trilu" or any(_is_square(tensor) for tensor in _held(flow, node)):
        return CAUSAL
    if operator(node) not in COMPARING:
        return None
    sides = {_positions(flow, value, DEEPEST) for value in node.inputs}
    if sides == {"position"}:
        return CAUSAL
    return WINDOW if "shifted" in sides and sides <= {"shifted", "position", "number"} else None


def _positions(flow: Flow, side: ir.Value | None, deep: int) -> str:
    """Return what a side of a comparison holds: a ``position`` as counted, or the next to it; one ``shifted`` by more, or a
    distance; a ``number``; or ``other``."""
    if side is None:
        return "other"
    value = flow.graph.origin(side, VIEWS)
    node = value.producer()
    if flow.number(value) is not None:
        return "number"
    if node is None:
        return "other"
    if operator(node) == "Range":
        return "position"
    sides = [_positions(flow, one, deep - 1) for one in node.inputs] if deep and operator(node) in SHIFTING else ["other"]
    if not set(sides) <= {"position", "number", "shifted"}:
        return "other"
    by_one = any(abs(flow.number(one) or 2) == 1 for one in node.inputs)
    return "position" if by_one and sorted(sides) == ["number", "position"] else "shifted"
