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

from graphsurgery.graph.attributes import to_tensor_proto
from graphsurgery.graph.element_types import FLOAT, ElementTypes
from graphsurgery.graph.operators import ATTENTIONS, MASK_INPUTS, MOVING, get_operator

Array = np.ndarray
STANDS_FOR_INFINITY = 1e30
"""A finite number beyond this is meant as infinity, wherever it stands."""


@cache
def largest(kind: int) -> float:
    """The largest finite number of an ONNX float type."""
    return float(_finfo(kind).max)


@cache
def smallest_normal(kind: int) -> float:
    """The smallest positive number that has all of the type's digits."""
    return float(_finfo(kind).smallest_normal)


@cache
def lowest_mask(kind: int) -> float:
    """What masks become: half the lowest finite number of the type."""
    return -largest(kind) / 2


def clip_infinities(values: Array, kind: int, mask: float | None = None, numbers: bool = True) -> Array:
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
        negative |= _find_mask_number(values, beyond, kind)
    clipped = np.where(beyond & negative, np.float32(lowest_mask(kind) if mask is None else mask), values)
    return np.where(beyond & sized & (values > 0), np.float32(min(largest(kind), float(np.finfo(np.float32).max))), clipped)


def explain_unfit(values: Array, kind: int) -> str | None:
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
    if few_digits or not cast_values(there, kind).any():
        return f"a constant too small: {sizes.max():.3g}"
    return None


def cast_values(values: Array, kind: int) -> Array:
    """float32 ``values`` in the numpy dtype of ``kind``, rounded to nearest; what is beyond its range becomes infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(helper.tensor_dtype_to_np_dtype(kind))


def make_tensor(values: Array, kind: int, name: str) -> onnx.TensorProto:
    """``values``, tamed, as a tensor of the type ``kind``, which may be float32."""
    return numpy_helper.from_array(np.asarray(cast_values(values, kind)), name)


def read_constant(node: ir.Node) -> Array | None:
    """Return the float32 values that a Constant holds, or that a ConstantOfShape fills with; None where they are of another
    type."""
    if get_operator(node) not in ("Constant", "ConstantOfShape"):
        return None
    for name, one in node.attributes.items():
        if name == "value":
            tensor = to_tensor_proto(one.as_tensor())
            return numpy_helper.to_array(tensor) if tensor.data_type == onnx.TensorProto.FLOAT else None
        if name in ("value_float", "value_floats"):
            return np.array(one.value, dtype=np.float32)
    return np.zeros(1, dtype=np.float32) if node.op_type == "ConstantOfShape" else None


def _find_mask_number(values: Array, beyond: Array, kind: int) -> Array:
    """Where ``values`` hold one negative number that ``kind`` has not, and at most one other."""
    first, others = values[beyond][0], values[~beyond]
    one_each = bool((values[beyond] == first).all()) and (not others.size or bool((others == others[0]).all()))
    return beyond & one_each & (values <= -largest(kind))


def _finfo(kind: int) -> Any:
    limits: Any = ml_dtypes.finfo
    return limits(helper.tensor_dtype_to_np_dtype(kind))


CARRYING = MOVING | {"Add", "Div", "Max", "Min", "Mul", "Neg", "Sub", "Sum", "Trilu"}
ENDING = frozenset({
    "ArgMax", "Equal", "Exp", "GlobalMaxPool", "Greater", "GreaterOrEqual", "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual",
    "LogSoftmax", "MaxPool", "ReduceLogSumExp", "ReduceMax", "Shape", "Sign", "Size", "Softmax", "TopK",
})  # fmt: skip


class MaskConstants:
    """The constants of a graph as they are to be stored."""

    def __init__(self, types: ElementTypes) -> None:
        self._types, self._graph = types, types.graph
        self.masking = self._find_masking()
        """The values that only mask scores."""

    def fit(self, value: ir.Value | None, values: Array, kind: int, half: int, mask: float | None = None) -> Array:
        """The constant ``value``, float32 ``values``, where it is stored as ``kind``, FLOAT or the type ``half``.

        What only masks is `tamed`, in both types. Anything else stays as it is in float32; stand-ins for infinity become
        ``half``'s largest numbers in it.
        """
        if value in self.masking:
            return clip_infinities(values, half, mask)
        if kind == FLOAT or not values.size:
            return values
        beyond = np.isfinite(values) & (np.abs(values) >= STANDS_FOR_INFINITY) & (np.abs(values) > largest(half))
        return np.where(beyond, np.float32(np.copysign(largest(half), values)), values) if beyond.any() else values

    def _find_masking(self) -> frozenset[ir.Value]:
        found: set[ir.Value] = set()
        for node in reversed(list(self._graph.nodes)):
            found.update(value for value in node.outputs if value.name and self._only_masks(value, found))
        found.update(value for value in self._graph.main.initializers.values() if self._only_masks(value, found))
        return frozenset(found)

    def _only_masks(self, value: ir.Value, known: set[ir.Value]) -> bool:
        users = self._graph.all_consumers(value)
        hidden = bool(users) and not value.is_graph_output()
        return hidden and all(self._ends(node, value) or self._carries(node, known) for node in users)

    def _ends(self, node: ir.Node, value: ir.Value) -> bool:
        """Return whether only the order of numbers, or which of them mask, counts behind ``node``."""
        if get_operator(node) == "Cast":
            return not self._types.select_float32(node.outputs) and all(self._types[output] for output in node.outputs)
        if get_operator(node) in ATTENTIONS:
            masks = MASK_INPUTS.get(get_operator(node), ())
            return all(place in masks for place, given in enumerate(node.inputs) if given is value)
        return get_operator(node) in ENDING

    def _carries(self, node: ir.Node, known: set[ir.Value]) -> bool:
        named = [value for value in node.outputs if value.name]
        return get_operator(node) in CARRYING and bool(named) and all(value in known for value in named)
