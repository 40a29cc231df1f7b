"""Which names of a graph stand for what: order, what only one node gives, what others than the graph's nodes know."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator

import onnx

from graphsurgery.errors import MalformedModelError
from graphsurgery.model.nodes import reads, taken
from graphsurgery.model.parsing import shown


def in_order(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """``nodes``, each behind those that it reads, otherwise in the order they have; MalformedModelError where that is none."""
    given = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    needs = [{given[name] for name in reads(node) if name in given} for node in nodes]
    if all(max(needed, default=-1) < place for place, needed in enumerate(needs)):
        return nodes
    needed_by: dict[int, list[int]] = {}
    for place, needed in enumerate(needs):
        for one in needed:
            needed_by.setdefault(one, []).append(place)
    ready = [place for place, needed in enumerate(needs) if not needed]
    found = []
    while ready:
        place = heapq.heappop(ready)
        found.append(nodes[place])
        for reader in needed_by.get(place, ()):
            needs[reader].discard(place)
            if not needs[reader]:
                heapq.heappush(ready, reader)
    if len(found) < len(nodes):
        left = next(node for place, node in enumerate(nodes) if needs[place])
        raise MalformedModelError(
            f"the node that gives {shown(left.output[0])!r} needs what is computed from it", "export the model again"
        )
    return found


def known_elsewhere(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> frozenset[str]:
    """Names of the main graph that something other than its own ``nodes`` may use: subgraphs, annotations, training."""
    names = set(taken(nodes))
    for annotation in model.graph.quantization_annotation:
        names.update([annotation.tensor_name, *(entry.value for entry in annotation.quant_parameter_tensor_names)])
    for training in model.training_info:
        for binding in (*training.initialization_binding, *training.update_binding):
            names.update([binding.key, binding.value])
        for graph in (training.initialization, training.algorithm):
            names.update([*taken(graph.node), *(info.name for info in graph.output)])
            names.update(name for node in graph.node for name in node.input)
    return frozenset(names - {""})


def definitions(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that ``graph`` defines, subgraphs within left out; initializers that are inputs once."""
    inputs = {info.name for info in graph.input}
    yield from inputs
    yield from {one.name for one in graph.initializer} - inputs
    yield from (one.values.name for one in graph.sparse_initializer)
    yield from (name for node in graph.node for name in node.output if name)


def check_given_once(graph: onnx.GraphProto) -> None:
    """MalformedModelError where a name stands for two values: nothing can be told of such a graph."""
    twice = [name for name, times in Counter(definitions(graph)).items() if times > 1]
    if twice:
        raise MalformedModelError(f"{shown(twice[0])!r} is given twice in the graph", "export the model again")
