"""Drop nodes whose output is one of their inputs: bit for bit, with the same type and dims."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_int, get_ints
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import get_operator

Rule: TypeAlias = "Callable[[Editor, Facts, ir.Node], ir.Value | None]"
"""A rule for one operator. It returns the input that equals the output, or None if there is none."""
DROPOUT_WITHOUT_TRAINING = 7
"""From this opset on, a Dropout drops nothing unless an input (since opset 12) tells it to train."""


def drop_identities(work: Editor, facts: Facts) -> int:
    """Let the readers of a copy read the original, and return how many copies were dropped."""
    dropped = 0
    for node in work.nodes:
        rule = RULES.get(get_operator(node)) if work.is_standard(node) and not _is_kept(work, node) else None
        same = rule(work, facts, node) if rule is not None and node.inputs and node.outputs else None
        dropped += same is not None and work.replace_node(node, [same])
    return dropped


def _is_kept(work: Editor, node: ir.Node) -> bool:
    """Return whether a node must stay for the optimizer's patterns. A Cast need not."""
    return get_operator(node) != "Cast" and any(value.name in work.protected for value in node.outputs)


def _match_copy(work: Editor, facts: Facts, node: ir.Node) -> ir.Value | None:
    return node.inputs[0]


def _match_single_input(work: Editor, facts: Facts, node: ir.Node) -> ir.Value | None:
    """Match a Concat, Sum, Max, Min or Mean of one value."""
    return node.inputs[0] if len(node.inputs) == 1 else None


def _match_dropout(work: Editor, facts: Facts, node: ir.Node) -> ir.Value | None:
    if work.opset < DROPOUT_WITHOUT_TRAINING:
        return node.inputs[0] if get_int(node, "is_test", 0) else None
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return node.inputs[0]
    training = work.array(node.inputs[2])
    return node.inputs[0] if training is not None and not training.any() else None


def _match_cast(work: Editor, facts: Facts, node: ir.Node) -> ir.Value | None:
    to = get_int(node, "to", 0)
    return node.inputs[0] if to and facts[node.inputs[0]].dtype == to else None


def _match_cast_like(work: Editor, facts: Facts, node: ir.Node) -> ir.Value | None:
    types = {facts[value].dtype for value in node.inputs}
    return node.inputs[0] if len(node.inputs) == 2 and len(types) == 1 and 0 not in types else None


def _match_transpose(work: Editor, facts: Facts, node: ir.Node) -> ir.Value | None:
    perm, dims = get_ints(node, "perm"), facts[node.inputs[0]].dims
    if perm is not None:
        return node.inputs[0] if perm == sorted(perm) else None
    return node.inputs[0] if dims is not None and len(dims) < 2 else None


def _match_same_dims(work: Editor, facts: Facts, node: ir.Node) -> ir.Value | None:
    """Match an operator that keeps the order of elements, if it keeps the dims, too."""
    before, after = facts[node.inputs[0]].dims, facts[node.outputs[0]].dims
    return node.inputs[0] if before is not None and before == after else None


def _match_slice(work: Editor, facts: Facts, node: ir.Node) -> ir.Value | None:
    """Match a Slice in steps of 1 that leaves every dim as long as it was."""
    steps = facts.literals(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else [1]
    return _match_same_dims(work, facts, node) if steps is not None and set(steps) <= {1} else None


def _make_neutral_rule(number: float, places: tuple[int, ...], sign: bool | None = None) -> Rule:
    """Make the rule for an operator of two numbers that changes nothing if one of them is ``number``.

    A vector of such numbers is a weight, and stays: the optimizer recognises layers by their weights, even if all are one.

    Args:
        places: where among the inputs the number may be.
        sign: whether a float must be negative. x + 0.0 turns -0.0 into 0.0, x + -0.0 does not.
    """

    def rule(work: Editor, facts: Facts, node: ir.Node) -> ir.Value | None:
        for place in places if len(node.inputs) == 2 and not node.attributes else ():
            constant, other = work.array(node.inputs[place]), node.inputs[1 - place]
            if constant is None or constant.size != 1 or constant.item() != number or constant.dtype.kind not in "biuf":
                continue
            signed = sign is not None and constant.dtype.kind == "f" and bool(np.signbit(constant.item())) != sign
            if not signed and facts[other].dims is not None and facts[other] == facts[node.outputs[0]]:
                return other
        return None

    return rule


RULES: dict[str, Rule] = {
    "Add": _make_neutral_rule(0, (0, 1), sign=True), "And": _make_neutral_rule(1, (0, 1)), "Cast": _match_cast,
    "CastLike": _match_cast_like, "Concat": _match_single_input, "Div": _make_neutral_rule(1, (1,)), "Dropout": _match_dropout,
    "Expand": _match_same_dims, "Flatten": _match_same_dims, "Identity": _match_copy, "Max": _match_single_input,
    "Mean": _match_single_input, "Min": _match_single_input, "Mul": _make_neutral_rule(1, (0, 1)),
    "Or": _make_neutral_rule(0, (0, 1)), "Reshape": _match_same_dims, "Slice": _match_slice, "Squeeze": _match_same_dims,
    "Sub": _make_neutral_rule(0, (1,), sign=False), "Sum": _match_single_input, "Tile": _match_same_dims,
    "Transpose": _match_transpose, "Unsqueeze": _match_same_dims,
}  # fmt: skip
