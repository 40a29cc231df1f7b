"""Limits of what an encoder can be fed: the rows of its embedding tables, its end of text, and how far its attention looks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.roles import Roles
from graphsurgery.errors import MalformedModelError, UnsupportedModelError
from graphsurgery.graph.attributes import get_constant_tensor, get_input, get_int
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import (
    COMPARING,
    EMBEDDING_NORM,
    INDEX_STEPS,
    POSITION_STEPS,
    RESHAPING,
    STORED_STEPS,
    get_operator,
)
from graphsurgery.model.model import Model
from graphsurgery.model.once import Store, find_once

POSITION_OFFSET = 2
"""RoBERTa-like encoders start counting positions after the padding id, two rows into the table."""
SHORTEST_POSITION_TABLE = 4
"""A table with fewer rows is for token types that are looked up by a constant index."""
WINDOW_ATTRIBUTES = ("local_window_size", "window", "sliding_window")
WIDEST_WINDOW = 1 << 20
"""A larger number is not taken for a window. Masks are compared with such numbers, too."""


class Lookup(NamedTuple):
    """A table whose rows a node looks up."""

    rows: int
    width: int
    inputs: frozenset[str]
    """The inputs that its index is taken from, or computed from by `INDEX_STEPS` alone; none if it is a place in the text."""
    beside: frozenset[str] = frozenset()
    """The inputs that the rows of a place are added to."""
    counts: bool = False
    """Whether a place is counted by the numbers of an input, such as the ids that are not padding."""


_LOOKUPS: Store[tuple[Lookup, ...]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Tables:
    """The numbers of rows of the embedding tables. None if no table was found."""

    vocabulary: int | None = None
    types: int | None = None
    positions: int | None = None
    end_id: int | None = None
    """The id that ends a text, if the graph looks for it to take that position's vector, as CLIP's text towers do."""
    counts: bool = False
    """Whether positions are counted from the ids that are not padding, and so begin after the padding id's row."""

    @property
    def longest(self) -> int | None:
        """The length of the longest sequence for which the position table certainly has rows."""
        return None if self.positions is None else max(self.positions - POSITION_OFFSET, 1)

    @property
    def limit(self) -> int | None:
        """The length of the longest sequence, as the graph counts positions."""
        return self.longest if self.counts else self.positions


def find_tables(model: Model, roles: Roles) -> Tables:
    """Find the tables that ids, token types and positions are looked up in.

    A table is a weight of rank 2 that a Gather reads along axis 0, or a table of EmbedLayerNormalization. The position table is
    the shortest one whose index comes from neither ids nor token types and that is as wide as the vocabulary's, or as the token
    types': word vectors may be widened before they are added. No table is found in a malformed graph, which ONNX Runtime may
    still run.
    """
    rows: dict[str, tuple[int, int]] = {}
    others = []
    counts = False
    for one in _list_lookups(model):
        table, inputs = (one.rows, one.width), one.inputs
        if not inputs:
            others += [table] if roles.ids is None or not one.beside or roles.ids.name in one.beside else []
            counts = counts or one.counts
        elif len(inputs) == 1 or roles.ids is None or roles.ids.name not in inputs:
            rows.update(dict.fromkeys(inputs, table))
        else:  # the index is a sum of inputs: leave room for the others being 1
            rows[roles.ids.name] = (max(table[0] - len(inputs) + 1, 1), table[1])
    vocabulary = rows.get(roles.ids.name) if roles.ids else None
    types = rows.get(roles.types.name) if roles.types else None
    positions = [rows[roles.positions.name]] if roles.positions and roles.positions.name in rows else []
    short = [table for table in others if table[0] < SHORTEST_POSITION_TABLE]  # token types, looked up by a constant
    widths = {table[1] for table in (vocabulary, types, *short) if table is not None}
    positions += [table for table in others if table[1] in widths and table[0] >= SHORTEST_POSITION_TABLE]
    return Tables(
        vocabulary[0] if vocabulary else None,
        types[0] if types else None,
        min(table[0] for table in positions) if positions else None,
        None if vocabulary is None or roles.ids is None else _find_end_id(model, roles.ids.name, vocabulary[0]),
        counts,
    )


def _find_end_id(model: Model, ids: str, vocabulary: int) -> int | None:
    """Return the id at whose first place an ArgMax points: one that ``ids`` are compared with, or the highest of all ids."""
    graph = Graph.of(model)
    for node in graph.nodes:
        if get_operator(node) != "ArgMax" or node.inputs[0] is None:
            continue
        looked_at = graph.origin(node.inputs[0], RESHAPING)
        compared = looked_at.producer()
        if looked_at.name == ids:
            return vocabulary - 1
        if compared is None or get_operator(compared) != "Equal":
            continue
        sides = [graph.origin(value, RESHAPING) for value in compared.inputs if value is not None]
        numbers = [array for side in sides if side.name != ids and (array := graph.array(side)) is not None and array.size == 1]
        if len(numbers) == 1 and any(side.name == ids for side in sides):
            return int(numbers[0].reshape(-1)[0])
    return None


def find_table_rows(model: Model) -> dict[str, int]:
    """Return the number of rows of the largest table that each input indexes, by the input's name."""
    rows: dict[str, int] = {}
    for one in _list_lookups(model):
        rows |= {name: max(one.rows, rows.get(name, 0)) for name in one.inputs}
    return rows


def list_constant_tables(model: Model) -> list[int]:
    """Return the numbers of rows of tables that may hold positions, each once, the most rows first.

    They are weights ``[1, rows, width]``, and tables that are looked up by constants.
    """
    added = (tensor.dims[1] for tensor in model.initializers.values() if len(tensor.dims) == 3 and tensor.dims[0] == 1)
    found = {int(rows) for rows in added} | {one.rows for one in _list_lookups(model) if not one.inputs}
    return sorted(found - {1}, reverse=True)


def _list_lookups(model: Model) -> tuple[Lookup, ...]:
    """Return every table lookup of ``model``, none of a malformed graph."""
    try:
        return find_once(_LOOKUPS, model, (), lambda: tuple(_find_lookups(Graph.of(model))))
    except (MalformedModelError, UnsupportedModelError):
        return ()


def _find_lookups(graph: Graph) -> Iterator[Lookup]:
    """Yield every table lookup, including those in subgraphs."""
    for node in graph.main.all_nodes():
        pairs: tuple[tuple[int, int | None], ...] = ()
        if get_operator(node) == "Gather" and get_int(node, "axis", 0) == 0:
            pairs = ((0, 1),)
        elif get_operator(node) == EMBEDDING_NORM:
            pairs = ((2, 0), (3, None), (4, 1))
        for place, index in pairs:
            table = get_input(node, place)
            tensor = None if table is None else graph.tensor(graph.origin(table, STORED_STEPS))
            if tensor is not None and len(tensor.dims) == 2:
                where = None if index is None else get_input(node, index)
                inputs = _find_index_inputs(graph, where)
                found = Lookup(int(tensor.dims[0]), int(tensor.dims[1]), inputs)
                yield (
                    found
                    if inputs
                    else found._replace(
                        beside=_find_inputs_beside(graph, node.outputs[0]), counts=_depends_on_numbers(graph, where)
                    )
                )


def _depends_on_numbers(graph: Graph, where: ir.Value | None) -> bool:
    """Return whether ``where`` depends on the numbers of an input, and not only on its shape."""
    nodes = [] if where is None else graph.upstream_nodes(where)
    return any(graph.is_fed(value) for node in nodes for value in node.inputs if value is not None)


def _find_inputs_beside(graph: Graph, rows: ir.Value) -> frozenset[str]:
    """Return the names of the inputs that ``rows`` of a table are added to: none if they are not added to anything."""
    values = [rows]
    for value in values:  # grows during the loop
        for node in graph.consumers(value):
            if get_operator(node) == "Add":
                return frozenset(one.name or "" for one in graph.ancestors(node.outputs) if graph.is_fed(one))
            values += node.outputs if get_operator(node) in RESHAPING else []
    return frozenset()


def _find_index_inputs(graph: Graph, index: ir.Value | None) -> frozenset[str]:
    """Return the names of the inputs from which ``index`` is taken, or computed by `INDEX_STEPS` alone."""
    names, seen, todo = set(), set(), [index]
    while todo:
        value = todo.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if graph.is_fed(value):
            names.add(value.name or "")
        elif node is not None and get_operator(node) == "Gather":  # some of the ids, such as those that are no padding
            todo += node.inputs[:1]
        elif node is not None and get_operator(node) in INDEX_STEPS:
            todo += node.inputs
    return frozenset(names)


def find_largest_window(model: Model) -> int | None:
    """Return the largest number that positions, or differences of positions, are compared with. None if there is none.

    A comparison with another purpose, such as relative position buckets, only makes the result larger than necessary. No window
    is found in a malformed graph, which ONNX Runtime may still run.
    """
    try:
        graph = Graph.of(model)
    except (MalformedModelError, UnsupportedModelError):
        return None
    sizes = []
    for node in graph.main.all_nodes():
        sizes += [get_int(node, name, 0) for name in WINDOW_ATTRIBUTES]
        if get_operator(node) in COMPARING:
            sizes += [_read_size(model, tensor) for tensor in _find_compared_numbers(graph, node)]
    return max((size for size in sizes if 0 < size <= WIDEST_WINDOW), default=None)


def _find_compared_numbers(graph: Graph, node: ir.Node) -> Iterator[onnx.TensorProto]:
    """Yield the constants of one element that reach a comparison through arithmetic alone."""
    seen, todo = set(), list(node.inputs)
    while todo:
        value = todo.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        tensor = graph.tensor(value)
        if tensor is None and producer is not None:  # a constant of a subgraph
            tensor = get_constant_tensor(producer)
        if tensor is not None:
            yield from (tensor,) if _is_one_number(tensor) else ()
        elif producer is not None and get_operator(producer) in POSITION_STEPS:
            todo += producer.inputs


def _read_size(model: Model, tensor: onnx.TensorProto) -> int:
    """Return the absolute value of a whole number, or 0 for any other number."""
    value = float(model.values(tensor).reshape(-1)[0])
    return abs(int(value)) if value.is_integer() else 0


def _is_one_number(tensor: onnx.TensorProto) -> bool:
    numeric = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    return tensor.data_type in numeric and all(size == 1 for size in tensor.dims)
