"""A model's graph as onnx-ir holds it, to be read: who makes each value, who reads it, what is constant.

Whatever reads or rewrites a graph speaks of `onnx_ir.Value` and `onnx_ir.Node`. This module adds what onnx-ir does not say by
itself: an order in which the nodes run, the tensors behind values, and what graphs within nodes take from around them.
"""

from __future__ import annotations

import heapq
import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

import numpy as np
import onnx
import onnx_ir as ir

from graphsurgery.errors import MalformedModelError, UnsupportedModelError
from graphsurgery.graph.attributes import array_of, constant_tensor, graphs_within
from graphsurgery.graph.importing import importable
from graphsurgery.graph.operators import COPYING, MEASURING, STANDARD, operator
from graphsurgery.model.model import Model
from graphsurgery.model.parsing import shown
from graphsurgery.model.records import Document

SMALL = 1024
"""Bytes of a constant whose elements `Graph.array` reads, at most, unless told otherwise."""


class Graph:
    """The main graph of a model, imported into onnx-ir. The source is kept beside it and never changed."""

    def __init__(self, source: onnx.ModelProto) -> None:
        """Import ``source``. Its weights may lie in it, in external data, or elsewhere with a mark in their place.

        Raises MalformedModelError where a name stands for two values, or where a value is computed from itself;
        UnsupportedModelError where onnx-ir refuses what is in the graph.
        """
        check_defined_once(source.graph)
        self.source = source
        self.main = _imported(source.graph)
        self.opset = max((one.version for one in source.opset_import if one.domain in STANDARD), default=0)
        self._local_operators = {one.name for one in source.functions if one.domain in STANDARD}
        self._values = {value.name: value for value in self._defined() if value.name}
        self._share_unmade()
        stored = {one.name: one for one in source.graph.initializer}
        self._tensors = {self._values[name]: tensor for name, tensor in stored.items() if name in self._values}
        self._holders: dict[ir.Graph, ir.Node] = {}
        for node in self.main:
            self._enter(node)
        self._imported = tuple(self.main)
        """The nodes in the order in which the source has them."""
        self._sort()

    @classmethod
    def of(cls, model: Model) -> Graph:
        """Return the graph of ``model`` for reading. It is imported once and shared. Raises as the constructor does."""
        with _SHARING:
            found = _SHARED.get(model.document)
        if found is None:
            found = Graph(model.proto)
            with _SHARING:
                _SHARED[model.document] = found
        return found

    @property
    def nodes(self) -> Iterator[ir.Node]:
        """The nodes of the main graph, each after those whose values it reads. Nodes may come and go meanwhile."""
        return iter(self.main)

    @property
    def values(self) -> Iterator[ir.Value]:
        """Every value of the main graph that has a name."""
        return iter(self._values.values())

    def value(self, name: str) -> ir.Value | None:
        """Return the value of the main graph that is called ``name``."""
        return self._values.get(name)

    def is_standard(self, node: ir.Node) -> bool:
        """Return whether a node's operator is the standard's, and not a function that the model brings along under its name."""
        return node.domain in STANDARD and node.op_type not in self._local_operators

    def tensor(self, value: ir.Value | None) -> onnx.TensorProto | None:
        """Return the tensor that is stored for ``value``, be it only the default of an input."""
        return None if value is None else self._tensors.get(value)

    def constant(self, value: ir.Value | None) -> onnx.TensorProto | None:
        """Return the tensor that ``value`` is at every run; None where it is computed, or an input with a default."""
        return None if value is None or value.is_graph_input() else self._tensors.get(value)

    def is_fed(self, value: ir.Value) -> bool:
        """Return whether ``value`` is an input of the main graph that every caller has to give: one without a default."""
        return value.is_graph_input() and value.graph is self.main and value not in self._tensors

    @property
    def constants(self) -> dict[ir.Value, onnx.TensorProto]:
        """Every value that is the same at every run, with its tensor."""
        return {value: tensor for value, tensor in self._tensors.items() if not value.is_graph_input()}

    def array(self, value: ir.Value | None, most: int = SMALL) -> np.ndarray | None:
        """Return the elements of a constant of ``most`` bytes at most; None where they are more, or lie elsewhere."""
        tensor = self.constant(value)
        if tensor is None or math.prod(tensor.dims) > most:
            return None
        found = array_of(tensor)
        return found if found is not None and found.nbytes <= most else None

    def readers(self, value: ir.Value) -> list[ir.Node]:
        """Return the nodes of the main graph that read ``value`` themselves, each once."""
        return list(dict.fromkeys(node for node, _ in value.uses() if node.graph is self.main))

    def users(self, value: ir.Value) -> list[ir.Node]:
        """Return the nodes of the main graph that read ``value``, themselves or in a graph within them, each once."""
        return list(dict.fromkeys(self._outermost(node) for node, _ in value.uses()))

    def reads(self, node: ir.Node) -> list[ir.Value]:
        """Return the values that ``node`` reads, those that graphs within it take from the main graph among them, each once."""
        return list(dict.fromkeys([*(one for one in node.inputs if one is not None), *self.captured(node)]))

    def captured(self, node: ir.Node) -> list[ir.Value]:
        """Return the values of the main graph that the graphs within ``node`` take."""
        found: list[ir.Value] = []
        for inner in graphs_within(node):
            own = {*inner.inputs, *inner.initializers.values()}
            read = [value for one in inner for value in one.inputs if value is not None]
            found += (value for value in read if self._values.get(value.name or "") is value)
            ends = (value for value in inner.outputs if value.producer() is None and value not in own)
            found += (self._values[value.name] for value in ends if value.name in self._values)
        return found

    def origin(self, value: ir.Value, through: frozenset[str] = COPYING) -> ir.Value:
        """Return the value that ``value`` is a mere copy of, looking through operators of ``through`` along first inputs."""
        seen = set()
        while value not in seen and (node := value.producer()) is not None and operator(node) in through:
            seen.add(value)
            if not node.inputs or node.inputs[0] is None:
                break
            value = node.inputs[0]
        return value

    def ancestors(self, values: Iterable[ir.Value], until: Iterable[ir.Value] = ()) -> set[ir.Value]:
        """Return ``values`` and all that they are computed from, back to inputs, weights and ``until``, which are left out."""
        there, found, todo = set(until), set[ir.Value](), list(values)
        while todo:
            value = todo.pop()
            if value not in found and value not in there:
                found.add(value)
                node = value.producer()
                todo += self.reads(node) if node is not None else ()
        return found

    def nodes_behind(
        self, value: ir.Value, until: Iterable[ir.Value] = (), through: frozenset[str] | None = None
    ) -> Iterator[ir.Node]:
        """The nodes by which the numbers of ``value`` are computed, nearest first, no further back than ``until``.

        A node that looks at sizes alone ends the way. ``through``: nothing is looked for behind other operators than these.
        """
        todo, seen = deque([value]), set(until)
        while todo:
            current = todo.popleft()
            node = current.producer()
            if current in seen or node is None or operator(node) in MEASURING:
                continue
            seen.add(current)
            yield node
            if through is None or operator(node) in through:
                todo += self.reads(node)

    def descendants(self, values: Iterable[ir.Value]) -> set[ir.Value]:
        """Return every value of the main graph that ``values`` go into; they themselves are left out."""
        start = set(values)
        found, todo = set(start), list(start)
        while todo:
            new = {one for node in self.users(todo.pop()) for one in node.outputs if one.name} - found
            found |= new
            todo += new
        return found - start

    def _defined(self) -> Iterator[ir.Value]:
        """The values of the main graph; those that a sparse initializer gives, or nobody, are known by who reads them."""
        yield from (value for node in self.main for value in node.inputs if value is not None and value.producer() is None)
        yield from (*self.main.inputs, *self.main.initializers.values())
        yield from (value for node in self.main for value in node.outputs)
        yield from self.main.outputs

    def _share_unmade(self) -> None:
        """Let a name that a sparse initializer gives, or nobody, be one value: onnx-ir makes one for each graph."""
        for node in ir.traversal.RecursiveGraphIterator(self.main):
            for place, value in enumerate(node.inputs):
                if value is None or value.graph is not None or not value.name:
                    continue
                shared = self._values.setdefault(value.name, value)
                if shared is not value and shared.graph is None:
                    node.replace_input_with(place, shared)

    def _enter(self, node: ir.Node) -> None:
        """Note what a node of the main graph holds."""
        tensor = constant_tensor(node) if self.is_standard(node) else None
        if tensor is not None:
            self._tensors[node.outputs[0]] = tensor
        for inner in graphs_within(node):
            self._holders[inner] = node

    def _outermost(self, node: ir.Node) -> ir.Node:
        """Return the node of the main graph that ``node`` is, or lies in."""
        graph = node.graph
        return node if graph is self.main or not isinstance(graph, ir.Graph) else self._holders.get(graph, node)

    def in_order(self, graph: ir.Graph) -> list[ir.Node]:
        """Return the nodes of the main graph, or of one within a node, in an order that runs and is otherwise their own.

        Raises MalformedModelError where there is none.
        """
        nodes = list(graph)
        places = {value: place for place, node in enumerate(nodes) for value in node.outputs}
        needs = [{places[value] for value in _all_reads(node) if value in places} for node in nodes]
        if all(max(needed, default=-1) < place for place, needed in enumerate(needs)):
            return nodes
        needed_by: dict[int, list[int]] = {}
        for place, needed in enumerate(needs):
            for one in needed:
                needed_by.setdefault(one, []).append(place)
        ready = [place for place, needed in enumerate(needs) if not needed]
        order = []
        while ready:
            place = heapq.heappop(ready)
            order.append(place)
            for reader in needed_by.get(place, ()):
                needs[reader].discard(place)
                if not needs[reader]:
                    heapq.heappush(ready, reader)
        if len(order) < len(nodes):
            left = next(node for place, node in enumerate(nodes) if needs[place])
            what = f"the node that gives {shown(left.outputs[0].name or '')!r} needs what is computed from it"
            raise MalformedModelError(what, "export the model again")
        return [nodes[place] for place in order]

    def _sort(self) -> None:
        """Bring the nodes of the main graph into an order that runs."""
        nodes = self.in_order(self.main)
        if nodes != list(self.main):
            self.main.extend(nodes)


def _all_reads(node: ir.Node) -> Iterator[ir.Value]:
    """The values that ``node`` and every node within it read."""
    yield from (value for value in node.inputs if value is not None)
    for inner in graphs_within(node):
        yield from (value for one in inner for value in one.inputs if value is not None)


def _imported(source: onnx.GraphProto) -> ir.Graph:
    """Import a graph. UnsupportedModelError where onnx-ir refuses what is in it."""
    with _quiet():
        try:
            return ir.serde.deserialize_graph(importable(source))
        except ir.serde.SerdeError as error:
            reason: BaseException = error
            while reason.__cause__ is not None:
                reason = reason.__cause__
            what = f"onnx-ir cannot import this graph: {shown(str(reason).partition(chr(10))[0])}"
            raise UnsupportedModelError(what, "export the model again") from error


def check_defined_once(graph: onnx.GraphProto) -> None:
    """Raise MalformedModelError where a name stands for two values: nothing can be told of such a graph."""
    inputs = {info.name for info in graph.input}
    initializers = {one.name for one in graph.initializer} - inputs
    sparse = (one.values.name for one in graph.sparse_initializer)
    made = (name for node in graph.node for name in node.output if name)
    twice = [name for name, times in Counter([*inputs, *initializers, *sparse, *made]).items() if times > 1]
    if twice:
        raise MalformedModelError(f"{shown(twice[0])!r} is given twice in the graph", "export the model again")


_SHARED: WeakKeyDictionary[Document, Graph] = WeakKeyDictionary()
_SHARING = threading.Lock()
_IS_QUIET = ContextVar("_IS_QUIET", default=False)
logging.getLogger(ir.serde.__name__).addFilter(lambda _: not _IS_QUIET.get())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnx-ir's warnings about graphs that are not valid off the terminal, in this thread."""
    token = _IS_QUIET.set(True)
    try:
        yield
    finally:
        _IS_QUIET.reset(token)
