"""How queries, keys and values are made: the product with weights, what they pass after it, and into how many heads they go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from graphsurgery.encoder.flow import MOST_INTEGERS, Flow
from graphsurgery.encoder.width import last_dim
from graphsurgery.graph.wiring import PASS_THROUGH, RESHAPING, attribute_int

PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Gemm", "Einsum", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits"})
"""Operators that multiply matrices: two computed ones, or one with weights."""
ROTATIONS = frozenset({"RotaryEmbedding"})
SCALED = "Mul by a constant"
"""The step of a multiplication by a number that stands in the graph."""
ROTARY = "rotary positions"
NORMALISED = "normalisation"
LONGEST = 60
"""How many nodes back a projection is looked for, at most."""


@dataclass(frozen=True)
class Rotation:
    """Rotary positions: ``value`` is ``x cos + rotated(x) sin``; the operators that x and its halves are made by."""

    value: str
    made_by: str
    halves: str


@dataclass(frozen=True)
class Projection:
    """``output = source weight (+ bias)``, and what it passes on its way to the attention.

    ``steps`` are operators from the attention back to the product; `Mul by a constant`, `rotary positions` and `normalisation`
    stand for what these consist of. ``shapes`` are the targets of the Reshapes among them, None where a dim is computed.
    """

    source: str
    output: str
    weight: str | None
    width: int | None
    reads: int | None
    """How wide the source is."""
    biased: bool
    stored: bool
    """Whether its weights are in the file as they are used, not cast or dequantised first."""
    steps: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    rotation: Rotation | None

    def heads(self, parts: int = 1) -> tuple[int, int] | None:
        """(heads, dims of each) by the Reshape nearest to the product, of which ``parts`` are made of one; None where none
        tells."""
        width = None if self.width is None else self.width // parts
        for shape in reversed(self.shapes):
            if len(shape) >= 4 and (found := _resolved(shape[-2], shape[-1], width)) is not None:
                return found
        return None


def projection(flow: Flow, name: str) -> Projection | None:
    """What ``name`` was made of by a product with weights, or None where there is no such product behind it."""
    steps: list[str] = []
    shapes: list[tuple[int | None, ...]] = []
    rotation = None
    last: onnx.NodeProto | None = None
    for _ in range(LONGEST):
        node = flow.maker(name)
        if node is None or name not in flow.tokens:
            return None
        inputs = flow.token_inputs(node)
        if node.op_type in PRODUCTS:
            return _made(flow, node, inputs, last, (tuple(steps), tuple(shapes), rotation)) if len(inputs) == 1 else None
        if node.op_type == "Reshape":
            shapes.append(shape_of(flow, node.input[1]))
        turned = _rotation(flow, node)
        rotation = rotation or turned
        step, name = (ROTARY, _turned(flow, node)) if turned else _step(flow, node, inputs)
        if step not in PASS_THROUGH:
            steps.append(step)
            last = node
    return None


def shape_of(flow: Flow, name: str, deep: int = 4) -> tuple[int | None, ...]:
    """The target of a Reshape, as far as constants tell; None for a dim that is computed."""
    numbers = flow.integers(name)
    if numbers is not None:
        return tuple(numbers)
    node = flow.behind(name)
    if node is None or not deep or node.op_type not in ("Concat", "Unsqueeze", "Reshape", "Slice"):
        return (None,)
    if node.op_type == "Concat":
        return tuple(dim for piece in node.input[:MOST_INTEGERS] for dim in shape_of(flow, piece, deep - 1))
    if node.op_type == "Slice":  # the leading dims of another shape
        return (None, None)
    return shape_of(flow, node.input[0], deep - 1)


def _made(
    flow: Flow,
    node: onnx.NodeProto,
    inputs: list[str],
    last: onnx.NodeProto | None,
    way: tuple[tuple[str, ...], tuple[tuple[int | None, ...], ...], Rotation | None],
) -> Projection:
    weight = next((name for name in node.input if name and name not in flow.tokens), None)
    held = None if weight is None else flow.wiring.origin(weight)
    biased = last is not None and last.op_type == "Add" and any(flow.is_vector(name) for name in last.input)
    biased = biased or (node.op_type in ("Gemm", "DynamicQuantizeMatMul") and len(node.input) > 2)
    width, reads = last_dim(flow.wiring, node.output[0]), _input_width(flow, node, weight)
    stored = weight is not None and flow.wiring.origin(weight, frozenset({"Identity"})) in flow.wiring.initializers
    return Projection(inputs[0], node.output[0], held, width, reads, biased, stored, *way)


def _input_width(flow: Flow, node: onnx.NodeProto, weight: str | None) -> int | None:
    """The dim of a product's weights that is as long as its source is wide."""
    tensor = flow.constant(weight) if weight is not None else None
    if tensor is None or len(tensor.dims) != 2:
        return last_dim(flow.wiring, node.input[0])
    return int(tensor.dims[1 if node.op_type == "Gemm" and attribute_int(node, "transB", 0) else 0])


def _step(flow: Flow, node: onnx.NodeProto, inputs: list[str]) -> tuple[str, str]:
    """What a node does to what flows through it, and where that comes from."""
    main = inputs[0] if inputs else ""
    if node.op_type.endswith(("LayerNormalization", "RMSNormalization")):
        return NORMALISED, main
    if node.op_type in ("Mul", "Div") and len(inputs) == 2:
        measured = [name for name in inputs if _is_measure(flow, name)]
        return NORMALISED, next((name for name in inputs if name not in measured), main)
    scale = [name for name in node.input if name not in flow.tokens]
    if node.op_type == "Mul" and len(scale) == 1 and flow.constant(scale[0]) is not None:
        return (NORMALISED if flow.is_vector(scale[0]) else SCALED), main
    return node.op_type, main


def _is_measure(flow: Flow, name: str) -> bool:
    """Whether a value is one over the size of a vector."""
    node = flow.behind(name)
    return node is not None and node.op_type in ("Sqrt", "Reciprocal", "Div") and _has_root(flow, node)


def _has_root(flow: Flow, node: onnx.NodeProto) -> bool:
    makers = (flow.behind(name) for name in node.input)
    return node.op_type == "Sqrt" or any(maker is not None and maker.op_type == "Sqrt" for maker in makers)


def _rotation(flow: Flow, node: onnx.NodeProto) -> Rotation | None:
    """The rotation that ``node`` ends, or None: an operator, or a sum of two products one of which is of swapped halves."""
    if node.op_type in ROTATIONS:
        return Rotation(node.output[0], _operator(flow, node.input[0]), node.op_type)
    swapped = _swapped(flow, node)
    if swapped is None:
        return None
    halves = {_operator(flow, _unsigned(flow, name)) for name in swapped.input}
    return Rotation(node.output[0], _operator(flow, _turned(flow, node)), ", ".join(sorted(halves)))


def _swapped(flow: Flow, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The Concat of ``-x2, x1`` in ``x cos + concat(-x2, x1) sin``."""
    if node.op_type != "Add":
        return None
    for name in node.input:
        product = flow.behind(name)
        for factor in product.input if product is not None and product.op_type == "Mul" else ():
            swapped = flow.maker(flow.wiring.origin(factor, RESHAPING))
            if swapped is not None and swapped.op_type == "Concat" and "Neg" in _operators(flow, swapped.input):
                return swapped
    return None


def _turned(flow: Flow, node: onnx.NodeProto) -> str:
    """What a rotation rotates."""
    if node.op_type in ROTATIONS:
        return node.input[0]
    for name in node.input:
        product = flow.behind(name)
        factors = flow.token_inputs(product) if product is not None else []
        if factors and _operator(flow, factors[0]) != "Concat":
            return factors[0]
    return node.input[0]


def _unsigned(flow: Flow, name: str) -> str:
    node = flow.maker(flow.wiring.origin(name, RESHAPING))
    return node.input[0] if node is not None and node.op_type == "Neg" else name


def _operator(flow: Flow, name: str) -> str:
    node = flow.behind(name)
    return node.op_type if node is not None else "input"


def _operators(flow: Flow, names: Iterable[str]) -> set[str]:
    return {_operator(flow, flow.wiring.origin(name, RESHAPING)) for name in names}


def _resolved(heads: int | None, size: int | None, width: int | None) -> tuple[int, int] | None:
    """Heads and their size, of which one may be left to the width; None where they do not make it up."""
    heads, size = (dim if dim is not None and dim > 0 else None for dim in (heads, size))
    if heads is not None and size is not None:
        return (heads, size) if width in (None, heads * size) else None
    known = heads or size
    if known is None or width is None or width % known:
        return None
    return (known, width // known) if heads is not None else (width // known, known)


def attribute_heads(node: onnx.NodeProto, *names: str) -> int | None:
    """The first of these integer attributes that a node has."""
    return next((found for name in names if (found := attribute_int(node, name, 0))), None)
