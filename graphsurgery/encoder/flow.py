"""What flows through an encoder: the order in which its nodes run, who uses each value, which values come from tokens."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import onnx

from graphsurgery.encoder.hidden_layers import MEASURING
from graphsurgery.encoder.roles import MASK_NAMES
from graphsurgery.errors import MissingDataError
from graphsurgery.graph.wiring import PASS_THROUGH, Wiring, attribute_int
from graphsurgery.model.dtypes import FLOATS, element_count
from graphsurgery.model.model import Model
from graphsurgery.model.nodes import reads

TABLE_STEPS = frozenset({"Cast", "Identity", "DequantizeLinear"})
"""Operators between a table, or a vector of weights, and what reads it."""
MOST_TERMS = 64
"""How many terms of a sum are looked at, about."""
MOST_COPIES = 16
"""How many copies of a value are looked through for its users."""
MOST_INTEGERS = 16
"""A shape has no more dims than this; longer constants are not read."""


@dataclass(frozen=True)
class Flow:
    """The main graph of a model as what its tokens flow through."""

    model: Model
    wiring: Wiring
    nodes: tuple[onnx.NodeProto, ...]
    """Each after the ones whose values it takes."""
    users: dict[str, tuple[onnx.NodeProto, ...]]
    fed: frozenset[str]
    """Values whose numbers depend on those of an input, not on its size alone."""
    tokens: frozenset[str]
    """Floats computed from tokens: rows that ids were looked up for, and all that is made of them."""

    @classmethod
    def of(cls, model: Model) -> Flow:
        wiring = Wiring.of(model)
        nodes = ordered(model.proto.graph)
        users: dict[str, list[onnx.NodeProto]] = {}
        for node in nodes:
            for name in dict.fromkeys(node.input):
                users.setdefault(name, []).append(node)
        fed, tokens = _spread(model, wiring, nodes)
        return cls(model, wiring, nodes, {name: tuple(found) for name, found in users.items()}, fed, tokens)

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that makes ``name``."""
        return self.wiring.producers.get(name)

    def behind(self, name: str) -> onnx.NodeProto | None:
        """The node that makes what ``name`` is a mere copy of."""
        return self.wiring.producers.get(self.wiring.origin(name))

    def used_by(self, name: str, *operators: str) -> list[onnx.NodeProto]:
        """The users of ``name``, or of a mere copy of it, that are one of ``operators``."""
        found, copies = [], [name]
        for copy in copies:  # grows as it is gone through
            for node in self.users.get(copy, ()):
                if node.op_type in operators:
                    found.append(node)
                elif node.op_type in PASS_THROUGH and node.input[0] == copy and len(copies) < MOST_COPIES:
                    copies.append(node.output[0])
        return found

    def token_inputs(self, node: onnx.NodeProto) -> list[str]:
        """What of a node's inputs is computed from tokens."""
        return [name for name in node.input if name in self.tokens]

    def constant(self, name: str) -> onnx.TensorProto | None:
        """The weights that ``name`` is, as they are or cast or dequantised."""
        return self.wiring.initializers.get(self.wiring.origin(name, TABLE_STEPS))

    def is_vector(self, name: str) -> bool:
        """Whether ``name`` is a constant vector, as a bias and a scale are."""
        tensor = self.constant(name)
        return tensor is not None and len(tensor.dims) == 1 and tensor.dims[0] > 1

    def integers(self, name: str) -> list[int] | None:
        """The numbers of a short integer constant, None where ``name`` is no such."""
        tensor = self.wiring.initializers.get(self.wiring.origin(name))
        if tensor is None or tensor.data_type in FLOATS or element_count(tensor.dims) > MOST_INTEGERS:
            return None
        try:
            return [int(number) for number in self.model.values(tensor).reshape(-1)]
        except MissingDataError:
            return None

    def number(self, name: str) -> float | None:
        """The one number of a constant, None where ``name`` is no such."""
        tensor = self.constant(name)
        if tensor is None or element_count(tensor.dims) != 1:
            return None
        try:
            return float(self.model.values(tensor).reshape(-1)[0])
        except MissingDataError:
            return None


def is_lookup(wiring: Wiring, node: onnx.NodeProto) -> bool:
    """Whether a node takes rows of a table of weights."""
    if node.op_type != "Gather" or attribute_int(node, "axis", 0) != 0:
        return False
    table = wiring.initializers.get(wiring.origin(node.input[0], TABLE_STEPS))
    return table is not None and len(table.dims) == 2


def summands(flow: Flow, name: str) -> list[str]:
    """The terms of the sum that ``name`` is, itself where it is none; sums of many terms are not gone through to the end."""
    found, todo = [], [name]
    seen: set[str] = set()
    while todo:
        term = todo.pop()
        node = flow.behind(term)
        if node is not None and node.op_type == "Add" and len(seen) < MOST_TERMS:
            todo += [one for one in reversed(node.input) if one not in seen]
            seen.update(node.input)
        else:
            found.append(term)
    return found


def ordered(graph: onnx.GraphProto) -> tuple[onnx.NodeProto, ...]:
    """The nodes of a graph in their own order, but each after the ones whose values it takes; what waits for itself is left
    out."""
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    waiting: dict[int, set[int]] = {}
    followers: dict[int, list[int]] = {}
    for place, node in enumerate(graph.node):
        waiting[place] = {makers[name] for name in reads(node) if name in makers}
        for other in waiting[place]:
            followers.setdefault(other, []).append(place)
    ready = [place for place, others in waiting.items() if not others]
    found = []
    while ready:
        place = heapq.heappop(ready)
        found.append(graph.node[place])
        for follower in followers.get(place, ()):
            waiting[follower].discard(place)
            if not waiting[follower]:
                heapq.heappush(ready, follower)
    return tuple(found)


def _spread(model: Model, wiring: Wiring, nodes: tuple[onnx.NodeProto, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """What is `fed` and what are `tokens`. Floats that are given count as tokens only where no table is looked up in: beside
    ids they are caches."""
    fed = set(wiring.inputs)
    starts = set()
    for node in nodes:
        if node.op_type in MEASURING or fed.isdisjoint(reads(node)):
            continue
        fed.update(node.output)
        if is_lookup(wiring, node) or node.op_type == "EmbedLayerNormalization":
            starts.update(node.output)
    tokens = starts or {
        value.name
        for value in model.interface.inputs
        if value.dtype in FLOATS and (value.rank or 0) >= 3 and value.name not in MASK_NAMES
    }
    for node in nodes:
        if node.op_type not in MEASURING and not tokens.isdisjoint(reads(node)):
            tokens.update(node.output)
    return frozenset(fed), frozenset(tokens - {""})
