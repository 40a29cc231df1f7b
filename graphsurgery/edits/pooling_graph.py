"""Pooling as ONNX operators.

``x [batch, seq, dim]`` float32 are the token embeddings, ``m [batch, seq]`` bool is true at tokens; every mode gives ``[batch,
dim]``. Padded positions are excluded with Where, not by multiplying, because NaN * 0 is NaN. A row without tokens gives zeros.
Sums over tokens are matrix products, so that a text's vector is the same bits in any batch (`Operators.sum_tokens`).
The modes are those of sentence-transformers' ``Pooling`` module, and statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import FLOAT, INT32, Operators

SMALLEST_COUNT = 1e-9
"""Smallest divisor of a mean, as in sentence-transformers."""


@dataclass(frozen=True)
class Tokens:
    """The tokens to pool: ``x [batch, seq, dim]`` float32, ``m [batch, seq]`` bool. Values that modes share are built once."""

    ops: Operators
    x: gs.Tensor
    m: gs.Tensor
    width: int
    m_all: gs.Tensor | None = None
    """``[batch, seq]`` bool, true at a prompt's tokens, too: positions count from its first one; from 0 if it is None."""
    token_weights: gs.Tensor | None = None
    """``[batch, seq]`` float32, 0 at padding: the weights that x was multiplied by. Means divide by their sum."""

    @cached_property
    def zero(self) -> gs.Variable:
        return self.ops.constant(0.0, np.float32, "zero")

    @cached_property
    def mask_3d(self) -> gs.Variable:
        """``[batch, seq, 1]`` bool"""
        return self.ops.unsqueeze(self.m, 2, "mask_3d")

    @cached_property
    def mask_int(self) -> gs.Variable:
        """``[batch, seq]`` int32, because some runtimes have no ArgMax over int64"""
        return self.ops.cast(self.m, INT32, "mask_int")

    @cached_property
    def masked(self) -> gs.Variable:
        """x with zeros at padding"""
        return self.ops.node("Where", self.mask_3d, self.x, self.zero, name="masked")

    @cached_property
    def mask_float(self) -> gs.Variable:
        """``[batch, seq]`` float32"""
        return self.ops.cast(self.m, FLOAT, "mask_float")

    @cached_property
    def count(self) -> gs.Variable:
        """n = sum m, ``[batch, 1]`` float32"""
        return self.ops.reduce_sum(self.mask_float, 1, "count", keepdims=True)

    @cached_property
    def divisor(self) -> gs.Variable:
        """The divisor of a mean: n, or the sum of the token weights; ``[batch, 1]`` float32"""
        if self.token_weights is None:
            return self.count
        weights = self.ops.unsqueeze(self.token_weights, 2, "token_weights_3d")
        return self.ops.sum_tokens(self.mask_float, weights, "total_token_weight")

    @cached_property
    def has_token(self) -> gs.Variable:
        """``[batch, 1]`` bool"""
        return self.ops.node("Greater", self.count, self.zero, name="has_token")


def cls(ops: Operators, t: Tokens) -> gs.Variable:
    """x at the first position with m = 1."""
    first = ops.node("ArgMax", t.mask_int, name="first", axis=1, keepdims=1)
    return _take_token(ops, t, first)


def lasttoken(ops: Operators, t: Tokens) -> gs.Variable:
    """x at the last position with m = 1: the first position at which the running count of tokens is largest."""
    running = ops.node("CumSum", t.mask_int, ops.constant(1, np.int64, "axis"), name="running_count")
    last = ops.node("ArgMax", running, name="last", axis=1, keepdims=1)
    return _take_token(ops, t, last)


def mean(ops: Operators, t: Tokens) -> gs.Variable:
    """sum(x m) / max(n, 1e-9); n is the number of tokens, or the sum of their weights."""
    return ops.node("Div", ops.sum_tokens(t.mask_float, t.masked, "sum"), _limit_divisor(ops, t.divisor), name="mean")


def mean_sqrt_len_tokens(ops: Operators, t: Tokens) -> gs.Variable:
    """sum(x m) / sqrt(max(n, 1e-9)), with n as in mean."""
    root = ops.node("Sqrt", _limit_divisor(ops, t.divisor), name="root")
    return ops.node("Div", ops.sum_tokens(t.mask_float, t.masked, "sum"), root, name="mean_sqrt")


def max(ops: Operators, t: Tokens) -> gs.Variable:
    """max over positions with m = 1: the value at the ArgMax.

    ReduceMax would give the same, but from opset 18 on ONNX Runtime's symbolic shape inference cannot read its axes. The
    optimizer then silently fuses less, and `quant_pre_process` fails.
    """
    lowest = ops.constant(-np.inf, np.float32, "lowest")
    at_tokens = ops.node("Where", t.mask_3d, t.x, lowest, name="at_tokens")
    where = ops.node("ArgMax", at_tokens, name="where", axis=1, keepdims=1)
    largest = ops.squeeze(ops.node("GatherElements", at_tokens, where, name="largest_3d", axis=1), 1, "largest")
    return _zero_without_tokens(ops, t, largest)


def weightedmean(ops: Operators, t: Tokens) -> gs.Variable:
    """sum(x w m) / max(sum(w m), 1e-9) with w = p + 1 - first, p = 0, 1, ..., seq - 1. Token weights replace the divisor.

    first ``[batch, 1]`` is the row's first token, that of a prompt included, or 0 if positions are absolute.
    """
    positions = ops.positions(t.m, np.float32)
    if t.m_all is not None:
        first = ops.node("ArgMax", ops.cast(t.m_all, INT32, "mask_int"), name="first", axis=1, keepdims=1)
        positions = ops.node("Sub", positions, ops.cast(first, FLOAT, "first_float"), name="from_first")
    weights = ops.node("Where", t.m, positions, t.zero, name="weights")
    total = t.divisor if t.token_weights is not None else ops.reduce_sum(weights, 1, "total_weight", keepdims=True)
    return ops.node("Div", ops.sum_tokens(weights, t.masked, "sum"), _limit_divisor(ops, total), name="weightedmean")


def statistics(ops: Operators, t: Tokens) -> gs.Variable:
    """mean = sum(x m) / max(n, 1e-9), and beside it sqrt(sum((x - mean)^2 m) / max(n - 1, 1)), 0 for a single token.

    Source: statistics pooling of XVector heads in transformers: ``torch.mean`` and ``torch.std`` (NaN for a single token).
    """
    average = ops.node("Div", ops.sum_tokens(t.mask_float, t.masked, "sum"), _limit_divisor(ops, t.count), name="mean")
    shifted = ops.node("Sub", t.masked, ops.unsqueeze(average, 1, "mean_3d"), name="shifted")
    squares = ops.sum_tokens(t.mask_float, ops.node("Mul", shifted, shifted, name="squares"), "squares_sum")
    one = ops.constant(1.0, np.float32, "one")
    others = ops.node("Max", ops.node("Sub", t.count, one, name="count_less_one"), one, name="others")
    deviation = ops.node("Sqrt", ops.node("Div", squares, others, name="variance"), name="deviation")
    return ops.node("Concat", average, deviation, name="statistics", axis=1)


MODES: dict[str, Callable[[Operators, Tokens], gs.Variable]] = {
    "cls": cls,
    "mean": mean,
    "max": max,
    "mean_sqrt_len_tokens": mean_sqrt_len_tokens,
    "weightedmean": weightedmean,
    "lasttoken": lasttoken,
    "statistics": statistics,
}
"""Every pooling mode by its name: those of sentence-transformers, and statistics."""
WIDE = {"statistics": 2}
"""The modes whose results are wider than a token, and how many times."""


def count_widths(modes: Sequence[str]) -> int:
    """Return how many times as wide as a token the results of ``modes`` are side by side."""
    return sum(WIDE.get(mode, 1) for mode in modes)


def pool(
    ops: Operators, x: gs.Tensor, m: gs.Tensor, width: int, modes: tuple[str, ...], m_all: gs.Tensor | None = None,
    token_weights: gs.Tensor | None = None,
) -> gs.Variable:  # fmt: skip
    """Build ``[batch, count_widths(modes) * dim]``: the results of the modes, concatenated in order."""
    tokens = Tokens(ops, x, m, width, m_all, token_weights)
    pooled = [MODES[mode](ops.within(mode), tokens) for mode in modes]
    return pooled[0] if len(pooled) == 1 else ops.node("Concat", *pooled, name="concatenated", axis=1)


def _take_token(ops: Operators, t: Tokens, position: gs.Tensor) -> gs.Variable:
    """Build x at ``position [batch, 1]``: ``[batch, dim]``."""
    zeros = gs.Constant("zeros", np.zeros(1, dtype=np.int64))
    along_dim = ops.node("ConstantOfShape", ops.constant([1, 1, t.width], np.int64, "dims"), name="along_dim", value=zeros)
    index = ops.node("Add", ops.unsqueeze(position, 2, "position_3d"), along_dim, name="index")
    token = ops.squeeze(ops.node("GatherElements", t.x, index, name="token_3d", axis=1), 1, "token")
    return _zero_without_tokens(ops, t, token)


def _zero_without_tokens(ops: Operators, t: Tokens, y: gs.Tensor) -> gs.Variable:
    """Build y with zeros in rows without tokens."""
    return ops.node("Where", t.has_token, y, t.zero, name="or_zero")


def _limit_divisor(ops: Operators, count: gs.Tensor) -> gs.Variable:
    return ops.node("Max", count, ops.constant(SMALLEST_COUNT, np.float32, "smallest"), name="divisor")
