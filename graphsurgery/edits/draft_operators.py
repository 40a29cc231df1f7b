"""ONNX operators as functions on a draft, each in the form of the model's own opset.

Axes became an input of ReduceSum, Squeeze and Unsqueeze at opset 13, and of the other Reduce operators at 18. Only operators
that ONNX Runtime's symbolic shape inference understands are used. It gives up on ReduceL2 and ReduceMax, and ONNX Runtime then
does not fuse the encoder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from graphsurgery.deferred import gs
from graphsurgery.model.draft import Draft

FLOAT, BOOL, INT32, INT64, INT8, UINT8 = (
    getattr(onnx.TensorProto, name) for name in ("FLOAT", "BOOL", "INT32", "INT64", "INT8", "UINT8")
)

SMALLEST_NORM = 1e-12
"""Smallest divisor, as in ``torch.nn.functional.normalize``."""


class Operators:
    """Appends nodes named ``<scope>/<name>`` to a draft."""

    def __init__(self, draft: Draft, scope: str) -> None:
        self.draft = draft
        self.scope = scope

    def within(self, scope: str) -> Operators:
        """Return operators for the same draft, one scope deeper."""
        return Operators(self.draft, f"{self.scope}/{scope}")

    def node(self, op: str, *inputs: gs.Tensor, name: str, output: str | None = None, **attrs: Any) -> gs.Variable:
        return self.draft.add(op, inputs, f"{self.scope}/{name}", attrs, output)

    def constant(self, value: Any, dtype: type[np.generic], name: str) -> gs.Variable:
        return self.draft.constant(np.asarray(value, dtype=dtype), f"{self.scope}/{name}")

    def cast(self, x: gs.Tensor, to: int, name: str) -> gs.Variable:
        return self.node("Cast", x, name=name, to=int(to))

    def reduce_sum(self, x: gs.Tensor, axis: int, name: str, keepdims: bool = False) -> gs.Variable:
        return self._over_axis("ReduceSum", x, axis, name, since=13, keepdims=int(keepdims))

    def sum_tokens(self, w: gs.Tensor, x: gs.Tensor, name: str) -> gs.Variable:
        """Build ``w [batch, seq]``, ``x [batch, seq, dim]`` -> ``[batch, dim]``: the sum of w x over seq, both float32.

        A text's sum has the same bits in any batch and with any padding behind it. ReduceSum would not do: ONNX Runtime adds in
        another order for a batch of one. Neither would a matrix product of one row, which has code of its own. So w stands in
        two rows, ``[batch, 2, seq]``, and the first row of the product with x is the sum.
        """
        row = self.unsqueeze(w, 1, f"{name}/row")
        rows = self.node("Concat", row, row, name=f"{name}/rows", axis=1)
        products = self.node("MatMul", rows, x, name=f"{name}/products")
        return self.node("Gather", products, self.constant(0, np.int64, f"{name}/first"), name=name, axis=1)

    def unsqueeze(self, x: gs.Tensor, axis: int, name: str, output: str | None = None) -> gs.Variable:
        return self._over_axis("Unsqueeze", x, axis, name, since=13, output=output)

    def squeeze(self, x: gs.Tensor, axis: int, name: str) -> gs.Variable:
        return self._over_axis("Squeeze", x, axis, name, since=13)

    def positions(self, like: gs.Tensor, dtype: type[np.generic], *, from_zero: bool = False) -> gs.Variable:
        """Build 1, 2, ..., seq, or 0, 1, ..., seq - 1, in every row of the shape of ``like [batch, seq]``."""
        return self.count(self.node("Shape", like, name="shape"), dtype, 1, from_zero=from_zero)

    def count(self, shape: gs.Tensor, dtype: type[np.generic], axis: int, *, from_zero: bool = False) -> gs.Variable:
        """Build 1, 2, ..., or 0, 1, ..., along the ``axis`` of a value of that ``shape``, which is a vector."""
        one = gs.Constant("one", np.ones(1, dtype=dtype))
        ones = self.node("ConstantOfShape", shape, name="ones", value=one)
        exclusive: dict[str, Any] = {"exclusive": 1} if from_zero else {}
        return self.node("CumSum", ones, self.constant(axis, np.int64, "axis"), name="positions", **exclusive)

    def _over_axis(self, op: str, x: gs.Tensor, axis: int, name: str, since: int, **attrs: Any) -> gs.Variable:
        if self.draft.opset < since:
            return self.node(op, x, name=name, axes=[axis], **attrs)
        return self.node(op, x, self.constant([axis], np.int64, f"{name}/axes"), name=name, **attrs)


def l2_normalize(ops: Operators, x: gs.Tensor) -> gs.Variable:
    """Build ``x [..., dim]`` float32 -> x / max(norm2(x), 1e-12), norm2(x) = sqrt(sum x^2) over dim.

    ReduceSum and Sqrt are used because ReduceL2 defeats symbolic shape inference. As everywhere in float32, squares overflow
    above 1.8e19 and vanish below 1e-23.
    """
    squares = ops.node("Mul", x, x, name="squares")
    norm = ops.node("Sqrt", ops.reduce_sum(squares, -1, "sum", keepdims=True), name="norm")
    divisor = ops.node("Max", norm, ops.constant(SMALLEST_NORM, np.float32, "smallest"), name="divisor")
    return ops.node("Div", x, divisor, name="unit")
