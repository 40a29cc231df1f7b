"""Embedding tables: how many token ids there are, how many token types, how many positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphsurgery.encoder.roles import Roles
from graphsurgery.errors import MalformedModelError, UnsupportedModelError
from graphsurgery.graph.attributes import integer, read_at
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import EMBEDDING_NORM, INDEX_STEPS, STORED_STEPS, operator
from graphsurgery.model.model import Model

POSITION_OFFSET = 2
"""RoBERTa-like encoders start counting positions after the padding id, two rows into the table."""
SHORTEST_POSITION_TABLE = 4
"""A table of fewer rows holds token types, read with a constant index."""


@dataclass(frozen=True)
class Tables:
    """Rows of the embedding tables, None where no table was found."""

    vocabulary: int | None = None
    types: int | None = None
    positions: int | None = None

    @property
    def longest(self) -> int | None:
        """The longest sequence that the position table surely serves."""
        return None if self.positions is None else max(self.positions - POSITION_OFFSET, 1)


def find_tables(model: Model, roles: Roles) -> Tables:
    """Find the tables that ids, token types and positions are looked up in.

    A table is a weight of rank 2 that a Gather reads along axis 0, or one of EmbedLayerNormalization's. The position
    table is the shortest one as wide as the vocabulary's whose index comes from neither ids nor token types. None is found in
    a malformed graph: ONNX Runtime runs some of these.
    """
    try:
        graph = Graph.of(model)
    except (MalformedModelError, UnsupportedModelError):
        return Tables()
    rows: dict[str, tuple[int, int]] = {}
    others = []
    for table, index in _lookups(graph):
        origins = _inputs_behind(graph, index)
        if not origins:
            others.append(table)
        elif len(origins) == 1 or roles.ids is None or roles.ids.name not in origins:
            rows.update(dict.fromkeys(origins, table))
        else:  # a sum of inputs is looked up: leave room for the others' ones
            rows[roles.ids.name] = (max(table[0] - len(origins) + 1, 1), table[1])
    vocabulary = rows.get(roles.ids.name) if roles.ids else None
    types = rows.get(roles.types.name) if roles.types else None
    positions = [rows[roles.positions.name]] if roles.positions and roles.positions.name in rows else []
    width = vocabulary[1] if vocabulary else None
    positions += [table for table in others if table[1] == width and table[0] >= SHORTEST_POSITION_TABLE]
    return Tables(
        vocabulary[0] if vocabulary else None,
        types[0] if types else None,
        min(table[0] for table in positions) if positions else None,
    )


def _lookups(graph: Graph) -> Iterator[tuple[tuple[int, int], ir.Value | None]]:
    """Every table lookup, in graphs within nodes, too: (rows and width of the table, the value that indexes it)."""
    for node in graph.main.all_nodes():
        pairs: tuple[tuple[int, int | None], ...] = ()
        if operator(node) == "Gather" and integer(node, "axis", 0) == 0:
            pairs = ((0, 1),)
        elif operator(node) == EMBEDDING_NORM:
            pairs = ((2, 0), (3, None), (4, 1))
        for place, index in pairs:
            table = read_at(node, place)
            tensor = None if table is None else graph.tensor(graph.origin(table, STORED_STEPS))
            if tensor is not None and len(tensor.dims) == 2:
                yield (int(tensor.dims[0]), int(tensor.dims[1])), None if index is None else read_at(node, index)


def _inputs_behind(graph: Graph, index: ir.Value | None) -> set[str]:
    """Return the names of the inputs that ``index`` is computed from by `INDEX_STEPS` alone."""
    found, seen, todo = set(), set(), [index]
    while todo:
        value = todo.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if graph.is_fed(value):
            found.add(value.name or "")
        elif node is not None and operator(node) in INDEX_STEPS:
            todo += node.inputs
    return found
