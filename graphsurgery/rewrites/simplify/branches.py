"""Simplify If nodes whose condition is known: the branch that is always taken takes the place of the node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import onnx

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import walk_subgraphs
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import get_operator

BRANCHES = {True: "then_branch", False: "else_branch"}


def take_branches(work: Editor, facts: Facts) -> int:
    """Put each branch that is always taken in the place of its If, and return how many there were."""
    taken = [(node, branch) for node in work.nodes if (branch := _find_taken_branch(work, facts, node)) is not None]
    definitions = Counter(_list_definitions(work)) if taken else Counter()
    for node, branch in taken:
        _move_branch(work, node, branch, definitions)
    return len(taken)


def _find_taken_branch(work: Editor, facts: Facts, node: ir.Node) -> ir.Graph | None:
    """Return the branch of an If that is always taken, or None if there is none that can be moved."""
    if get_operator(node) != "If" or not work.is_standard(node) or len(node.inputs) != 1:
        return None
    condition = facts.literals(node.inputs[0])
    if condition is None or len(condition) != 1:
        return None
    held = node.attributes.get(BRANCHES[bool(condition[0])])
    if held is None or held.is_ref() or work.has_sparse_initializers(held.as_graph()):
        return None
    branch = held.as_graph()
    return branch if not branch.inputs and len(branch.outputs) >= len(node.outputs) else None


def _move_branch(work: Editor, node: ir.Node, branch: ir.Graph, definitions: Mapping[str, int]) -> None:
    """Move the nodes of ``branch`` to after ``node``, with its initializers as Constant nodes, and remove ``node``.

    A value whose name is defined more than once gets a new name.
    """
    infos = {info.name: info for info in work.declared_values(branch)}
    values = {value.name or "": value for inner in branch for value in inner.outputs if value.name}
    initializers = {value.name or "": value for value in branch.initializers.values()}
    constants = []
    for name, value in initializers.items():
        constant = work.make_node("Constant", [], [name], {"value": value.const_value}, name)
        value.replace_all_uses_with(constant.outputs[0], replace_graph_outputs=True)
        constants.append(constant)
        values[name] = constant.outputs[0]
    results = list(branch.outputs)
    nodes = list(branch)
    branch.outputs.clear()
    branch.remove(nodes)
    declared = []
    for name, value in sorted(values.items()):
        if definitions[name] > 1:
            value.name = work.namer.new(name)
        if name in infos:
            info = onnx.ValueInfoProto()
            info.CopyFrom(infos[name])
            info.name = value.name or ""
            declared.append(info)
    copies = []
    for output, result in zip(node.outputs, results, strict=False):
        if not output.name:
            continue
        source = result if result.producer() is not None else work.value(result.name or "") or result
        copy = work.make_node("Identity", [source], [output.name])
        work.replace_uses(output, copy.outputs[0])
        copies.append(copy)
    work.insert(node, [*constants, *nodes, *copies], declared)
    work.remove(node)
    work.update_pinned()


def _list_definitions(work: Editor) -> Iterator[str]:
    """Yield every name that the graph or a graph within it defines, as often as it is defined."""
    yield from (value.name or "" for value in {*work.main.inputs, *work.main.initializers.values()})
    for node in work.nodes:
        yield from (value.name or "" for value in node.outputs)
        for inner in walk_subgraphs(node):
            yield from (value.name or "" for value in {*inner.inputs, *inner.initializers.values()})
            yield from (value.name or "" for one in inner for value in one.outputs)
