"""The block list of a conversion to half precision: nodes that stay float32 whatever a measurement says, and why.

No sample of texts would show these nodes. Angles and bucket numbers grow with the position, so short texts hide how wrong they
get. The epsilon of a division matters only for rows that are zero. Quantised parts have scales of their own. Values whose types
are not known are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

from onnx import numpy_helper

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import list_subgraphs
from graphsurgery.graph.element_types import FLOAT, ElementTypes, get_node_key
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import (
    ADDING_EPSILON,
    CASTS,
    DISCRETE,
    EPSILON_STEPS,
    MOVING,
    QUANTISED,
    RESCALING,
    SHAPE_READING,
    get_operator,
)
from graphsurgery.model.dtypes import NAMES, count_elements
from graphsurgery.rewrites.half.constants import Array, MaskConstants, explain_unfit, read_constant

SMALL = 1024
"""The largest number of elements of a constant from which positions are computed. Embedding tables have more."""


class BlockList:
    """The nodes of a graph that stay float32 if the rest is converted to ``kind``."""

    def __init__(self, types: ElementTypes, kind: int) -> None:
        self._types, self._graph, self._kind, self._masks = types, types.graph, kind, MaskConstants(types)
        self._nodes = list(types.graph.nodes)

    @cached_property
    def reasons(self) -> dict[str, str]:
        """By node (`get_node_key`), why it stays float32. Nodes without float32 values are left out."""
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
        """Yield nodes that hold a graph, have no known schema, or do not take the type."""
        for node in self._nodes:
            if list_subgraphs(node):
                yield node, "holds a graph of its own"
            elif self._types.signature(node) is None:
                yield node, "an operator that is not known here"
            elif not self._types.convertible(node, self._kind):
                yield node, f"the operator does not take {NAMES[self._kind].lower()}"

    def _find_quantised(self) -> Iterator[tuple[ir.Node, str]]:
        """Yield int8 operators, the nodes that read their results, and the Casts and Muls that scale these."""

        def list_readers(node: ir.Node) -> list[ir.Node]:
            passes = get_operator(node) in QUANTISED | RESCALING
            return [user for value in node.outputs for user in self._graph.all_consumers(value)] if passes else []

        for node in _walk([node for node in self._nodes if get_operator(node) in QUANTISED], list_readers):
            yield node, "part of a quantised product"

    def _find_position_nodes(self) -> Iterator[tuple[ir.Node, str]]:
        """Yield nodes that compute from positions or masks alone, up to an angle, an integer or a truth value."""
        reckoned = self._reckoned
        todo = [node for node in self._nodes if get_operator(node) in DISCRETE and self._takes_only(node, reckoned)]
        todo = [node for node in todo if get_operator(node) not in CASTS or not self._types.select_float32(node.outputs)]

        def list_makers(node: ir.Node) -> list[ir.Node]:
            return [made for value in self._types.select_float32(node.inputs) if (made := value.producer()) is not None]

        for node in _walk(todo, list_makers):
            yield node, "positions or masks on their way to an angle, an integer or a comparison"

    @cached_property
    def _reckoned(self) -> set[ir.Value]:
        """The values computed from inputs, shapes and small constants alone: masks and positions, nothing learned."""
        found = set(self._graph.main.inputs)
        for value in self._graph.main.initializers.values():
            tensor = self._graph.tensor(value)
            if tensor is not None and (tensor.data_type != FLOAT or count_elements(tensor.dims) <= SMALL):
                found.add(value)
        for node in self._nodes:
            if get_operator(node) in SHAPE_READING or all(value in found for value in self._graph.all_inputs(node)):
                found.update(value for value in node.outputs if value.name)
        return found

    def _takes_only(self, node: ir.Node, reckoned: set[ir.Value]) -> bool:
        """Return whether ``node`` has float32 inputs and all of them are among ``reckoned``."""
        floats = self._types.select_float32(node.inputs)
        return bool(floats) and all(value in reckoned for value in floats)

    def _find_constant_nodes(self) -> Iterator[tuple[ir.Node, str]]:
        """Yield nodes that read a constant the type cannot hold, and nodes between an epsilon and the division it guards."""
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
            if reason is not None and get_operator(node) in MOVING | {"ConstantOfShape"}:
                unfitting |= dict.fromkeys(results, reason)
            elif (reason is not None and get_operator(node) in ADDING_EPSILON) or (
                behind is not None and get_operator(node) in EPSILON_STEPS
            ):
                guarded |= dict.fromkeys(results, "behind an epsilon, up to the division")

    def _check_filled_value(self, node: ir.Node) -> str | None:
        values = read_constant(node) if get_operator(node) == "ConstantOfShape" else None
        return None if values is None else self._explain_unfit(node.outputs[0], values)

    def _find_unfit_values(self) -> dict[ir.Value, str]:
        found = ((value, self._explain_unfit(value, numbers)) for value, numbers in _find_float_constants(self._graph))
        return {value: reason for value, reason in found if reason is not None}

    def _explain_unfit(self, value: ir.Value, numbers: Array) -> str | None:
        return explain_unfit(self._masks.fit(value, numbers, self._kind, self._kind), self._kind)


def _walk(start: list[ir.Node], next_to: Callable[[ir.Node], list[ir.Node]]) -> Iterator[ir.Node]:
    """Yield the nodes of ``start``, and all nodes that ``next_to`` leads to from them, each once."""
    seen, todo = set[ir.Node](), list(start)
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            yield node
            todo += next_to(node)


def _find_float_constants(graph: Graph) -> Iterator[tuple[ir.Value, Array]]:
    """Yield every float32 constant with its numbers. An initializer that is also an input is only a default."""
    for value, tensor in graph.constants.items():
        if tensor.data_type == FLOAT:
            yield value, numpy_helper.to_array(tensor)
