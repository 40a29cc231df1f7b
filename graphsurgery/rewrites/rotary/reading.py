"""Read a rotation by position off its nodes.

    halves: y[i] = x[i] cos[i] - x[i + r/2] sin[i],       y[i + r/2] = x[i + r/2] cos[i] + x[i] sin[i]          i < r/2
    pairs:  y[2i] = x[2i] cos[i] - x[2i + 1] sin[i],      y[2i + 1] = x[2i + 1] cos[i] + x[2i] sin[i]

Numbers from r on stay as they are. cos and sin are rows of a table: one row for each position, or one for each position of each
text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.rotations import Rotation
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import ROTATING, SAME_ORDER, get_operator
from graphsurgery.graph.symbolic import Sizes
from graphsurgery.rewrites.attention.reading import NotConvertibleError
from graphsurgery.rewrites.rotary.lanes import Factor, Table, Term, Tracer

LONGEST = 40
"""A rotation has no more nodes."""
BEHIND = 3
"""A Concat with the numbers that are not rotated, and nodes that join pairs, come up to this many nodes after the last sum."""
OTHER_TABLE = "its cosines, or its sines, are not all in one table"


@dataclass(frozen=True, eq=False)
class Waves:
    """Cosines or sines: lanes of a table, one for each pair of numbers that is rotated."""

    value: ir.Value
    lanes: int
    """How many lanes the table has."""
    places: range
    """The lanes in use."""
    rows: Sizes
    """The dims of the table before its lanes, as many as what is rotated has before its last one."""
    negated: bool = False


@dataclass(frozen=True, eq=False)
class Reading:
    """A rotation: what its nodes compute."""

    end: ir.Node
    """Its last node."""
    source: ir.Value
    """x. The result has the same dims."""
    dims: Sizes
    rotated: int
    """r: how many of the last dim's numbers are rotated."""
    paired: bool
    """Whether neighbours are rotated together, and not the halves."""
    cosines: Waves
    sines: Waves
    axis: int
    """The axis of x that counts the positions."""


def read_rotation(flow: Flow, facts: Facts, rotation: Rotation) -> Reading:
    """Return what the nodes of ``rotation`` compute, with a Concat after it that adds numbers which are not rotated.

    Raises NotConvertibleError if that is not what the operators compute.
    """
    ends = list(_list_ends(flow, rotation.node))
    for end in reversed(ends[1:]):
        try:
            return _read(flow, facts, end)
        except NotConvertibleError:
            continue
    return _read(flow, facts, ends[0])


def _list_ends(flow: Flow, node: ir.Node) -> Iterator[ir.Node]:
    """Yield ``node`` and the nodes after it that may belong to the rotation, up to a value that other nodes read as well."""
    yield node
    for _ in range(BEHIND):
        readers = flow.graph.consumers(node.outputs[0])
        if len(readers) != 1 or get_operator(readers[0]) not in SAME_ORDER | {"Concat"}:
            return
        node = readers[0]
        yield node


def _read(flow: Flow, facts: Facts, end: ir.Node) -> Reading:
    source = _find_source(flow, facts, end)
    dims = facts[source].dims
    if dims is None or len(dims) < 3 or facts[end.outputs[0]].dims != dims:
        raise NotConvertibleError("its result does not have the dims of what is rotated, as far as they are known")
    tracer = Tracer(flow, facts, source)
    terms: list[tuple[Term, ...]] = list(tracer.trace(end.outputs[0]).ravel())
    if len(terms) != dims[-1]:
        raise NotConvertibleError("its result is not one vector for each vector that is rotated")
    rotated = next((place for place, those in enumerate(terms) if len(those) == 1), len(terms))
    if not rotated or rotated % 2 or any(those != (Term(1, place),) for place, those in enumerate(terms[rotated:], rotated)):
        raise NotConvertibleError("it does not rotate the first numbers of each head and leave the others as they are")
    paired = next((term.lane for term in terms[0] if term.lane), 0) == 1 and rotated > 2
    cosines, sines, negated = _read_pairs(terms[:rotated], paired)
    cosine, sine = _join_waves(cosines, tracer.rows), _join_waves(sines, tracer.rows, negated)
    return Reading(end, source, dims, rotated, paired, cosine, sine, _find_axis(tracer.rows, cosine, sine))


def _find_source(flow: Flow, facts: Facts, end: ir.Node) -> ir.Value:
    """Return x: the last value before ``end`` that everything made of tokens comes through, tables left out."""
    order = {node: place for place, node in enumerate(flow.graph.nodes)}
    ahead, parted = {end.outputs[0]}, False
    for _ in range(LONGEST):
        last = max(ahead, key=lambda value: order.get(producer, -1) if (producer := value.producer()) is not None else -1)
        if parted and len(ahead) == 1:
            return _step_over_views(facts, last, facts[end.outputs[0]].dims)
        node = last.producer()
        if node is None or get_operator(node) not in ROTATING:
            raise NotConvertibleError(f"a {'value' if node is None else get_operator(node)} is among its nodes")
        ahead = (ahead - {last}) | set(_list_rotated(flow, facts, node))
        parted = parted or len(ahead) > 1
    raise NotConvertibleError("what is rotated is not found")


def _list_rotated(flow: Flow, facts: Facts, node: ir.Node) -> list[ir.Value]:
    """Return the inputs of ``node`` that are made of tokens. Cosines that were looked up in a table are left out of a Mul."""
    tokens = flow.token_inputs(node)
    if get_operator(node) != "Mul" or len(tokens) < 2:
        return tokens
    return [one for one in tokens if facts[one].dims == facts[node.outputs[0]].dims]


def _step_over_views(facts: Facts, value: ir.Value, dims: Sizes | None) -> ir.Value:
    """Return what ``value`` is in another shape, if that has ``dims``."""
    node = value.producer()
    before = node.inputs[0] if node is not None and get_operator(node) in SAME_ORDER else None
    return before if before is not None and facts[value].dims != dims and facts[before].dims == dims else value


def _read_pairs(terms: Sequence[tuple[Term, ...]], paired: bool) -> tuple[list[Factor], list[Factor], bool]:
    """Return the cosines and sines of the pairs, and whether the sines are negated."""
    half = len(terms) // 2
    firsts = range(0, len(terms), 2) if paired else range(half)
    step = 1 if paired else half
    cosines: list[Factor] = []
    sines: list[Factor] = []
    signs: set[int] = set()
    for first in firsts:
        (cosine, sine), (other_cosine, other_sine) = (
            _read_lane(terms[lane], lane, partner) for lane, partner in ((first, first + step), (first + step, first))
        )
        is_same = _is_same(cosine, other_cosine) and _is_same(sine, other_sine)
        if not is_same or cosine.sign < 0 or other_cosine.sign < 0 or sine.sign == other_sine.sign:
            raise NotConvertibleError("the two numbers of a pair are not turned by one angle, as far as the nodes tell")
        cosines.append(_get_factor(cosine))
        sines.append(_get_factor(sine))
        signs.add(sine.sign)
    if len(signs) > 1:
        raise NotConvertibleError("some pairs are turned one way, and some the other way")
    return cosines, sines, signs == {1}


def _read_lane(terms: tuple[Term, ...], lane: int, partner: int) -> tuple[Term, Term]:
    """Return the terms of a lane: the one with its own number, and the one with that of its partner."""
    own = [term for term in terms if term.lane == lane]
    others = [term for term in terms if term.lane == partner]
    if len(terms) != 2 or len(own) != 1 or len(others) != 1 or own[0].factor is None or others[0].factor is None:
        raise NotConvertibleError("it does not turn the numbers of each head in pairs")
    return own[0], others[0]


def _get_factor(term: Term) -> Factor:
    if term.factor is None:
        raise NotConvertibleError("a number is not multiplied")
    return term.factor


def _is_same(one: Term, other: Term) -> bool:
    return _get_factor(one).made_of == _get_factor(other).made_of


def _join_waves(factors: Sequence[Factor], rows: Sizes, negated: bool = False) -> Waves:
    """Return the lanes of one table that hold ``factors``, in steps."""
    table: Table = factors[0].table
    places = [one.place for one in factors]
    step = places[1] - places[0] if len(places) > 1 else 1
    if any(one.table.value is not table.value for one in factors) or step < 1:
        raise NotConvertibleError(OTHER_TABLE)
    used = range(places[0], places[0] + step * len(places), step)
    if list(used) != places or len(table.rows) > len(rows):
        raise NotConvertibleError(OTHER_TABLE)
    padded = (1,) * (len(rows) - len(table.rows)) + table.rows
    return Waves(table.value, table.lanes.size, used, padded, negated)


def _find_axis(rows: Sizes, cosines: Waves, sines: Waves) -> int:
    """Return the axis along which the angles differ: axis 1, or axis 2 of ``[batch, heads, positions, size]``."""
    axes = [axis for axis, size in enumerate(cosines.rows) if axis and size != 1]
    if cosines.rows != sines.rows or len(axes) != 1 or cosines.rows[axes[0]] != rows[axes[0]]:
        raise NotConvertibleError("its angles do not differ by position alone, as far as the dims tell")
    if axes[0] != 1 and (axes[0], len(rows)) != (2, 3):
        raise NotConvertibleError(f"its positions are counted by axis {axes[0]} of {len(rows) + 1}, as in no operator")
    if cosines.rows[0] not in (1, rows[0]):
        raise NotConvertibleError("its angles are not those of as many texts, as far as the dims tell")
    return axes[0]
