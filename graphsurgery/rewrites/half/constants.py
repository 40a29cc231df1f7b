"""Constants in half precision: numbers that stand for minus infinity in masks, and numbers that a half type cannot hold.

float16 reaches to 65504 and loses digits below 6e-5. bfloat16 reaches as far as float32, less float32's last 0.4 %. Exporters
mask attention scores with float32's lowest number, which would become -inf in either type. A row that is masked throughout
would then be NaN (inf - inf in its softmax). Here the number becomes *half* the type's lowest one, which stays finite if a
score or a second mask is added to it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import to_tensor_proto
from graphsurgery.graph.element_types import FLOAT, ElementTypes
from graphsurgery.graph.operators import ATTENTIONS, FILLED, MASK_ENDS, MASK_INPUTS, MASK_STEPS, get_operator

Array = np.ndarray
STANDS_FOR_INFINITY = 1e30
"""A finite number of this size or more stands for infinity, in any constant."""


@cache
def largest(kind: int) -> float:
    """Return the largest finite number of an ONNX float type."""
    return float(_finfo(kind).max)


@cache
def smallest_normal(kind: int) -> float:
    """Return the smallest positive number that has all of the type's digits."""
    return float(_finfo(kind).smallest_normal)


@cache
def lowest_mask(kind: int) -> float:
    """Return the number that masks become: half the lowest finite number of the type."""
    return -largest(kind) / 2


def clip_infinities(values: Array, kind: int, mask: float | None = None, numbers: bool = True) -> Array:
    """Bring numbers that stand for infinity into the range of ``kind``. Returns ``values`` itself if there are none.

    These are finite numbers of 1e30 and more, of both signs. Positive ones become `largest`, negative ones ``mask``.

    Args:
        values: the float32 values of a mask.
        mask: `lowest_mask` by default.
        numbers: whether smaller numbers count, too. In a tensor that holds one negative number and at most one other number,
            such as 0, the negative one stands for infinity if it is the lowest number of ``kind`` or below.
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
    """Return why ``kind`` cannot hold float32 ``values`` without numbers that stand for infinity, or None if it can.

    It cannot if a finite number would become infinite, or if all numbers would become zero. Nor can it if a single number (an
    epsilon, a scale) or a whole matrix lies below the type's smallest normal number, where only some digits would be left.
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
    """Return float32 ``values`` in the numpy dtype of ``kind``, rounded to nearest. Numbers out of range become infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(helper.tensor_dtype_to_np_dtype(kind))


def make_tensor(values: Array, kind: int, name: str) -> onnx.TensorProto:
    """Return float32 ``values`` as a tensor of the type ``kind``, which may be float32."""
    return numpy_helper.from_array(np.asarray(cast_values(values, kind)), name)


def read_constant(node: ir.Node) -> Array | None:
    """Return the float32 values that a Constant or ConstantOfShape holds, or None if they are of another type."""
    if get_operator(node) not in FILLED:
        return None
    for name, one in node.attributes.items():
        if name == "value":
            tensor = to_tensor_proto(one.as_tensor())
            return numpy_helper.to_array(tensor) if tensor.data_type == onnx.TensorProto.FLOAT else None
        if name in ("value_float", "value_floats"):
            return np.array(one.value, dtype=np.float32)
    return np.zeros(1, dtype=np.float32) if get_operator(node) == "ConstantOfShape" else None


def _find_mask_number(values: Array, beyond: Array, kind: int) -> Array:
    """Return where a negative number is that ``kind`` does not reach, if ``values`` hold at most one other number."""
    first, others = values[beyond][0], values[~beyond]
    one_each = bool((values[beyond] == first).all()) and (not others.size or bool((others == others[0]).all()))
    return beyond & one_each & (values <= -largest(kind))


def _finfo(kind: int) -> Any:
    limits: Any = ml_dtypes.finfo
    return limits(helper.tensor_dtype_to_np_dtype(kind))


class MaskConstants:
    """Tells which constants of a graph only mask scores, and fits constants into the types in which they are stored.

    A value only masks if every way from it leads through additions, products, choices and moves to a softmax, a maximum, a
    comparison or a shape, and none to an output.
    """

    def __init__(self, types: ElementTypes) -> None:
        """Find the values that only mask."""
        self._types, self._graph = types, types.graph
        self.masking = self._find_masking()

    def fit(self, value: ir.Value | None, values: Array, kind: int, half: int, mask: float | None = None) -> Array:
        """Return the float32 numbers to store for the constant ``value`` in the type ``kind``: FLOAT or the half type ``half``.

        Infinities in constants that only mask are clipped in both types. Other constants stay as they are in float32. In the
        half type, numbers of theirs that stand for infinity become its largest numbers.
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
            found.update(value for value in node.outputs if value.name and self._is_mask(value, found))
        found.update(value for value in self._graph.main.initializers.values() if self._is_mask(value, found))
        return frozenset(found)

    def _is_mask(self, value: ir.Value, known: set[ir.Value]) -> bool:
        users = self._graph.all_consumers(value)
        hidden = bool(users) and not value.is_graph_output()
        return hidden and all(self._is_end(node, value) or self._is_step(node, known) for node in users)

    def _is_end(self, node: ir.Node, value: ir.Value) -> bool:
        """Return whether only the order of numbers, or which of them mask, counts after ``node``."""
        if get_operator(node) == "Cast":
            return not self._types.select_float32(node.outputs) and all(self._types[output] for output in node.outputs)
        if get_operator(node) in ATTENTIONS:
            masks = MASK_INPUTS.get(get_operator(node), ())
            return all(place in masks for place, given in enumerate(node.inputs) if given is value)
        return get_operator(node) in MASK_ENDS

    def _is_step(self, node: ir.Node, known: set[ir.Value]) -> bool:
        named = [value for value in node.outputs if value.name]
        return get_operator(node) in MASK_STEPS and bool(named) and all(value in known for value in named)
