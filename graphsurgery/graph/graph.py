"""A model's graph for reading: which node makes each value, which nodes consume it, and which values are constant.

Nodes and values are onnx-ir's own. `Graph` adds to them an order in which the nodes can run, the tensors behind values, and the
values that subgraphs take from the graph around them.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from weakref import WeakKeyDictionary

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.errors import MalformedModelError
from graphsurgery.graph.attributes import get_constant_tensor, read_array, walk_subgraphs
from graphsurgery.graph.importing import import_graph
from graphsurgery.graph.operators import COPYING, SHAPE_READING, STANDARD, get_operator
from graphsurgery.model.model import Model
from graphsurgery.model.parsing import shorten
from graphsurgery.model.records import Document

SMALL = 1024
"""`Graph.array` reads constants of up to this many bytes by default."""


class Graph:
    """The main graph of a model, imported into onnx-ir. The source model is kept and never changed."""

    def __init__(self, source: onnx.ModelProto) -> None:
        """Import ``source``. Its weights may be in it, in external data, or elsewhere with placeholders in it.

        Raises:
            MalformedModelError: A name stands for two values, or a value is computed from itself.
            UnsupportedModelError: onnx-ir refuses something in the graph.
        """
        self.source = source
        self.main = import_graph(source.graph)
        self.opset = max((one.version for one in source.opset_import if one.domain in STANDARD), default=0)
        self._functions = {(_normalize(one.domain), one.name) for one in source.functions}
        self._values = {value.name: value for value in self._list_values() if value.name}
        initializers = {one.name: one for one in source.graph.initializer}
        self._tensors = {self._values[name]: tensor for name, tensor in initializers.items() if name in self._values}
        self._holders: dict[ir.Graph, ir.Node] = {}
        """The node of the main graph that each subgraph belongs to."""
        for node in self.main:
            self._register(node)
        if self._holders:
            self._merge_undefined_values()
        self._imported = tuple(self.main)
        """The nodes in the source's order."""
        nodes = self.sort_nodes(self.main)
        if nodes != list(self._imported):
            self.main.extend(nodes)

    @classmethod
    def of(cls, model: Model) -> Graph:
        """Return the graph of ``model`` for reading. It is imported once and then shared. Raises as the constructor does."""
        with _SHARED_LOCK:
            graph = _SHARED.get(model.document)
        if graph is None:
            graph = Graph(model.proto)
            with _SHARED_LOCK:
                graph = _SHARED.setdefault(model.document, graph)  # what others know of its values must stay true
        return graph

    @property
    def nodes(self) -> Iterator[ir.Node]:
        """The nodes of the main graph, each after those that make its inputs. Nodes may be added and removed meanwhile."""
        return iter(self.main)

    @property
    def values(self) -> Iterator[ir.Value]:
        """The named values of the main graph."""
        return iter(self._values.values())

    @property
    def constants(self) -> dict[ir.Value, onnx.TensorProto]:
        """The values that are the same in every run, with their tensors."""
        return {value: tensor for value, tensor in self._tensors.items() if not value.is_graph_input()}

    def value(self, name: str) -> ir.Value | None:
        """Return the value of the main graph called ``name``, or None."""
        return self._values.get(name)

    def is_standard(self, node: ir.Node) -> bool:
        """Return whether a node's operator is standard. A function of the model with a standard operator's name is not."""
        return node.domain in STANDARD and not self.has_function(node)

    def has_function(self, node: ir.Node) -> bool:
        """Return whether a function of the model defines the operator of ``node``."""
        return (_normalize(node.domain), node.op_type) in self._functions

    def tensor(self, value: ir.Value | None) -> onnx.TensorProto | None:
        """Return the tensor that the file stores for ``value``. For an input, this is its default."""
        return None if value is None else self._tensors.get(value)

    def constant(self, value: ir.Value | None) -> onnx.TensorProto | None:
        """Return the tensor of ``value`` if it is the same in every run. None for computed values and for all inputs."""
        return None if value is None or value.is_graph_input() else self._tensors.get(value)

    def array(self, value: ir.Value | None, max_bytes: int = SMALL) -> np.ndarray | None:
        """Return the elements of a constant. None if they take more than ``max_bytes`` or are not in the model."""
        tensor = self.constant(value)
        if tensor is None or math.prod(tensor.dims) > max_bytes:
            return None
        array = read_array(tensor)
        return array if array is not None and array.nbytes <= max_bytes else None

    def is_fed(self, value: ir.Value) -> bool:
        """Return whether ``value`` is an input of the main graph that has no default, so that every caller has to feed it."""
        return value.is_graph_input() and value.graph is self.main and value not in self._tensors

    def consumers(self, value: ir.Value) -> list[ir.Node]:
        """Return the nodes of the main graph that have ``value`` as an input, each once."""
        return list(dict.fromkeys(node for node, _ in value.uses() if node.graph is self.main))

    def all_consumers(self, value: ir.Value) -> list[ir.Node]:
        """Return the nodes of the main graph that read ``value``, as an input or in a subgraph, each once."""
        return list(dict.fromkeys(self._find_main_node(node) for node, _ in value.uses()))

    def implicit_inputs(self, node: ir.Node) -> list[ir.Value]:
        """Return the values of the main graph that the subgraphs of ``node`` read."""
        found: list[ir.Value] = []
        for inner in walk_subgraphs(node) if self._holders else ():
            own = {*inner.inputs, *inner.initializers.values()}
            inputs = [value for one in inner for value in one.inputs if value is not None]
            found += (value for value in inputs if self._values.get(value.name or "") is value)
            outer = (value for value in inner.outputs if value.producer() is None and value not in own)
            found += (self._values[value.name] for value in outer if value.name in self._values)
        return found

    def all_inputs(self, node: ir.Node) -> list[ir.Value]:
        """Return the inputs of ``node`` and its implicit inputs, each once."""
        return list(dict.fromkeys([*(one for one in node.inputs if one is not None), *self.implicit_inputs(node)]))

    def origin(self, value: ir.Value, through: frozenset[str] = COPYING) -> ir.Value:
        """Return the value that ``value`` is a copy of: follow first inputs back through the operators ``through``."""
        seen = set()
        while value not in seen and (node := value.producer()) is not None and get_operator(node) in through:
            seen.add(value)
            if not node.inputs or node.inputs[0] is None:
                break
            value = node.inputs[0]
        return value

    def ancestors(self, values: Iterable[ir.Value], until: Iterable[ir.Value] = ()) -> set[ir.Value]:
        """Return ``values`` and everything they are computed from. ``until`` and what lies before them are left out."""
        stops, found, todo = set(until), set[ir.Value](), list(values)
        while todo:
            value = todo.pop()
            if value not in found and value not in stops:
                found.add(value)
                node = value.producer()
                todo += self.all_inputs(node) if node is not None else ()
        return found

    def descendants(self, values: Iterable[ir.Value]) -> set[ir.Value]:
        """Return every value of the main graph that is computed from ``values``, without ``values`` themselves."""
        start = set(values)
        found, todo = set(start), list(start)
        while todo:
            new = {one for node in self.all_consumers(todo.pop()) for one in node.outputs if one.name} - found
            found |= new
            todo += new
        return found - start

    def upstream_nodes(
        self, value: ir.Value, until: Iterable[ir.Value] = (), through: frozenset[str] | None = None
    ) -> Iterator[ir.Node]:
        """Yield the nodes that compute the numbers of ``value``, nearest first, and none that computes ``until``.

        The search skips nodes that only read a shape. If ``through`` is given, it does not go beyond operators other than
        these.
        """
        todo, seen = deque([value]), set(until)
        while todo:
            current = todo.popleft()
            node = current.producer()
            if current in seen or node is None or get_operator(node) in SHAPE_READING:
                continue
            seen.add(current)
            yield node
            if through is None or get_operator(node) in through:
                todo += self.all_inputs(node)

    def sort_nodes(self, graph: ir.Graph) -> list[ir.Node]:
        """Return the nodes of the main graph or a subgraph in an order in which they can run, otherwise in their own order.

        Raises MalformedModelError if there is no such order.
        """
        nodes = list(graph)
        places = {value: place for place, node in enumerate(nodes) for value in node.outputs}
        if all(places.get(value, -1) < place for place, node in enumerate(nodes) for value in self._walk_inputs(node)):
            return nodes
        needs = [{places[value] for value in self._walk_inputs(node) if value in places} for node in nodes]
        needed_by: dict[int, list[int]] = {}
        for place, needed in enumerate(needs):
            for one in needed:
                needed_by.setdefault(one, []).append(place)
        ready = [place for place, needed in enumerate(needs) if not needed]
        order = []
        while ready:
            place = heapq.heappop(ready)
            order.append(place)
            for consumer in needed_by.get(place, ()):
                needs[consumer].discard(place)
                if not needs[consumer]:
                    heapq.heappush(ready, consumer)
        if len(order) < len(nodes):
            left = next(node for place, node in enumerate(nodes) if needs[place])
            what = f"the node that computes {shorten(left.outputs[0].name or '')!r} depends on its own output"
            raise MalformedModelError(what, "export the model again")
        return [nodes[place] for place in order]

    def _walk_inputs(self, node: ir.Node) -> Iterator[ir.Value]:
        """Yield the inputs of ``node`` and of every node in its subgraphs."""
        yield from (value for value in node.inputs if value is not None)
        for inner in walk_subgraphs(node) if self._holders else ():
            yield from (value for one in inner for value in one.inputs if value is not None)

    def _list_values(self) -> Iterator[ir.Value]:
        """Yield the values of the main graph. Inputs of nodes come first: they may be sparse initializers, or undefined."""
        yield from (value for node in self.main for value in node.inputs if value is not None and value.producer() is None)
        yield from (*self.main.inputs, *self.main.initializers.values())
        yield from (value for node in self.main for value in node.outputs)
        yield from self.main.outputs

    def _merge_undefined_values(self) -> None:
        """Let each name of a sparse initializer or an undefined value be one value: onnx-ir makes one for each subgraph."""
        for node in ir.traversal.RecursiveGraphIterator(self.main):
            for place, value in enumerate(node.inputs):
                if value is None or value.graph is not None or not value.name:
                    continue
                shared = self._values.setdefault(value.name, value)
                if shared is not value and shared.graph is None:
                    node.replace_input_with(place, shared)

    def _register(self, node: ir.Node) -> None:
        """Note the constant and the subgraphs that a node of the main graph holds."""
        tensor = get_constant_tensor(node) if self.is_standard(node) else None
        if tensor is not None:
            self._tensors[node.outputs[0]] = tensor
        for inner in walk_subgraphs(node):
            self._holders[inner] = node

    def _find_main_node(self, node: ir.Node) -> ir.Node:
        """Return ``node`` if it is in the main graph, else the node of the main graph that contains it."""
        graph = node.graph
        return node if graph is self.main or not isinstance(graph, ir.Graph) else self._holders.get(graph, node)


def _normalize(domain: str) -> str:
    """Return ``domain``, with one spelling for the standard's."""
    return "" if domain in STANDARD else domain


_SHARED: WeakKeyDictionary[Document, Graph] = WeakKeyDictionary()
_SHARED_LOCK = threading.Lock()
