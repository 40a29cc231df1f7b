"""Dims that onnx's own inference leaves open because they are computed: of what is reshaped, expanded, cut and filled.

A dim that a run decides is taken to be 1 or more: Reshape reads 0 as "the dim as it was".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from math import inf

from graphsurgery.graph.call import Call
from graphsurgery.graph.sizes import Size

TO_THE_END = (1 << 31) - 1
"""Where a slice ends at this or more, it ends where the dim does."""
Dims = tuple[Size | None, ...]
"""None for a dim that is not known."""


def reshaped(call: Call) -> Dims | None:
    """``Reshape(x, shape)``: literals and counts of ``shape``, 0 for x's own dim there, -1 for what is left of x."""
    wanted, own = call.values(1), call.dims()
    if wanted is None:
        return None
    copied = not call.integer("allowzero", 0)
    found: list[Size | None] = []
    for place, size in enumerate(wanted):
        if size == 0 and copied:
            found.append(own[place] if own is not None and place < len(own) else None)
        else:
            found.append(size if call.symbols.is_count(size) else None)
    if wanted.count(-1) == 1 and own is not None:
        place = wanted.index(-1)
        others = [size for size in found[:place] + found[place + 1 :] if size is not None]
        if len(others) == len(found) - 1:
            found[place] = call.symbols.quotient(call.symbols.product(own), call.symbols.product(others))
    return tuple(found)


def expanded(call: Call) -> Dims | None:
    """``Expand(x, shape)``: the two broadcast."""
    own, wanted = call.dims(), call.values(1)
    if own is None or wanted is None:
        return None
    pairs = zip_longest(reversed(own), reversed(wanted), fillvalue=1)
    return tuple(_broadcast(one, other) for one, other in pairs)[::-1]


def _broadcast(one: Size, other: Size) -> Size | None:
    if 1 in (one, other):
        return other if one == 1 else one
    if one == other:
        return one
    return next((size for size in (one, other) if isinstance(size, int) and size > 1), None)


def filled(call: Call) -> Dims | None:
    """``ConstantOfShape(shape)``"""
    return call.values(0)


def counted(call: Call) -> Dims | None:
    """``Range(start, limit, delta)`` from 0 in steps of 1 has as many elements as its limit says."""
    start, limit, delta = (call.values(place) for place in range(3))
    if limit is None or (start, delta) != ((0,), (1,)) or not call.symbols.is_count(limit[0]):
        return None
    return limit


def repeated(call: Call) -> Dims | None:
    """``Tile(x, repeats)``"""
    own, times = call.dims(), call.values(1)
    if own is None or times is None or len(own) != len(times):
        return None
    return tuple(call.symbols.product(pair) for pair in zip(own, times, strict=True))


def flattened(call: Call) -> Dims | None:
    """``Flatten(x)``: what is before the axis and what is behind it."""
    own, axis = call.dims(), call.integer("axis", 1)
    if own is None:
        return None
    axis += len(own) if axis < 0 else 0
    return call.symbols.product(own[:axis]), call.symbols.product(own[axis:])


def cut(call: Call) -> Dims | None:
    """``Slice(x, starts, ends, axes, steps)`` of dims that are not literals: whole where it goes from the start, be it counted
    from the end, to the end."""
    own, starts, ends = call.dims(), _bounds(call, "starts", 1), _bounds(call, "ends", 2)
    if own is None or starts is None or ends is None:
        return None
    axes = call.listed("axes", 3)
    if axes is None and not call.gives(3):
        axes = list(range(len(starts)))
    steps = call.literals(4) if call.gives(4) else [1] * len(starts)
    if axes is None or steps is None or not all(-len(own) <= axis < len(own) for axis in axes):
        return None
    found: list[Size | None] = list(own)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=False):
        first = start in (0, call.symbols.product((-1, own[axis])))
        found[axis] = own[axis] if step == 1 and first and _is_whole(own[axis], end) else None
    return tuple(found)


def _bounds(call: Call, name: str, place: int) -> Sequence[Size] | None:
    """An attribute at older opsets, an input at newer ones."""
    return call.values(place) if call.gives(place) else call.listed(name, place)


def _is_whole(dim: Size, end: Size) -> bool:
    reach = end if isinstance(end, int) else -inf
    return end == dim or reach >= TO_THE_END or (isinstance(dim, int) and reach >= dim)


DIMS: dict[str, Callable[[Call], Dims | None]] = {
    "ConstantOfShape": filled, "Expand": expanded, "Flatten": flattened, "Range": counted, "Reshape": reshaped, "Slice": cut,
    "Tile": repeated,
}  # fmt: skip
"""The dims of the first output, by operator."""
