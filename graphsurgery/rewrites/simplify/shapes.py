"""Shape subgraphs: what of them is known becomes constants, and what says the same is computed once.

    Gather(Shape(x), 2) = 768                                           where x is [batch, seq, 768]
    Reshape(x, [batch, seq, 12, 64]) = Reshape(x, [0, 0, 12, 64])       where x is [batch, seq, ...]
    Expand(x, [batch, 4, 8]) = Expand(x, [1, 4, 8])                     where x is [batch, 1, 8]
    Gather(Shape(y), 0) = Gather(Shape(x), 0)                           where both are [batch, ...] and x's is read before

A size that stays where it is may be 0, as of a batch without rows; a -1 stands for one only where none can be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from graphsurgery.graph.attributes import get_int
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.symbolic import Size, Sizes


def simplify_shapes(work: Editor, facts: Facts) -> int:
    """Make constants of known shapes, and let one computation of a size stand for all; how many are simpler now."""
    return _hold_known_sizes(work, facts) + _fix_targets(work, facts) + _merge_sizes(work, facts)


def _hold_known_sizes(work: Editor, facts: Facts) -> int:
    """Integers that are all literals are a constant."""
    found = 0
    for node in work.nodes:
        values = facts.literals(node.outputs[0]) if _is_computed(work, node) else None
        if values is not None:
            fact = facts[node.outputs[0]]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(fact.dtype)
            array = np.array(values, dtype).reshape(fact.literal or ())
            work.replace_with_constant(node.outputs[0], onnx.numpy_helper.from_array(array))
            found += 1
    return found


def _is_computed(work: Editor, node: ir.Node) -> bool:
    """Whether a node computes something, one value, that may be computed otherwise."""
    value = node.outputs[0] if len(node.outputs) == 1 and node.inputs else None
    return value is not None and bool(value.name) and work.constant(value) is None and value.name not in work.protected


def _fix_targets(work: Editor, facts: Facts) -> int:
    """Shapes to reshape and to expand to, as far as x's own dims make them constants."""
    changed = 0
    for node in work.nodes:
        rule = (
            {"Reshape": _find_reshape_target, "Expand": _find_expand_target}.get(node.op_type)
            if work.is_standard(node)
            else None
        )
        if rule is None or len(node.inputs) < 2 or _is_fixed(work, node.inputs[1]):
            continue
        dims, wanted = facts[node.inputs[0]].dims, facts.numbers(node.inputs[1])
        target = rule(dims, wanted) if dims is not None and wanted is not None else None
        if target is None or (node.op_type == "Reshape" and not _allow_zeros(node, wanted)):
            continue
        new = work.add_constant(f"{node.name or node.outputs[0].name}/shape", np.array(target, np.int64))
        work.set_inputs(node, [node.inputs[0], new])
        changed += 1
    return changed


def _is_fixed(work: Editor, value: ir.Value | None) -> bool:
    """Return whether a target is a constant already, or has to be computed as it is."""
    return value is None or work.constant(value) is not None or value.name in work.protected


def _allow_zeros(node: ir.Node, wanted: Sizes | None) -> bool:
    """Let a Reshape read 0 as the dim as it was, unless it has literal zeros that mean zero."""
    if not get_int(node, "allowzero", 0):
        return True
    if wanted is None or 0 in wanted:
        return False
    del node.attributes["allowzero"]
    return True


def _find_reshape_target(dims: Sizes, wanted: Sizes) -> list[int] | None:
    """0 for a dim of x that stays where it is; -1 for one size that is left, where an empty x cannot make it ambiguous."""
    found: list[int] = []
    left = 0
    for place, size in enumerate(wanted):
        if isinstance(size, int):
            found.append(size)
        elif dims[place : place + 1] == (size,):
            found.append(0)
        else:
            found.append(-1)
            left += 1
    if left > 1 or found.count(-1) > 1 or (left and min(size for size in (*found, 1) if size != -1) < 1):
        return None
    return found


def _find_expand_target(dims: Sizes, wanted: Sizes) -> list[int] | None:
    """1 for a dim that x has itself."""
    own: Sequence[Size] = (1,) * (len(wanted) - len(dims)) + dims[max(len(dims) - len(wanted), 0) :]
    found = [size if isinstance(size, int) else 1 if size == dim else None for size, dim in zip(wanted, own, strict=True)]
    known = [size for size in found if size is not None]
    return known if len(known) == len(found) else None


def _merge_sizes(work: Editor, facts: Facts) -> int:
    """Equal sizes are read where they are computed first."""
    merged, first = 0, dict[object, ir.Node]()
    for node in work.nodes:
        values = facts.numbers(node.outputs[0]) if _is_computed(work, node) else None
        if values is None:
            continue
        fact = facts[node.outputs[0]]
        key = fact.dtype, fact.dims, values
        if key not in first:
            first[key] = node
        else:
            merged += work.replace_node(node, [first[key].outputs[0]])
    return merged
