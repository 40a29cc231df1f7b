"""The last dim of a value, derived from the weights that made it and never from what the file declares."""

from __future__ import annotations

import onnx

from graphsurgery.graph.wiring import Wiring, attribute_int

ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Pow", "PRelu"})
DEEPEST = 200
"""How many nodes back is looked, at most."""
PRODUCTS = frozenset({"MatMul", "FusedMatMul", "BiasGelu", "MatMulInteger", "DynamicQuantizeMatMul"})
"""Operators whose second input is as wide as their output."""
UNARY = frozenset({
    "Abs", "Cast", "CastLike", "Clip", "DequantizeLinear", "Dropout", "Elu", "Erf", "FastGelu", "Gelu", "HardSigmoid",
    "Identity", "LeakyRelu", "Mish", "Neg", "QuantizeLinear", "QuickGelu", "Relu", "Sigmoid", "Softmax", "Sqrt", "Tanh",
})  # fmt: skip
SCALED_NORMS = {
    "LayerNormalization": 1, "SimplifiedLayerNormalization": 1, "RMSNormalization": 1, "SkipLayerNormalization": 2,
    "SkipSimplifiedLayerNormalization": 2, "EmbedLayerNormalization": 5,
}  # fmt: skip
"""Normalising operators and which of their inputs is the scale, a vector as long as the last dim."""


def last_dim(wiring: Wiring, name: str) -> int | None:
    """The size of the last dim of the value ``name``, or None where the graph's weights do not tell."""
    return _last_dim(wiring, name, {}, 0)


def _last_dim(wiring: Wiring, name: str, known: dict[str, int | None], depth: int) -> int | None:
    """As `last_dim`; ``known`` holds what was looked at already, which also ends cycles."""
    if name in known:
        return known[name]
    known[name] = None
    node = wiring.producers.get(name)
    if name in wiring.initializers:
        dims = wiring.initializers[name].dims
        known[name] = int(dims[-1]) if dims else 1
    elif node is not None and depth < DEEPEST:
        known[name] = _from_node(wiring, node, known, depth + 1)
    return known[name]


def _from_node(wiring: Wiring, node: onnx.NodeProto, known: dict[str, int | None], depth: int) -> int | None:
    kind = node.op_type
    if kind in SCALED_NORMS and len(node.input) > SCALED_NORMS[kind]:
        return _last_dim(wiring, node.input[SCALED_NORMS[kind]], known, depth)
    if kind in PRODUCTS and len(node.input) > 1:
        return _last_dim(wiring, node.input[1], known, depth)
    if kind == "Gemm":
        weights = wiring.initializers.get(node.input[1])
        return None if weights is None else int(weights.dims[0 if attribute_int(node, "transB", 0) else 1])
    if kind == "Gather" and attribute_int(node, "axis", 0) == 0:
        table = wiring.initializers.get(wiring.origin(node.input[0]))
        return int(table.dims[-1]) if table is not None and len(table.dims) > 1 else None
    if kind in ELEMENTWISE:
        return _broadcast([_last_dim(wiring, value, known, depth) for value in node.input])
    if kind in UNARY and node.input:
        return _last_dim(wiring, node.input[0], known, depth)
    return None


def _broadcast(sizes: list[int | None]) -> int | None:
    """The last dim of operands of these last dims: the one that is not 1, where they agree on it."""
    wide = {size for size in sizes if size is not None and size > 1}
    if wide:
        return wide.pop() if len(wide) == 1 else None
    return 1 if sizes and all(size == 1 for size in sizes) else None
