"""Follow the numbers of a vector through the nodes that rotate it, so that the order and the kind of the nodes do not matter.

A *lane* is a place in the last dims of a value; everything before them is a row. The nodes of a rotation move lanes, negate
them, multiply them by a number from a table and add them up, the same in every row. For each lane of a value made of x, the
tracer notes a sum of products, each of a lane of x and a lane of a table. For each lane of a table, it notes a number that
stands for what the lane is made of, so that equal lanes are known without running anything.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow
from graphsurgery.errors import MissingDataError
from graphsurgery.graph.attributes import get_input, get_ints
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import ADDING, EACH_ELEMENT, KEEPING_COLUMNS, get_operator
from graphsurgery.graph.symbolic import Sizes
from graphsurgery.model.dtypes import count_elements
from graphsurgery.rewrites.attention.reading import NotConvertibleError
from graphsurgery.rewrites.rotary.moves import Lanes, make_lanes, move_lanes

MOST_LANES = 1024
"""No head is wider."""
MOST_STORED = 1 << 24
"""The columns of a stored table are compared up to this many elements."""
MOST_NODES = 100
"""The search for what a table is made of goes through up to this many nodes."""


@dataclass(frozen=True, eq=False)
class Table:
    """A value that is multiplied with lanes of x."""

    value: ir.Value
    lanes: Lanes
    rows: Sizes
    """The dims before the lanes."""


class Factor(NamedTuple):
    """One lane of a table."""

    table: Table
    place: int

    @property
    def made_of(self) -> int:
        """Equal for two lanes only if they always have the same numbers."""
        return int(self.table.lanes.ravel()[self.place])


class Term(NamedTuple):
    """``sign * x[lane] * factor``. Without a factor, x itself."""

    sign: int
    lane: int
    factor: Factor | None = None


class Tracer:
    """Follows the lanes of ``source`` through the nodes after it."""

    def __init__(self, flow: Flow, facts: Facts, source: ir.Value) -> None:
        self._flow, self._facts = flow, facts
        dims = facts[source].dims or ()
        self.rows, width = dims[:-1], dims[-1] if dims else None
        if not isinstance(width, int) or not 0 < width <= MOST_LANES:
            raise NotConvertibleError("the size of what is rotated is not known")
        terms = make_lanes([(Term(1, lane),) for lane in range(width)])
        self._terms: dict[ir.Value, Lanes] = {source: terms}
        self._strange: dict[ir.Value, NotConvertibleError] = {}
        self._tables: dict[ir.Value, Lanes] = {}
        self._numbers: dict[Hashable, int] = {}

    def trace(self, value: ir.Value) -> Lanes:
        """Return the terms of each lane of ``value``, a value that is made of x.

        Raises NotConvertibleError if a node on the way does anything else than move, negate, multiply and add lanes.
        """
        if value in self._strange:
            raise self._strange[value]
        if value not in self._terms:
            try:
                self._terms[value] = self._trace_node(value)
            except NotConvertibleError as reason:
                self._strange[value] = reason
                raise
        return self._terms[value]

    def _trace_node(self, value: ir.Value) -> Lanes:
        node = value.producer()
        operator = "an input" if node is None else get_operator(node)
        found: Lanes | None = None
        if node is not None and operator == "Neg":
            found = _map(_negate, self.trace(_get(node, 0)))
        elif node is not None and operator in ADDING:
            one, other = (self.trace(_get(node, place)) for place in (0, 1))
            other = _map(_negate, other) if operator == "Sub" else other
            found = _map(lambda first, second: first + second, one, other) if one.shape == other.shape else None
        elif node is not None and operator == "Mul":
            found = self._multiply(node)
        elif node is not None:
            found = move_lanes(node, value, self._facts, self.trace)
        if found is None:
            raise NotConvertibleError(f"a {operator} is among its nodes that is not understood")
        return found

    def _multiply(self, node: ir.Node) -> Lanes | None:
        """Return the terms after the product of a value made of x and a table."""
        values = [_get(node, 0), _get(node, 1)]
        known = [one for one in values if self._is_made_of_source(one)]
        if len(known) != 1:
            return None
        table = values[1 - values.index(known[0])]
        terms, lanes, dims = self.trace(known[0]), self._describe(table), self._facts[table].dims
        if dims is None or lanes is None or not self._has_rows(known[0], terms):
            return None
        lanes = _widen(lanes, dims, terms.ndim)
        if lanes is None or np.broadcast_shapes(lanes.shape, terms.shape) != terms.shape:
            return None
        found = Table(table, lanes, dims[: max(len(dims) - terms.ndim, 0)])
        places = np.broadcast_to(np.arange(lanes.size).reshape(lanes.shape), terms.shape)
        made = [_multiply(those, Factor(found, int(place))) for those, place in zip(terms.ravel(), places.ravel(), strict=True)]
        return make_lanes(made).reshape(terms.shape)

    def _has_rows(self, value: ir.Value, lanes: Lanes) -> bool:
        """Return whether the dims of ``value`` before its lanes are those of x."""
        return (self._facts[value].dims or ())[: -lanes.ndim] == self.rows

    def _is_made_of_source(self, value: ir.Value) -> bool:
        try:
            self.trace(value)
        except NotConvertibleError:
            return False
        return True

    def _describe(self, value: ir.Value) -> Lanes | None:
        """Return what each lane of a table is made of, or None if the number of lanes is not known."""
        if value not in self._tables:
            dims = self._facts[value].dims
            last = 1 if not dims else dims[-1]
            if not isinstance(last, int) or not 0 < last <= MOST_LANES:
                return None
            self._tables[value] = self._number([(value, lane) for lane in range(last)])
            found = self._describe_node(value) if len(self._tables) < MOST_NODES else None
            self._tables[value] = self._tables[value] if found is None else found
        return self._tables[value]

    def _number(self, descriptions: Sequence[Hashable]) -> Lanes:
        return make_lanes([self._numbers.setdefault(one, len(self._numbers)) for one in descriptions])

    def _describe_node(self, value: ir.Value) -> Lanes | None:
        """Return what each lane is made of if the node that makes ``value`` tells it."""
        node, stored = value.producer(), self._flow.graph.tensor(value)
        if stored is not None:
            return None if value.is_graph_input() else self._describe_stored(stored)
        if node is None or not node.inputs:
            return None
        moved = move_lanes(node, value, self._facts, self._describe)
        if moved is not None:
            return moved
        if get_operator(node) in EACH_ELEMENT:
            return self._describe_elements(node)
        carrier = get_input(node, 1 if get_operator(node) == "MatMul" else 0)
        lanes = self._describe(carrier) if get_operator(node) in KEEPING_COLUMNS and carrier is not None else None
        last = (self._facts[value].dims or (None,))[-1]
        if lanes is None or lanes.ndim != 1 or lanes.size != last or not _keeps_last_axis(node):
            return None
        return self._number([(_name(node), lane) for lane in lanes])

    def _describe_elements(self, node: ir.Node) -> Lanes | None:
        """Return what each lane is made of after a node that computes element by element."""
        inputs = [one for one in node.inputs if one is not None]
        lanes = {one: found for one in inputs if (found := self._describe(one)) is not None}
        rank = max((one.ndim for one in lanes.values()), default=0)
        wide = [_widen(lanes[one], self._facts[one].dims or (), rank) for one in inputs if one in lanes]
        known = [one for one in wide if one is not None]
        if len(known) < len(inputs):
            return None
        made = _map(lambda *those: (_name(node), *those), *known)
        return self._number(list(made.ravel())).reshape(made.shape)

    def _describe_stored(self, tensor: onnx.TensorProto) -> Lanes | None:
        """Return a checksum of each column of a stored table."""
        if count_elements(tensor.dims) > MOST_STORED:
            return None
        try:
            array = self._flow.model.values(tensor)
        except MissingDataError:
            return None
        columns = array.reshape(-1, array.shape[-1] if array.ndim else 1).T
        return self._number([(str(array.dtype), array.shape, sha256(one.tobytes()).digest()) for one in columns])


def _keeps_last_axis(node: ir.Node) -> bool:
    perm = get_ints(node, "perm")
    return get_operator(node) != "Transpose" or (perm is not None and perm[-1] == len(perm) - 1)


def _name(node: ir.Node) -> str:
    return node.outputs[0].name or ""


def _get(node: ir.Node, place: int) -> ir.Value:
    value = get_input(node, place)
    if value is None:
        raise NotConvertibleError(f"a {get_operator(node)} among its nodes lacks an input")
    return value


def _map(function: Callable[..., Any], *lanes: Lanes) -> Lanes:
    """Return the results of ``function`` for the lanes of arrays that broadcast."""
    wide = np.broadcast_arrays(*lanes)
    items = [function(*those) for those in zip(*(one.ravel() for one in wide), strict=True)]
    return make_lanes(items).reshape(wide[0].shape)


def _negate(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    return tuple(term._replace(sign=-term.sign) for term in terms)


def _multiply(terms: tuple[Term, ...], factor: Factor) -> tuple[Term, ...]:
    if any(term.factor is not None for term in terms):
        raise NotConvertibleError("it is multiplied twice")
    return tuple(term._replace(factor=factor) for term in terms)


def _widen(lanes: Lanes, dims: Sizes, rank: int) -> Lanes | None:
    """Return lanes over the last ``rank`` dims of a value with ``dims``, if those that are added have the size 1."""
    if lanes.ndim > rank or any(size != 1 for size in dims[-rank : len(dims) - lanes.ndim]):
        return None
    return lanes.reshape((1,) * (rank - lanes.ndim) + lanes.shape)
