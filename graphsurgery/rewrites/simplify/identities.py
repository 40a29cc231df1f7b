"""Nodes whose output is one of their inputs, element for element, bit for bit, with the same type and dims."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphsurgery.graph.attributes import get_int, get_ints
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts

Rule = Callable[[Editor, Facts, ir.Node], ir.Value | None]
"""Returns the input that is the output as well; None where none is."""
DROPOUT_WITHOUT_TRAINING = 7
"""The opset since which Dropout is not in training unless it is told so, by an input (opset 12) or not at all."""


def drop_identities(work: Editor, facts: Facts) -> int:
    """Let readers of a copy read the original; how many copies went."""
    dropped = 0
    for node in work.nodes:
        rule = RULES.get(node.op_type) if work.is_standard(node) and not _is_kept(work, node) else None
        same = rule(work, facts, node) if rule is not None and node.inputs and node.outputs else None
        dropped += same is not None and work.replace_node(node, [same])
    return dropped


def _is_kept(work: Editor, node: ir.Node) -> bool:
    """Casts may go from among what is kept."""
    return node.op_type != "Cast" and any(value.name in work.protected for value in node.outputs)


def _match_copy(work: Editor, facts: Facts, node: ir.Node) -> ir.Value | None:
    return node.inputs[0]


def _match_single_input(work: Editor, facts: Facts, node: ir.Node) -> ir.Value | None:
    """Concat, Sum, Max, Min or Mean of one value"""
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
    """What keeps every element in its order, and the dims too."""
    before, after = facts[node.inputs[0]].dims, facts[node.outputs[0]].dims
    return node.inputs[0] if before is not None and before == after else None


def _match_slice(work: Editor, facts: Facts, node: ir.Node) -> ir.Value | None:
    """What is as long as before, cut in steps of 1, was cut nowhere."""
    steps = facts.literals(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else [1]
    return _match_same_dims(work, facts, node) if steps is not None and set(steps) <= {1} else None


def _make_neutral_rule(number: float, places: tuple[int, ...], sign: bool | None = None) -> Rule:
    """The rule for an operator on two numbers that changes nothing where the one at ``places`` is ``number``, and of that
    ``sign`` (whether it is negative) where it is a float: x + 0.0 makes 0.0 of -0.0, x + -0.0 does not. A vector of such
    numbers is a weight, be it all ones: layers are known by theirs."""

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
