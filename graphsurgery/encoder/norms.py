"""Normalisations, fused into one operator or decomposed into several, and the sums that they normalise.

layer norm:  scale (x - mean x) / sqrt(mean (x - mean x)^2 + eps) + bias
rms norm:    scale x / sqrt(mean x^2 + eps)
"""

from __future__ import annotations

from dataclasses import dataclass

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow, find_summands, is_lookup
from graphsurgery.graph.attributes import get_input
from graphsurgery.graph.operators import EMBEDDING_NORM, LAYER_NORMS, NORMS, SCALE_INPUTS, SKIP_NORMS, get_operator

LAYER, RMS = "layer norm", "rms norm"
PIECES = "pieces"
GIVEN, COMPUTED, COUNTED = "given", "computed", "counted"
WORDS, POSITIONS, TYPES = 2, 3, 4
"""The indices of the tables among the inputs of the operator that looks up and normalises embeddings."""


@dataclass(frozen=True, eq=False)
class Lookup:
    """Rows of a table.

    ``indexed_by`` says where the index comes from: it is an input (``given``), it is computed from the numbers of inputs
    (``computed``), or it depends on no input's numbers (``counted``).
    """

    node: ir.Node
    table: ir.Value | None
    index: ir.Value | None
    indexed_by: str


@dataclass(frozen=True, eq=False)
class Norm:
    """A normalisation, ``output = norm(source)``."""

    node: ir.Node
    """The fused operator, or the square root of a decomposed one."""
    output: ir.Value
    source: ir.Value | None
    kind: str
    fused: bool
    """Whether it is one fused operator."""
    scale: ir.Value | None
    """The stored weights of the scale."""
    bias: ir.Value | None
    summands: tuple[ir.Value, ...]
    """The two values whose sum is normalised. Empty if it normalises no sum of computed values."""
    lookups: tuple[Lookup, ...]
    """The terms of that sum if all of them are embeddings, else empty."""

    @property
    def operator(self) -> str:
        """The name of the fused operator, or `PIECES`."""
        return self.node.op_type if self.fused else PIECES

    @property
    def biased(self) -> bool:
        return self.bias is not None


def find_norms(flow: Flow) -> tuple[Norm, ...]:
    """Return every norm of values that are made of tokens, in the order in which they run."""
    found: list[Norm | None] = []
    for node in flow.graph.nodes:
        if flow.tokens.isdisjoint(node.outputs):
            continue
        if get_operator(node) in NORMS:
            found.append(_match_fused(flow, node))
        elif get_operator(node) == "Sqrt":
            found.append(_match_decomposed(flow, node))
    return tuple(one for one in found if one is not None)


def _match_fused(flow: Flow, node: ir.Node) -> Norm:
    index = SCALE_INPUTS[get_operator(node)]
    scale, kind = get_input(node, index), LAYER if get_operator(node) in LAYER_NORMS else RMS
    summands, lookups = _find_fused_terms(flow, node)
    return Norm(
        node=node,
        output=node.outputs[0],
        source=get_input(node, 0),
        kind=kind,
        fused=True,
        scale=None if scale is None else flow.graph.origin(scale),
        bias=get_input(node, index + 1) if kind == LAYER else None,
        summands=summands,
        lookups=lookups,
    )


def _find_fused_terms(flow: Flow, node: ir.Node) -> tuple[tuple[ir.Value, ...], tuple[Lookup, ...]]:
    """Return the two values whose sum a fused norm normalises, and the lookups in that sum."""
    if get_operator(node) == EMBEDDING_NORM:
        indexed = ((WORDS, get_input(node, 0)), (TYPES, get_input(node, 1)))
        rows = [Lookup(node, get_input(node, table), index, GIVEN) for table, index in indexed if index is not None]
        return (), (*rows, Lookup(node, get_input(node, POSITIONS), None, COUNTED))
    if get_operator(node) in SKIP_NORMS:
        return tuple(value for value in node.inputs[:2] if value is not None), ()
    return _find_terms(flow, get_input(node, 0))


def _match_decomposed(flow: Flow, root: ir.Node) -> Norm | None:
    """Return the norm whose ``sqrt(mean z^2 + eps)`` is ``root``."""
    centred = _match_mean_square(flow, root)
    normalised = _find_quotient(flow, root.outputs[0]) if centred is not None else None
    if centred is None or normalised is None:
        return None
    source, bias = _match_centred(flow, centred), None
    output, scale = _match_vector(flow, normalised, "Mul")
    if source is not None:
        output, bias = _match_vector(flow, output, "Add")
    kind = RMS if source is None else LAYER
    return Norm(root, output, source or centred, kind, False, scale, bias, *_find_terms(flow, source or centred))


def _match_mean_square(flow: Flow, root: ir.Node) -> ir.Value | None:
    """Return z in ``sqrt(mean z^2 + eps)``."""
    shifted = flow.find_producer(get_input(root, 0), "Add")
    for value in shifted.inputs if shifted is not None else ():
        mean = flow.find_producer(value, "ReduceMean")
        square = flow.find_producer(get_input(mean, 0), "Pow", "Mul") if mean is not None else None
        if square is not None and (get_operator(square) == "Pow" or get_input(square, 0) is get_input(square, 1)):
            return get_input(square, 0)
    return None


def _match_centred(flow: Flow, value: ir.Value) -> ir.Value | None:
    """Return x if ``value`` is ``x - mean x``, else None."""
    node = flow.find_producer(value, "Sub")
    mean = flow.find_producer(get_input(node, 1), "ReduceMean") if node is not None else None
    if node is None or mean is None:
        return None
    source, averaged = get_input(node, 0), get_input(mean, 0)
    if source is None or averaged is None:
        return None
    return source if flow.graph.origin(averaged) is flow.graph.origin(source) else None


def _find_quotient(flow: Flow, root: ir.Value) -> ir.Value | None:
    """Return the quotient of a value and ``root``: by Div, or by Reciprocal and Mul."""
    for node in flow.find_consumers(root, "Div", "Reciprocal"):
        if get_operator(node) == "Div" and flow.scalar(get_input(node, 0)) is None:
            return node.outputs[0]
        product = next(iter(flow.find_consumers(node.outputs[0], "Mul")), None)
        return product.outputs[0] if product is not None else None
    return None


def _match_vector(flow: Flow, value: ir.Value, operator: str) -> tuple[ir.Value, ir.Value | None]:
    """Return ``value`` times, or plus, a vector of weights, and that vector. If none follows, ``value`` itself and None."""
    for node in flow.find_consumers(value, operator):
        vector = flow.find_vector(node)
        if vector is not None:
            return node.outputs[0], flow.graph.origin(vector)
    return value, None


def _find_terms(flow: Flow, value: ir.Value | None) -> tuple[tuple[ir.Value, ...], tuple[Lookup, ...]]:
    """Return the two computed values whose sum ``value`` is, and the lookups that the sum consists of."""
    node = flow.find_producer(value, "Add")
    if value is None or node is None or any(flow.weights(one) is not None for one in node.inputs):
        return (), ()
    lookups = [_match_lookup(flow, term) for term in find_summands(flow, value)]
    known = [one for one in lookups if one is not None]
    return tuple(one for one in node.inputs if one is not None), tuple(known) if len(known) == len(lookups) else ()


def _match_lookup(flow: Flow, value: ir.Value) -> Lookup | None:
    """Return a term of a sum as a lookup, or None if it is anything else."""
    node = flow.find_producer(value)
    index = get_input(node, 1) if node is not None and is_lookup(flow.graph, node) else None
    if node is None or index is None:
        return None
    origin = flow.graph.origin(index)
    by = GIVEN if flow.graph.is_fed(origin) else COMPUTED if origin in flow.fed else COUNTED
    return Lookup(node, get_input(node, 0), index, by)
