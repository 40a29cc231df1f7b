"""Which nodes compute in float32 whatever a measurement says, and why: what no sample of texts would show.

Angles and bucket numbers grow with the position, so that short texts hide how wrong they get; a division's epsilon matters
where rows are zero; quantised parts have scales of their own; and what has no type here is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import onnx_ir as ir
from onnx import numpy_helper

from graphsurgery.graph.attributes import list_subgraphs
from graphsurgery.graph.element_types import FLOAT, ElementTypes, get_node_key
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import MOVING, QUANTISED, SHAPE_READING, get_operator
from graphsurgery.model.dtypes import NAMES, element_count
from graphsurgery.rewrites.half.constants import Array, MaskConstants, explain_unfit, read_constant

GUARDING = frozenset({"Add", "Max", "Clip"})
"""What takes an epsilon, ..."""
GUARDED = frozenset({"Cast", "Expand", "Identity", "Pow", "Reciprocal", "Sqrt", "Squeeze", "Unsqueeze"})
"""... and what may stand between that and the division which the epsilon guards."""
DISCRETE = frozenset({
    "Cast", "CastLike", "Ceil", "Cos", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Round", "Sign",
    "Sin",
})  # fmt: skip
"""Where a small error of what is computed from positions becomes a large one."""
RESCALING = frozenset({"Cast", "Mul"})
"""What brings the sums of an integer product back to scale."""
FILLING = frozenset({"ConstantOfShape"})
CASTS = frozenset({"Cast", "CastLike"})
SMALL = 1024
"""Elements of a constant that positions are computed with, at most; embedding tables have more."""


class BlockList:
    """The nodes of a graph that stay float32 in ``kind``: `reasons` by what a node is called (`get_node_key`)."""

    def __init__(self, types: ElementTypes, kind: int) -> None:
        self._types, self._graph, self._kind, self._masks = types, types.graph, kind, MaskConstants(types)
        self._nodes = list(types.graph.nodes)

    @cached_property
    def reasons(self) -> dict[str, str]:
        """Why each node that could compute in ``kind``, or has float32 values that it does not admit, stays float32."""
        found: dict[str, str] = {}
        for rule in (self._find_untouchable, self._find_quantised, self._find_position_nodes, self._find_constant_nodes):
            for node, reason in rule():
                if self._is_concerned(node):
                    found.setdefault(get_node_key(node), reason)
        return found

    def _is_concerned(self, node: ir.Node) -> bool:
        return get_operator(node) != "Constant" and bool(
            self._types.select_float32((*self._graph.all_inputs(node), *node.outputs))
        )

    def _find_untouchable(self) -> Iterator[tuple[ir.Node, str]]:
        """What holds a graph, what no schema tells of, and what does not take the type."""
        for node in self._nodes:
            if list_subgraphs(node):
                yield node, "holds a graph of its own"
            elif self._types.signature(node) is None:
                yield node, "an operator that is not known here"
            elif not self._types.convertible(node, self._kind):
                yield node, f"the operator does not take {NAMES[self._kind].lower()}"

    def _find_quantised(self) -> Iterator[tuple[ir.Node, str]]:
        """int8 operators, what takes their results, and the Casts and Muls that bring those to scale."""

        def behind(node: ir.Node) -> list[ir.Node]:
            passes = get_operator(node) in QUANTISED | RESCALING
            return [user for value in node.outputs for user in self._graph.all_consumers(value)] if passes else []

        for node in _walk([node for node in self._nodes if get_operator(node) in QUANTISED], behind):
            yield node, "part of a quantised product"

    def _find_position_nodes(self) -> Iterator[tuple[ir.Node, str]]:
        """What is computed from positions alone, up to where it is made an angle, an integer or a truth value."""
        reckoned = self._reckoned
        todo = [node for node in self._nodes if get_operator(node) in DISCRETE and self._takes_only(node, reckoned)]
        todo = [node for node in todo if get_operator(node) not in CASTS or not self._types.select_float32(node.outputs)]

        def before(node: ir.Node) -> list[ir.Node]:
            return [made for value in self._types.select_float32(node.inputs) if (made := value.producer()) is not None]

        for node in _walk(todo, before):
            yield node, "positions or masks on their way to an angle, an integer or a comparison"

    @cached_property
    def _reckoned(self) -> set[ir.Value]:
        """Values made of the graph's inputs, shapes and small constants alone: masks and positions, nothing learned."""
        found = set(self._graph.main.inputs)
        for value in self._graph.main.initializers.values():
            tensor = self._graph.tensor(value)
            if tensor is not None and (tensor.data_type != FLOAT or element_count(tensor.dims) <= SMALL):
                found.add(value)
        for node in self._nodes:
            if get_operator(node) in SHAPE_READING or all(value in found for value in self._graph.all_inputs(node)):
                found.update(value for value in node.outputs if value.name)
        return found

    def _takes_only(self, node: ir.Node, reckoned: set[ir.Value]) -> bool:
        """Whether ``node`` has a float32 input and every one of them is among ``reckoned``."""
        floats = self._types.select_float32(node.inputs)
        return bool(floats) and all(value in reckoned for value in floats)

    def _find_constant_nodes(self) -> Iterator[tuple[ir.Node, str]]:
        """What computes with a constant that the type cannot hold; behind an epsilon up to the division it guards."""
        unfitting = self._find_unfit_values()
        guarded: dict[ir.Value, str] = {}
        for node in self._nodes:
            inputs = [value for value in node.inputs if value is not None]
            reason = self._check_filled_value(node) or next((unfitting[value] for value in inputs if value in unfitting), None)
            behind = next((guarded[value] for value in inputs if value in guarded), None)
            if reason is None and behind is None:
                continue
            yield node, reason or behind or ""
            results = self._types.select_float32(node.outputs)
            if reason is not None and get_operator(node) in MOVING | FILLING:
                unfitting |= dict.fromkeys(results, reason)
            elif (reason is not None and get_operator(node) in GUARDING) or (
                behind is not None and get_operator(node) in GUARDED
            ):
                guarded |= dict.fromkeys(results, "behind an epsilon, up to the division")

    def _check_filled_value(self, node: ir.Node) -> str | None:
        values = read_constant(node) if get_operator(node) in FILLING else None
        return None if values is None else self._explain_unfit(node.outputs[0], values)

    def _find_unfit_values(self) -> dict[ir.Value, str]:
        found = ((value, self._explain_unfit(value, numbers)) for value, numbers in _find_float_constants(self._graph))
        return {value: reason for value, reason in found if reason is not None}

    def _explain_unfit(self, value: ir.Value, numbers: Array) -> str | None:
        return explain_unfit(self._masks.fit(value, numbers, self._kind, self._kind), self._kind)


def _walk(start: list[ir.Node], next_to: Callable[[ir.Node], list[ir.Node]]) -> Iterator[ir.Node]:
    """Give the nodes of ``start``, and all that ``next_to`` leads to from there, each once."""
    seen, todo = set[ir.Node](), list(start)
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            yield node
            todo += next_to(node)


def _find_float_constants(graph: Graph) -> Iterator[tuple[ir.Value, Array]]:
    """Give (value, numbers) of every float32 constant; an initializer that is an input, too, is only a default."""
    for value, tensor in graph.constants.items():
        if tensor.data_type == FLOAT:
            yield value, numpy_helper.to_array(tensor)
