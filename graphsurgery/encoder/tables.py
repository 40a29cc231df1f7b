"""Embedding tables: how many token ids there are, how many token types, how many positions."""

from __future__ import annotations

from dataclasses import dataclass

from graphsurgery.encoder.roles import Roles
from graphsurgery.graph.wiring import RESHAPING, Wiring, all_nodes, attribute_int
from graphsurgery.model.model import Model

POSITION_OFFSET = 2
"""RoBERTa-like encoders start counting positions after the padding id, two rows into the table."""
SHORTEST_POSITION_TABLE = 4
"""A table of fewer rows holds token types, read with a constant index."""
INDEX_ARITHMETIC = RESHAPING | {"Mul", "Add", "Where", "Clip", "Max", "Min"}
"""Operators that ids still pass through on their way to a table; a CumSum, Equal or Shape makes positions of them."""


@dataclass(frozen=True)
class Tables:
    """Rows of the embedding tables, None where no table was found."""

    vocabulary: int | None
    types: int | None
    positions: int | None

    @property
    def longest(self) -> int | None:
        """The longest sequence that the position table surely serves."""
        return None if self.positions is None else max(self.positions - POSITION_OFFSET, 1)


def tables_of(model: Model, roles: Roles) -> Tables:
    """Find the tables that ids, token types and positions are looked up in.

    A table is a rank-2 initializer that a Gather reads along axis 0, or one of EmbedLayerNormalization's. The position
    table is the shortest one as wide as the vocabulary's whose index comes from neither ids nor token types.
    """
    wiring = Wiring.of(model)
    rows: dict[str, tuple[int, int]] = {}
    others = []
    for table, index in _lookups(model, wiring):
        origins = wiring.origins(index, INDEX_ARITHMETIC)
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


def _lookups(model: Model, wiring: Wiring) -> list[tuple[tuple[int, int], str]]:
    """Every table lookup: (rows and width of the table, the value that indexes it)."""
    found = []
    for node in all_nodes(model.proto.graph):
        if node.op_type == "Gather" and len(node.input) == 2 and attribute_int(node, "axis", 0) == 0:
            pairs = [(node.input[0], node.input[1])]
        elif node.op_type == "EmbedLayerNormalization" and len(node.input) > 4:
            pairs = [(node.input[2], node.input[0]), (node.input[3], ""), (node.input[4], node.input[1])]
        else:
            continue
        for name, index in pairs:
            table = wiring.initializers.get(_table_origin(wiring, name))
            if table is not None and len(table.dims) == 2:
                found.append(((int(table.dims[0]), int(table.dims[1])), index))
    return found


def _table_origin(wiring: Wiring, name: str) -> str:
    """The initializer behind a table that is cast or dequantised before it is read."""
    return wiring.origin(name, frozenset({"Cast", "Identity", "DequantizeLinear"}))
