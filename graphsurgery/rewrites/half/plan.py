"""The conversion itself: every float32 value of a graph in the types that its readers want, under a name for each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

import onnx_ir as ir

from graphsurgery.graph.element_types import FLOAT, ElementTypes, get_node_key
from graphsurgery.graph.operators import SHAPE_READING, get_operator


class ConversionPlan:
    """What a conversion makes of each value of a graph, which it leaves as it is.

    ``kept``: the nodes that stay float32, by `get_node_key`. ``outside``: the type that float32 inputs and outputs get.
    """

    def __init__(self, types: ElementTypes, kind: int, kept: Collection[str], outside: int = FLOAT) -> None:
        self.types, self.graph, self.kind, self.outside = types, types.graph, kind, outside
        self._changes = {
            node: frozenset() if get_node_key(node) in kept else types.convertible(node, kind) for node in types.graph.nodes
        }
        self.constants = {value for value, one in types.graph.constants.items() if one.data_type == FLOAT}

    @property
    def rounded(self) -> list[str]:
        """The values, constants left out, that are rounded: made in the half type, or cast to it for who reads them."""
        return [value.name or "" for value in self.made if self.kind in self.wanted[value]]

    def find_input_types(self, node: ir.Node) -> list[int]:
        """The type that each input of ``node`` has to be, where it is float32 in the source; of a shape any will do."""
        if get_operator(node) in SHAPE_READING:
            return [self.kind if value is None else self.made.get(value, self.kind) for value in node.inputs]
        known = self.types.signature(node)
        return self._slots(node, node.inputs, known.inputs if known is not None else ())

    def find_output_types(self, node: ir.Node) -> list[int]:
        """The type that each output of ``node`` is made in, where it is float32 in the source."""
        known = self.types.signature(node)
        return self._slots(node, node.outputs, known.outputs if known is not None else ())

    def _slots(self, node: ir.Node, values: Sequence[ir.Value | None], formals: tuple[str, ...]) -> list[int]:
        known, changes = self.types.signature(node), self._changes[node]
        if known is None or not changes:
            return [FLOAT] * len(values)
        return [self.kind if variable in changes else FLOAT for _, variable in known.variables(values, formals)]

    @cached_property
    def made(self) -> dict[ir.Value, int]:
        """The type in which each float32 value that is no constant is made."""
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
        """The types in which each float32 value is read or made; constants are made in those in which they are read."""
        found = {value: {kind} for value, kind in self.made.items()}
        for value, kind in self._readings():
            if self.types[value] == FLOAT:
                found.setdefault(value, set()).add(kind)
        return found

    def _readings(self) -> Iterator[tuple[ir.Value, int]]:
        yield from ((value, self.outside) for value in self.graph.main.outputs)
        for node in self.graph.nodes:
            yield from ((value, FLOAT) for value in self.graph.implicit_inputs(node))
            pairs = zip(node.inputs, self.find_input_types(node), strict=True)
            yield from ((value, kind) for value, kind in pairs if value is not None)
