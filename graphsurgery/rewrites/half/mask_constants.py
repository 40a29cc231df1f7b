"""Which values only mask scores: what stands for minus infinity there may be another number, and nowhere else.

A value masks where every way from it leads through additions, products, choices and moves into a softmax, a maximum, a
comparison or a shape, and none to an output.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphsurgery.graph.element_types import FLOAT, ElementTypes
from graphsurgery.graph.operators import ATTENTIONS, MOVING, operator
from graphsurgery.rewrites.half.values import STANDS_FOR_INFINITY, Array, largest, tamed

CARRYING = MOVING | {"Add", "Div", "Max", "Min", "Mul", "Neg", "Sub", "Sum", "Trilu"}
ENDING = frozenset({
    "ArgMax", "Equal", "Exp", "GlobalMaxPool", "Greater", "GreaterOrEqual", "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual",
    "LogSoftmax", "MaxPool", "ReduceLogSumExp", "ReduceMax", "Shape", "Sign", "Size", "Softmax", "TopK",
})  # fmt: skip


class Masks:
    """The constants of a graph as they are to be stored."""

    def __init__(self, types: ElementTypes) -> None:
        self._types, self._graph = types, types.graph
        self.masking = self._find_masking()
        """The values that only mask scores."""

    def stored(self, value: ir.Value | None, values: Array, kind: int, half: int, mask: float | None = None) -> Array:
        """The constant ``value``, float32 ``values``, where it is stored as ``kind``, FLOAT or the type ``half``.

        What only masks is `tamed`, in both types. Anything else stays as it is in float32; stand-ins for infinity become
        ``half``'s largest numbers in it.
        """
        if value in self.masking:
            return tamed(values, half, mask)
        if kind == FLOAT or not values.size:
            return values
        beyond = np.isfinite(values) & (np.abs(values) >= STANDS_FOR_INFINITY) & (np.abs(values) > largest(half))
        return np.where(beyond, np.float32(np.copysign(largest(half), values)), values) if beyond.any() else values

    def _find_masking(self) -> frozenset[ir.Value]:
        found: set[ir.Value] = set()
        for node in reversed(list(self._graph.nodes)):
            found.update(value for value in node.outputs if value.name and self._only_masks(value, found))
        found.update(value for value in self._graph.main.initializers.values() if self._only_masks(value, found))
        return frozenset(found)

    def _only_masks(self, value: ir.Value, known: set[ir.Value]) -> bool:
        users = self._graph.users(value)
        return (
            bool(users) and not value.is_graph_output() and all(self._ends(one) or self._carries(one, known) for one in users)
        )

    def _ends(self, node: ir.Node) -> bool:
        if operator(node) == "Cast":
            return not self._types.floats(node.outputs) and all(self._types[value] for value in node.outputs)
        return operator(node) in ENDING | ATTENTIONS

    def _carries(self, node: ir.Node, known: set[ir.Value]) -> bool:
        named = [value for value in node.outputs if value.name]
        return operator(node) in CARRYING and bool(named) and all(value in known for value in named)
