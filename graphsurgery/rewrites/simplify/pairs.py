"""Two nodes, one behind the other, that are nothing together, or no more than one of them.

Transpose(Transpose(x, p), q) = Transpose(x, p[q])              x where p[q] = 0, 1, 2, ...
Reshape(Reshape(x)) = Reshape(x)                                and so of Squeeze, Unsqueeze and Flatten before a Reshape
Squeeze(Unsqueeze(x, axes), axes) = x                           and the other way round
Cast(Cast(x)) = x                                               where the type between holds all of x's, and x's is the last
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir

from graphsurgery.graph.attributes import get_int, get_ints
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import SAME_ORDER

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
"""The types that hold every value of a type, so that casting there and back changes nothing."""
Join = Callable[[Editor, Facts, ir.Node, ir.Node], bool]
"""Called with two nodes, of which the second reads the first; whether they were joined."""


def join_pairs(work: Editor, facts: Facts) -> int:
    """Make one node, or none, of two; how often."""
    joined = 0
    for node in work.nodes:
        join = JOINS.get(node.op_type)
        if join is None or not node.inputs or node.inputs[0] is None or not work.is_standard(node):
            continue
        before = node.inputs[0].producer()
        if before is not None and work.is_standard(before) and before.inputs and node.inputs[0].index() == 0:
            joined += join(work, facts, before, node)
    return joined


def _drop_both(work: Editor, second: ir.Node, first: ir.Node) -> bool:
    """Let the first input of ``first`` take the place of what ``second`` gives."""
    return first.inputs[0] is not None and work.replace_node(second, [first.inputs[0]])


def _join_transposes(work: Editor, facts: Facts, first: ir.Node, second: ir.Node) -> bool:
    perms = [_read_perm(facts, node) for node in (first, second)] if first.op_type == "Transpose" else []
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
    """The order of axes: reversed where nothing else is said; None where it is not known, or none."""
    dims, perm = facts[node.inputs[0]].dims, get_ints(node, "perm")
    if perm is None:
        return list(reversed(range(len(dims)))) if dims is not None else None
    return perm if sorted(perm) == list(range(len(perm))) else None


def _join_reshapes(work: Editor, facts: Facts, first: ir.Node, second: ir.Node) -> bool:
    """Where the second reads no dim of what it is given, or one that was there before the first as well."""
    wanted = facts.numbers(second.inputs[1]) if len(second.inputs) > 1 else None
    if first.op_type not in SAME_ORDER or wanted is None or not work.is_read_once(first.outputs[0]):
        return False
    copied = not get_int(second, "allowzero", 0)
    before, between = (facts[value].dims or () for value in (first.inputs[0], first.outputs[0]))
    for place in (place for place, size in enumerate(wanted) if size == 0 and copied):
        if before[place : place + 1] != between[place : place + 1] or place >= len(before):
            return False
    work.set_inputs(second, [first.inputs[0], second.inputs[1]])
    return True


def _join_squeezes(work: Editor, facts: Facts, first: ir.Node, second: ir.Node) -> bool:
    """Axes count in what is between for both when the first unsqueezes, and in what is around for both when it squeezes."""
    if {first.op_type, second.op_type} != {"Squeeze", "Unsqueeze"}:
        return False
    axes = [_read_axes(facts, node) for node in (first, second)]
    return axes[0] is not None and axes[0] == axes[1] and _drop_both(work, second, first)


def _read_axes(facts: Facts, node: ir.Node) -> list[int] | None:
    """The axes, sorted; None where they are not known or not given."""
    found = facts.literals(node.inputs[1]) if len(node.inputs) > 1 else get_ints(node, "axes")
    return None if found is None else sorted(found)


def _join_casts(work: Editor, facts: Facts, first: ir.Node, second: ir.Node) -> bool:
    own, to = facts[first.inputs[0]].dtype, get_int(second, "to", 0)
    between = facts[first.outputs[0]].dtype
    if first.op_type != "Cast" or own != to or between not in WIDER.get(own, ()):
        return False
    return _drop_both(work, second, first)


JOINS: dict[str, Join] = {
    "Cast": _join_casts, "Reshape": _join_reshapes, "Squeeze": _join_squeezes, "Transpose": _join_transposes,
    "Unsqueeze": _join_squeezes,
}  # fmt: skip
