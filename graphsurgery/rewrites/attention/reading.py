"""Read the nodes of a decomposed attention: those between the product of queries and keys and the product with values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.attention import Attention
from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.scores import CAUSAL, LONGEST, PADDING, WINDOW, find_terms
from graphsurgery.errors import MissingDataError
from graphsurgery.graph.attributes import get_input, get_int
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import (
    ARITHMETIC,
    COMMUTING,
    COPYING,
    FLOORING,
    NOT_A_NUMBER,
    SCALING,
    VIEWS,
    get_operator,
)
from graphsurgery.graph.symbolic import Sizes

HIDING = -1e18
"""A masked score of at most this number hides its key whatever the score was before: adding the score changes nothing, even for
a query that sees no key."""
LOW = -1e4
"""A masked score of at most this number, or that is lowered by as much, hides its key from queries that see another one. Then
it makes no difference whether the number replaces a score or is added to it."""
SHOWING = frozenset({CAUSAL, PADDING, WINDOW})
"""The kinds of masks that show each token at least itself. Only padding may see no key."""
SOFTMAX_OF_LAST_AXIS = 13
"""From this opset on, a Softmax takes the last axis unless it says another."""


MULTIPLIED = "its scores are multiplied by something else than one positive number, or a mask whose zeros are hidden next"


class NotConvertibleError(Exception):
    """An attention that must stay as it is. The message says why."""


class Kind(StrEnum):
    """What a step does to the scores."""

    SCALE = "scale"
    ADD = "add"
    SUBTRACT = "subtract"
    HIDE = "hide"
    """Put a number in place of some scores."""
    FLOOR = "floor"
    """Put a number in place of smaller scores."""
    KEEP = "keep"
    """Multiply by 1 or 0. What is added next hides the scores that were multiplied by 0."""
    RESHAPE = "reshape"


@dataclass(frozen=True, eq=False)
class Step:
    """One node on the way from the product of queries and keys to the softmax."""

    kind: Kind
    value: ir.Value | None = None
    """The value that is added to scores or multiplied with them, the condition under which they are hidden, or the target of a
    Reshape."""
    number: float = 1.0
    """The factor, or the number in place of scores."""
    hides_if: bool = False
    """The value of the condition that hides a score."""
    dims: Sizes | None = None
    """The dims of the scores after a Reshape."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What the nodes between the two products of an attention do."""

    steps: tuple[Step, ...]
    """From the product of queries and keys to the softmax, in the order in which they run."""
    zeroes: bool
    """Whether weights that are not a number become 0. The softmax gives such weights to a query that sees no key."""
    dims: Sizes
    """The dims of the scores: [batch, heads, queries, keys], or [batch x heads, queries, keys]."""
    shapes: tuple[ir.Node, ...]
    """The nodes outside of the attention that read the shape of its scores or weights, with these dims."""


def read_attention(flow: Flow, facts: Facts, attention: Attention) -> Reading:
    """Return what happens between the two products of ``attention``.

    Raises NotConvertibleError if a step cannot be a factor or something added to the scores, or if something else reads the
    scores or the weights, so that they are computed anyway.
    """
    values, taken = _read_scores(flow, facts, attention)
    dims, steps = _choose_form(facts[values[0]].dims, taken, facts[values[-1]].dims)
    weights, zeroes = _read_weights(flow, facts, attention)
    shapes: list[ir.Node] = []
    for value in (*values, *weights):
        outside = [node for node in flow.graph.consumers(value) if get_operator(node) == "Shape" and not node.attributes]
        shapes += outside if facts[value].dims == dims else ()
        inside = [one for one in flow.graph.all_consumers(value) if get_operator(one) != NOT_A_NUMBER and one not in shapes]
        if len(inside) > 1 or value.is_graph_output():
            raise NotConvertibleError("something else reads its scores or its weights")
    return Reading(steps, zeroes, dims, tuple(shapes))


def _choose_form(dims: Sizes | None, steps: Sequence[Step], last: Sizes | None) -> tuple[Sizes, tuple[Step, ...]]:
    """Return (the dims of the scores in the form that an operator takes, the steps to that form and those after it).

    That form is the last one with the dims [batch, heads, queries, keys], if the product, with ``dims``, or a Reshape gives
    them. A later Reshape that joins batch and heads is left out. Otherwise the form is [batch x heads, queries, keys]. ``last``
    are the dims of the input of the softmax.
    """
    forms = [(0, dims), *((place, step.dims) for place, step in enumerate(steps, 1) if step.kind is Kind.RESHAPE)]
    place, chosen = max(forms, key=lambda form: (len(form[1] or ()) == 4, form[0]))
    if chosen is None or len(chosen) not in (3, 4):
        raise NotConvertibleError("its scores do not have the dims [batch, heads, queries, keys], nor three with batch x heads")
    joined = False
    for step in steps[place:]:
        if step.kind is Kind.RESHAPE and (step.dims is None or step.dims[1:] != chosen[2:]):
            raise NotConvertibleError("its scores are reshaped in a way that is not understood")
        if joined and step.kind in (Kind.ADD, Kind.SUBTRACT, Kind.HIDE):
            raise NotConvertibleError("something is added to its scores where batch and heads are one dim")
        joined = joined or step.kind is Kind.RESHAPE
    if not joined and (last is None or len(last) != len(chosen)):
        raise NotConvertibleError("the dims of its scores change where something is added to them")
    return chosen if joined or last is None else last, (
        *steps[:place],
        *(step for step in steps[place:] if step.kind is not Kind.RESHAPE),
    )


def _read_scores(flow: Flow, facts: Facts, attention: Attention) -> tuple[list[ir.Value], tuple[Step, ...]]:
    """Return (the values from the product of queries and keys to the softmax, the steps between them)."""
    softmax, scores = attention.node, attention.scores
    if scores is None or get_operator(scores.product) != "MatMul":
        raise NotConvertibleError("queries and keys are not multiplied as two matrices, by a MatMul or an Einsum")
    axis = get_int(softmax, "axis", -1 if flow.graph.opset >= SOFTMAX_OF_LAST_AXIS else 1)
    if axis not in (-1, len(facts[softmax.inputs[0]].dims or ()) - 1):
        raise NotConvertibleError(f"its softmax is taken over axis {axis}, not over the keys")
    path = _find_path(flow, softmax.inputs[0], scores.product, set())
    if path is None:
        raise NotConvertibleError("the way from its product to its softmax is not understood")
    steps = [step for node, operand in path if (step := _read_step(flow, facts, node, operand)) is not None]
    values = [scores.product.outputs[0], *(node.outputs[0] for node, _ in path)]
    return values, tuple(_join_masks(flow, steps))


def _join_masks(flow: Flow, steps: Sequence[Step]) -> Iterator[Step]:
    """Yield the steps without those that keep only some scores: the step after them hides the other scores from every query.

    scores mask + number (1 - mask)     mask is 0 or 1
    """
    for place, step in enumerate(steps):
        if step.kind is not Kind.KEEP:
            yield step
            continue
        added = steps[place + 1] if place + 1 < len(steps) else step
        sign = {Kind.ADD: 1, Kind.SUBTRACT: -1}.get(added.kind, 0)
        number = _read_where_zero(flow, added.value, step.value)
        if number is None or sign * number > _find_limit(flow, step.value):
            raise NotConvertibleError(MULTIPLIED)


def _read_weights(flow: Flow, facts: Facts, attention: Attention) -> tuple[list[ir.Value], bool]:
    """Return (the values from the softmax to the product with values, whether those that are not a number become 0)."""
    softmax, weighting = attention.node, attention.weighting
    if weighting is None or get_operator(weighting.product) != "MatMul":
        raise NotConvertibleError("weights and values are not multiplied as two matrices, by a MatMul or an Einsum")
    value, values, zeroes = get_input(weighting.product, 0), [softmax.outputs[0]], False
    while value is not None and value is not softmax.outputs[0]:
        node = value.producer()
        values.append(value)
        if node is None:
            break
        before = _find_checked(flow, node) if get_operator(node) == "Where" else get_input(node, 0)
        if before is None or not (get_operator(node) == "Where" or _keeps(facts, node)):
            raise NotConvertibleError(f"a {get_operator(node)} changes its weights")
        zeroes = zeroes or get_operator(node) == "Where"
        value = before
    if value is not softmax.outputs[0]:
        raise NotConvertibleError("the weights are not the first operand of the product with values")
    return values, zeroes


def read_number(flow: Flow, value: ir.Value | None) -> float | None:
    """Return the number of a constant with one element, or the square root of one. None if ``value`` is anything else."""
    node = flow.find_producer(value, "Sqrt")
    number = flow.scalar(value if node is None else get_input(node, 0))
    return number if number is None or node is None else number**0.5


def _find_path(
    flow: Flow, value: ir.Value | None, product: ir.Node, seen: set[ir.Value]
) -> list[tuple[ir.Node, ir.Value]] | None:
    """Return the nodes from ``product`` to ``value``, each with the operand that is made of the product. None without any."""
    node = value.producer() if value is not None else None
    if node is product:
        return []
    if node is None or value in seen or len(seen) == LONGEST or value is None:
        return None
    seen.add(value)
    for operand in flow.token_inputs(node):
        path = _find_path(flow, operand, product, seen)
        if path is not None:
            return [*path, (node, operand)]
    return None


def _read_step(flow: Flow, facts: Facts, node: ir.Node, operand: ir.Value) -> Step | None:
    """Return what ``node`` does to the scores ``operand``. None for a copy."""
    operator, others = get_operator(node), [one for one in node.inputs if one is not None and one is not operand]
    is_first = node.inputs[0] is operand
    if operator in COPYING and is_first and facts[operand].dtype == facts[node.outputs[0]].dtype:
        return None
    if operator == "Reshape" and is_first:
        return Step(Kind.RESHAPE, node.inputs[1], dims=facts[node.outputs[0]].dims)
    if operator == "Where" and not is_first and len(others) == 2:
        return _read_where(flow, node, operand)
    if operator in FLOORING and len(node.inputs) == 2 and len(others) == 1 and (is_first or operator == "Max"):
        return Step(Kind.FLOOR, number=_require_hiding(flow, others[0]))
    if len(others) == 1 and operator in ARITHMETIC and (is_first or operator in COMMUTING):
        return _read_arithmetic(flow, facts, operator, others[0])
    raise NotConvertibleError(f"a {operator} changes its scores")


def _read_arithmetic(flow: Flow, facts: Facts, operator: str, other: ir.Value) -> Step:
    """Return what an Add, Sub, Mul or Div with ``other`` does."""
    if operator not in SCALING:
        return Step(Kind.ADD if operator == "Add" else Kind.SUBTRACT, other)
    number = read_number(flow, other)
    if number is None and operator == "Mul" and _is_one_or_zero(flow, facts, other):
        return Step(Kind.KEEP, other)
    if number is None or number <= 0:
        raise NotConvertibleError(MULTIPLIED)
    return Step(Kind.SCALE, number=number if operator == "Mul" else 1 / number)


def _read_where(flow: Flow, node: ir.Node, operand: ir.Value) -> Step:
    """Return what a Where does that puts a constant in place of scores."""
    kept = list(node.inputs).index(operand)
    number = _require_hiding(flow, node.inputs[3 - kept], _find_limit(flow, node.inputs[0]))
    return Step(Kind.HIDE, node.inputs[0], number, hides_if=kept == 2)


def _is_one_or_zero(flow: Flow, facts: Facts, value: ir.Value) -> bool:
    """Return whether ``value`` is made of truth values, of a stored mask of ones and zeros, or of an input that is a mask."""
    origin = flow.graph.origin(value, VIEWS)
    stored = flow.graph.tensor(origin)
    if stored is None:
        return origin.is_graph_input() or facts[origin].dtype == onnx.TensorProto.BOOL
    try:
        return set(np.unique(flow.model.values(stored)).tolist()) <= {0, 1}
    except MissingDataError:
        return False


def _read_where_zero(flow: Flow, value: ir.Value | None, mask: ir.Value | None) -> float | None:
    """Return the number that ``value`` has where ``mask`` is 0, if it is that number times 1 - mask. Otherwise None."""
    node = flow.find_producer(value, "Mul")
    for product, number in () if node is None else ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        difference, factor = flow.find_producer(product, "Sub"), flow.scalar(number)
        if difference is None or factor is None or mask is None:
            continue
        sides = [one is not None and flow.graph.origin(one) is flow.graph.origin(mask) for one in difference.inputs]
        if sides == [False, True] and flow.scalar(difference.inputs[0]) == 1:
            return factor
        if sides == [True, False] and flow.scalar(difference.inputs[1]) == 1:
            return -factor
    return None


def _find_limit(flow: Flow, mask: ir.Value | None) -> float:
    """Return the largest number that hides the keys that ``mask`` selects."""
    kinds = {kind for term in find_terms(flow, [mask] if mask is not None else []) for kind in term.kinds}
    return LOW if kinds and kinds <= SHOWING else HIDING


def _require_hiding(flow: Flow, value: ir.Value | None, limit: float = HIDING) -> float:
    number = flow.scalar(value)
    if number is None or number > limit:
        found = "computed numbers" if number is None else f"{number:g}"
        raise NotConvertibleError(f"it puts {found} in place of masked scores, which an added mask cannot do")
    return number


def _find_checked(flow: Flow, node: ir.Node) -> ir.Value | None:
    """Return x if ``node`` is Where(IsNaN(x), 0, x)."""
    check = flow.find_producer(node.inputs[0], NOT_A_NUMBER)
    is_zero = flow.scalar(node.inputs[1]) == 0
    return node.inputs[2] if check is not None and is_zero and check.inputs[0] is node.inputs[2] else None


def _keeps(facts: Facts, node: ir.Node) -> bool:
    """Return whether a node keeps the numbers of its first input, and its last two dims."""
    before, after = facts[node.inputs[0]], facts[node.outputs[0]]
    if get_operator(node) in COPYING:
        return before.dtype == after.dtype
    known = before.dims is not None and after.dims is not None
    return get_operator(node) == "Reshape" and known and (before.dims or ())[-2:] == (after.dims or ())[-2:]
