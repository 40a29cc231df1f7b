"""Activations of the feed-forward layers, fused into one operator or decomposed into several.

gelu:       x / 2 (1 + erf(x / sqrt 2))
tanh gelu:  x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
silu:       x sigmoid(x)
quick gelu: x sigmoid(1.702 x)
"""

from __future__ import annotations

from dataclasses import dataclass

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow
from graphsurgery.graph.attributes import get_input, get_string
from graphsurgery.graph.operators import (
    GELU_CORES,
    GELUS,
    PRODUCTS,
    QUICK_GELUS,
    RELUS,
    SCALING,
    SILUS,
    TANH_GELUS,
    get_operator,
)

GELU, TANH_GELU, QUICK_GELU, SILU, RELU = "gelu", "tanh gelu", "quick gelu", "silu", "relu"
OPERATORS = {GELU: GELUS, TANH_GELU: TANH_GELUS, QUICK_GELU: QUICK_GELUS, SILU: SILUS, RELU: RELUS}
FUSED = {name: kind for kind, names in OPERATORS.items() for name in names}
"""The kind of activation by operator."""
QUICK_FACTOR = 1.702
PIECES = "pieces"
UNFINISHED = "Erf"
"""The operator of an erf whose result is not used as in a GELU."""


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation: ``output = kind(source)``."""

    kind: str
    node: ir.Node
    """The fused operator, or the erf, tanh or sigmoid of a decomposed one."""
    output: ir.Value
    source: ir.Value
    operator: str
    """The name of the fused operator, `PIECES`, or `UNFINISHED`."""
    bias: ir.Value | None
    """The vector that is added to a product to make ``source``."""
    gate: ir.Node | None
    """The product of ``output`` with another value that is made of tokens."""

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
        source, operator = get_input(node, 0), get_operator(node)
        if source is None or source not in flow.tokens:
            continue
        if operator in FUSED:
            kind = TANH_GELU if get_string(node, "approximate") == "tanh" else FUSED[operator]
            found.append(_make_activation(flow, kind, node, source, node.outputs[0], node.op_type))
        elif operator in GELU_CORES:
            found.append(_match_gelu(flow, node, source))
        elif operator == "Sigmoid":
            found.append(_match_silu(flow, node, source))
    return tuple(one for one in found if one is not None)


def _make_activation(
    flow: Flow, kind: str, node: ir.Node, source: ir.Value, output: ir.Value, operator: str = PIECES
) -> Activation:
    bias = _find_bias(flow, source) or (get_input(node, 1) if operator != PIECES else None)
    gate = next((one for one in flow.find_consumers(output, "Mul") if len(set(flow.token_inputs(one))) == 2), None)
    return Activation(kind, node, output, source, operator, bias, gate)


def _find_bias(flow: Flow, value: ir.Value) -> ir.Value | None:
    """Return the vector if ``value`` is a product plus a vector."""
    node = flow.find_producer(value, "Add")
    if node is None:
        return None
    is_product = any(flow.find_producer(one, *PRODUCTS) is not None for one in flow.token_inputs(node))
    return flow.find_vector(node) if is_product else None


def _match_gelu(flow: Flow, core: ir.Node, argument: ir.Value) -> Activation | None:
    """Return the GELU whose erf or tanh is ``core``."""
    is_erf = get_operator(core) == "Erf"
    source = _match_scaled(flow, argument) if is_erf else _match_cubic(flow, argument)
    if source is None:
        return None
    shifted = next((one for one in flow.find_consumers(core.outputs[0], "Add") if _has_scalar(flow, one)), None)
    product = next(iter(flow.find_consumers(shifted.outputs[0], "Mul")), None) if shifted is not None else None
    if product is not None:
        output = _find_last_product(flow, product, source)
        return _make_activation(flow, GELU if is_erf else TANH_GELU, core, source, output)
    return _make_activation(flow, GELU, core, source, core.outputs[0], UNFINISHED) if is_erf else None


def _match_silu(flow: Flow, sigmoid: ir.Node, argument: ir.Value) -> Activation | None:
    """Return the SiLU or quick GELU whose sigmoid is ``sigmoid``."""
    node = flow.find_producer(argument, "Mul")
    is_quick = node is not None and any(_is_quick_factor(flow, value) for value in node.inputs)
    source = flow.token_inputs(node)[0] if is_quick and node is not None else argument
    for product in flow.find_consumers(sigmoid.outputs[0], "Mul"):
        if any(_is_copy(flow, value, source) for value in product.inputs):
            return _make_activation(flow, QUICK_GELU if is_quick else SILU, sigmoid, source, product.outputs[0])
    return None


def _has_scalar(flow: Flow, node: ir.Node) -> bool:
    return any(flow.scalar(value) is not None for value in node.inputs)


def _find_last_product(flow: Flow, product: ir.Node, source: ir.Value) -> ir.Value:
    """Return the result of the products with x and 1/2, which come in any order. A single product may be with x/2."""
    output = product.outputs[0]
    has_source = any(_is_copy(flow, value, source) for value in product.inputs)
    for node in flow.find_consumers(output, "Mul") if has_source or _has_scalar(flow, product) else ():
        others = [value for value in node.inputs if not _is_copy(flow, value, output)]
        if len(others) == 1 and (flow.scalar(others[0]) is not None if has_source else _is_copy(flow, others[0], source)):
            return node.outputs[0]
    return output


def _is_copy(flow: Flow, value: ir.Value | None, other: ir.Value) -> bool:
    return value is not None and flow.graph.origin(value) is flow.graph.origin(other)


def _match_scaled(flow: Flow, value: ir.Value) -> ir.Value | None:
    """Return x in ``x / sqrt 2``."""
    node = flow.find_producer(value, *SCALING)
    return next(iter(flow.token_inputs(node)), None) if node is not None else None


def _match_cubic(flow: Flow, value: ir.Value) -> ir.Value | None:
    """Return x in ``c (x + d x^3)``."""
    product = flow.find_producer(value, "Mul")
    for term in flow.token_inputs(product) if product is not None else ():
        total = flow.find_producer(term, "Add")
        for one in total.inputs if total is not None else ():
            source = _match_cube(flow, one)
            if source is not None:
                return source
    return None


def _match_cube(flow: Flow, value: ir.Value | None) -> ir.Value | None:
    """Return x in ``d x^3``."""
    node = flow.find_producer(value, "Mul")
    for factor in flow.token_inputs(node) if node is not None else ():
        power = flow.find_producer(factor, "Pow")
        if power is not None and flow.scalar(get_input(power, 1)) == 3:
            return get_input(power, 0)
    return None


def _is_quick_factor(flow: Flow, value: ir.Value | None) -> bool:
    number = flow.scalar(value)
    return number is not None and abs(number - QUICK_FACTOR) < 1e-2
