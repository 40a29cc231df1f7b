"""SPLADE pooling as ONNX operators: ``x [batch, seq, vocabulary]`` float32 scores, ``m [batch, seq]`` bool, true at tokens."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.edits.operators import Operators

STRATEGIES = ("max", "sum")
LOGARITHMS = {"relu": 1, "log1p_relu": 2}
"""Activations, and how many times each takes log(1 + .) of relu(x)."""


def splade(ops: Operators, x: gs.Tensor, m: gs.Tensor, strategy: str, activation: str) -> gs.Variable:
    """``[batch, vocabulary]``: the activation's max, or sum, over the positions with m = 1; it is never below 0, which padding
    gives.

    The activation does not fall, so that of the largest score is the largest: for ``max`` it is taken once a row, not at every
    token. ReduceMax would hide the encoder from the optimizer (see `pooling_graph`).
    """
    masked = ops.node("Where", ops.unsqueeze(m, 2, "mask_3d"), x, ops.constant(0.0, np.float32, "zero"), name="masked")
    if strategy == "sum":
        return ops.reduce_sum(_activated(ops, masked, activation), 1, "sum")
    where = ops.node("ArgMax", masked, name="where", axis=1, keepdims=1)
    largest = ops.squeeze(ops.node("GatherElements", masked, where, name="largest_3d", axis=1), 1, "largest")
    return _activated(ops, largest, activation)


def _activated(ops: Operators, x: gs.Tensor, activation: str) -> gs.Variable:
    """log(1 + relu(x)), or log(1 + log(1 + relu(x)))"""
    y = ops.node("Relu", x, name="relu")
    one = ops.constant(1.0, np.float32, "one")
    for _ in range(LOGARITHMS[activation]):
        y = ops.node("Log", ops.node("Add", y, one, name="raised"), name="log")
    return y
