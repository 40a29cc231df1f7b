"""Rules by operator: which part of its inputs a node reads to compute one position of its output.

A rule gets a node and an axis of its first output. If one position along that axis is wanted, it returns, for each input from
which one position is enough, the axis of that position. Inputs that it does not name are read whole: weights, keys, values. It
returns None for an operator that mixes the positions of the axis, or if the sizes do not tell. A dim of one is broadcast: all
positions read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_input, get_int, get_ints, get_string
from graphsurgery.graph.operators import (
    BIASED_GELUS,
    BROADCASTING,
    GIVEN_QUERIES,
    INSERTING_AXES,
    LARGEST_PLACES,
    PLAIN_NORMS,
    POINTWISE,
    REDUCTIONS,
    ROTATIONS,
    SKIP_NORMS,
    SOFTMAXES,
    VENDOR,
    get_operator,
)  # fmt: skip
from graphsurgery.graph.sizes import Dim, Dims, Layout, multiply
from graphsurgery.rewrites.narrow.positions import ONE

Axes = dict[int, int]
"""By the index of an input: the axis along which one position of it is enough."""


@dataclass(frozen=True)
class Step:
    """A node, with the dims of its inputs and of its first output."""

    node: ir.Node
    layout: Layout
    opset: int
    out: Dims
    size: Dim
    """The size of the axis at which one position is taken. The axis may be joined with those before it."""

    def dims(self, index: int) -> Dims | None:
        value = get_input(self.node, index)
        return None if value is None else self.layout.dims(value)

    def literals(self, index: int, name: str) -> list[int] | None:
        """Return integers that older opsets have as an attribute and newer ones as an input."""
        value = get_input(self.node, index)
        return get_ints(self.node, name) if value is None else self.layout.literals(value)

    @property
    def present(self) -> list[int]:
        """The indices of the inputs that the node has."""
        return [index for index, value in enumerate(self.node.inputs) if value is not None]


Rule = Callable[[Step, int], Axes | None]


def find_axes(step: Step, axis: int) -> Axes | None:
    """Return the axes of the inputs of ``step``'s node by its operator's rule, or None if it has to be computed whole."""
    rule = RULES.get(get_operator(step.node))
    return None if rule is None or step.out[axis] is None else rule(step, axis)


def _broadcast(step: Step, axis: int, indices: list[int]) -> Axes | None:
    """Align the dims of the inputs ``indices`` with those of the output at the end."""
    found: Axes = {}
    for index in indices:
        dims = step.dims(index)
        if dims is None:
            return None
        own = axis - len(step.out) + len(dims)
        if own < 0 or dims[own] == ONE:
            continue
        if dims[own] != step.out[axis]:
            return None
        found[index] = own
    return found


def _take_same(step: Step, axis: int) -> Axes | None:
    """Handle an operator of one value that computes every number by itself."""
    return {0: axis}


def _take_broadcast(step: Step, axis: int) -> Axes | None:
    return _broadcast(step, axis, step.present)


def _take_product(step: Step, axis: int) -> Axes | None:
    """Handle ``A B``: a row of the product needs that row of A. A column would need all rows."""
    one, other = step.dims(0), step.dims(1)
    if one is None or other is None or len(one) < 2 or len(other) < 2:
        return None
    if any(get_int(step.node, name, 0) for name in ("transA", "transBatchA", "transBatchB")):
        return None
    if axis == len(step.out) - 2:
        return {0: len(one) - 2}
    return _broadcast(step, axis, [0, 1]) if axis < len(step.out) - 2 else None


def _take_gemm(step: Step, axis: int) -> Axes | None:
    """Handle ``A B + C``."""
    bias = _broadcast(step, axis, [2]) if 2 in step.present else {}
    return None if axis != 0 or get_int(step.node, "transA", 0) or bias is None else {0: 0} | bias


def _take_einsum(step: Step, axis: int) -> Axes | None:
    """Handle a sum of products by letters: an input has the position where it has the axis' letter."""
    inputs, _, output = (get_string(step.node, "equation") or "").replace(" ", "").partition("->")
    letters = inputs.split(",")
    if "." in inputs or len(output) != len(step.out) or any(len(set(one)) != len(one) for one in (*letters, output)):
        return None
    found: Axes = {}
    for index, own in enumerate(letters):
        if output[axis] not in own:
            continue
        dims, place = step.dims(index), own.index(output[axis])
        if dims is None or dims[place] not in (ONE, step.out[axis]):
            return None
        if dims[place] != ONE:
            found[index] = place
    return found


def _take_softmax(step: Step, axis: int) -> Axes | None:
    """Handle a function of all numbers along one axis; before opset 13, along that axis and all axes after it."""
    normed = get_int(step.node, "axis", -1 if step.opset >= 13 else 1) % len(step.out)
    return {0: axis} if (axis != normed if step.opset >= 13 else axis < normed) else None


def _take_norm(step: Step, axis: int) -> Axes | None:
    """Handle a norm over an axis and all axes after it. The scale and the bias have these axes alone."""
    normed = get_int(step.node, "axis", -1) % len(step.out)
    others = [step.dims(index) for index in step.present[1:]]
    fit = all(dims is not None and len(dims) <= len(step.out) - axis - 1 for dims in others)
    return {0: axis} if axis < normed and fit else None


def _take_skip_norm(step: Step, axis: int) -> Axes | None:
    """Handle the norm of a sum of two values over the last axis."""
    return _broadcast(step, axis, [0, 1]) if axis < len(step.out) - 1 else None


def _take_reduced(step: Step, axis: int) -> Axes | None:
    """Handle a reduction over other axes, which it keeps as dims of one or leaves out."""
    dims = step.dims(0)
    by_attribute = get_operator(step.node) in LARGEST_PLACES
    axes = [get_int(step.node, "axis", 0)] if by_attribute else step.literals(1, "axes")
    if dims is None or not axes:
        return None
    reduced = {one % len(dims) for one in axes}
    kept = list(range(len(dims))) if get_int(step.node, "keepdims", 1) else [i for i in range(len(dims)) if i not in reduced]
    return None if kept[axis] in reduced else {0: kept[axis]}


def _take_transposed(step: Step, axis: int) -> Axes | None:
    order = get_ints(step.node, "perm") or list(range(len(step.out)))[::-1]
    return {0: order[axis]}


def _take_squeezed(step: Step, axis: int) -> Axes | None:
    """Handle operators that put dims of one in or take them out: the axis is as many dims in as before."""
    dims = step.dims(0)
    if dims is None or step.out[axis] == ONE:
        return None
    before = sum(dim != ONE for dim in step.out[:axis])
    places = [place for place, dim in enumerate(dims) if dim != ONE]
    return {0: places[before]} if before < len(places) and dims[places[before]] == step.out[axis] else None


def _take_reshaped(step: Step, axis: int) -> Axes | None:
    """Handle a reshape that keeps the axis, or the batch and the axis as one: as many numbers come after it as before."""
    dims = step.dims(0)
    if dims is None:
        return None
    behind = multiply(step.out[axis + 1 :])
    size = step.out[axis]
    places = [place for place in range(len(dims)) if dims[place] != ONE and multiply(dims[place + 1 :]) == behind]
    if behind is None or size is None or len(places) != 1:
        return None
    own = dims[places[0]]
    return {0: places[0]} if own is not None and _is_multiple(own, step.size) and _is_multiple(size, step.size) else None


def _is_multiple(size: Dim, of: Dim) -> bool:
    return all(one % other == 0 for one, other in zip(size, of, strict=True))


def _take_expanded(step: Step, axis: int) -> Axes | None:
    return _broadcast(step, axis, [0])


def _take_gathered(step: Step, axis: int) -> Axes | None:
    """Handle ``Gather(data, indices, k)``: axes k, k + 1, ... of the output are those of the indices."""
    data, indices = step.dims(0), step.dims(1)
    if data is None or indices is None:
        return None
    place = get_int(step.node, "axis", 0) % len(data)
    if axis < place:
        return {0: axis}
    return {1: axis - place} if axis < place + len(indices) else {0: axis - len(indices) + 1}


def _take_gathered_elements(step: Step, axis: int) -> Axes | None:
    """Handle ``GatherElements`` along another axis: each position of the indices reads the same position of the data."""
    data, indices = step.dims(0), step.dims(1)
    if data is None or indices is None or axis == get_int(step.node, "axis", 0) % len(data) or data[axis] != indices[axis]:
        return None
    return {0: axis, 1: axis}


def _take_split(step: Step, axis: int) -> Axes | None:
    return {0: axis} if get_int(step.node, "axis", 0) % len(step.out) != axis else None


def _take_sliced(step: Step, axis: int) -> Axes | None:
    """Handle a slice along other axes."""
    starts = step.literals(1, "starts")
    axes = step.literals(3, "axes") or (list(range(len(starts))) if starts is not None else None)
    return None if axes is None or axis in {one % len(step.out) for one in axes} else {0: axis}


def _take_concatenated(step: Step, axis: int) -> Axes | None:
    return None if get_int(step.node, "axis", 0) % len(step.out) == axis else dict.fromkeys(step.present, axis)


def _take_queries(step: Step, axis: int) -> Axes | None:
    """Handle an attention that is given queries, keys and values: a position needs its own query, and all keys and values.

    Causal attentions count positions by themselves, and caches have positions of their own. Both are computed whole.
    """
    is_standard = get_operator(step.node) == "Attention"
    bias, other = (3, (4, 5)) if is_standard else (5, (6, 7, 8, 9))
    queries, keys = step.dims(0), step.dims(1)
    if queries is None or keys is None or len(queries) not in (3, 4) or len(keys) != len(queries):
        return None
    if get_int(step.node, "is_causal", 0) or get_int(step.node, "unidirectional", 0) or any(i in step.present for i in other):
        return None
    if axis != len(queries) - 2 or any(value.name for value in step.node.outputs[1:]):
        return None
    mask = step.dims(4) if not is_standard and 4 in step.present else ()
    if mask is None or len(mask) > 2:
        return None
    found = {0: axis}
    if bias in step.present:
        dims = step.dims(bias)
        if dims is None or len(dims) < 2 or dims[-2] not in (ONE, queries[axis]):
            return None
        found |= {} if dims[-2] == ONE else {bias: len(dims) - 2}
    return found


def _take_packed_attention(step: Step, axis: int) -> Axes | None:
    """Handle an attention that makes queries, keys and values of its input: the input is needed whole for the keys."""
    mask, bias = (step.dims(index) if index in step.present else () for index in (3, 5))
    if axis != 1 or mask is None or bias is None or len(mask) > 2 or any(index in step.present for index in (4, 6)):
        return None
    if any(get_int(step.node, name, 0) for name in ("unidirectional", "do_rotary", "past_present_share_buffer")):
        return None
    if any(value.name for value in step.node.outputs[1:]):
        return None
    sizes = get_ints(step.node, "qkv_hidden_sizes")
    weights = step.dims(1)
    if weights is None or len(weights) != 2 or weights[1] is None or (sizes is None and weights[1][0] % 3):
        return None
    if not bias or bias[-2] == ONE:
        return {}
    return {5: len(bias) - 2} if bias[-2] == step.out[1] else None


def _take_rotated(step: Step, axis: int) -> Axes | None:
    """Handle rotary positions with a number for each position, or with a table for each row."""
    dims, is_standard = step.dims(0), get_operator(step.node) == "RotaryEmbedding"
    if dims is None or axis != len(dims) - 2:
        return None
    places = 3 if is_standard else 1
    numbers = step.dims(places) if places in step.present else None
    if numbers is not None:
        return {0: axis, places: 1} if len(numbers) == 2 and numbers[1] == dims[axis] else None
    tables = [step.dims(1), step.dims(2)]
    if not is_standard or any(one is None or len(one) != 3 or one[1] != dims[axis] for one in tables):
        return None
    return {0: axis, 1: 1, 2: 1}


RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE, _take_same), **dict.fromkeys(BROADCASTING | BIASED_GELUS, _take_broadcast),
    **dict.fromkeys(SOFTMAXES, _take_softmax), **dict.fromkeys(REDUCTIONS, _take_reduced),
    **dict.fromkeys(PLAIN_NORMS, _take_norm), **dict.fromkeys(SKIP_NORMS, _take_skip_norm),
    **dict.fromkeys(INSERTING_AXES, _take_squeezed), **dict.fromkeys(GIVEN_QUERIES, _take_queries),
    **dict.fromkeys(ROTATIONS, _take_rotated), "MatMul": _take_product, f"{VENDOR}.FusedMatMul": _take_product,
    "Gemm": _take_gemm, "Einsum": _take_einsum, "Transpose": _take_transposed, "Reshape": _take_reshaped,
    "Expand": _take_expanded, "Gather": _take_gathered, "GatherElements": _take_gathered_elements, "Split": _take_split,
    "Slice": _take_sliced, "Concat": _take_concatenated, f"{VENDOR}.Attention": _take_packed_attention,
}  # fmt: skip
"""The rule of each operator. An operator that is missing here mixes positions, or is unknown."""
