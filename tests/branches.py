"""Encoders with an If in the middle: what subgraphs take from around them, and what only looks as if they did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CONDITION, WEIGHT = "is_on", "turn.weight"


def with_branches(path: Path, value: str, local: str, weight: np.ndarray | None = None) -> onnx.ModelProto:
    """The encoder at ``path`` with ``value`` put through an If whose branches both give it as it is.

    Both branches take ``value`` from around them and call a value of their own ``local``: a name that a later node of the main
    graph may have as well, for there it is not known yet. ``weight``, where given, is read within the branches alone.
    """
    model = onnx.load(path)
    graph = model.graph
    place, made = next((place, node) for place, node in enumerate(graph.node) if value in node.output)
    before = f"{value}/before"
    made.output[list(made.output).index(value)] = before
    bodies = {f"{name}_branch": _body(name, before, local, weight is not None) for name in ("then", "else")}
    graph.node.insert(place + 1, helper.make_node("If", [CONDITION], [value], "branches", **bodies))
    graph.initializer.append(numpy_helper.from_array(np.array(True), CONDITION))
    if weight is not None:
        graph.initializer.append(numpy_helper.from_array(weight, WEIGHT))
    return model


def _body(name: str, before: str, local: str, weighted: bool) -> onnx.GraphProto:
    """``local = before``, or ``before W``; its output is a copy of it."""
    out, operator, taken = f"{name}_out", "MatMul" if weighted else "Identity", [before, WEIGHT] if weighted else [before]
    nodes = [helper.make_node(operator, taken, [local]), helper.make_node("Identity", [local], [out])]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)])
