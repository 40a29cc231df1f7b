"""Rules for the integers that shape subgraphs compute: as literals if they are known, else as symbolic sizes.

They apply to scalars and vectors of int64, int32 and bool with at most `MOST_ELEMENTS` elements. A bool is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from graphsurgery.graph.attributes import read_array, to_tensor_proto
from graphsurgery.graph.symbolic import InferenceContext, Size, Sizes, Symbols

MOST_ELEMENTS = 64
BOOL, INT32, INT64 = (int(getattr(onnx.TensorProto, name)) for name in ("BOOL", "INT32", "INT64"))
LIMITS = {BOOL: 2, INT32: 1 << 31, INT64: 1 << 63}
"""A literal n of one of these types satisfies -limit <= n < limit."""
Rule = Callable[[InferenceContext], Sizes | None]


def compute_shape(context: InferenceContext) -> Sizes | None:
    """Compute ``Shape(x)``, or the part of it from ``start`` to ``end``."""
    dims = context.dims()
    if dims is None:
        return None
    return dims[context.get_int("start", 0) : context.get_int("end", len(dims))]


def compute_size(context: InferenceContext) -> Sizes | None:
    """Compute ``Size(x)``."""
    dims = context.dims()
    return None if dims is None else (context.symbols.multiply(dims),)


def copy_elements(context: InferenceContext) -> Sizes | None:
    """Return the elements of an operator that changes at most the shape of its input."""
    return context.values(0)


def compute_cast(context: InferenceContext) -> Sizes | None:
    """Compute ``Cast(x)``: literals are converted. A symbol is kept only if the new type has every value of the old one."""
    values, to, source = context.values(0), context.get_int("to", 0), context.dtype()
    if to == source or values is None:
        return values
    return tuple(_cast(context.symbols, value, to, source) for value in values) if to in LIMITS else None


def _cast(symbols: Symbols, value: Size, to: int, source: int) -> Size:
    if isinstance(value, int):
        return int(value != 0) if to == BOOL else value
    if source == BOOL or (source, to) == (INT32, INT64):
        return value
    return symbols.name_expression(f"({value}:{to})")


def compute_gather(context: InferenceContext) -> Sizes | None:
    """Compute ``Gather(x, indices)`` of a vector."""
    values, indices = context.values(0), context.literals(1)
    if values is None or indices is None or not all(-len(values) <= index < len(values) for index in indices):
        return None
    return tuple(values[index] for index in indices)


def compute_slice(context: InferenceContext) -> Sizes | None:
    """Compute ``Slice(x, starts, ends, axes, steps)`` of a vector."""
    values, starts, ends = context.values(0), context.get_ints("starts", 1), context.get_ints("ends", 2)
    steps = context.literals(4) if context.has_input(4) else (1,)
    if values is None or not (starts and ends and steps) or steps[0] <= 0:
        return None
    return values[starts[0] : ends[0] : steps[0]]


def compute_concat(context: InferenceContext) -> Sizes | None:
    """Compute ``Concat(x, y, ...)`` of vectors."""
    joined: list[Size] = []
    for values in context.numbers:
        if values is None:
            return None
        joined += values
    return tuple(joined)


def compute_constant_of_shape(context: InferenceContext) -> Sizes | None:
    """Compute ``ConstantOfShape([n])``."""
    shape, value = context.literals(0), context.node.attributes.get("value")
    if shape is None or len(shape) > 1 or any(not 0 <= size <= MOST_ELEMENTS for size in shape) or value is None:
        return None
    tensor = to_tensor_proto(value.as_tensor())
    array = read_array(tensor) if tensor.data_type in LIMITS else None
    if array is None or array.size != 1:
        return None
    return (int(array.item()),) * (shape[0] if shape else 1)


def compute_not(context: InferenceContext) -> Sizes | None:
    """Compute ``Not(x)``."""
    values = context.values(0)
    if values is None:
        return None
    name = context.symbols.name_expression
    return tuple(1 - one if isinstance(one, int) else name(f"(!{one})", signed=False) for one in values)


def compute_neg(context: InferenceContext) -> Sizes | None:
    """Compute ``Neg(x)``."""
    values = context.values(0)
    return None if values is None else tuple(context.symbols.multiply((-1, one)) for one in values)


def _make_elementwise_rule(compute: Callable[..., Size], inputs: int = 2) -> Rule:
    """Return the rule for an operator that computes each element by ``compute(symbols, x, y, ...)``."""

    def rule(context: InferenceContext) -> Sizes | None:
        elements = _broadcast_inputs(context, inputs) if len(context.node.inputs) == inputs else None
        return None if elements is None else tuple(compute(context.symbols, *operands) for operands in elements)

    return rule


def _broadcast_inputs(context: InferenceContext, count: int) -> list[tuple[Size, ...]] | None:
    """Return the operands of each element of the result: vectors of one length, or of a single element, broadcast."""
    vectors = [values for index in range(count) if (values := context.values(index)) is not None]
    length = max((len(values) for values in vectors), default=0)
    vectors = [values * length if len(values) == 1 else values for values in vectors]
    if len(vectors) < count or any(len(values) != length for values in vectors):
        return None
    return list(zip(*vectors, strict=True))


def _where(symbols: Symbols, condition: Size, one: Size, other: Size) -> Size:
    if one == other or isinstance(condition, int):
        return one if condition != 0 or one == other else other
    return symbols.name_expression(f"({condition}?{one}:{other})")


def _add(symbols: Symbols, one: Size, other: Size) -> Size:
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    if 0 in (one, other):
        return other if one == 0 else one
    return symbols.name_expression(_name_commutative("+", one, other), signed=not symbols.is_nonnegative(one, other))


def _subtract(symbols: Symbols, one: Size, other: Size) -> Size:
    if isinstance(one, int) and isinstance(other, int):
        return one - other
    if one == other:
        return 0
    return one if other == 0 else symbols.name_expression(f"({one}-{other})")


def _multiply(symbols: Symbols, one: Size, other: Size) -> Size:
    return symbols.multiply((one, other))


def _divide(symbols: Symbols, one: Size, other: Size) -> Size:
    """Return the quotient, rounded towards zero. A divisor of 0 is left to the run."""
    if isinstance(one, int) and isinstance(other, int) and one >= 0 and other > 0:
        return one // other
    quotient = symbols.divide(one, other)
    if quotient is not None:
        return quotient
    return symbols.name_expression(f"({one}/{other})", signed=not symbols.is_nonnegative(one, other))


def _equal(symbols: Symbols, one: Size, other: Size) -> Size:
    if one == other or (isinstance(one, int) and isinstance(other, int)):
        return int(one == other)
    if any(isinstance(a, int) and a < 0 and symbols.is_nonnegative(b) for a, b in ((one, other), (other, one))):
        return 0
    return symbols.name_expression(_name_commutative("=", one, other), signed=False)


def _make_extremum(pick: Callable[[int, int], int], sign: str) -> Callable[[Symbols, Size, Size], Size]:
    """Return the function that computes an element of ``Min`` or ``Max``."""

    def compute(symbols: Symbols, one: Size, other: Size) -> Size:
        if isinstance(one, int) and isinstance(other, int):
            return pick(one, other)
        return one if one == other else symbols.name_expression(_name_commutative(sign, one, other))

    return compute


def _name_commutative(sign: str, one: Size, other: Size) -> str:
    """Return the expression of two operands, which is the same whichever of them comes first."""
    first, second = sorted((str(one), str(other)))
    return f"({first}{sign}{second})"


ELEMENTWISE = {
    "Add": _add, "Div": _divide, "Equal": _equal, "Max": _make_extremum(max, ">"), "Min": _make_extremum(min, "<"),
    "Mul": _multiply, "Sub": _subtract,
}  # fmt: skip
VALUE_RULES: dict[str, Rule] = {
    **{name: _make_elementwise_rule(compute) for name, compute in ELEMENTWISE.items()},
    "Cast": compute_cast, "Concat": compute_concat, "ConstantOfShape": compute_constant_of_shape, "Gather": compute_gather,
    "Identity": copy_elements, "Neg": compute_neg, "Not": compute_not, "Reshape": copy_elements, "Shape": compute_shape,
    "Size": compute_size, "Slice": compute_slice, "Squeeze": copy_elements, "Unsqueeze": copy_elements,
    "Where": _make_elementwise_rule(_where, inputs=3),
}  # fmt: skip
"""By operator: the function that computes the integers of its first output."""
