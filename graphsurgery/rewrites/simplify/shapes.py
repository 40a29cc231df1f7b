"""Simplify the nodes that compute shapes: known sizes become constants, and equal sizes are computed once.

    Gather(Shape(x), 2) = 768                                           if x is [batch, seq, 768]
    Reshape(x, [batch, seq, 12, 64]) = Reshape(x, [0, 0, 12, 64])       if x is [batch, seq, ...]
    Expand(x, [batch, 4, 8]) = Expand(x, [1, 4, 8])                     if x is [batch, 1, 8]
    Gather(Shape(y), 0) = Gather(Shape(x), 0)                           if both are [batch, ...] and x's is read before

A dim that stays in its place may be 0, for example in a batch without rows. A -1 is written only for a size that cannot be 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_int
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import get_operator
from graphsurgery.graph.symbolic import Size, Sizes


def simplify_shapes(work: Editor, facts: Facts) -> int:
    """Turn known sizes into constants, and compute each size once. Return how many values are simpler now."""
    return _hold_known_sizes(work, facts) + _fix_targets(work, facts) + _merge_sizes(work, facts)


def _hold_known_sizes(work: Editor, facts: Facts) -> int:
    """Turn integers that are all known into constants, and return how many."""
    held = 0
    for node in work.nodes:
        values = facts.literals(node.outputs[0]) if _is_computed(work, node) else None
        if values is not None:
            fact = facts[node.outputs[0]]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(fact.dtype)
            array = np.array(values, dtype).reshape(fact.literal or ())
            work.replace_with_constant(node.outputs[0], onnx.numpy_helper.from_array(array))
            held += 1
    return held


def _is_computed(work: Editor, node: ir.Node) -> bool:
    """Return whether a node computes one value that may be computed in another way."""
    value = node.outputs[0] if len(node.outputs) == 1 and node.inputs else None
    return value is not None and bool(value.name) and work.constant(value) is None and value.name not in work.protected


def _fix_targets(work: Editor, facts: Facts) -> int:
    """Turn the targets of Reshape and Expand into constants, as far as the dims of their input allow. Return how many."""
    changed = 0
    for node in work.nodes:
        rule = (
            {"Reshape": _find_reshape_target, "Expand": _find_expand_target}.get(get_operator(node))
            if work.is_standard(node)
            else None
        )
        if rule is None or len(node.inputs) < 2 or _is_fixed(work, node.inputs[1]):
            continue
        dims, wanted = facts[node.inputs[0]].dims, facts.numbers(node.inputs[1])
        target = rule(dims, wanted) if dims is not None and wanted is not None else None
        if target is None or (get_operator(node) == "Reshape" and not _allow_zeros(node, wanted)):
            continue
        new = work.add_constant(f"{node.name or node.outputs[0].name}/shape", np.array(target, np.int64))
        work.set_inputs(node, [node.inputs[0], new])
        changed += 1
    return changed


def _is_fixed(work: Editor, value: ir.Value | None) -> bool:
    """Return whether a target is a constant already, or must stay as it is computed."""
    return value is None or work.constant(value) is not None or value.name in work.protected


def _allow_zeros(node: ir.Node, wanted: Sizes | None) -> bool:
    """Let 0 mean "the dim as it was" in a Reshape, and return whether it does. It cannot if zeros stand for zero there."""
    if not get_int(node, "allowzero", 0):
        return True
    if wanted is None or 0 in wanted:
        return False
    del node.attributes["allowzero"]
    return True


def _find_reshape_target(dims: Sizes, wanted: Sizes) -> list[int] | None:
    """Return the target of a Reshape: 0 for a dim that stays in its place, and -1 for one other size if it cannot be ambiguous.

    A -1 beside a 0 would be ambiguous for an empty input.
    """
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
    """Return the target of an Expand: 1 for a dim that its input has itself."""
    own: Sequence[Size] = (1,) * (len(wanted) - len(dims)) + dims[max(len(dims) - len(wanted), 0) :]
    found = [size if isinstance(size, int) else 1 if size == dim else None for size, dim in zip(wanted, own, strict=True)]
    known = [size for size in found if size is not None]
    return known if len(known) == len(found) else None


def _merge_sizes(work: Editor, facts: Facts) -> int:
    """Let readers of equal sizes read the first one that is computed, and return how many were merged."""
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
