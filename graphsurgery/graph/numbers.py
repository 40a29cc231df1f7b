"""Integers that shape subgraphs compute, followed through the graph: literals where they are known, else sizes.

Followed are scalars and vectors of int64, int32 and bool, of `MOST` elements at most; a bool is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from graphsurgery.graph.attributes import array_of, tensor_proto
from graphsurgery.graph.call import Call
from graphsurgery.graph.sizes import Size, Sizes, Symbols

MOST = 64
"""Elements of what is followed."""
BOOL, INT32, INT64 = (int(getattr(onnx.TensorProto, name)) for name in ("BOOL", "INT32", "INT64"))
LIMITS = {BOOL: 2, INT32: 1 << 31, INT64: 1 << 63}
"""Literals of these types are less than this, and not less than it negated."""
Numbers = Sizes | None
Two = Callable[[Symbols, Size, Size], Size]


def shape_of(call: Call) -> Numbers:
    """``Shape(x)`` or a part of it"""
    dims = call.dims()
    if dims is None:
        return None
    end = call.integer("end", len(dims))
    return dims[slice(call.integer("start", 0), end)]


def element_count(call: Call) -> Numbers:
    """``Size(x)``"""
    dims = call.dims()
    return None if dims is None else (call.symbols.product(dims),)


def same(call: Call) -> Numbers:
    """What only changes how its elements lie, or nothing at all."""
    return call.values(0)


def cast(call: Call) -> Numbers:
    """``Cast(x)``: literals that both types hold; an int64 stays what it is as an int64."""
    values, to, source = call.values(0), call.integer("to", 0), call.dtype()
    if values is None or to not in LIMITS or to == source:
        return values if to == source else None
    return tuple(_cast(call.symbols, value, to, source) for value in values)


def _cast(symbols: Symbols, value: Size, to: int, source: int) -> Size:
    if isinstance(value, int):
        return int(value != 0) if to == BOOL else value
    if source == BOOL or (source, to) == (INT32, INT64):
        return value
    return symbols.computed(f"({value}:{to})")


def gathered(call: Call) -> Numbers:
    """``Gather(x, indices)`` of a vector"""
    values, places = call.values(0), call.literals(1)
    if values is None or places is None or not all(-len(values) <= place < len(values) for place in places):
        return None
    return tuple(values[place] for place in places)


def sliced(call: Call) -> Numbers:
    """``Slice(x, starts, ends, axes, steps)`` of a vector"""
    values, starts, ends = call.values(0), call.listed("starts", 1), call.listed("ends", 2)
    steps = call.literals(4) if call.gives(4) else [1]
    if values is None or None in (starts, ends, steps) or not (starts and ends and steps) or steps[0] <= 0:
        return None
    return values[starts[0] : ends[0] : steps[0]]


def joined(call: Call) -> Numbers:
    """``Concat(x, y, ...)`` of vectors"""
    found: list[Size] = []
    for values in call.numbers:
        if values is None:
            return None
        found += values
    return tuple(found)


def filled(call: Call) -> Numbers:
    """``ConstantOfShape([n])``"""
    times, value = call.literals(0), call.node.attributes.get("value")
    if times is None or len(times) > 1 or any(not 0 <= one <= MOST for one in times) or value is None:
        return None
    tensor = tensor_proto(value.as_tensor())
    held = array_of(tensor) if tensor.data_type in LIMITS else None
    if held is None or held.size != 1:
        return None
    return (int(held.item()),) * (times[0] if times else 1)


def chosen(call: Call) -> Numbers:
    """``Where(condition, x, y)``"""
    aligned = _aligned(call, 3)
    if aligned is None:
        return None
    return tuple(_choice(call.symbols, *three) for three in aligned)


def _choice(symbols: Symbols, condition: Size, one: Size, other: Size) -> Size:
    if one == other or isinstance(condition, int):
        return one if condition != 0 or one == other else other
    return symbols.computed(f"({condition}?{one}:{other})")


def _aligned(call: Call, count: int) -> list[tuple[Size, ...]] | None:
    """The elements of ``count`` inputs that meet: vectors of one length, or of one element."""
    given = [call.values(place) for place in range(count)]
    length = max((len(values) for values in given if values is not None), default=0)
    spread = [values * length if values is not None and len(values) == 1 else values for values in given]
    if any(values is None or len(values) != length for values in spread):
        return None
    return list(zip(*(values for values in spread if values is not None), strict=True))


def _elementwise(compute: Two) -> Callable[[Call], Numbers]:
    """The rule for an operator on two inputs, element by element."""

    def rule(call: Call) -> Numbers:
        aligned = _aligned(call, 2) if len(call.node.inputs) == 2 else None
        return None if aligned is None else tuple(compute(call.symbols, *pair) for pair in aligned)

    return rule


def _sum(symbols: Symbols, one: Size, other: Size) -> Size:
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    if 0 in (one, other):
        return other if one == 0 else one
    signed = not (symbols.is_count(one) and symbols.is_count(other))
    return symbols.computed("({}+{})".format(*sorted(map(str, (one, other)))), signed)


def _difference(symbols: Symbols, one: Size, other: Size) -> Size:
    if isinstance(one, int) and isinstance(other, int):
        return one - other
    if one == other:
        return 0
    return one if other == 0 else symbols.computed(f"({one}-{other})")


def _product(symbols: Symbols, one: Size, other: Size) -> Size:
    return symbols.product((one, other))


def _quotient(symbols: Symbols, one: Size, other: Size) -> Size:
    """Rounded to zero; a divisor of 0 is for the run to find."""
    if isinstance(one, int) and isinstance(other, int) and one >= 0 and other > 0:
        return one // other
    found = symbols.quotient(one, other)
    if found is not None:
        return found
    return symbols.computed(f"({one}/{other})", signed=not (symbols.is_count(one) and symbols.is_count(other)))


def _equal(symbols: Symbols, one: Size, other: Size) -> Size:
    if one == other or (isinstance(one, int) and isinstance(other, int)):
        return int(one == other)
    if any(isinstance(a, int) and a < 0 and symbols.is_count(b) for a, b in ((one, other), (other, one))):
        return 0
    return symbols.computed("({}={})".format(*sorted(map(str, (one, other)))), signed=False)


def _extreme(pick: Callable[[int, int], int], sign: str) -> Callable[[Symbols, Size, Size], Size]:
    """``Min`` or ``Max``."""

    def picked(symbols: Symbols, one: Size, other: Size) -> Size:
        if isinstance(one, int) and isinstance(other, int):
            return pick(one, other)
        if one == other:
            return one
        first, second = sorted(map(str, (one, other)))
        return symbols.computed(f"({first}{sign}{second})")

    return picked


def _inverted(call: Call) -> Numbers:
    """``Not(x)``"""
    values = call.values(0)
    if values is None:
        return None
    return tuple(1 - one if isinstance(one, int) else call.symbols.computed(f"(!{one})", signed=False) for one in values)


def _negated(call: Call) -> Numbers:
    """``Neg(x)``"""
    values = call.values(0)
    return None if values is None else tuple(call.symbols.product((-1, one)) for one in values)


RULES: dict[str, Callable[[Call], Numbers]] = {
    "Add": _elementwise(_sum), "Cast": cast, "Concat": joined, "ConstantOfShape": filled, "Div": _elementwise(_quotient),
    "Equal": _elementwise(_equal), "Gather": gathered, "Identity": same, "Max": _elementwise(_extreme(max, ">")),
    "Min": _elementwise(_extreme(min, "<")), "Mul": _elementwise(_product), "Neg": _negated, "Not": _inverted, "Reshape": same,
    "Shape": shape_of, "Size": element_count, "Slice": sliced, "Squeeze": same, "Sub": _elementwise(_difference),
    "Unsqueeze": same, "Where": chosen,
}  # fmt: skip
"""The integers of the first output, by operator."""
