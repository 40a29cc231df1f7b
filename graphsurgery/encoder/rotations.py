"""Rotary positions in queries and keys, as an operator or as the nodes that it consists of.

    value = x cos + turned(x) sin

``turned`` swaps the halves of x, or the two numbers of each pair, and negates one of them. Exports write this in two ways: with
the swapped value as a whole, or half by half, ``concat(x1 cos - x2 sin, x2 cos + x1 sin)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow
from graphsurgery.graph.attributes import get_input
from graphsurgery.graph.operators import ADDING, PARTING, RESHAPING, ROTATIONS, get_operator


@dataclass(frozen=True, eq=False)
class Rotation:
    """Rotary positions: ``value = x cos + turned(x) sin``."""

    node: ir.Node
    """The fused operator, or the last node of a decomposed one: a sum, or the Concat of halves."""
    source: ir.Value | None
    """x."""
    made_by: str
    """The operator that makes x."""
    halves: str
    """The operators that make the halves of x."""
    fixed: bool = False
    """Whether the places where they are cut are constants."""

    @property
    def value(self) -> ir.Value:
        return self.node.outputs[0]


def find_rotation(flow: Flow, node: ir.Node) -> Rotation | None:
    """Return the rotation that ``node`` ends, or None if it ends none."""
    if get_operator(node) in ROTATIONS:
        source = get_input(node, 0)
        return Rotation(node, source, _name_producer(flow, source), node.op_type)
    swapped = _find_swapped_halves(flow, node)
    if swapped is not None:
        halves = [flow.find_producer(_skip_neg(flow, value)) for value in swapped.inputs]
        return _make_rotation(flow, node, _find_rotated(flow, node), halves)
    parts = _find_turned_parts(flow, node)
    cut = {get_input(part, 0) for part in parts if part is not None and get_operator(part) in PARTING}
    return _make_rotation(flow, node, cut.pop(), parts) if len(parts) == 2 and len(cut) == 1 else None


def _make_rotation(flow: Flow, node: ir.Node, source: ir.Value | None, halves: list[ir.Node | None]) -> Rotation:
    fixed = all(half is not None and all(flow.integers(bound) is not None for bound in half.inputs[1:3]) for half in halves)
    made_by = sorted({_name(half) for half in halves})
    return Rotation(node, source, _name_producer(flow, source), ", ".join(made_by), fixed)


def _find_turned_parts(flow: Flow, node: ir.Node) -> list[ir.Node | None]:
    """Return the nodes that make x1 and x2 in ``concat(x1 cos - x2 sin, x2 cos + x1 sin)``, or none.

    Each operand of ``node`` is a sum or a difference of two products, and both have the same two factors made of tokens.
    """
    if get_operator(node) != "Concat" or len(node.inputs) != 2:
        return []
    found: list[set[ir.Value]] = []
    for value in node.inputs:
        total = _skip_reshapes(flow, value)
        if total is None or get_operator(total) not in ADDING:
            return []
        products = [flow.find_producer(_skip_neg(flow, one), "Mul") for one in total.inputs]
        factors = [one for product in products if product is not None for one in flow.token_inputs(product)]
        found.append({_skip(flow, one) for factor in factors if (one := _skip_neg(flow, factor)) is not None})
    if len(found[0]) != 2 or found[0] != found[1]:
        return []
    return [value.producer() for value in found[0]]


def _find_swapped_halves(flow: Flow, node: ir.Node) -> ir.Node | None:
    """Return the Concat of ``-x2, x1`` in ``x cos + concat(-x2, x1) sin``."""
    if get_operator(node) != "Add":
        return None
    for value in node.inputs:
        product = flow.find_producer(value, "Mul")
        for factor in product.inputs if product is not None else ():
            concat = _skip_reshapes(flow, factor)
            if concat is not None and get_operator(concat) == "Concat" and _has_negated(flow, concat.inputs):
                return concat
    return None


def _has_negated(flow: Flow, values: Iterable[ir.Value | None]) -> bool:
    nodes = (_skip_reshapes(flow, value) for value in values)
    return any(node is not None and get_operator(node) == "Neg" for node in nodes)


def _find_rotated(flow: Flow, node: ir.Node) -> ir.Value | None:
    """Return the value that a sum of two products rotates."""
    for value in node.inputs:
        product = flow.find_producer(value)
        factors = flow.token_inputs(product) if product is not None else []
        if factors and _name_producer(flow, factors[0]) != "Concat":
            return factors[0]
    return get_input(node, 0)


def _skip(flow: Flow, value: ir.Value) -> ir.Value:
    """Return what ``value`` is in another shape."""
    return flow.graph.origin(value, RESHAPING)


def _skip_reshapes(flow: Flow, value: ir.Value | None) -> ir.Node | None:
    """Return the node that makes ``value``, looking through copies and reshapes."""
    return None if value is None else _skip(flow, value).producer()


def _skip_neg(flow: Flow, value: ir.Value | None) -> ir.Value | None:
    """Return x if ``value`` is -x, else ``value``."""
    node = _skip_reshapes(flow, value)
    return get_input(node, 0) if node is not None and get_operator(node) == "Neg" else value


def _name_producer(flow: Flow, value: ir.Value | None) -> str:
    return _name(flow.find_producer(value))


def _name(node: ir.Node | None) -> str:
    return get_operator(node) if node is not None else "input"
