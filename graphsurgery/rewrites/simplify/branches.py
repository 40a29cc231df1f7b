"""If nodes whose condition is known: the branch that is taken takes the node's place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import onnx
import onnx_ir as ir

from graphsurgery.graph.attributes import walk_subgraphs
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts


def take_branches(graph: Editor, facts: Facts) -> int:
    """Put branches that are always taken in the place of their If; return how many."""
    known = [(node, branch) for node in graph.nodes if (branch := _find_taken_branch(graph, facts, node)) is not None]
    times = Counter(_list_definitions(graph)) if known else Counter()
    for node, branch in known:
        _move_branch(graph, node, branch, times)
    return len(known)


def _find_taken_branch(graph: Editor, facts: Facts, node: ir.Node) -> ir.Graph | None:
    """Return the branch of an If that is always taken; None where none is, or where it cannot be moved."""
    if node.op_type != "If" or not graph.is_standard(node) or len(node.inputs) != 1:
        return None
    condition = facts.literals(node.inputs[0])
    if condition is None or len(condition) != 1:
        return None
    held = node.attributes.get(BRANCHES[bool(condition[0])])
    if held is None or held.is_ref() or graph.has_sparse_initializers(held.as_graph()):
        return None
    branch = held.as_graph()
    return branch if not branch.inputs and len(branch.outputs) >= len(node.outputs) else None


BRANCHES = {True: "then_branch", False: "else_branch"}


def _move_branch(graph: Editor, node: ir.Node, branch: ir.Graph, times: Mapping[str, int]) -> None:
    """Move the nodes of ``branch`` behind ``node``, with its initializers as Constant nodes, and take ``node`` out."""
    infos = {info.name: info for info in graph.declared_values(branch)}
    given = {value.name or "": value for inner in branch for value in inner.outputs if value.name}
    held = {value.name or "": value for value in branch.initializers.values()}
    constants = []
    for name, value in held.items():
        new = graph.make_node("Constant", [], [name], {"value": value.const_value}, name)
        value.replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
        constants.append(new)
        given[name] = new.outputs[0]
    ends = list(branch.outputs)
    nodes = list(branch)
    branch.outputs.clear()
    branch.remove(nodes)
    declared = []
    for name, value in sorted(given.items()):
        if times[name] > 1:
            value.name = graph.namer.new(name)
        if name in infos:
            copy = onnx.ValueInfoProto()
            copy.CopyFrom(infos[name])
            copy.name = value.name or ""
            declared.append(copy)
    copies = []
    for output, inside in zip(node.outputs, ends, strict=False):
        if not output.name:
            continue
        source = inside if inside.producer() is not None else graph.value(inside.name or "") or inside
        copy_node = graph.make_node("Identity", [source], [output.name])
        graph.replace_uses(output, copy_node.outputs[0])
        copies.append(copy_node)
    graph.insert(node, [*constants, *nodes, *copies], declared)
    graph.remove(node)
    graph.update_pinned()


def _list_definitions(graph: Editor) -> Iterator[str]:
    """Every name that the graph or one within it defines, as often as it is defined."""
    yield from (value.name or "" for value in {*graph.main.inputs, *graph.main.initializers.values()})
    for node in graph.nodes:
        yield from (value.name or "" for value in node.outputs)
        for inner in walk_subgraphs(node):
            yield from (value.name or "" for value in {*inner.inputs, *inner.initializers.values()})
            yield from (value.name or "" for one in inner for value in one.outputs)
