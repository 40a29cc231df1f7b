"""Which nodes compute in float32 whatever a measurement says, and why: what no sample of texts would show.

Angles and bucket numbers grow with the position, so that short texts hide how wrong they get; a division's epsilon matters
where rows are zero; quantised parts have scales of their own; and what has no type here is not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import onnx
from onnx import numpy_helper

from graphsurgery.graph.element_types import FLOAT, Typed, captured, key_of
from graphsurgery.graph.moving import MOVING
from graphsurgery.model.dtypes import NAMES, element_count
from graphsurgery.model.nodes import subgraphs
from graphsurgery.rewrites.half.mask_constants import Masks
from graphsurgery.rewrites.half.values import Array, held, unfit

GUARDING = frozenset({"Add", "Max", "Clip"})
"""What takes an epsilon, ..."""
GUARDED = frozenset({"Cast", "Expand", "Identity", "Pow", "Reciprocal", "Sqrt", "Squeeze", "Unsqueeze"})
"""... and what may stand between that and the division which the epsilon guards."""
DISCRETE = frozenset({
    "Cast", "CastLike", "Ceil", "Cos", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Round", "Sign",
    "Sin",
})  # fmt: skip
"""Where a small error of what is computed from positions becomes a large one."""
QUANTISED = frozenset({
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeLinear", "DynamicQuantizeMatMul",
    "GatherBlockQuantized", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QAttention", "QEmbedLayerNormalization",
    "QGemm", "QLinearAdd", "QLinearConv", "QLinearMatMul", "QLinearMul", "QuantizeLinear",
})  # fmt: skip
RESCALING = frozenset({"Cast", "Mul"})
"""What brings the sums of an integer product back to scale."""
FILLING = frozenset({"ConstantOfShape"})
SHAPES = frozenset({"Shape", "Size"})
SMALL = 1024
"""Elements of a constant that positions are computed with, at most; embedding tables have more."""


class Keeping:
    """The nodes of a graph that stay float32 in ``kind``: `reasons` by what a node is called (`key_of`)."""

    def __init__(self, typed: Typed, kind: int) -> None:
        self._typed, self._kind, self._masks = typed, kind, Masks(typed)

    @cached_property
    def reasons(self) -> dict[str, str]:
        """Why each node that could compute in ``kind``, or has float32 values that it does not admit, stays float32."""
        found: dict[str, str] = {}
        for rule in (self._untouchable, self._quantised, self._positions, self._constants):
            for node, reason in rule():
                if self._concerned(node):
                    found.setdefault(key_of(node), reason)
        return found

    def _concerned(self, node: onnx.NodeProto) -> bool:
        constant = node.op_type == "Constant" and not node.domain
        return not constant and bool(self._typed.floats((*node.input, *node.output, *captured(node))))

    def _untouchable(self) -> Iterator[tuple[onnx.NodeProto, str]]:
        """What holds a graph, what no schema tells of, and what does not take the type."""
        for node in self._typed.graph.node:
            if subgraphs(node):
                yield node, "holds a graph of its own"
            elif self._typed.operator(node) is None:
                yield node, "an operator that is not known here"
            elif not self._typed.changes(node, self._kind):
                yield node, f"the operator does not take {NAMES[self._kind].lower()}"

    def _quantised(self) -> Iterator[tuple[onnx.NodeProto, str]]:
        """int8 operators, what takes their results, and the Casts and Muls that bring those to scale."""
        for node in self._following(node for node in self._typed.graph.node if node.op_type in QUANTISED):
            yield node, "part of a quantised product"

    def _following(self, first: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        seen: set[str] = set()
        todo = list(first)
        while todo:
            node = todo.pop()
            if key_of(node) in seen:
                continue
            seen.add(key_of(node))
            yield node
            if node.op_type in QUANTISED | RESCALING:
                todo += self._takers(node)

    def _takers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [taker for name in node.output if name for taker in self._typed.consumers.get(name, [])]

    def _positions(self) -> Iterator[tuple[onnx.NodeProto, str]]:
        """What is computed from positions alone, up to where it is made an angle, an integer or a truth value."""
        reckoned = self._reckoned
        todo = [node for node in self._typed.graph.node if node.op_type in DISCRETE and self._takes_only(node, reckoned)]
        todo = [node for node in todo if not node.op_type.startswith("Cast") or not self._typed.floats(node.output)]
        seen: set[str] = set()
        while todo:
            node = todo.pop()
            if key_of(node) in seen:
                continue
            seen.add(key_of(node))
            yield node, "positions or masks on their way to an angle, an integer or a comparison"
            todo += [made for name in self._typed.floats(node.input) if (made := self._typed.producers.get(name)) is not None]

    @cached_property
    def _reckoned(self) -> set[str]:
        """Values made of the graph's inputs, shapes and small constants alone: masks and positions, nothing learned."""
        graph, types = self._typed.graph, self._typed.types
        found = {value.name for value in graph.input}
        found |= {one.name for one in graph.initializer if one.data_type != FLOAT or element_count(one.dims) <= SMALL}
        for node in self._typed.ordered:
            if node.op_type in SHAPES or all(name in found for name in (*node.input, *(captured(node) & types.keys())) if name):
                found.update(name for name in node.output if name)
        return found

    def _takes_only(self, node: onnx.NodeProto, reckoned: set[str]) -> bool:
        """Whether ``node`` has a float32 input and every one of them is among ``reckoned``."""
        floats = self._typed.floats(node.input)
        return bool(floats) and all(name in reckoned for name in floats)

    def _constants(self) -> Iterator[tuple[onnx.NodeProto, str]]:
        """What computes with a constant that the type cannot hold; behind an epsilon up to the division it guards."""
        unfitting = self._unfit_values()
        guarded: dict[str, str] = {}
        for node in self._typed.ordered:
            reason = self._own_reason(node) or next((unfitting[name] for name in node.input if name in unfitting), None)
            behind = next((guarded[name] for name in node.input if name in guarded), None)
            if reason is None and behind is None:
                continue
            yield node, reason or behind or ""
            results = self._typed.floats(node.output)
            if reason is not None and node.op_type in MOVING | FILLING:
                unfitting |= dict.fromkeys(results, reason)
            elif (reason is not None and node.op_type in GUARDING) or (behind is not None and node.op_type in GUARDED):
                guarded |= dict.fromkeys(results, "behind an epsilon, up to the division")

    def _own_reason(self, node: onnx.NodeProto) -> str | None:
        values = held(node) if node.op_type in FILLING else None
        return None if values is None else self._unfit(node.output[0], values)

    def _unfit_values(self) -> dict[str, str]:
        found = ((name, self._unfit(name, values)) for name, values in constants(self._typed.graph))
        return {name: reason for name, reason in found if reason is not None}

    def _unfit(self, name: str, values: Array) -> str | None:
        return unfit(self._masks.stored(name, values, self._kind, self._kind), self._kind)


def constants(graph: onnx.GraphProto) -> Iterator[tuple[str, Array]]:
    """(name, values) of every float32 initializer and Constant; an initializer that is an input, too, is a default."""
    given = {value.name for value in graph.input}
    for one in graph.initializer:
        if one.data_type == FLOAT and one.name not in given:
            yield one.name, numpy_helper.to_array(one)
    for node in graph.node:
        values = held(node) if node.op_type == "Constant" else None
        if values is not None and node.output:
            yield node.output[0], values
