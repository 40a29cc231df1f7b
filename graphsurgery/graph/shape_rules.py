"""Rules for dims that onnx's shape inference leaves open because they are computed: in Reshape, Expand, Slice and others.

A dim that only a run decides is taken to be 1 or more, because Reshape reads 0 as "copy this dim".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from math import inf

from graphsurgery.graph.attributes import get_string
from graphsurgery.graph.symbolic import InferenceContext, Size

TO_THE_END = (1 << 31) - 1
"""A slice with this end or a larger one reaches to the end of the dim."""
Dims = tuple[Size | None, ...]
"""Dims with None for an unknown one."""


def infer_reshape(context: InferenceContext) -> Dims | None:
    """Infer the dims of ``Reshape(x, shape)``: 0 in ``shape`` copies the dim of x, -1 is what the other dims leave of x."""
    target, dims = context.values(1), context.dims()
    if target is None:
        return None
    copies_zero = not context.get_int("allowzero", 0)
    shape: list[Size | None] = []
    for index, size in enumerate(target):
        if size == 0 and copies_zero:
            shape.append(dims[index] if dims is not None and index < len(dims) else None)
        else:
            shape.append(size if context.symbols.is_nonnegative(size) else None)
    if target.count(-1) == 1 and dims is not None:
        index = target.index(-1)
        others = [size for size in shape[:index] + shape[index + 1 :] if size is not None]
        if len(others) == len(shape) - 1:
            shape[index] = context.symbols.divide(context.symbols.multiply(dims), context.symbols.multiply(others))
    return tuple(shape)


def infer_expand(context: InferenceContext) -> Dims | None:
    """Infer the dims of ``Expand(x, shape)``: the dims of x and ``shape`` broadcast."""
    dims, target = context.dims(), context.values(1)
    if dims is None or target is None:
        return None
    pairs = zip_longest(reversed(dims), reversed(target), fillvalue=1)
    return tuple(_broadcast(one, other) for one, other in pairs)[::-1]


def _broadcast(one: Size, other: Size) -> Size | None:
    if 1 in (one, other):
        return other if one == 1 else one
    if one == other:
        return one
    return next((size for size in (one, other) if isinstance(size, int) and size > 1), None)


def infer_constant_of_shape(context: InferenceContext) -> Dims | None:
    """Infer the dims of ``ConstantOfShape(shape)``."""
    return context.values(0)


def infer_range(context: InferenceContext) -> Dims | None:
    """Infer the dims of ``Range(0, limit, 1)``, which has ``limit`` elements. Other ranges are unknown."""
    start, limit, delta = (context.values(index) for index in range(3))
    if limit is None or (start, delta) != ((0,), (1,)) or not context.symbols.is_nonnegative(limit[0]):
        return None
    return limit


def infer_tile(context: InferenceContext) -> Dims | None:
    """Infer the dims of ``Tile(x, repeats)``."""
    dims, repeats = context.dims(), context.values(1)
    if dims is None or repeats is None or len(dims) != len(repeats):
        return None
    return tuple(context.symbols.multiply(pair) for pair in zip(dims, repeats, strict=True))


def infer_flatten(context: InferenceContext) -> Dims | None:
    """Infer the dims of ``Flatten(x)``: the product of the dims before the axis, and the product of those from it on."""
    dims, axis = context.dims(), context.get_int("axis", 1)
    if dims is None:
        return None
    axis += len(dims) if axis < 0 else 0
    return context.symbols.multiply(dims[:axis]), context.symbols.multiply(dims[axis:])


def infer_slice(context: InferenceContext) -> Dims | None:
    """Infer the dims of ``Slice(x, starts, ends, axes, steps)``.

    A dim is kept if the slice goes from its start (0, or minus the dim) to its end in steps of 1. Otherwise it is unknown.
    """
    dims, starts, ends = context.dims(), _get_bounds(context, "starts", 1), _get_bounds(context, "ends", 2)
    if dims is None or starts is None or ends is None:
        return None
    axes: Sequence[int] | None = context.get_ints("axes", 3)
    if axes is None and not context.has_input(3):
        axes = range(len(starts))
    steps = context.literals(4) if context.has_input(4) else [1] * len(starts)
    if axes is None or steps is None or not all(-len(dims) <= axis < len(dims) for axis in axes):
        return None
    shape: list[Size | None] = list(dims)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=False):
        from_start = start in (0, context.symbols.multiply((-1, dims[axis])))
        shape[axis] = dims[axis] if step == 1 and from_start and _reaches_end(dims[axis], end) else None
    return tuple(shape)


def _get_bounds(context: InferenceContext, name: str, index: int) -> Sequence[Size] | None:
    """Return the starts or ends of a Slice: an attribute in older opsets, an input in newer ones."""
    return context.values(index) if context.has_input(index) else context.get_ints(name, index)


def _reaches_end(dim: Size, end: Size) -> bool:
    literal = end if isinstance(end, int) else -inf
    return end == dim or literal >= TO_THE_END or (isinstance(dim, int) and literal >= dim)


def infer_einsum(context: InferenceContext) -> Dims | None:
    """Infer the dims of ``Einsum(*operands)``: a letter has the same size in all operands, or is broadcast."""
    terms, arrow, result = (get_string(context.node, "equation") or "").replace(" ", "").partition("->")
    sizes: dict[str, Size | None] = {}
    for index, letters in enumerate(terms.split(",")):
        dims = context.dims(index)
        if not arrow or "." in terms or dims is None or len(dims) != len(letters):
            return None
        for letter, size in zip(letters, dims, strict=True):
            known = sizes.get(letter, size)
            sizes[letter] = None if known is None else _broadcast(known, size)
    return tuple(sizes.get(letter) for letter in result)


SHAPE_RULES: dict[str, Callable[[InferenceContext], Dims | None]] = {
    "ConstantOfShape": infer_constant_of_shape, "Einsum": infer_einsum, "Expand": infer_expand, "Flatten": infer_flatten,
    "Range": infer_range, "Reshape": infer_reshape, "Slice": infer_slice, "Tile": infer_tile,
}  # fmt: skip
"""By operator: the function that infers the dims of its first output."""
