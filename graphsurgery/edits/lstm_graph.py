"""A stacked LSTM as ONNX operators, from the tensors that torch.nn.LSTM has.

torch's gates are i, f, g, o and ONNX's i, o, f, c (c is torch's g), H rows each; torch has a tensor for every layer and
direction, ONNX one for all directions of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.edits.operators import FLOAT, INT32, Operators

GATES = (0, 3, 1, 2)
"""Where ONNX's gates i, o, f, c stand among torch's."""


@dataclass(frozen=True)
class Direction:
    """One direction of one layer: ``weight_ih [4H, in]``, ``weight_hh [4H, H]``, ``bias_ih [4H]``, ``bias_hh [4H]``."""

    weight_ih: np.ndarray
    weight_hh: np.ndarray
    bias_ih: np.ndarray
    bias_hh: np.ndarray

    @property
    def size(self) -> int:
        """H, the width of what it gives"""
        return int(self.weight_hh.shape[1])


Layer = tuple[Direction, ...]
"""Forward, or forward and backward."""


def lstm(ops: Operators, x: gs.Tensor, m: gs.Tensor, layers: list[Layer]) -> gs.Variable:
    """``x [batch, seq, in]``, ``m [batch, seq]`` bool -> ``[batch, seq, directions * H]``: the last layer's states at the first
    max(sum m, 1) positions of a row, zeros behind them."""
    lengths = _lengths(ops, m)
    counts = ops.cast(ops.squeeze(lengths, 1, "lengths_1d"), INT32, "counts")
    states: gs.Tensor = ops.node("Transpose", x, name="by_position", perm=[1, 0, 2])
    for layer in layers:
        states = _layer(ops.within("layer"), states, counts, layer)
    y = ops.node("Transpose", states, name="by_row", perm=[1, 0, 2])
    behind = ops.unsqueeze(ops.node("Greater", _positions(ops, m), lengths, name="behind"), 2, "behind_3d")
    return ops.node("Where", behind, ops.constant(0.0, np.float32, "zero"), y, name="tokens")


def _layer(ops: Operators, x: gs.Tensor, counts: gs.Tensor, layer: Layer) -> gs.Variable:
    """``x [seq, batch, in]`` -> ``[seq, batch, directions * H]``"""
    w = np.stack([_gates(one.weight_ih) for one in layer])
    r = np.stack([_gates(one.weight_hh) for one in layer])
    b = np.stack([np.concatenate([_gates(one.bias_ih), _gates(one.bias_hh)]) for one in layer])
    named = [ops.constant(tensor, np.float32, name) for tensor, name in ((w, "weights"), (r, "recurrence"), (b, "biases"))]
    direction = "bidirectional" if len(layer) == 2 else "forward"
    y = ops.node("LSTM", x, *named, counts, name="lstm", hidden_size=layer[0].size, direction=direction)
    if len(layer) == 1:
        return ops.squeeze(y, 1, "states")
    together = ops.node("Transpose", y, name="together", perm=[0, 2, 1, 3])
    dims = ops.constant([0, 0, len(layer) * layer[0].size], np.int64, "dims")
    return ops.node("Reshape", together, dims, name="states")


def _gates(tensor: np.ndarray) -> np.ndarray:
    """A tensor ``[4H, ...]`` with torch's gates in ONNX's order."""
    gates = np.split(tensor, 4)
    return np.concatenate([gates[place] for place in GATES])


def _lengths(ops: Operators, m: gs.Tensor) -> gs.Variable:
    """max(sum m, 1): ``[batch, 1]`` float32"""
    count = ops.reduce_sum(ops.cast(m, FLOAT, "mask_float"), 1, "count", keepdims=True)
    return ops.node("Max", count, ops.constant(1.0, np.float32, "least"), name="lengths")


def _positions(ops: Operators, m: gs.Tensor) -> gs.Variable:
    """1, 2, ..., seq in every row: ``[batch, seq]`` float32"""
    one = gs.Constant("one", np.ones(1, dtype=np.float32))
    ones = ops.node("ConstantOfShape", ops.node("Shape", m, name="shape"), name="ones", value=one)
    return ops.node("CumSum", ones, ops.constant(1, np.int64, "axis"), name="positions")
