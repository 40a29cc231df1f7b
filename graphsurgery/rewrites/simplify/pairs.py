"""Join two nodes, one after the other, that together do nothing, or no more than one of them does.

Transpose(Transpose(x, p), q) = Transpose(x, p[q])              or x, if p[q] = 0, 1, 2, ...
Reshape(Reshape(x)) = Reshape(x)                                also with Squeeze, Unsqueeze or Flatten before the Reshape
Squeeze(Unsqueeze(x, axes), axes) = x                           and the other way round
Cast(Cast(x)) = x                                               if the type between holds all values of x's type
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import onnx

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_int, get_ints
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import INSERTING_AXES, SAME_ORDER, get_operator

T = onnx.TensorProto
WIDER: dict[int, set[int]] = {
    T.BOOL: {T.INT8, T.UINT8, T.INT32, T.INT64, T.FLOAT16, T.FLOAT, T.DOUBLE},
    T.UINT8: {T.INT32, T.INT64, T.FLOAT, T.DOUBLE},
    T.INT8: {T.INT32, T.INT64, T.FLOAT, T.DOUBLE},
    T.INT32: {T.INT64, T.DOUBLE},
    T.FLOAT16: {T.FLOAT, T.DOUBLE},
    T.BFLOAT16: {T.FLOAT, T.DOUBLE},
    T.FLOAT: {T.DOUBLE},
}
"""By type: the types that hold all of its values. A cast there and back changes nothing."""
Join: TypeAlias = "Callable[[Editor, Facts, ir.Node, ir.Node], bool]"
"""Joins a node with the one after it that reads it, and returns whether it did."""


def join_pairs(work: Editor, facts: Facts) -> int:
    """Join pairs of nodes into one node or none, and return how many pairs were joined."""
    joined = 0
    for node in work.nodes:
        join = JOINS.get(get_operator(node))
        if join is None or not node.inputs or node.inputs[0] is None or not work.is_standard(node):
            continue
        before = node.inputs[0].producer()
        if before is not None and work.is_standard(before) and before.inputs and node.inputs[0].index() == 0:
            joined += join(work, facts, before, node)
    return joined


def _drop_both(work: Editor, second: ir.Node, first: ir.Node) -> bool:
    """Let the readers of ``second`` read the first input of ``first``."""
    return first.inputs[0] is not None and work.replace_node(second, [first.inputs[0]])


def _join_transposes(work: Editor, facts: Facts, first: ir.Node, second: ir.Node) -> bool:
    perms = [_read_perm(facts, node) for node in (first, second)] if get_operator(first) == "Transpose" else []
    if not perms or not perms[0] or not perms[1] or sorted(perms[0]) != sorted(perms[1]):
        return False
    perm = [perms[0][place] for place in perms[1]]
    if perm == sorted(perm):
        return _drop_both(work, second, first)
    if not work.is_read_once(first.outputs[0]):
        return False
    work.set_inputs(second, [first.inputs[0]])
    second.attributes["perm"] = ir.AttrInt64s("perm", perm)
    return True


def _read_perm(facts: Facts, node: ir.Node) -> list[int] | None:
    """Return the order of axes of a Transpose, reversed by default, or None if it is not known or not an order."""
    dims, perm = facts[node.inputs[0]].dims, get_ints(node, "perm")
    if perm is None:
        return list(reversed(range(len(dims)))) if dims is not None else None
    return perm if sorted(perm) == list(range(len(perm))) else None


def _join_reshapes(work: Editor, facts: Facts, first: ir.Node, second: ir.Node) -> bool:
    """Join them if the second copies no dim of its input, or only dims that were the same before the first."""
    wanted = facts.numbers(second.inputs[1]) if len(second.inputs) > 1 else None
    if get_operator(first) not in SAME_ORDER or wanted is None or not work.is_read_once(first.outputs[0]):
        return False
    copied = not get_int(second, "allowzero", 0)
    before, between = (facts[value].dims or () for value in (first.inputs[0], first.outputs[0]))
    for place in (place for place, size in enumerate(wanted) if size == 0 and copied):
        if before[place : place + 1] != between[place : place + 1] or place >= len(before):
            return False
    work.set_inputs(second, [first.inputs[0], second.inputs[1]])
    return True


def _join_squeezes(work: Editor, facts: Facts, first: ir.Node, second: ir.Node) -> bool:
    """Join them if they have the same axes. Both count these in the same value: the longer one of the two."""
    if {get_operator(first), get_operator(second)} != INSERTING_AXES:
        return False
    axes = [_read_axes(facts, node) for node in (first, second)]
    return axes[0] is not None and axes[0] == axes[1] and _drop_both(work, second, first)


def _read_axes(facts: Facts, node: ir.Node) -> list[int] | None:
    """Return the axes, sorted, or None if they are not known or not given."""
    found = facts.literals(node.inputs[1]) if len(node.inputs) > 1 else get_ints(node, "axes")
    return None if found is None else sorted(found)


def _join_casts(work: Editor, facts: Facts, first: ir.Node, second: ir.Node) -> bool:
    own, to = facts[first.inputs[0]].dtype, get_int(second, "to", 0)
    between = facts[first.outputs[0]].dtype
    if get_operator(first) != "Cast" or own != to or between not in WIDER.get(own, ()):
        return False
    return _drop_both(work, second, first)


JOINS: dict[str, Join] = {
    "Cast": _join_casts, "Reshape": _join_reshapes, "Squeeze": _join_squeezes, "Transpose": _join_transposes,
    "Unsqueeze": _join_squeezes,
}  # fmt: skip
