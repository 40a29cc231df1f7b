"""Find queries, keys and values before the nodes that turn their dims round, so that these nodes need not run.

A value with heads has four axes: batch, heads, positions, and the size of a head. It may have them in any order. Exports turn
the keys round to multiply them with the queries, some by way of three dims [batch x heads, positions, size].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.scores import LONGEST
from graphsurgery.graph.attributes import get_input, get_ints
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import SAME_ORDER, SCALING, get_operator
from graphsurgery.graph.symbolic import Sizes
from graphsurgery.rewrites.attention.reading import NotConvertibleError, read_number

SPLIT = (0, 1, 2, 3)
"""Batch, heads, positions, size."""
TURNED = (0, 1, 3, 2)
"""Batch, heads, size, positions: keys as the second operand of a product."""
JOINABLE = (0, 2, 1, 3)
"""Batch, positions, heads, size: heads can be joined by a Reshape."""
MERGED = (0, 1, 2)
"""Batch x heads, positions, size: to an operator, a batch with a single head."""


@dataclass(frozen=True, eq=False)
class Heads:
    """Queries, keys or values with four axes, or with three where batch and heads are one.

    What the attention multiplies is ``factor`` times the value, turned round.
    """

    value: ir.Value
    order: tuple[int, ...]
    """For each axis of the value its place in `SPLIT` or in `MERGED`."""
    factor: float = 1.0
    single: Heads | None = None
    """What they are before their heads are repeated for groups of queries, if they are."""

    def turn(self, order: tuple[int, ...]) -> list[int]:
        """Return the ``perm`` of the Transpose that brings the axes into ``order``."""
        return [self.order.index(axis) for axis in order]


def find_heads(flow: Flow, facts: Facts, value: ir.Value, turned: bool, outer: Sizes, *, scaled: bool = True) -> Heads:
    """Return what ``value``, an operand of a product, is made of.

    Args:
        turned: whether its last axis are the positions, as in the second operand of queries times keys.
        outer: the dims [batch, heads], for an operand of three dims. Empty if it may keep the three.
        scaled: whether a constant factor may be taken out of it.

    Raises NotConvertibleError if it has neither four dims, nor three that are such dims joined.
    """
    rank = len(facts[value].dims or ())
    if rank not in (3, 4):
        raise NotConvertibleError(f"its products have {rank or 'unknown'} dims, not [batch, heads, queries, keys]")
    order = TURNED if turned else SPLIT
    state = Heads(value, order) if rank == 4 else Heads(value, tuple(axis - 1 for axis in order[1:]))
    found = state if rank == 4 or not outer else None
    for _ in range(LONGEST):
        before = _step_back(flow, facts, state, outer, scaled)
        if before is None:
            break
        if len(state.order) == 4:
            outer = _find_outer(facts, state) or outer
        state = before
        found = state if len(state.order) == 4 or not outer else found
    if found is None:
        raise NotConvertibleError(
            "batch and heads are one dim of its products, and the shapes do not tell how they were joined"
        )
    return replace(found, single=_step_over_repeat(facts, state))


def _find_outer(facts: Facts, state: Heads) -> Sizes | None:
    """Return the dims [batch, heads] of a value with four axes."""
    dims = facts[state.value].dims
    return None if dims is None else (dims[state.order.index(0)], dims[state.order.index(1)])


def _step_back(flow: Flow, facts: Facts, state: Heads, outer: Sizes, scaled: bool) -> Heads | None:
    """Return what ``state`` is made of by one node, or None if that node does more than turn it round or scale it."""
    node = state.value.producer()
    first = None if node is None else get_input(node, 0)
    dims = facts[state.value].dims
    if node is None or first is None or dims is None:
        return None
    if get_operator(node) == "Transpose":
        perm = get_ints(node, "perm")
        if perm is None or len(perm) != len(state.order):
            return None
        axes = {place: state.order[out] for out, place in enumerate(perm)}
        return Heads(first, tuple(axes[place] for place in range(len(perm))), state.factor)
    if get_operator(node) == "Reshape":
        return _step_over_reshape(facts, state, first, dims, outer)
    if get_operator(node) not in SCALING:
        return None
    tokens = flow.token_inputs(node)
    other = next((one for one in node.inputs if one not in tokens), None)
    number = read_number(flow, other) if scaled and len(tokens) == 1 else None
    if number is None or number <= 0 or (get_operator(node) == "Div" and tokens[0] is not first):
        return None
    if len(facts[tokens[0]].dims or ()) != len(state.order):
        return None
    return Heads(tokens[0], state.order, state.factor * (number if get_operator(node) == "Mul" else 1 / number))


def _step_over_reshape(facts: Facts, state: Heads, first: ir.Value, dims: Sizes, outer: Sizes) -> Heads | None:
    """Return the input of a Reshape that joins batch and heads into one dim, or splits that dim again."""
    before = facts[first].dims or ()
    if (len(before), len(dims)) not in ((3, 4), (4, 3)) or before[-2:] != dims[-2:]:
        return None
    if len(dims) == 4 and state.order[:2] == (0, 1):
        return Heads(first, tuple(axis - 1 for axis in state.order[1:]), state.factor)
    if len(dims) == 3 and state.order[0] == 0 and before[:2] == tuple(outer):
        return Heads(first, (0, *(axis + 1 for axis in state.order)), state.factor)
    return None


def _step_over_repeat(facts: Facts, state: Heads) -> Heads | None:
    """Return what keys or values are repeated from, by way of [batch, groups, heads of each, positions, size].

    None if they are not repeated, or not by an Expand.
    """
    reshape = state.value.producer()
    expand = _find_before(reshape, "Reshape") if state.order in (SPLIT, MERGED) else None
    insert = _find_before(expand, "Expand")
    first = None if insert is None or get_operator(insert) not in SAME_ORDER else insert.inputs[0]
    if expand is None or insert is None or first is None:
        return None
    before, after = facts[first].dims or (), facts[state.value].dims or ()
    single, spread = facts[insert.outputs[0]].dims or (), facts[expand.outputs[0]].dims or ()
    if len(before) != 4 or single != (*before[:2], 1, *before[2:]) or spread != (*before[:2], *spread[2:3], *before[2:]):
        return None
    fits = after[-2:] == before[2:] and (len(after) == 3 or after[0] == before[0])
    return Heads(first, SPLIT, state.factor) if fits else None


def _find_before(node: ir.Node | None, operator: str) -> ir.Node | None:
    """Return the node that makes the first input of ``node``, if ``node`` is an ``operator``."""
    first = get_input(node, 0) if node is not None and get_operator(node) == operator else None
    return None if first is None else first.producer()


def find_joined(facts: Facts, heads: Heads, sizes: Sizes) -> ir.Value | None:
    """Return the value ``[batch, positions, heads x size]`` that a Reshape splits into ``heads``, or None if none does.

    Args:
        sizes: the sizes [heads, size], as far as they are known.
    """
    node = heads.value.producer()
    if heads.order != JOINABLE or node is None or get_operator(node) != "Reshape" or node.inputs[0] is None:
        return None
    split, joined = facts[heads.value].dims, facts[node.inputs[0]].dims
    return node.inputs[0] if splits(joined, split, sizes) else None


def splits(joined: Sizes | None, split: Sizes | None, sizes: Sizes) -> bool:
    """Return whether dims ``[batch, positions, heads x size]`` are certainly ``[batch, positions, heads, size]`` joined.

    Both are dims of the same elements in the same order. If two of three dims are the same, so is the third.
    """
    heads, size = sizes
    if joined is None or split is None or len(joined) != 3 or not (isinstance(heads, int) and isinstance(size, int)):
        return False
    return sum(one == other for one, other in zip(joined, (*split[:2], heads * size), strict=True)) > 1
