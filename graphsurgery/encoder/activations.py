"""Activations of the feed-forward layers, as one operator or taken to pieces.

gelu:       x / 2 (1 + erf(x / sqrt 2))
tanh gelu:  x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
silu:       x sigmoid(x)
quick gelu: x sigmoid(1.702 x)
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphsurgery.encoder.flow import Flow
from graphsurgery.graph.attributes import read_at, text
from graphsurgery.graph.operators import BENDS, GELUS, PRODUCTS, QUICK_GELUS, RELUS, SCALING, SILUS, TANH_GELUS, operator

GELU, TANH_GELU, QUICK_GELU, SILU, RELU = "gelu", "tanh gelu", "quick gelu", "silu", "relu"
OPERATORS = {GELU: GELUS, TANH_GELU: TANH_GELUS, QUICK_GELU: QUICK_GELUS, SILU: SILUS, RELU: RELUS}
WHOLE = {name: kind for kind, names in OPERATORS.items() for name in names}
"""Operators that are an activation, and which."""
QUICK = 1.702
PIECES = "pieces"
UNFINISHED = "Erf"
"""The operator where an erf is taken, but what follows makes no GELU of it."""


@dataclass(frozen=True, eq=False)
class Activation:
    """``output = kind(source)``."""

    kind: str
    node: ir.Node
    """The operator that is all of it, or the erf, tanh or sigmoid among its pieces."""
    output: ir.Value
    source: ir.Value
    operator: str
    """The name of the operator that is all of it, `PIECES`, or `UNFINISHED`."""
    bias: ir.Value | None
    """The vector that is added to a product before."""
    gate: ir.Node | None
    """The product of the output with another value that is made of tokens."""

    @property
    def biased(self) -> bool:
        return self.bias is not None

    @property
    def gated(self) -> bool:
        return self.gate is not None


def find_activations(flow: Flow) -> tuple[Activation, ...]:
    """Return every activation of values that are made of tokens, in the order in which they run."""
    found: list[Activation | None] = []
    for node in flow.graph.nodes:
        source = read_at(node, 0)
        if source is None or source not in flow.tokens:
            continue
        if operator(node) in WHOLE:
            kind = TANH_GELU if text(node, "approximate") == "tanh" else WHOLE[operator(node)]
            found.append(_activation(flow, kind, node, source, node.outputs[0], node.op_type))
        elif operator(node) in BENDS:
            found.append(_gelu(flow, node, source))
        elif operator(node) == "Sigmoid":
            found.append(_silu(flow, node, source))
    return tuple(one for one in found if one is not None)


def _activation(flow: Flow, kind: str, node: ir.Node, source: ir.Value, output: ir.Value, name: str = PIECES) -> Activation:
    bias = _bias_before(flow, source) or (read_at(node, 1) if name != PIECES else None)
    gate = next((one for one in flow.used_by(output, "Mul") if len(set(flow.token_inputs(one))) == 2), None)
    return Activation(kind, node, output, source, name, bias, gate)


def _bias_before(flow: Flow, value: ir.Value) -> ir.Value | None:
    """Return the vector where ``value`` is a product plus a vector."""
    node = flow.behind(value)
    if node is None or operator(node) != "Add":
        return None
    makers = [flow.behind(one) for one in flow.token_inputs(node)]
    is_product = any(maker is not None and operator(maker) in PRODUCTS for maker in makers)
    return flow.find_vector(node) if is_product else None


def _gelu(flow: Flow, bend: ir.Node, bent: ir.Value) -> Activation | None:
    """Return the GELU whose erf, or tanh, is ``bend``."""
    is_erf = operator(bend) == "Erf"
    source = _scaled(flow, bent) if is_erf else _cubed(flow, bent)
    if source is None:
        return None
    shifted = next((one for one in flow.used_by(bend.outputs[0], "Add") if _has_number(flow, one)), None)
    product = next(iter(flow.used_by(shifted.outputs[0], "Mul")), None) if shifted is not None else None
    if product is not None:
        output = _last_product(flow, product, source)
        return _activation(flow, GELU if is_erf else TANH_GELU, bend, source, output)
    return _activation(flow, GELU, bend, source, bend.outputs[0], UNFINISHED) if is_erf else None


def _has_number(flow: Flow, node: ir.Node) -> bool:
    return any(flow.number(value) is not None for value in node.inputs)


def _last_product(flow: Flow, product: ir.Node, source: ir.Value) -> ir.Value:
    """Return the last of the two products with x and a half, in any order: the first may be of a half and x, taken before."""
    output = product.outputs[0]
    with_source = any(_is_copy(flow, value, source) for value in product.inputs)
    for node in flow.used_by(output, "Mul") if with_source or _has_number(flow, product) else ():
        others = [value for value in node.inputs if not _is_copy(flow, value, output)]
        fits = len(others) == 1 and (flow.number(others[0]) is not None if with_source else _is_copy(flow, others[0], source))
        if fits:
            return node.outputs[0]
    return output


def _is_copy(flow: Flow, value: ir.Value | None, other: ir.Value) -> bool:
    return value is not None and flow.graph.origin(value) is flow.graph.origin(other)


def _scaled(flow: Flow, value: ir.Value) -> ir.Value | None:
    """Return x in ``x / sqrt 2``."""
    node = flow.behind(value)
    if node is None or operator(node) not in SCALING:
        return None
    return next(iter(flow.token_inputs(node)), None)


def _cubed(flow: Flow, value: ir.Value) -> ir.Value | None:
    """Return x in ``c (x + d x^3)``."""
    product = flow.behind(value)
    for term in flow.token_inputs(product) if product is not None and operator(product) == "Mul" else ():
        total = flow.behind(term)
        for one in total.inputs if total is not None and operator(total) == "Add" else ():
            found = _cube(flow, one)
            if found is not None:
                return found
    return None


def _cube(flow: Flow, value: ir.Value | None) -> ir.Value | None:
    """Return x in ``d x^3``."""
    node = flow.behind(value)
    for factor in flow.token_inputs(node) if node is not None and operator(node) == "Mul" else ():
        power = flow.behind(factor)
        if power is not None and operator(power) == "Pow" and flow.number(read_at(power, 1)) == 3:
            return read_at(power, 0)
    return None


def _silu(flow: Flow, sigmoid: ir.Node, bent: ir.Value) -> Activation | None:
    """Return the SiLU, or quick GELU, whose sigmoid is ``sigmoid``."""
    node = flow.behind(bent)
    quick = node is not None and operator(node) == "Mul" and any(_is_quick(flow, value) for value in node.inputs)
    source = flow.token_inputs(node)[0] if quick and node is not None else bent
    for product in flow.used_by(sigmoid.outputs[0], "Mul"):
        if any(_is_copy(flow, value, source) for value in product.inputs):
            return _activation(flow, QUICK_GELU if quick else SILU, sigmoid, source, product.outputs[0])
    return None


def _is_quick(flow: Flow, value: ir.Value | None) -> bool:
    number = flow.number(value)
    return number is not None and abs(number - QUICK) < 1e-2
