"""How queries, keys and values are made: a product with weights, the operators after it, and the split into heads."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import MOST_INTEGERS, Flow, infer_last_dim
from graphsurgery.encoder.rotations import Rotation, find_rotation
from graphsurgery.graph.attributes import get_input, get_int
from graphsurgery.graph.operators import (
    COPYING,
    NORMS,
    PRODUCT_BIASES,
    PRODUCTS,
    ROOTS,
    SCALING,
    SHAPE_STEPS,
    get_operator,
)

SCALED = "Mul by a constant"
"""The step of a multiplication by a constant number."""
ROTARY = "rotary positions"
NORMALISED = "normalisation"
LONGEST = 60
"""The search for a projection goes through up to this many nodes."""
Shape = tuple[int | None, ...]
"""The target of a Reshape, with None for a computed dim."""


@dataclass(frozen=True, eq=False)
class Projection:
    """``output = source weight (+ bias)``, and what happens to the output on its way to the attention."""

    product: ir.Node
    source: ir.Value
    weight: ir.Value | None
    """The weights as stored, before any cast."""
    bias: ir.Value | None
    scale: ir.Value | None
    """The factor or divisor of the output on its way to the attention."""
    width: int | None
    source_width: int | None
    stored: bool
    """Whether the weights are used as stored, without a cast or dequantisation."""
    steps: tuple[str, ...]
    """The operators from the attention back to the product. `SCALED`, `ROTARY` and `NORMALISED` each stand for several."""
    shapes: tuple[Shape, ...]
    """The targets of the Reshapes among the steps."""
    rotation: Rotation | None

    @property
    def output(self) -> ir.Value:
        return self.product.outputs[0]

    @property
    def biased(self) -> bool:
        return self.bias is not None

    def heads(self, parts: int = 1) -> tuple[int, int] | None:
        """Return (heads, dims of each head), read from the Reshape nearest to the product. None if no Reshape tells.

        ``parts`` is how many of queries, keys and values the product makes at once.
        """
        width = None if self.width is None else self.width // parts
        splits = (_split_heads(shape[-2], shape[-1], width) for shape in reversed(self.shapes) if len(shape) >= 4)
        return next((split for split in splits if split is not None), None)


@dataclass
class _Path:
    """What a walk from the attention back to the product has passed."""

    steps: list[str] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    rotation: Rotation | None = None
    scale: ir.Value | None = None
    last: ir.Node | None = None


def find_projection(flow: Flow, value: ir.Value) -> Projection | None:
    """Return the product with weights that ``value`` was made by, or None if there is none."""
    path = _Path()
    current: ir.Value | None = value
    for _ in range(LONGEST):
        node = current.producer() if current is not None else None
        if node is None or current not in flow.tokens:
            return None
        inputs = flow.token_inputs(node)
        if get_operator(node) in PRODUCTS:
            return _make_projection(flow, node, inputs[0], path) if len(inputs) == 1 else None
        current = _walk_back(flow, node, inputs, path)
    return None


def _read_shape(flow: Flow, value: ir.Value | None, depth: int = 4) -> Shape:
    """Return the target of a Reshape as far as constants tell it."""
    numbers = flow.integers(value)
    if numbers is not None:
        return tuple(numbers)
    node = flow.find_producer(value, *SHAPE_STEPS)
    if node is None or not depth:
        return (None,)
    if get_operator(node) == "Concat":
        return tuple(dim for piece in node.inputs[:MOST_INTEGERS] for dim in _read_shape(flow, piece, depth - 1))
    if get_operator(node) == "Slice":  # the leading dims of another shape
        return (None, None)
    return _read_shape(flow, get_input(node, 0), depth - 1)


def _walk_back(flow: Flow, node: ir.Node, inputs: list[ir.Value], path: _Path) -> ir.Value | None:
    """Add ``node`` to the path and return the value that flows into it."""
    if get_operator(node) == "Reshape":
        path.shapes.append(_read_shape(flow, get_input(node, 1)))
    rotation = find_rotation(flow, node)
    path.rotation = path.rotation or rotation
    step, before = (ROTARY, rotation.source) if rotation else _classify_step(flow, node, inputs)
    if step not in COPYING:
        path.steps.append(step)
        path.last = node
    if step == SCALED or step in SCALING:
        path.scale = next((one for one in node.inputs if one is not None and one not in flow.tokens), path.scale)
    return before


def _make_projection(flow: Flow, node: ir.Node, source: ir.Value, path: _Path) -> Projection:
    weight = next((value for value in node.inputs if value is not None and value not in flow.tokens), None)
    bias = flow.find_vector(path.last) if path.last is not None and get_operator(path.last) == "Add" else None
    own = get_input(node, PRODUCT_BIASES[get_operator(node)]) if get_operator(node) in PRODUCT_BIASES else None
    stored = weight is not None and flow.graph.tensor(flow.graph.origin(weight, frozenset({"Identity"}))) is not None
    return Projection(
        product=node,
        source=source,
        weight=None if weight is None else flow.graph.origin(weight),
        bias=bias or own,
        scale=path.scale,
        width=infer_last_dim(flow.graph, node.outputs[0]),
        source_width=_find_source_width(flow, node, weight),
        stored=stored,
        steps=tuple(path.steps),
        shapes=tuple(path.shapes),
        rotation=path.rotation,
    )


def _find_source_width(flow: Flow, node: ir.Node, weight: ir.Value | None) -> int | None:
    """Return the width of a product's source, by the dims of its weights if they are a matrix."""
    tensor = flow.weights(weight)
    if tensor is None or len(tensor.dims) != 2:
        return infer_last_dim(flow.graph, get_input(node, 0))
    return int(tensor.dims[1 if get_operator(node) == "Gemm" and get_int(node, "transB", 0) else 0])


def _classify_step(flow: Flow, node: ir.Node, inputs: list[ir.Value]) -> tuple[str, ir.Value | None]:
    """Return the step that a node is, and the value that flows into it."""
    main, operator = inputs[0] if inputs else None, get_operator(node)
    if operator == "Concat":  # rotary positions in a part of each head
        return operator, next((value for value in inputs if _is_rotated(flow, value)), main)
    if operator in NORMS:
        return NORMALISED, main
    if operator in SCALING and len(inputs) == 2:
        return NORMALISED, next((value for value in inputs if not _is_vector_size(flow, value)), main)
    factors = [value for value in node.inputs if value not in flow.tokens]
    if operator == "Mul" and len(factors) == 1 and flow.weights(factors[0]) is not None:
        return (NORMALISED if flow.is_vector(factors[0]) else SCALED), main
    return operator, main


def _is_rotated(flow: Flow, value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and find_rotation(flow, node) is not None


def _is_vector_size(flow: Flow, value: ir.Value) -> bool:
    """Return whether ``value`` is the size of a vector (a square root), or one over it."""
    node = flow.find_producer(value, *ROOTS)
    if node is None:
        return False
    return get_operator(node) == "Sqrt" or any(flow.find_producer(one, "Sqrt") is not None for one in node.inputs)


def _split_heads(heads: int | None, size: int | None, width: int | None) -> tuple[int, int] | None:
    """Return (heads, their size), one of which may follow from the width. None if their product is not the width."""
    heads, size = (dim if dim is not None and dim > 0 else None for dim in (heads, size))
    if heads is not None and size is not None:
        return (heads, size) if width in (None, heads * size) else None
    known = heads or size
    if known is None or width is None or width % known:
        return None
    return (known, width // known) if heads is not None else (width // known, known)
