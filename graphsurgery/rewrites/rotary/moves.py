"""What becomes of the lanes of a value, the places in its last dims, in nodes that only move them.

Every row, the dims before the lanes, has to be treated alike: a node that moves rows, too, is not understood.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_input, get_int
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import COPYING, SAME_ORDER, get_operator
from graphsurgery.graph.symbolic import Sizes

Lanes = np.ndarray[Any, np.dtype[np.object_]]
"""Something for each lane of a value, whose last dims are those of the array."""
Trace: TypeAlias = "Callable[[ir.Value], Lanes | None]"
"""Returns the lanes of a value, or None if they are not known."""
Move: TypeAlias = "Callable[[ir.Node, ir.Value, Facts, Lanes], Lanes | None]"
"""Returns the lanes of a node's output by those of its first input, or None if the node does not treat all rows alike."""


def make_lanes(items: Sequence[Hashable]) -> Lanes:
    """Return an array of objects, which may be tuples."""
    lanes: Lanes = np.empty(len(items), object)
    for place, item in enumerate(items):
        lanes[place] = item
    return lanes


def move_lanes(node: ir.Node, value: ir.Value, facts: Facts, trace: Trace) -> Lanes | None:
    """Return the lanes of ``value``, an output of ``node``. None if the node does more than move lanes."""
    operator, first = get_operator(node), get_input(node, 0)
    if operator == "Concat":
        return _concatenate(node, facts, trace)
    move = MOVES.get(operator)
    lanes = None if move is None or first is None else trace(first)
    return None if move is None or lanes is None else move(node, value, facts, lanes)


def _concatenate(node: ir.Node, facts: Facts, trace: Trace) -> Lanes | None:
    pieces = [None if one is None else trace(one) for one in node.inputs]
    lanes = [one for one in pieces if one is not None]
    if not lanes or len(lanes) < len(pieces) or len({one.ndim for one in lanes}) != 1:
        return None
    place = _find_place(get_int(node, "axis", 0), facts[node.inputs[0]].dims, lanes[0])
    return None if place is None else np.concatenate(lanes, place)


def _find_place(axis: int, dims: Sizes | None, lanes: Lanes) -> int | None:
    """Return which of the array's axes the ``axis`` of a value with ``dims`` is. None if it is one of the rows."""
    if dims is None:
        return None
    place = axis - (len(dims) if axis >= 0 else 0) + lanes.ndim
    return place if place >= 0 else None


def _copy(node: ir.Node, value: ir.Value, facts: Facts, lanes: Lanes) -> Lanes | None:
    return lanes if facts[node.inputs[0]].dtype == facts[value].dtype else None


def _reshape(node: ir.Node, value: ir.Value, facts: Facts, lanes: Lanes) -> Lanes | None:
    """Return the lanes of the same elements, in the same order, under other dims: the last ones that hold all lanes."""
    last: list[int] = []
    for size in reversed(facts[value].dims or ()):
        if not isinstance(size, int) or (last and prod(last) >= lanes.size):
            break
        last.insert(0, size)
    return lanes.reshape(last) if last and prod(last) == lanes.size else None


def _split(node: ir.Node, value: ir.Value, facts: Facts, lanes: Lanes) -> Lanes | None:
    axis = get_int(node, "axis", 0)
    place = _find_place(axis, facts[node.inputs[0]].dims, lanes)
    sizes = [dims[axis] if (dims := facts[one].dims) is not None else None for one in node.outputs]
    literal = [size for size in sizes if isinstance(size, int)]
    if place is None or len(literal) != len(sizes):
        return None
    return np.split(lanes, np.cumsum(literal)[:-1], place)[list(node.outputs).index(value)]


def _slice(node: ir.Node, value: ir.Value, facts: Facts, lanes: Lanes) -> Lanes | None:
    starts, ends, axes, steps = (facts.literals(get_input(node, place)) for place in (1, 2, 3, 4))
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if get_input(node, 3) is None else axes
    steps = [1] * len(starts) if get_input(node, 4) is None else steps
    if axes is None or steps is None or min(steps, default=1) < 1:
        return None
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = _find_place(axis, facts[node.inputs[0]].dims, lanes)
        if place is None:
            return None
        lanes = lanes[(slice(None),) * place + (slice(start, end, step),)]
    return lanes


def _gather(node: ir.Node, value: ir.Value, facts: Facts, lanes: Lanes) -> Lanes | None:
    index = get_input(node, 1)
    place, dims = _find_place(get_int(node, "axis", 0), facts[node.inputs[0]].dims, lanes), facts[index].dims
    literal = facts.literals(index)
    if place is None or literal is None or dims is None or (not dims and lanes.ndim == 1):
        return None
    return np.take(lanes, np.array(literal).reshape([len(literal)] if dims else []), place)


def _expand(node: ir.Node, value: ir.Value, facts: Facts, lanes: Lanes) -> Lanes | None:
    last = (facts[value].dims or ())[-lanes.ndim :]
    if len(last) != lanes.ndim or any(one not in (1, size) for one, size in zip(lanes.shape, last, strict=True)):
        return None
    return np.broadcast_to(lanes, [size for size in last if isinstance(size, int)])


def _tile(node: ir.Node, value: ir.Value, facts: Facts, lanes: Lanes) -> Lanes | None:
    counts = facts.literals(get_input(node, 1))
    if counts is None or len(counts) < lanes.ndim or not set(counts[: -lanes.ndim]) <= {1}:
        return None
    return np.tile(lanes, counts[-lanes.ndim :])


MOVES: dict[str, Move] = {
    **dict.fromkeys(COPYING, _copy), **dict.fromkeys(SAME_ORDER, _reshape), "Split": _split, "Slice": _slice,
    "Gather": _gather, "Expand": _expand, "Tile": _tile,
}  # fmt: skip
"""By operator, Concat aside."""
