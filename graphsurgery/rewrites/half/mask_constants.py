"""Which values only mask scores: what stands for minus infinity there may be another number, and nowhere else.

A value masks where every way from it leads through additions, products, choices and moves into a softmax, a maximum, a
comparison or a shape, and none to an output.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import onnx

from graphsurgery.graph.element_types import FLOAT, Typed
from graphsurgery.graph.moving import MOVING
from graphsurgery.rewrites.half.values import STANDS_FOR_INFINITY, Array, largest, tamed

CARRYING = MOVING | {"Add", "Div", "Max", "Min", "Mul", "Neg", "Sub", "Sum", "Trilu"}
ENDING = frozenset({
    "ArgMax", "Equal", "Exp", "GlobalMaxPool", "Greater", "GreaterOrEqual", "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual",
    "LogSoftmax", "MaxPool", "ReduceLogSumExp", "ReduceMax", "Shape", "Sign", "Size", "Softmax", "TopK",
})  # fmt: skip


class Masks:
    """The constants of a graph as they are to be stored."""

    def __init__(self, typed: Typed) -> None:
        self._typed = typed

    def stored(self, name: str, values: Array, kind: int, half: int, mask: float | None = None) -> Array:
        """The constant ``name``, float32 ``values``, where it is stored as ``kind``, FLOAT or the type ``half``.

        What only masks is `tamed`, in both types. Anything else stays as it is in float32; stand-ins for infinity become
        ``half``'s largest numbers in it.
        """
        if name in self.masking:
            return tamed(values, half, mask)
        if kind == FLOAT or not values.size:
            return values
        beyond = np.isfinite(values) & (np.abs(values) >= STANDS_FOR_INFINITY) & (np.abs(values) > largest(half))
        return np.where(beyond, np.float32(np.copysign(largest(half), values)), values) if beyond.any() else values

    @cached_property
    def masking(self) -> frozenset[str]:
        """The values that only mask scores."""
        given = {value.name for value in self._typed.graph.output}
        found: set[str] = set()
        for node in reversed(self._typed.ordered):
            found.update(name for name in node.output if name and name not in given and self._only_masks(name, found))
        constants = (one.name for one in self._typed.graph.initializer)
        found.update(name for name in constants if name not in given and self._only_masks(name, found))
        return frozenset(found)

    def _only_masks(self, name: str, known: set[str]) -> bool:
        takers = self._typed.consumers.get(name, [])
        return bool(takers) and all(self._ends(node) or self._carries(node, known) for node in takers)

    def _ends(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Cast":
            return not self._typed.floats(node.output) and all(name in self._typed.types for name in node.output)
        return node.op_type in ENDING or node.op_type.endswith("Attention")

    def _carries(self, node: onnx.NodeProto, known: set[str]) -> bool:
        return node.op_type in CARRYING and any(node.output) and all(name in known for name in node.output if name)
