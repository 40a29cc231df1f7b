"""Normalisations, as one operator or taken to pieces, and what they normalise: a sum, of embeddings or of what flows through.

layer norm:  scale (x - mean x) / sqrt(mean (x - mean x)^2 + eps) + bias
rms norm:    scale x / sqrt(mean x^2 + eps)
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphsurgery.encoder.flow import Flow, find_summands, is_lookup
from graphsurgery.graph.attributes import read_at
from graphsurgery.graph.operators import EMBEDDING_NORM, LAYER_NORMS, NORMS, SCALE_INPUTS, SKIP_NORMS, operator

LAYER, RMS = "layer norm", "rms norm"
PIECES = "pieces"
GIVEN, COMPUTED, COUNTED = "given", "computed", "counted"
WORDS, POSITIONS, TYPES = 2, 3, 4
"""The places of the tables among the inputs of the operator that looks up and normalises embeddings."""


@dataclass(frozen=True, eq=False)
class Lookup:
    """Rows of a table, and how they are chosen: ``given`` (by an input as it is), ``computed`` (from inputs), or ``counted``
    (by no input's numbers)."""

    node: ir.Node
    table: ir.Value | None
    index: ir.Value | None
    by: str


@dataclass(frozen=True, eq=False)
class Norm:
    """One normalisation, ``output = norm(of)``."""

    node: ir.Node
    """The operator that is all of it, or the square root in the middle of its pieces."""
    output: ir.Value
    of: ir.Value | None
    kind: str
    whole: bool
    """Whether one operator is all of it."""
    scale: ir.Value | None
    """The weights as they are stored."""
    bias: ir.Value | None
    summands: tuple[ir.Value, ...]
    """The two values whose sum it normalises; empty where it normalises no sum of computed values."""
    lookups: tuple[Lookup, ...]
    """The terms of that sum where all of them are embeddings."""

    @property
    def operator(self) -> str:
        """The name of the operator that is all of it, or `PIECES`."""
        return self.node.op_type if self.whole else PIECES

    @property
    def biased(self) -> bool:
        return self.bias is not None


def find_norms(flow: Flow) -> tuple[Norm, ...]:
    """Return every norm of values that are made of tokens, in the order in which they run."""
    found: list[Norm | None] = []
    for node in flow.graph.nodes:
        if flow.tokens.isdisjoint(node.outputs):
            continue
        if operator(node) in NORMS:
            found.append(_whole(flow, node))
        elif operator(node) == "Sqrt":
            found.append(_in_pieces(flow, node))
    return tuple(one for one in found if one is not None)


def _whole(flow: Flow, node: ir.Node) -> Norm:
    place, of = SCALE_INPUTS[operator(node)], read_at(node, 0)
    scale, kind = read_at(node, place), LAYER if operator(node) in LAYER_NORMS else RMS
    summands, lookups = _terms(flow, node)
    return Norm(
        node=node,
        output=node.outputs[0],
        of=of,
        kind=kind,
        whole=True,
        scale=None if scale is None else flow.graph.origin(scale),
        bias=read_at(node, place + 1) if kind == LAYER else None,
        summands=summands,
        lookups=lookups,
    )


def _terms(flow: Flow, node: ir.Node) -> tuple[tuple[ir.Value, ...], tuple[Lookup, ...]]:
    """Return the two values whose sum a whole norm normalises, and the lookups in it."""
    if operator(node) == EMBEDDING_NORM:
        given = ((WORDS, read_at(node, 0)), (TYPES, read_at(node, 1)))
        rows = [Lookup(node, read_at(node, place), index, GIVEN) for place, index in given if index is not None]
        return (), (*rows, Lookup(node, read_at(node, POSITIONS), None, COUNTED))
    if operator(node) in SKIP_NORMS:
        return tuple(value for value in node.inputs[:2] if value is not None), ()
    return _sum(flow, read_at(node, 0))


def _in_pieces(flow: Flow, root: ir.Node) -> Norm | None:
    """Return the norm whose ``sqrt(mean z^2 + eps)`` is ``root``."""
    centred = _squared(flow, root)
    normalised = _normalised(flow, root.outputs[0]) if centred is not None else None
    if centred is None or normalised is None:
        return None
    of, bias = _uncentred(flow, centred), None
    output, scale = _with_vector(flow, normalised, "Mul")
    if of is not None:
        output, bias = _with_vector(flow, output, "Add")
    kind = RMS if of is None else LAYER
    return Norm(root, output, of or centred, kind, False, scale, bias, *_sum(flow, of or centred))


def _squared(flow: Flow, root: ir.Node) -> ir.Value | None:
    """Return z in ``sqrt(mean z^2 + eps)``."""
    shifted = flow.behind(read_at(root, 0))
    for value in shifted.inputs if shifted is not None and operator(shifted) == "Add" else ():
        mean = flow.behind(value)
        square = flow.behind(read_at(mean, 0)) if mean is not None and operator(mean) == "ReduceMean" else None
        if square is not None and (operator(square) == "Pow" or _is_square(square)):
            return read_at(square, 0)
    return None


def _is_square(node: ir.Node) -> bool:
    return operator(node) == "Mul" and read_at(node, 0) is read_at(node, 1)


def _uncentred(flow: Flow, value: ir.Value) -> ir.Value | None:
    """Return x where ``value`` is x - mean x; None where it is anything else."""
    node = flow.behind(value)
    if node is None or operator(node) != "Sub":
        return None
    of, mean = read_at(node, 0), flow.behind(read_at(node, 1))
    averaged = read_at(mean, 0) if mean is not None and operator(mean) == "ReduceMean" else None
    if of is None or averaged is None:
        return None
    return of if flow.graph.origin(averaged) is flow.graph.origin(of) else None


def _normalised(flow: Flow, root: ir.Value) -> ir.Value | None:
    """Return what is divided by ``root``, divided."""
    for node in flow.used_by(root, "Div", "Reciprocal"):
        if operator(node) == "Div" and flow.number(read_at(node, 0)) is None:
            return node.outputs[0]
        product = next(iter(flow.used_by(node.outputs[0], "Mul")), None)
        return product.outputs[0] if product is not None else None
    return None


def _with_vector(flow: Flow, value: ir.Value, kind: str) -> tuple[ir.Value, ir.Value | None]:
    """Return ``value`` times, or plus, the vector that follows it, and that vector; ``value`` itself where none follows."""
    for node in flow.used_by(value, kind):
        vector = flow.find_vector(node)
        if vector is not None:
            return node.outputs[0], flow.graph.origin(vector)
    return value, None


def _sum(flow: Flow, value: ir.Value | None) -> tuple[tuple[ir.Value, ...], tuple[Lookup, ...]]:
    """Return the two computed values that ``value`` is the sum of, and the lookups that it consists of."""
    node = flow.behind(value)
    if value is None or node is None or operator(node) != "Add" or any(flow.weights(one) is not None for one in node.inputs):
        return (), ()
    lookups = [_lookup(flow, term) for term in find_summands(flow, value)]
    known = [one for one in lookups if one is not None]
    return tuple(one for one in node.inputs if one is not None), tuple(known) if len(known) == len(lookups) else ()


def _lookup(flow: Flow, value: ir.Value) -> Lookup | None:
    """Return a term of a sum as a lookup; None where it is anything else."""
    node = flow.behind(value)
    index = read_at(node, 1) if node is not None and is_lookup(flow.graph, node) else None
    if node is None or index is None:
        return None
    origin = flow.graph.origin(index)
    by = GIVEN if flow.graph.is_fed(origin) else COMPUTED if origin in flow.fed else COUNTED
    return Lookup(node, read_at(node, 0), index, by)
