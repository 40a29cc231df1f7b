"""The last dim of a value, derived from the weights that made it and never from what the file declares."""

from __future__ import annotations

import onnx

from graphsurgery.anatomy.wiring import Wiring, attribute_int

ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Pow", "PRelu"})
UNARY = frozenset(
    [
        "Cast",
        "CastLike",
        "Identity",
        "Dropout",
        "Relu",
        "Gelu",
        "Erf",
        "Tanh",
        "Sigmoid",
        "Sqrt",
        "Softmax",
        "Clip",
        "Elu",
        "LeakyRelu",
        "Neg",
        "Abs",
        "HardSigmoid",
        "Mish",
        "QuickGelu",
        "FastGelu",
        "QuantizeLinear",
        "DequantizeLinear",
    ]
)
SCALED_NORMS = {
    "LayerNormalization": 1, "SimplifiedLayerNormalization": 1, "RMSNormalization": 1, "SkipLayerNormalization": 2,
    "SkipSimplifiedLayerNormalization": 2, "EmbedLayerNormalization": 5,
}  # fmt: skip
"""Normalising operators and which of their inputs is the scale, a vector as long as the last dim."""


def last_dim(wiring: Wiring, name: str) -> int | None:
    """The size of the last dim of the value ``name``, or None where the graph's weights do not tell."""
    return _last_dim(wiring, name, frozenset())


def _last_dim(wiring: Wiring, name: str, seen: frozenset[str]) -> int | None:
    if name in wiring.initializers:
        dims = wiring.initializers[name].dims
        return int(dims[-1]) if dims else 1
    node = wiring.producers.get(name)
    if node is None or name in seen or len(seen) > 500:
        return None
    return _from_node(wiring, node, seen | {name})


def _from_node(wiring: Wiring, node: onnx.NodeProto, seen: frozenset[str]) -> int | None:
    kind = node.op_type
    if kind in SCALED_NORMS and len(node.input) > SCALED_NORMS[kind]:
        return _last_dim(wiring, node.input[SCALED_NORMS[kind]], seen)
    if kind in ("MatMul", "FusedMatMul", "BiasGelu", "MatMulInteger", "DynamicQuantizeMatMul"):
        return _last_dim(wiring, node.input[1], seen)
    if kind == "Gemm":
        weights = wiring.initializers.get(node.input[1])
        return None if weights is None else int(weights.dims[0 if attribute_int(node, "transB", 0) else 1])
    if kind == "Gather" and attribute_int(node, "axis", 0) == 0:
        table = wiring.initializers.get(wiring.origin(node.input[0]))
        return int(table.dims[-1]) if table is not None and len(table.dims) > 1 else None
    if kind in ELEMENTWISE:
        known = [_last_dim(wiring, value, seen) for value in node.input]
        wide = {size for size in known if size is not None and size > 1}
        return wide.pop() if len(wide) == 1 else (1 if known and all(size == 1 for size in known) else None)
    if kind in UNARY:
        return _last_dim(wiring, node.input[0], seen)
    return None
