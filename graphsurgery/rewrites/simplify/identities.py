"""Nodes whose output is one of their inputs, element for element, bit for bit, with the same type and dims."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from graphsurgery.graph.editor import Workspace
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.reading import attribute

Rule = Callable[[Workspace, Facts, onnx.NodeProto], str | None]
"""The name of the input that is the output as well, None where none is."""
DROPOUT_WITHOUT_TRAINING = 7
"""The opset since which Dropout is not in training unless it is told so, by an input (opset 12) or not at all."""


def drop_identities(work: Workspace, facts: Facts) -> int:
    """Let readers of a copy read the original; how many copies went."""
    dropped = 0
    for node in work.nodes:
        rule = RULES.get(node.op_type) if work.is_standard(node) and not _is_kept(work, node) else None
        same = rule(work, facts, node) if rule is not None and node.input and node.output else None
        dropped += same is not None and same != "" and work.substitute(node, [same])
    return dropped


def _is_kept(work: Workspace, node: onnx.NodeProto) -> bool:
    """Casts may go from among what is kept."""
    return node.op_type != "Cast" and any(name in work.kept for name in node.output)


def _copied(work: Workspace, facts: Facts, node: onnx.NodeProto) -> str | None:
    return node.input[0]


def _only_one(work: Workspace, facts: Facts, node: onnx.NodeProto) -> str | None:
    """Concat, Sum, Max, Min or Mean of one value"""
    return node.input[0] if len(node.input) == 1 else None


def _dropout(work: Workspace, facts: Facts, node: onnx.NodeProto) -> str | None:
    if work.opset < DROPOUT_WITHOUT_TRAINING:
        tested = attribute(node, "is_test")
        return node.input[0] if tested is not None and tested.i else None
    if len(node.input) < 3 or not node.input[2]:
        return node.input[0]
    training = work.array(node.input[2])
    return node.input[0] if training is not None and not training.any() else None


def _cast(work: Workspace, facts: Facts, node: onnx.NodeProto) -> str | None:
    to = attribute(node, "to")
    return node.input[0] if to is not None and to.i and facts[node.input[0]].dtype == to.i else None


def _cast_like(work: Workspace, facts: Facts, node: onnx.NodeProto) -> str | None:
    types = {facts[name].dtype for name in node.input}
    return node.input[0] if len(node.input) == 2 and len(types) == 1 and 0 not in types else None


def _transpose(work: Workspace, facts: Facts, node: onnx.NodeProto) -> str | None:
    perm, dims = attribute(node, "perm"), facts[node.input[0]].dims
    if perm is not None:
        return node.input[0] if list(perm.ints) == sorted(perm.ints) else None
    return node.input[0] if dims is not None and len(dims) < 2 else None


def _same_dims(work: Workspace, facts: Facts, node: onnx.NodeProto) -> str | None:
    """What keeps every element in its order, and the dims too."""
    before, after = facts[node.input[0]].dims, facts[node.output[0]].dims
    return node.input[0] if before is not None and before == after else None


def _slice(work: Workspace, facts: Facts, node: onnx.NodeProto) -> str | None:
    """What is as long as before, cut in steps of 1, was cut nowhere."""
    steps = facts.literals(node.input[4]) if len(node.input) > 4 and node.input[4] else [1]
    return _same_dims(work, facts, node) if steps is not None and set(steps) <= {1} else None


def _neutral(number: float, places: tuple[int, ...], sign: bool | None = None) -> Rule:
    """The rule for an operator on two numbers that changes nothing where the one at ``places`` is ``number``, and of that
    ``sign`` (whether it is negative) where it is a float: x + 0.0 makes 0.0 of -0.0, x + -0.0 does not. A vector of such
    numbers is a weight, be it all ones: layers are known by theirs."""

    def rule(work: Workspace, facts: Facts, node: onnx.NodeProto) -> str | None:
        for place in places if len(node.input) == 2 and not node.attribute else ():
            constant, other = work.array(node.input[place]), node.input[1 - place]
            if constant is None or constant.size != 1 or constant.item() != number or constant.dtype.kind not in "biuf":
                continue
            signed = sign is not None and constant.dtype.kind == "f" and bool(np.signbit(constant.item())) != sign
            if not signed and facts[other].dims is not None and facts[other] == facts[node.output[0]]:
                return other
        return None

    return rule


RULES: dict[str, Rule] = {
    "Add": _neutral(0, (0, 1), sign=True), "And": _neutral(1, (0, 1)), "Cast": _cast, "CastLike": _cast_like,
    "Concat": _only_one, "Div": _neutral(1, (1,)), "Dropout": _dropout, "Expand": _same_dims, "Flatten": _same_dims,
    "Identity": _copied, "Max": _only_one, "Mean": _only_one, "Min": _only_one, "Mul": _neutral(1, (0, 1)),
    "Or": _neutral(0, (0, 1)), "Reshape": _same_dims, "Slice": _slice, "Squeeze": _same_dims,
    "Sub": _neutral(0, (1,), sign=False), "Sum": _only_one, "Tile": _same_dims, "Transpose": _transpose,
    "Unsqueeze": _same_dims,
}  # fmt: skip
