"""What stands between the product of queries and keys and the softmax, and what is added there.

weights = softmax(scale q k^T + added)      [batch, heads, seq, seq]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import onnx

from graphsurgery.encoder.flow import Flow, is_lookup, summands
from graphsurgery.encoder.hidden_layers import MEASURING
from graphsurgery.encoder.projections import PRODUCTS
from graphsurgery.graph.wiring import PASS_THROUGH, RESHAPING
from graphsurgery.model.dtypes import FLOATS, element_count
from graphsurgery.model.nodes import taken

PADDING = "padding mask"
"""Made of an input: the mask, or the ids."""
CAUSAL = "causal mask"
WINDOW = "local window"
POSITION = "position bias"
"""Computed from no token: rows of a table by distance, or slopes."""
CONTENT = "terms of queries and keys"
ADDING = frozenset({"Add", "Sub", "Where", "Max", "Min"})
PASSING = ADDING | RESHAPING | {"Mul", "Div", "Clip", "Transpose"}
"""Operators between the product and the softmax."""
COMPARING = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
SHIFTING = frozenset({"Add", "Sub", "Abs", "Neg"})
MOST_BEHIND = 4000
"""How many values behind what is added are looked at."""
DEEPEST, LONGEST = 6, 60
"""How far back positions are followed, and scores."""
VIEWS = RESHAPING | {"Expand", "Transpose", "Slice"}


@dataclass(frozen=True)
class Scores:
    """The product of queries and keys, the operators from the softmax back to it, and what is added between."""

    product: onnx.NodeProto
    between: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def scores(flow: Flow, name: str) -> Scores | None:
    """The scores that ``name`` is made of, None where no product of two computed values is behind it."""
    return _scores(flow, name, set())


def kinds_added(flow: Flow, added: Iterable[str]) -> tuple[str, ...]:
    """What is added to scores, in words: any of a padding mask, a causal mask, a local window, a position bias, and terms made
    of queries and keys."""
    found = {kind for name in added for leaf in summands(flow, name) for kind in _kinds(flow, leaf)}
    return tuple(kind for kind in (PADDING, CAUSAL, WINDOW, POSITION, CONTENT) if kind in found)


def _scores(flow: Flow, name: str, seen: set[str]) -> Scores | None:
    node = flow.maker(name)
    if node is None or name in seen or name not in flow.tokens or len(seen) == LONGEST:
        return None
    seen.add(name)
    if node.op_type in PRODUCTS:
        return Scores(node) if len(flow.token_inputs(node)) == 2 else None
    for operand in flow.token_inputs(node) if node.op_type in PASSING else ():
        found = _scores(flow, operand, seen)
        if found is not None:
            others = [other for other in node.input if other not in (operand, "")]
            return replace(found, between=_steps(flow, node) + found.between, added=found.added + _added(flow, node, others))
    return None


def _steps(flow: Flow, node: onnx.NodeProto) -> tuple[str, ...]:
    return () if node.op_type in PASS_THROUGH else (node.op_type,)


def _added(flow: Flow, node: onnx.NodeProto, others: list[str]) -> tuple[str, ...]:
    """What of a node's other operands changes scores, and not alike: no number, and no target of a Reshape."""
    counts = node.op_type in ADDING or node.op_type == "Mul"
    found = [name for name in others if counts and flow.number(name) is None]
    return tuple(found if node.op_type != "Mul" else [name for name in found if name in flow.fed])


def _kinds(flow: Flow, name: str) -> Iterator[str]:
    if name in flow.tokens:
        yield CONTENT
        return
    nodes = list(_ancestors(flow, name))
    whole = flow.constant(name)
    if name in flow.fed:
        yield PADDING
    if whole is not None and element_count(whole.dims) > 1:
        yield CAUSAL if _is_square(whole) else POSITION
    elif any(_holds_numbers(flow, node) for node in nodes):
        yield POSITION
    else:
        yield from (kind for node in nodes if (kind := _limit(flow, node)) is not None)


def _ancestors(flow: Flow, name: str) -> Iterator[onnx.NodeProto]:
    """The nodes that the numbers of ``name`` are computed by."""
    todo = [name]
    seen: set[str] = set()
    while todo and len(seen) < MOST_BEHIND:
        current = todo.pop()
        node = flow.maker(current)
        if current in seen or node is None or node.op_type in MEASURING:
            continue
        seen.add(current)
        yield node
        todo += (*node.input, *taken([node]))


def _holds_numbers(flow: Flow, node: onnx.NodeProto) -> bool:
    """Whether a node brings floats of its own that differ by position: rows of a table, slopes, a whole table."""
    if is_lookup(flow.wiring, node) or node.op_type.endswith("PositionBias"):
        return True
    return any(tensor.data_type in FLOATS and not _is_square(tensor) for tensor in _held(flow, node))


def _held(flow: Flow, node: onnx.NodeProto) -> list[onnx.TensorProto]:
    """The constants of more than one number that a node reads."""
    held = [tensor for name in node.input if (tensor := flow.wiring.initializers.get(name)) is not None]
    return [tensor for tensor in held if element_count(tensor.dims) > 1]


def _is_square(tensor: onnx.TensorProto) -> bool:
    """Whether a constant has a number for each two positions, the same for all heads: a triangle of what may be seen."""
    return len(tensor.dims) > 1 and tensor.dims[-1] == tensor.dims[-2] and element_count(tensor.dims[:-2]) == 1


def _limit(flow: Flow, node: onnx.NodeProto) -> str | None:
    """What comparing positions in ``node`` leaves to attend to: what came before, or a window."""
    if node.op_type == "Trilu" or any(_is_square(tensor) for tensor in _held(flow, node)):
        return CAUSAL
    if node.op_type not in COMPARING:
        return None
    sides = {_positions(flow, name, DEEPEST) for name in node.input}
    if sides == {"position"}:
        return CAUSAL
    return WINDOW if "shifted" in sides and sides <= {"shifted", "position", "number"} else None


def _positions(flow: Flow, name: str, deep: int) -> str:
    """What a side of a comparison is: a ``position`` as counted, or the next to it; one ``shifted`` by more, or a distance; a
    ``number``; or ``other``."""
    name = flow.wiring.origin(name, VIEWS)
    node = flow.maker(name)
    if flow.number(name) is not None:
        return "number"
    if node is None:
        return "other"
    if node.op_type == "Range":
        return "position"
    sides = [_positions(flow, side, deep - 1) for side in node.input] if deep and node.op_type in SHIFTING else ["other"]
    if not set(sides) <= {"position", "number", "shifted"}:
        return "other"
    by_one = any(abs(flow.number(side) or 2) == 1 for side in node.input)
    return "position" if by_one and sorted(sides) == ["number", "position"] else "shifted"
