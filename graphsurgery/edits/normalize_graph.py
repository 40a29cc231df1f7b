"""L2 normalisation as ONNX operators."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.edits.operators import Operators

SMALLEST_NORM = 1e-12
"""Least divisor, as in ``torch.nn.functional.normalize``."""


def l2_normalize(ops: Operators, x: gs.Tensor) -> gs.Variable:
    """``x [..., dim]`` float32 -> x / max(norm2(x), 1e-12), norm2(x) = sqrt(sum x^2) over dim.

    ReduceSum and Sqrt, not ReduceL2, which defeats symbolic shape inference. As in float32 everywhere, squares overflow above
    1.8e19 and vanish below 1e-23.
    """
    squares = ops.node("Mul", x, x, name="squares")
    norm = ops.node("Sqrt", ops.reduce_sum(squares, -1, "sum", keepdims=True), name="norm")
    divisor = ops.node("Max", norm, ops.constant(SMALLEST_NORM, np.float32, "smallest"), name="divisor")
    return ops.node("Div", x, divisor, name="unit")
