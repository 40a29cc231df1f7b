"""New nodes for a graph: each gets a free name, and joins the main graph or the body of a loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from graphsurgery.deferred import ir
from graphsurgery.graph.editor import Editor
from graphsurgery.runtime.observed_dims import Size


class Builder:
    """Makes nodes one after the other. `nodes` are those made so far; whoever made the builder puts them into a graph."""

    def __init__(
        self, editor: Editor, prefix: str = "padding_free", constants: dict[tuple[int, ...] | int, ir.Value] | None = None
    ) -> None:
        self.editor = editor
        self.nodes: list[ir.Node] = []
        self.constants: dict[tuple[int, ...] | int, ir.Value] = {} if constants is None else constants
        """The constants made so far, by their numbers. Builders of one graph can share them."""
        self.prefix = prefix

    def node(
        self, op_type: str, inputs: Sequence[ir.Value | None], name: str,
        attributes: Mapping[str, Any] = MappingProxyType({}), domain: str = "",
    ) -> ir.Value:  # fmt: skip
        """Make a node and return its only output."""
        self.nodes.append(self.editor.make_value(op_type, inputs, f"{self.prefix}/{name}", attributes, domain))
        return self.nodes[-1].outputs[0]

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Node:
        """Make a node with the operator and attributes of ``node`` and with outputs of its own."""
        names = [self.editor.namer.new(f"{self.prefix}/{one.name}") if one.name else "" for one in node.outputs]
        name = self.editor.namer.new(f"{self.prefix}/{node.name}") if node.name else ""
        made = self.editor.make_node(node.op_type, inputs, names, {}, name, node.domain)
        made.attributes.update(node.attributes)
        self.nodes.append(made)
        return made

    def integers(self, numbers: Sequence[int] | int) -> ir.Value:
        """Return a constant int64 vector, or a scalar for a single number."""
        key = numbers if isinstance(numbers, int) else tuple(numbers)
        if key not in self.constants:
            self.constants[key] = self.editor.add_constant(f"{self.prefix}/integers", np.array(numbers, np.int64))
        return self.constants[key]

    def number(self, number: float) -> ir.Value:
        """Return a constant float32 scalar."""
        return self.editor.add_constant(f"{self.prefix}/number", np.array(number, np.float32))

    def slice(self, value: ir.Value, start: ir.Value, end: ir.Value, axis: int, name: str) -> ir.Value:
        """Return ``value`` from ``start [1]`` to ``end [1]`` of an axis."""
        return self.node("Slice", [value, start, end, self.integers([axis])], name)

    def gather(self, value: ir.Value, places: ir.Value, axis: int, name: str) -> ir.Value:
        """Return the elements of ``value`` at ``places`` of an axis."""
        return self.node("Gather", [value, places], name, {"axis": axis})

    def measure(self, dims: Sequence[Size], rows: ir.Value, width: ir.Value, name: str) -> ir.Value:
        """Return ``dims`` as an int64 vector, for a batch of ``rows [1]`` texts that are ``width [1]`` long."""
        if all(size.is_literal for size in dims):
            return self.integers([size.number for size in dims])
        factors = [[rows] * size.rows + [width] * size.positions for size in dims]
        pieces = [self._multiply(size.number, values, name) for size, values in zip(dims, factors, strict=True)]
        return self.node("Concat", pieces, name, {"axis": 0})

    def _multiply(self, number: int, values: Sequence[ir.Value], name: str) -> ir.Value:
        """Return the product of ``number`` and ``values``."""
        product = self.integers([number]) if number != 1 or not values else values[0]
        for value in values if number != 1 else values[1:]:
            product = self.node("Mul", [product, value], f"{name}_size")
        return product

    def cast(self, value: ir.Value, dtype: int, name: str) -> ir.Value:
        return self.node("Cast", [value], name, {"to": dtype})

    def drop_unread(self, read: Sequence[ir.Value]) -> None:
        """Drop the nodes made so far that are not needed for the values ``read``."""
        for node in reversed(list(self.nodes)):
            if not any(value.uses() or value in read for value in node.outputs):
                self.editor.set_inputs(node, [None] * len(node.inputs))
                self.nodes.remove(node)
