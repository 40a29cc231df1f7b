"""Constants in half precision: what stands for minus infinity, and what a half type cannot hold.

float16 reaches to 65504 and loses digits below 6e-5; bfloat16 reaches as far as float32, less float32's last 0.4 %. Exporters
mask attention scores with float32's lowest number, which would become -inf in either: a row that is masked throughout would
then be NaN (inf - inf in its softmax). Here it becomes *half* the type's lowest, so that a score added to it, and a second
mask, too, stay finite.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from graphsurgery.graph.attributes import tensor_proto
from graphsurgery.graph.operators import operator

Array = np.ndarray
STANDS_FOR_INFINITY = 1e30
"""A finite number beyond this is meant as infinity, wherever it stands."""


@cache
def largest(kind: int) -> float:
    """The largest finite number of an ONNX float type."""
    return float(_limits(kind).max)


@cache
def smallest_normal(kind: int) -> float:
    """The smallest positive number that has all of the type's digits."""
    return float(_limits(kind).smallest_normal)


@cache
def lowest_mask(kind: int) -> float:
    """What masks become: half the lowest finite number of the type."""
    return -largest(kind) / 2


def tamed(values: Array, kind: int, mask: float | None = None, numbers: bool = True) -> Array:
    """float32 ``values`` of a mask with stand-ins for infinity brought into the range of ``kind``; the same array without any.

    Stand-ins are finite numbers of 1e30 and more, of both signs, and, with ``numbers``, in a tensor that holds at most one
    other number (one negative number, zeros besides) any negative number that ``kind`` has not, or has as its lowest.
    Negative ones become ``mask`` (`lowest_mask` when None), positive ones `largest`.
    """
    if not values.size or max(float(values.max()), -float(values.min())) <= -lowest_mask(kind):  # NaN is not
        return values
    beyond = np.isfinite(values) & (np.abs(values) > -lowest_mask(kind))
    if not beyond.any():
        return values
    sized = np.abs(values) >= STANDS_FOR_INFINITY
    negative = sized & (values < 0)
    if numbers:
        negative |= _mask_of_one_number(values, beyond, kind)
    clipped = np.where(beyond & negative, np.float32(lowest_mask(kind) if mask is None else mask), values)
    return np.where(beyond & sized & (values > 0), np.float32(min(largest(kind), float(np.finfo(np.float32).max))), clipped)


def unfit(values: Array, kind: int) -> str | None:
    """Why ``kind`` cannot hold the `tamed` float32 ``values``, or None.

    Finite numbers that would become infinite; all that is not zero becoming zero; and a single number (an epsilon, a scale)
    or a whole matrix below the type's smallest normal number, of which only some digits would be left.
    """
    if values.size > 1 and smallest_normal(kind) <= max(float(values.max()), -float(values.min())) <= largest(kind):
        return None
    finite = values[np.isfinite(values)]
    there = finite[finite != 0]
    if not there.size:
        return None
    sizes = np.abs(there)
    if float(sizes.max()) > largest(kind):
        return f"a constant out of range: {sizes.max():.3g}"
    few_digits = float(sizes.max()) < smallest_normal(kind) and (sizes.min() == sizes.max() or values.ndim > 1)
    if few_digits or not converted(there, kind).any():
        return f"a constant too small: {sizes.max():.3g}"
    return None


def converted(values: Array, kind: int) -> Array:
    """float32 ``values`` in the numpy dtype of ``kind``, rounded to nearest; what is beyond its range becomes infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(helper.tensor_dtype_to_np_dtype(kind))


def tensor(values: Array, kind: int, name: str) -> onnx.TensorProto:
    """``values``, tamed, as a tensor of the type ``kind``, which may be float32."""
    return numpy_helper.from_array(np.asarray(converted(values, kind)), name)


def held(node: ir.Node) -> Array | None:
    """Return the float32 values that a Constant holds, or that a ConstantOfShape fills with; None where they are of another
    type."""
    if operator(node) not in ("Constant", "ConstantOfShape"):
        return None
    for name, one in node.attributes.items():
        if name == "value":
            tensor = tensor_proto(one.as_tensor())
            return numpy_helper.to_array(tensor) if tensor.data_type == onnx.TensorProto.FLOAT else None
        if name in ("value_float", "value_floats"):
            return np.array(one.value, dtype=np.float32)
    return np.zeros(1, dtype=np.float32) if node.op_type == "ConstantOfShape" else None


def _mask_of_one_number(values: Array, beyond: Array, kind: int) -> Array:
    """Where ``values`` hold one negative number that ``kind`` has not, and at most one other."""
    first, others = values[beyond][0], values[~beyond]
    one_each = bool((values[beyond] == first).all()) and (not others.size or bool((others == others[0]).all()))
    return beyond & one_each & (values <= -largest(kind))


def _limits(kind: int) -> Any:
    limits: Any = ml_dtypes.finfo
    return limits(helper.tensor_dtype_to_np_dtype(kind))
