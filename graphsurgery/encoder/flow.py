"""What an encoder's inputs flow through: the values that depend on them, the values made of tokens, and how wide values are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.roles import MASK_NAMES
from graphsurgery.errors import MissingDataError
from graphsurgery.graph.attributes import get_input, get_int
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import (
    COPYING,
    ELEMENTWISE,
    EMBEDDING_NORM,
    SCALE_INPUTS,
    SHAPE_READING,
    STORED_STEPS,
    UNARY,
    WIDE_AS_SECOND,
    get_operator,
)
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS, count_elements
from graphsurgery.model.model import Model
from graphsurgery.model.once import Store, find_once

Traced: TypeAlias = "tuple[frozenset[ir.Value], frozenset[ir.Value]]"
"""(The values that depend on inputs, the values made of tokens)."""
_TRACED: Store[Traced] = WeakKeyDictionary()
MASK_INDEX = 1
"""The output of EmbedLayerNormalization that says how many tokens each row has."""
MOST_TERMS = 64
"""A sum is followed through about this many terms."""
MOST_COPIES = 16
"""The search for the consumers of a value follows up to this many copies of it."""
MOST_INTEGERS = 16
"""Longer integer constants are not read. No shape has more dims than this."""
DEEPEST = 200
"""The search for the last dim of a value goes through up to this many nodes."""


@dataclass(frozen=True, eq=False)
class Flow:
    """The main graph of a model, and which of its values depend on the inputs and on the tokens."""

    model: Model
    graph: Graph
    fed: frozenset[ir.Value]
    """Values whose numbers depend on the numbers of an input, not only on its shape."""
    tokens: frozenset[ir.Value]
    """Values made of tokens: table rows that were looked up by ids, and everything computed from them."""

    @classmethod
    def of(cls, model: Model, edited: Graph | None = None) -> Flow:
        """Return the flow of ``model``, or of a graph that is being edited. Raises what `Graph` raises."""
        if edited is not None:
            return cls(model, edited, *_trace_inputs(model, edited))
        graph = Graph.of(model)
        return cls(model, graph, *find_once(_TRACED, model, (), lambda: _trace_inputs(model, graph)))

    def find_producer(self, value: ir.Value | None, *operators: str) -> ir.Node | None:
        """Return the node that makes ``value``, looking through copies. None if it is not one of ``operators``, if given."""
        node = None if value is None else self.graph.origin(value).producer()
        return node if node is not None and (not operators or get_operator(node) in operators) else None

    def find_consumers(self, value: ir.Value, *operators: str) -> list[ir.Node]:
        """Return the nodes with one of the ``operators`` that read ``value`` or a copy of it."""
        found, copies = [], [value]
        for copy in copies:  # grows during the loop
            for node in self.graph.consumers(copy):
                if get_operator(node) in operators:
                    found.append(node)
                elif get_operator(node) in COPYING and node.inputs[0] is copy and len(copies) < MOST_COPIES:
                    copies.append(node.outputs[0])
        return found

    def token_inputs(self, node: ir.Node) -> list[ir.Value]:
        """Return the inputs of a node that are made of tokens."""
        return [value for value in node.inputs if value is not None and value in self.tokens]

    def weights(self, value: ir.Value | None) -> onnx.TensorProto | None:
        """Return the stored tensor of ``value``, which may be cast or dequantised before use. None for computed values."""
        return None if value is None else self.graph.tensor(self.graph.origin(value, STORED_STEPS))

    def find_vector(self, node: ir.Node) -> ir.Value | None:
        """Return the first input of ``node`` that is a vector of weights, such as a bias or a scale."""
        return next((value for value in node.inputs if self.is_vector(value)), None)

    def is_vector(self, value: ir.Value | None) -> bool:
        """Return whether ``value`` is a vector of weights with more than one element."""
        tensor = self.weights(value)
        return tensor is not None and len(tensor.dims) == 1 and tensor.dims[0] > 1

    def integers(self, value: ir.Value | None) -> list[int] | None:
        """Return the numbers of a short integer constant, or None if ``value`` is anything else."""
        tensor = None if value is None else self.graph.tensor(self.graph.origin(value))
        if tensor is None or tensor.data_type in FLOATS or count_elements(tensor.dims) > MOST_INTEGERS:
            return None
        numbers = self._read(tensor)
        return None if numbers is None else [int(number) for number in numbers]

    def scalar(self, value: ir.Value | None) -> float | None:
        """Return the number of a constant that has one element, or None if ``value`` is anything else."""
        tensor = self.weights(value)
        numbers = self._read(tensor) if tensor is not None and count_elements(tensor.dims) == 1 else None
        return None if numbers is None else float(numbers[0])

    def _read(self, tensor: onnx.TensorProto) -> np.ndarray | None:
        try:
            return self.model.values(tensor).reshape(-1)
        except MissingDataError:
            return None


def is_lookup(graph: Graph, node: ir.Node) -> bool:
    """Return whether a node looks up rows of a stored table."""
    if get_operator(node) != "Gather" or get_int(node, "axis", 0) != 0:
        return False
    table = get_input(node, 0)
    tensor = None if table is None else graph.tensor(graph.origin(table, STORED_STEPS))
    return tensor is not None and len(tensor.dims) == 2


def find_summands(flow: Flow, value: ir.Value) -> list[ir.Value]:
    """Return the terms of the sum that makes ``value``, or ``value`` alone. In a very long sum, some terms are partial sums."""
    found, todo = [], [value]
    seen: set[ir.Value] = set()
    while todo:
        term = todo.pop()
        node = flow.find_producer(term)
        if node is not None and get_operator(node) == "Add" and len(seen) < MOST_TERMS:
            terms = [one for one in node.inputs if one is not None]
            todo += [one for one in reversed(terms) if one not in seen]
            seen.update(terms)
        else:
            found.append(term)
    return found


def infer_last_dim(graph: Graph, value: ir.Value | None) -> int | None:
    """Return the size of the last dim of ``value``, or None if the graph's weights do not tell.

    It follows from the weights that ``value`` is computed with, never from what the file declares.
    """
    return _infer_last_dim(graph, value, {}, 0)


def _infer_last_dim(graph: Graph, value: ir.Value | None, known: dict[ir.Value, int | None], depth: int) -> int | None:
    """Do the work of `infer_last_dim`. ``known`` holds the results for values that were visited before."""
    if value is None or value in known:
        return known.get(value) if value is not None else None
    known[value] = None
    tensor, node = graph.tensor(value), value.producer()
    if tensor is not None:
        known[value] = int(tensor.dims[-1]) if tensor.dims else 1
    elif node is not None and depth < DEEPEST:
        known[value] = _infer_from_node(graph, node, known, depth + 1)
    return known[value]


def _infer_from_node(graph: Graph, node: ir.Node, known: dict[ir.Value, int | None], depth: int) -> int | None:
    operator = get_operator(node)
    if operator in SCALE_INPUTS:
        return _infer_last_dim(graph, get_input(node, SCALE_INPUTS[operator]), known, depth)
    if operator in WIDE_AS_SECOND:
        return _infer_last_dim(graph, get_input(node, 1), known, depth)
    if operator == "Gemm":
        weights = graph.tensor(get_input(node, 1))
        columns = 0 if get_int(node, "transB", 0) else 1
        return int(weights.dims[columns]) if weights is not None and len(weights.dims) == 2 else None
    if operator == "Gather" and get_int(node, "axis", 0) == 0:
        rows = get_input(node, 0)
        table = None if rows is None else graph.tensor(graph.origin(rows))
        return int(table.dims[-1]) if table is not None and len(table.dims) > 1 else None
    if operator in ELEMENTWISE:
        return _broadcast_last_dim([_infer_last_dim(graph, value, known, depth) for value in node.inputs])
    return _infer_last_dim(graph, get_input(node, 0), known, depth) if operator in UNARY else None


def _broadcast_last_dim(sizes: list[int | None]) -> int | None:
    """Return the last dim of the result of operands with these last dims: the one that is not 1, if they agree on it."""
    wide = {size for size in sizes if size is not None and size > 1}
    if wide:
        return wide.pop() if len(wide) == 1 else None
    return 1 if sizes and all(size == 1 for size in sizes) else None


def _trace_inputs(model: Model, graph: Graph) -> Traced:
    """Return (the values that depend on inputs, the values made of tokens).

    Float inputs count as tokens only if the graph looks nothing up. Beside ids, they are caches. Of waveforms, tokens are what
    the first convolutions make.
    """
    inputs = {node: graph.all_inputs(node) for node in graph.nodes if get_operator(node) not in SHAPE_READING}
    fed = {value for value in graph.main.inputs if graph.is_fed(value)}
    tokens: set[ir.Value] = set()
    for node, values in inputs.items():
        if fed.isdisjoint(values):
            continue
        fed.update(node.outputs)
        if is_lookup(graph, node):
            tokens.update(node.outputs)
        elif get_operator(node) == EMBEDDING_NORM:
            tokens.update(value for index, value in enumerate(node.outputs) if index != MASK_INDEX)
    tokens = tokens or {value for value in graph.main.inputs if _may_hold_embeddings(model.interface.input(value.name or ""))}
    convolutions = [node for node in inputs if get_operator(node) == "Conv" and node.inputs[0] in fed]
    tokens = tokens or {value for node in convolutions for value in node.outputs}
    for node, values in inputs.items():
        if not tokens.isdisjoint(values):
            tokens.update(node.outputs)
    return frozenset(fed), frozenset(tokens)


def _may_hold_embeddings(value: Value | None) -> bool:
    return value is not None and value.dtype in FLOATS and (value.rank or 0) >= 3 and value.name not in MASK_NAMES
