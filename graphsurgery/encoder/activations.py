"""Activations of the feed-forward layers, as one operator or taken to pieces.

gelu:       x / 2 (1 + erf(x / sqrt 2))
tanh gelu:  x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
silu:       x sigmoid(x)
quick gelu: x sigmoid(1.702 x)
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.projections import PRODUCTS

GELU, TANH_GELU, QUICK_GELU, SILU, RELU = "gelu", "tanh gelu", "quick gelu", "silu", "relu"
WHOLE = {
    "Gelu": GELU, "BiasGelu": GELU, "FastGelu": TANH_GELU, "QuickGelu": QUICK_GELU, "Relu": RELU, "Swish": SILU, "Silu": SILU,
}  # fmt: skip
"""Operators that are an activation, and which."""
QUICK = 1.702
PIECES = "pieces"
UNFINISHED = "Erf"
"""In place of `PIECES` where an erf is taken, but what follows makes no GELU of it."""


@dataclass(frozen=True)
class Activation:
    """``output = kind(source)``; ``biased``: source is a product plus a bias; ``gated``: output is multiplied with another."""

    kind: str
    output: str
    source: str
    operator: str
    biased: bool
    gated: bool


def activations(flow: Flow) -> tuple[Activation, ...]:
    """Every activation of values that are computed from tokens, in the order in which they run."""
    found: list[Activation | None] = []
    for node in flow.nodes:
        if not node.input or node.input[0] not in flow.tokens:
            continue
        if node.op_type in WHOLE:
            kind = TANH_GELU if _approximates(node) else WHOLE[node.op_type]
            found.append(_activation(flow, kind, node.input[0], node.output[0], node))
        elif node.op_type in ("Erf", "Tanh"):
            found.append(_gelu(flow, node))
        elif node.op_type == "Sigmoid":
            found.append(_silu(flow, node))
    return tuple(one for one in found if one is not None)


def _activation(flow: Flow, kind: str, source: str, output: str, whole: onnx.NodeProto | None = None) -> Activation:
    biased = _adds_bias(flow, source) or (whole is not None and len(whole.input) > 1)
    operator = whole.op_type if whole is not None else PIECES
    gated = any(len(set(flow.token_inputs(node))) == 2 for node in flow.used_by(output, "Mul"))
    return Activation(kind, output, source, operator, biased, gated)


def _approximates(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "approximate" and attribute.s == b"tanh" for attribute in node.attribute)


def _adds_bias(flow: Flow, name: str) -> bool:
    """Whether ``name`` is a product plus a vector."""
    node = flow.behind(name)
    if node is None or node.op_type != "Add" or not any(flow.is_vector(one) for one in node.input):
        return False
    makers = [flow.behind(one) for one in flow.token_inputs(node)]
    return any(maker is not None and maker.op_type in PRODUCTS for maker in makers)


def _gelu(flow: Flow, bend: onnx.NodeProto) -> Activation | None:
    """The GELU whose erf, or tanh, is ``bend``."""
    source = _scaled(flow, bend.input[0]) if bend.op_type == "Erf" else _cubed(flow, bend.input[0])
    if source is None:
        return None
    shifted = next((one for one in flow.used_by(bend.output[0], "Add") if _has_number(flow, one)), None)
    product = next(iter(flow.used_by(shifted.output[0], "Mul")), None) if shifted is not None else None
    if product is not None:
        return _activation(flow, GELU if bend.op_type == "Erf" else TANH_GELU, source, _last_product(flow, product, source))
    return _activation(flow, GELU, source, bend.output[0], bend) if bend.op_type == UNFINISHED else None


def _has_number(flow: Flow, node: onnx.NodeProto) -> bool:
    return any(flow.number(name) is not None for name in node.input)


def _last_product(flow: Flow, product: onnx.NodeProto, source: str) -> str:
    """The last of the two products with x and a half, in any order: the first may be of a half and x, taken before."""
    origin = flow.wiring.origin
    halves = _has_number(flow, product)
    with_source = any(origin(name) == origin(source) for name in product.input)
    for node in flow.used_by(product.output[0], "Mul") if halves or with_source else ():
        others = [name for name in node.input if origin(name) != product.output[0]]
        fits = flow.number(others[0]) is not None if with_source else origin(others[0]) == origin(source)
        if len(others) == 1 and fits:
            return node.output[0]
    return product.output[0]


def _scaled(flow: Flow, name: str) -> str | None:
    """x in ``x / sqrt 2``."""
    node = flow.behind(name)
    if node is None or node.op_type not in ("Div", "Mul"):
        return None
    return next(iter(flow.token_inputs(node)), None)


def _cubed(flow: Flow, name: str) -> str | None:
    """x in ``c (x + d x^3)``."""
    product = flow.behind(name)
    for term in flow.token_inputs(product) if product is not None and product.op_type == "Mul" else ():
        total = flow.behind(term)
        for one in total.input if total is not None and total.op_type == "Add" else ():
            found = _cube(flow, one)
            if found is not None:
                return found
    return None


def _cube(flow: Flow, name: str) -> str | None:
    """x in ``d x^3``."""
    node = flow.behind(name)
    for factor in flow.token_inputs(node) if node is not None and node.op_type == "Mul" else ():
        power = flow.behind(factor)
        if power is not None and power.op_type == "Pow" and flow.number(power.input[1]) == 3:
            return power.input[0]
    return None


def _silu(flow: Flow, sigmoid: onnx.NodeProto) -> Activation | None:
    """The SiLU, or quick GELU, whose sigmoid is ``sigmoid``."""
    bent = sigmoid.input[0]
    node = flow.behind(bent)
    quick = node is not None and node.op_type == "Mul" and any(_is_quick(flow, name) for name in node.input)
    source = flow.token_inputs(node)[0] if quick and node is not None else bent
    for product in flow.used_by(sigmoid.output[0], "Mul"):
        if any(flow.wiring.origin(name) == flow.wiring.origin(source) for name in product.input):
            return _activation(flow, QUICK_GELU if quick else SILU, source, product.output[0])
    return None


def _is_quick(flow: Flow, name: str) -> bool:
    number = flow.number(name)
    return number is not None and abs(number - QUICK) < 1e-2
