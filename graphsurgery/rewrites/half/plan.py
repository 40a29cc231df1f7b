"""Plan a conversion to half precision: the type of each float32 value of a graph, as it is made and as it is read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

from graphsurgery.deferred import ir
from graphsurgery.graph.element_types import FLOAT, ElementTypes, get_node_key
from graphsurgery.graph.operators import SHAPE_READING, get_operator


class ConversionPlan:
    """The types that the float32 values of a graph get in a conversion. The graph itself is not changed."""

    def __init__(self, types: ElementTypes, kind: int, kept: Collection[str], outside: int = FLOAT) -> None:
        """Plan the conversion to ``kind``.

        Args:
            kept: the nodes that stay float32, by `get_node_key`.
            outside: the type that float32 inputs and outputs of the graph get.
        """
        self.types, self.graph, self.kind, self.outside = types, types.graph, kind, outside
        self._changes = {
            node: frozenset() if get_node_key(node) in kept else types.convertible(node, kind) for node in types.graph.nodes
        }
        self.constants = {value for value, one in types.graph.constants.items() if one.data_type == FLOAT}

    @property
    def rounded(self) -> list[str]:
        """The values that are rounded: made in the half type, or cast to it for their readers. Constants are left out."""
        return [value.name or "" for value in self.made if self.kind in self.wanted[value]]

    def find_input_types(self, node: ir.Node) -> list[int]:
        """Return the type that each float32 input of ``node`` must have. A node that reads only the shape takes any type."""
        if get_operator(node) in SHAPE_READING:
            return [self.kind if value is None else self.made.get(value, self.kind) for value in node.inputs]
        known = self.types.signature(node)
        return self._choose_types(node, node.inputs, known.inputs if known is not None else ())

    def find_output_types(self, node: ir.Node) -> list[int]:
        """Return the type in which ``node`` makes each output that is float32 in the source."""
        known = self.types.signature(node)
        return self._choose_types(node, node.outputs, known.outputs if known is not None else ())

    def _choose_types(self, node: ir.Node, values: Sequence[ir.Value | None], formals: tuple[str, ...]) -> list[int]:
        known, changes = self.types.signature(node), self._changes[node]
        if known is None or not changes:
            return [FLOAT] * len(values)
        return [self.kind if variable in changes else FLOAT for _, variable in known.variables(values, formals)]

    @cached_property
    def made(self) -> dict[ir.Value, int]:
        """The type in which each float32 value is made. Constants are left out."""
        sparse = (self.graph.value(one.values.name) for one in self.graph.source.graph.sparse_initializer)
        found: dict[ir.Value, int] = dict.fromkeys(self.types.select_float32(sparse), FLOAT)
        found |= {
            value: FLOAT if self.graph.tensor(value) is not None else self.outside
            for value in self.types.select_float32(self.graph.main.inputs)
        }
        for node in self.graph.nodes:
            given = zip(node.outputs, self.find_output_types(node), strict=True)
            found |= {value: kind for value, kind in given if self.types[value] == FLOAT and value not in self.constants}
        return found

    @cached_property
    def wanted(self) -> dict[ir.Value, set[int]]:
        """The types in which each float32 value is read or made. Constants are made in the types in which they are read."""
        found = {value: {kind} for value, kind in self.made.items()}
        for value, kind in self._list_readings():
            if self.types[value] == FLOAT:
                found.setdefault(value, set()).add(kind)
        return found

    def _list_readings(self) -> Iterator[tuple[ir.Value, int]]:
        yield from ((value, self.outside) for value in self.graph.main.outputs)
        for node in self.graph.nodes:
            yield from ((value, FLOAT) for value in self.graph.implicit_inputs(node))
            pairs = zip(node.inputs, self.find_input_types(node), strict=True)
            yield from ((value, kind) for value, kind in pairs if value is not None)
