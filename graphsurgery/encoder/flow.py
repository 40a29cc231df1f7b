"""What flows through an encoder: which values depend on what is fed, and which of them are made of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from graphsurgery.encoder.roles import MASK_NAMES
from graphsurgery.errors import MissingDataError
from graphsurgery.graph.attributes import integer, read_at
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import COPYING, EMBEDDING_NORM, MEASURING, STORED_STEPS, operator
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS, element_count
from graphsurgery.model.model import Model

MOST_TERMS = 64
"""About how many terms of a sum are looked at."""
MOST_COPIES = 16
"""How many copies of a value are looked through for its users."""
MOST_INTEGERS = 16
"""A shape has no more dims than this; longer constants are not read."""


@dataclass(frozen=True, eq=False)
class Flow:
    """The main graph of a model, with what its tokens flow through."""

    model: Model
    graph: Graph
    fed: frozenset[ir.Value]
    """Values whose numbers depend on the numbers of an input, not on its size alone."""
    tokens: frozenset[ir.Value]
    """Rows that were looked up for ids, and all that is made of them."""

    @classmethod
    def of(cls, model: Model) -> Flow:
        """Return the flow of ``model``. Raises MalformedModelError as `Graph` does."""
        graph = Graph.of(model)
        return cls(model, graph, *_spread(model, graph))

    def behind(self, value: ir.Value | None) -> ir.Node | None:
        """Return the node that makes what ``value`` is a mere copy of."""
        return None if value is None else self.graph.origin(value).producer()

    def used_by(self, value: ir.Value, *operators: str) -> list[ir.Node]:
        """Return the nodes that read ``value``, or a mere copy of it, and are one of ``operators``."""
        found, copies = [], [value]
        for copy in copies:  # grows as it is gone through
            for node in self.graph.readers(copy):
                if operator(node) in operators:
                    found.append(node)
                elif operator(node) in COPYING and node.inputs[0] is copy and len(copies) < MOST_COPIES:
                    copies.append(node.outputs[0])
        return found

    def token_inputs(self, node: ir.Node) -> list[ir.Value]:
        """Return those inputs of a node that are made of tokens."""
        return [value for value in node.inputs if value is not None and value in self.tokens]

    def weights(self, value: ir.Value | None) -> onnx.TensorProto | None:
        """Return the weights that ``value`` is, as they are stored, or cast or dequantised since."""
        return None if value is None else self.graph.tensor(self.graph.origin(value, STORED_STEPS))

    def find_vector(self, node: ir.Node) -> ir.Value | None:
        """Return the first input of ``node`` that is a vector of weights, as a bias and a scale are."""
        return next((value for value in node.inputs if self.is_vector(value)), None)

    def is_vector(self, value: ir.Value | None) -> bool:
        """Return whether ``value`` is a vector of weights."""
        tensor = self.weights(value)
        return tensor is not None and len(tensor.dims) == 1 and tensor.dims[0] > 1

    def integers(self, value: ir.Value | None) -> list[int] | None:
        """Return the numbers of a short integer constant; None where ``value`` is anything else."""
        tensor = None if value is None else self.graph.tensor(self.graph.origin(value))
        if tensor is None or tensor.data_type in FLOATS or element_count(tensor.dims) > MOST_INTEGERS:
            return None
        numbers = self._read(tensor)
        return None if numbers is None else [int(number) for number in numbers]

    def number(self, value: ir.Value | None) -> float | None:
        """Return the number of a constant that holds one alone; None where ``value`` is anything else."""
        tensor = self.weights(value)
        numbers = self._read(tensor) if tensor is not None and element_count(tensor.dims) == 1 else None
        return None if numbers is None else float(numbers[0])

    def _read(self, tensor: onnx.TensorProto) -> np.ndarray | None:
        try:
            return self.model.values(tensor).reshape(-1)
        except MissingDataError:
            return None


def is_lookup(graph: Graph, node: ir.Node) -> bool:
    """Return whether a node takes rows of a table of weights."""
    table = read_at(node, 0)
    if operator(node) != "Gather" or integer(node, "axis", 0) != 0 or table is None:
        return False
    tensor = graph.tensor(graph.origin(table, STORED_STEPS))
    return tensor is not None and len(tensor.dims) == 2


def find_summands(flow: Flow, value: ir.Value) -> list[ir.Value]:
    """Return the terms of the sum that ``value`` is, or ``value`` alone. Sums of many terms are not gone through to the end."""
    found, todo = [], [value]
    seen: set[ir.Value] = set()
    while todo:
        term = todo.pop()
        node = flow.behind(term)
        if node is not None and operator(node) == "Add" and len(seen) < MOST_TERMS:
            terms = [one for one in node.inputs if one is not None]
            todo += [one for one in reversed(terms) if one not in seen]
            seen.update(terms)
        else:
            found.append(term)
    return found


def _spread(model: Model, graph: Graph) -> tuple[frozenset[ir.Value], frozenset[ir.Value]]:
    """Return what is `fed` and what are `tokens`.

    Float inputs count as tokens only where the graph looks nothing up: beside ids they are caches.
    """
    reads = {node: graph.reads(node) for node in graph.nodes if operator(node) not in MEASURING}
    fed = {value for value in graph.main.inputs if graph.is_fed(value)}
    tokens: set[ir.Value] = set()
    for node, values in reads.items():
        if fed.isdisjoint(values):
            continue
        fed.update(node.outputs)
        if is_lookup(graph, node) or operator(node) == EMBEDDING_NORM:
            tokens.update(node.outputs)
    tokens = tokens or {value for value in graph.main.inputs if _holds_embeddings(model.interface.input(value.name or ""))}
    for node, values in reads.items():
        if not tokens.isdisjoint(values):
            tokens.update(node.outputs)
    return frozenset(fed), frozenset(tokens)


def _holds_embeddings(given: Value | None) -> bool:
    return given is not None and given.dtype in FLOATS and (given.rank or 0) >= 3 and given.name not in MASK_NAMES
