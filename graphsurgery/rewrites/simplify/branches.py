"""If nodes whose condition is known: the branch that is taken takes the node's place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import onnx

from graphsurgery.graph.editor import Workspace
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.reading import attribute
from graphsurgery.model.nodes import subgraphs


def take_branches(work: Workspace, facts: Facts) -> int:
    """Put branches that are always taken in the place of their If; how many."""
    known = [(node, branch) for node in work.nodes if (branch := _taken(work, facts, node)) is not None]
    if not known:
        return 0
    times = Counter(_defined(work))
    infos: list[onnx.ValueInfoProto] = []
    work.splice({id(node): _moved(work, node, branch, times, infos) for node, branch in known}, infos)
    return len(known)


def _taken(work: Workspace, facts: Facts, node: onnx.NodeProto) -> onnx.GraphProto | None:
    """The branch of an If that is always taken."""
    if node.op_type != "If" or not work.is_standard(node) or len(node.input) != 1:
        return None
    condition = facts.literals(node.input[0])
    if condition is None or len(condition) != 1:
        return None
    held = attribute(node, "then_branch" if condition[0] else "else_branch")
    fits = held is not None and not held.g.input and not held.g.sparse_initializer and len(held.g.output) >= len(node.output)
    return held.g if held is not None and fits else None


def _moved(
    work: Workspace, node: onnx.NodeProto, branch: onnx.GraphProto, times: Mapping[str, int], infos: list[onnx.ValueInfoProto]
) -> list[onnx.NodeProto]:
    """The branch's nodes for the graph around it, with initializers as Constant nodes; ``infos`` gets what it declares."""
    given = {one.name for one in branch.initializer} | {name for inner in branch.node for name in inner.output}
    names = {name: name if times[name] == 1 else work.namer.new(name) for name in sorted(given - {""})}
    nodes = [onnx.helper.make_node("Constant", [], [one.name], one.name, value=one) for one in branch.initializer]
    for inner in branch.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(inner)
        nodes.append(copy)
    rename(nodes, names)
    for info in branch.value_info:
        copied = onnx.ValueInfoProto()
        copied.CopyFrom(info)
        copied.name = names.get(info.name, info.name)
        infos.append(copied)
    for output, inside in zip(node.output, branch.output, strict=False):
        if output:
            nodes.append(onnx.helper.make_node("Identity", [names.get(inside.name, inside.name)], [output]))
    return nodes


def rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Let ``nodes``, and the subgraphs within them, know values by other names."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for graph in subgraphs(node):
            rename(graph.node, names)
            for info in (*graph.output, *graph.value_info, *graph.initializer, *graph.input):
                info.name = names.get(info.name, info.name)


def _defined(work: Workspace) -> Iterator[str]:
    """Every name that the graph or one within it defines, as often as it is defined."""
    yield from (one.name for field in (work.graph.input, work.graph.initializer) for one in field)
    nodes = list(work.nodes)
    while nodes:
        node = nodes.pop()
        yield from node.output
        for graph in subgraphs(node):
            yield from (one.name for field in (graph.input, graph.initializer) for one in field)
            nodes += graph.node
