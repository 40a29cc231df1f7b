"""Normalisations, as one operator or taken to pieces, and what they normalise: a sum, of embeddings or of what flows through.

layer norm:  scale (x - mean x) / sqrt(mean (x - mean x)^2 + eps) + bias
rms norm:    scale x / sqrt(mean x^2 + eps)
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from graphsurgery.encoder.flow import Flow, is_lookup, summands

LAYER, RMS = "layer norm", "rms norm"
WHOLE = {
    "LayerNormalization": LAYER, "SkipLayerNormalization": LAYER, "EmbedLayerNormalization": LAYER,
    "SimplifiedLayerNormalization": RMS, "RMSNormalization": RMS, "SkipSimplifiedLayerNormalization": RMS,
}  # fmt: skip
"""Operators that are a norm, and which."""
WITH_SUM = frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "EmbedLayerNormalization"})
SCALES = {"SkipLayerNormalization": 2, "SkipSimplifiedLayerNormalization": 2, "EmbedLayerNormalization": 5}
PIECES = "pieces"


@dataclass(frozen=True)
class Lookup:
    """Rows of a table: how they are chosen is ``given`` (an input as it is), ``computed`` from inputs, or ``counted`` (from no
    input's numbers)."""

    value: str
    index: str
    by: str


@dataclass(frozen=True)
class Norm:
    """One normalisation: of what, by what operator (`PIECES` where it is taken to pieces), and what it gives."""

    output: str
    of: str
    kind: str
    operator: str
    scale: str | None
    biased: bool
    """Whether a bias is added at the end."""
    summands: tuple[str, ...]
    """The two values whose sum it normalises; empty where it normalises no sum of computed values."""
    lookups: tuple[Lookup, ...]
    """What that sum consists of where it consists of embeddings alone."""

    @property
    def whole(self) -> bool:
        """Whether one operator is all of it."""
        return self.operator != PIECES


def norms(flow: Flow) -> tuple[Norm, ...]:
    """Every norm of values that are computed from tokens, in the order in which they run."""
    found = []
    for node in flow.nodes:
        if not any(name in flow.tokens for name in node.output):
            continue
        if node.op_type in WHOLE:
            found.append(_whole(flow, node))
        elif node.op_type == "Sqrt" and (made := _in_pieces(flow, node)) is not None:
            found.append(made)
    return tuple(found)


def _whole(flow: Flow, node: onnx.NodeProto) -> Norm:
    kind, place = WHOLE[node.op_type], SCALES.get(node.op_type, 1)
    scale = flow.wiring.origin(node.input[place]) if len(node.input) > place else None
    biased = kind == LAYER and len(node.input) > place + 1
    if node.op_type == "EmbedLayerNormalization":
        rows = [Lookup(name, name, "given") for name in node.input[:2] if name]
        return Norm(node.output[0], node.input[0], kind, node.op_type, scale, biased, (), (*rows, Lookup("", "", "counted")))
    if node.op_type in WITH_SUM:
        added = (node.input[0], node.input[1])
        return Norm(node.output[0], node.input[0], kind, node.op_type, scale, biased, added, ())
    summands, lookups = _sum(flow, node.input[0])
    return Norm(node.output[0], node.input[0], kind, node.op_type, scale, biased, summands, lookups)


def _in_pieces(flow: Flow, root: onnx.NodeProto) -> Norm | None:
    """The norm whose ``sqrt(mean z^2 + eps)`` is ``root``."""
    centred = _squared(flow, root)
    if centred is None:
        return None
    of = _centred(flow, centred)
    normalised = _normalised(flow, root.output[0])
    if normalised is None:
        return None
    scaled, scale = _with_vector(flow, normalised, "Mul")
    if of is None:
        return Norm(scaled, centred, RMS, PIECES, scale, False, *_sum(flow, centred))
    output, bias = _with_vector(flow, scaled, "Add")
    return Norm(output, of, LAYER, PIECES, scale, bias is not None, *_sum(flow, of))


def _squared(flow: Flow, root: onnx.NodeProto) -> str | None:
    """z in ``sqrt(mean z^2 + eps)``."""
    shifted = flow.behind(root.input[0])
    for name in shifted.input if shifted is not None and shifted.op_type == "Add" else ():
        mean = flow.behind(name)
        square = flow.behind(mean.input[0]) if mean is not None and mean.op_type == "ReduceMean" else None
        if square is not None and (square.op_type == "Pow" or _is_square(square)):
            return square.input[0]
    return None


def _is_square(node: onnx.NodeProto) -> bool:
    return node.op_type == "Mul" and node.input[0] == node.input[1]


def _centred(flow: Flow, name: str) -> str | None:
    """x where ``name`` is x - mean x; None where it is anything else."""
    node = flow.behind(name)
    if node is None or node.op_type != "Sub":
        return None
    mean = flow.behind(node.input[1])
    same = mean is not None and mean.op_type == "ReduceMean" and _copies(flow, mean.input[0], node.input[0])
    return node.input[0] if same else None


def _copies(flow: Flow, one: str, other: str) -> bool:
    return flow.wiring.origin(one) == flow.wiring.origin(other)


def _normalised(flow: Flow, root: str) -> str | None:
    """What is divided by ``root``, divided."""
    for node in flow.used_by(root, "Div", "Reciprocal"):
        if node.op_type == "Div" and flow.number(node.input[0]) is None:
            return node.output[0]
        product = next(iter(flow.used_by(node.output[0], "Mul")), None)
        return product.output[0] if product is not None else None
    return None


def _with_vector(flow: Flow, name: str, operator: str) -> tuple[str, str | None]:
    """``name`` times, or plus, the vector that follows it, and that vector; as it is where none follows."""
    for node in flow.used_by(name, operator):
        vector = next((one for one in node.input if flow.is_vector(one)), None)
        if vector is not None:
            return node.output[0], flow.wiring.origin(vector)
    return name, None


def _sum(flow: Flow, name: str) -> tuple[tuple[str, ...], tuple[Lookup, ...]]:
    """The two computed values that ``name`` is the sum of, and the lookups that it consists of."""
    node = flow.behind(name)
    if node is None or node.op_type != "Add" or any(flow.constant(one) is not None for one in node.input):
        return (), ()
    lookups = tuple(_lookup(flow, term) for term in summands(flow, name))
    return (node.input[0], node.input[1]), lookups if all(one.by for one in lookups) else ()


def _lookup(flow: Flow, name: str) -> Lookup:
    """A term of a sum as a lookup; ``by`` is empty where it is none."""
    node = flow.behind(name)
    if node is None or not is_lookup(flow.wiring, node):
        return Lookup(name, "", "")
    origin = flow.wiring.origin(node.input[1])
    by = "given" if origin in flow.wiring.inputs else "computed" if origin in flow.fed else "counted"
    return Lookup(node.output[0], node.input[1], by)
