"""How queries, keys and values are made: the product with weights, what follows it, and into how many heads it is split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

from graphsurgery.encoder.flow import MOST_INTEGERS, Flow
from graphsurgery.encoder.width import last_dim
from graphsurgery.graph.attributes import integer, read_at
from graphsurgery.graph.operators import (
    COPYING,
    NORMS,
    PRODUCT_BIASES,
    PRODUCTS,
    RESHAPING,
    ROOTS,
    ROTATIONS,
    SCALING,
    SHAPE_STEPS,
    operator,
)

SCALED = "Mul by a constant"
"""The step of a multiplication by a number that stands in the graph."""
ROTARY = "rotary positions"
NORMALISED = "normalisation"
LONGEST = 60
"""How many nodes back a projection is looked for, at most."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """Rotary positions: ``value = x cos + rotated(x) sin``, and the operators that make x and its halves."""

    node: ir.Node
    """The operator that is all of it, or the sum at its end."""
    of: ir.Value | None
    """x."""
    made_by: str
    halves: str

    @property
    def value(self) -> ir.Value:
        return self.node.outputs[0]


@dataclass(frozen=True, eq=False)
class Projection:
    """``output = source weight (+ bias)``, and what stands between the output and the attention.

    ``steps`` name the operators from the attention back to the product. `Mul by a constant`, `rotary positions` and
    `normalisation` stand for the operators that make them up. ``shapes`` are the targets of the Reshapes among them, with None
    for a dim that is computed.
    """

    product: ir.Node
    source: ir.Value
    weight: ir.Value | None
    """The weights as they are stored: before they are cast."""
    bias: ir.Value | None
    scale: ir.Value | None
    """What the output is multiplied with, or divided by, on its way to the attention."""
    width: int | None
    reads: int | None
    """The width of the source."""
    stored: bool
    """Whether the weights are in the file as they are used, not cast or dequantised first."""
    steps: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    rotation: Rotation | None

    @property
    def output(self) -> ir.Value:
        return self.product.outputs[0]

    @property
    def biased(self) -> bool:
        return self.bias is not None

    def heads(self, parts: int = 1) -> tuple[int, int] | None:
        """Return (heads, dims of each) as the Reshape nearest to the product tells, or None where none tells.

        ``parts``: how many of queries, keys and values the product makes.
        """
        width = None if self.width is None else self.width // parts
        for shape in reversed(self.shapes):
            if len(shape) >= 4 and (found := _split(shape[-2], shape[-1], width)) is not None:
                return found
        return None


@dataclass
class _Way:
    """What a walk from the attention back to the product has passed."""

    steps: list[str] = field(default_factory=list)
    shapes: list[tuple[int | None, ...]] = field(default_factory=list)
    rotation: Rotation | None = None
    scale: ir.Value | None = None
    last: ir.Node | None = None


def find_projection(flow: Flow, value: ir.Value) -> Projection | None:
    """Return the product with weights that ``value`` was made by, or None where there is none behind it."""
    way = _Way()
    current: ir.Value | None = value
    for _ in range(LONGEST):
        node = current.producer() if current is not None else None
        if node is None or current not in flow.tokens:
            return None
        inputs = flow.token_inputs(node)
        if operator(node) in PRODUCTS:
            return _projection(flow, node, inputs[0], way) if len(inputs) == 1 else None
        current = _pass(flow, node, inputs, way)
    return None


def find_shape(flow: Flow, value: ir.Value | None, deep: int = 4) -> tuple[int | None, ...]:
    """Return the target of a Reshape as far as constants tell, with None for a dim that is computed."""
    numbers = flow.integers(value)
    if numbers is not None:
        return tuple(numbers)
    node = flow.behind(value)
    if node is None or not deep or operator(node) not in SHAPE_STEPS:
        return (None,)
    if operator(node) == "Concat":
        return tuple(dim for piece in node.inputs[:MOST_INTEGERS] for dim in find_shape(flow, piece, deep - 1))
    if operator(node) == "Slice":  # the leading dims of another shape
        return (None, None)
    return find_shape(flow, read_at(node, 0), deep - 1)


def _pass(flow: Flow, node: ir.Node, inputs: list[ir.Value], way: _Way) -> ir.Value | None:
    """Add ``node`` to the way, and return the value before it."""
    if operator(node) == "Reshape":
        way.shapes.append(find_shape(flow, read_at(node, 1)))
    turned = _rotation(flow, node)
    way.rotation = way.rotation or turned
    step, before = (ROTARY, turned.of) if turned else _step(flow, node, inputs)
    if step not in COPYING:
        way.steps.append(step)
        way.last = node
    if step == SCALED or step in SCALING:
        way.scale = next((one for one in node.inputs if one is not None and one not in flow.tokens), way.scale)
    return before


def _projection(flow: Flow, node: ir.Node, source: ir.Value, way: _Way) -> Projection:
    weight = next((value for value in node.inputs if value is not None and value not in flow.tokens), None)
    bias = flow.find_vector(way.last) if way.last is not None and operator(way.last) == "Add" else None
    own = read_at(node, PRODUCT_BIASES[operator(node)]) if operator(node) in PRODUCT_BIASES else None
    stored = weight is not None and flow.graph.tensor(flow.graph.origin(weight, frozenset({"Identity"}))) is not None
    return Projection(
        product=node,
        source=source,
        weight=None if weight is None else flow.graph.origin(weight),
        bias=bias or own,
        scale=way.scale,
        width=last_dim(flow.graph, node.outputs[0]),
        reads=_input_width(flow, node, weight),
        stored=stored,
        steps=tuple(way.steps),
        shapes=tuple(way.shapes),
        rotation=way.rotation,
    )


def _input_width(flow: Flow, node: ir.Node, weight: ir.Value | None) -> int | None:
    """Return the dim of a product's weights that is as long as its source is wide."""
    tensor = flow.weights(weight)
    if tensor is None or len(tensor.dims) != 2:
        return last_dim(flow.graph, read_at(node, 0))
    return int(tensor.dims[1 if operator(node) == "Gemm" and integer(node, "transB", 0) else 0])


def _step(flow: Flow, node: ir.Node, inputs: list[ir.Value]) -> tuple[str, ir.Value | None]:
    """Return what a node does to what flows through it, and the value that it does that to."""
    main = inputs[0] if inputs else None
    if operator(node) in NORMS:
        return NORMALISED, main
    if operator(node) in SCALING and len(inputs) == 2:
        measured = [value for value in inputs if _is_measure(flow, value)]
        return NORMALISED, next((value for value in inputs if value not in measured), main)
    factors = [value for value in node.inputs if value not in flow.tokens]
    if operator(node) == "Mul" and len(factors) == 1 and flow.weights(factors[0]) is not None:
        return (NORMALISED if flow.is_vector(factors[0]) else SCALED), main
    return operator(node), main


def _is_measure(flow: Flow, value: ir.Value) -> bool:
    """Return whether ``value`` is one over the size of a vector."""
    node = flow.behind(value)
    if node is None or operator(node) not in ROOTS:
        return False
    return operator(node) == "Sqrt" or "Sqrt" in {_operator(flow, one) for one in node.inputs}


def _rotation(flow: Flow, node: ir.Node) -> Rotation | None:
    """Return the rotation that ``node`` ends: an operator, or a sum of two products, one of them with swapped halves."""
    if operator(node) in ROTATIONS:
        return Rotation(node, read_at(node, 0), _operator(flow, read_at(node, 0)), node.op_type)
    swapped = _swapped(flow, node)
    if swapped is None:
        return None
    of, halves = _turned(flow, node), {_operator(flow, _unsigned(flow, value)) for value in swapped.inputs}
    return Rotation(node, of, _operator(flow, of), ", ".join(sorted(halves)))


def _swapped(flow: Flow, node: ir.Node) -> ir.Node | None:
    """Return the Concat of ``-x2, x1`` in ``x cos + concat(-x2, x1) sin``."""
    if operator(node) != "Add":
        return None
    for value in node.inputs:
        product = flow.behind(value)
        for factor in product.inputs if product is not None and operator(product) == "Mul" else ():
            swapped = _reshaped(flow, factor)
            if swapped is not None and operator(swapped) == "Concat" and "Neg" in _operators(flow, swapped.inputs):
                return swapped
    return None


def _turned(flow: Flow, node: ir.Node) -> ir.Value | None:
    """Return the value that a rotation in pieces rotates."""
    for value in node.inputs:
        product = flow.behind(value)
        factors = flow.token_inputs(product) if product is not None else []
        if factors and _operator(flow, factors[0]) != "Concat":
            return factors[0]
    return read_at(node, 0)


def _reshaped(flow: Flow, value: ir.Value | None) -> ir.Node | None:
    """Return the node that makes what ``value`` is a copy of in another shape."""
    return None if value is None else flow.graph.origin(value, RESHAPING).producer()


def _unsigned(flow: Flow, value: ir.Value | None) -> ir.Value | None:
    node = _reshaped(flow, value)
    return read_at(node, 0) if node is not None and operator(node) == "Neg" else value


def _operator(flow: Flow, value: ir.Value | None) -> str:
    node = flow.behind(value)
    return operator(node) if node is not None else "input"


def _operators(flow: Flow, values: Iterable[ir.Value | None]) -> set[str]:
    return {operator(node) for value in values if (node := _reshaped(flow, value)) is not None}


def _split(heads: int | None, size: int | None, width: int | None) -> tuple[int, int] | None:
    """Return heads and their size; one of them may be left to the width. None where they do not make it up."""
    heads, size = (dim if dim is not None and dim > 0 else None for dim in (heads, size))
    if heads is not None and size is not None:
        return (heads, size) if width in (None, heads * size) else None
    known = heads or size
    if known is None or width is None or width % known:
        return None
    return (known, width // known) if heads is not None else (width // known, known)


def read_heads(node: ir.Node, *names: str) -> int | None:
    """Return the first of these integer attributes that a node has."""
    return next((found for name in names if (found := integer(node, name, 0))), None)
