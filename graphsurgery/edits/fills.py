"""The values and shapes that stand in for inputs which are removed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import onnx

from graphsurgery.edits.inputs import POSITIONS, find_input, find_like, find_usual_fill
from graphsurgery.encoder.roles import MASK_TYPES, Roles, is_cache
from graphsurgery.errors import RequestError, UnsupportedModelError
from graphsurgery.interface import Dim, Value
from graphsurgery.model.dtypes import FLOATS, to_numpy_dtype
from graphsurgery.model.model import Model

EMPTY, GIVEN = "empty", "value"
"""Values without an element, and one number that the user gives."""
BATCH, SEQUENCE = "batch", "sequence"
Shape = tuple[str, ...]
"""The sizes of a value: numbers as text, or the batch or sequence size of another input."""
WORDS = {"true": "1", "false": "0"}
INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?")


def choose_fill(roles: Roles, values: Sequence[Value], asked: str | None, number: str | None) -> str:
    """Return what replaces ``values``: ``asked``, or the ``number`` that is given, else what is usual for their names.

    Raises RequestError if they need different values, if both are asked for or nothing is usual; UnsupportedModelError if the
    graph cannot make values of their type.
    """
    if asked is not None and number is not None:
        raise RequestError(f"--fill {asked} and --value {number} contradict each other", "give one of them")
    fills = {GIVEN if number is not None else _choose_one(roles, value, asked) for value in values}
    kinds = {value.dtype for value in values}
    if len(fills) > 1 or len(kinds) > 1:
        what = "usual values" if len(fills) > 1 else "types"
        raise RequestError(f"{', '.join(map(str, values))} have different {what}", "remove them one after the other")
    fill = fills.pop()
    kind = kinds.pop()
    if kind not in MASK_TYPES or kind == onnx.TensorProto.BFLOAT16 or (fill == POSITIONS and kind == onnx.TensorProto.BOOL):
        raise UnsupportedModelError(
            f"{values[0]} cannot be filled with {fill}: its type is not supported", "feed it in every run"
        )
    return fill


def _choose_one(roles: Roles, value: Value, asked: str | None) -> str:
    if asked is None and is_cache(value):
        return EMPTY
    return find_usual_fill(roles, value, asked, ", or one number with --value N", (EMPTY,))


def choose_shape(
    model: Model, roles: Roles, value: Value, fill: str, asked: str | None
) -> tuple[Value | None, Shape | None]:  # fmt: skip
    """Return the input that gives ``value`` its batch or sequence size, and the shape that the values get.

    No shape: all of that input's, ``[batch, seq]``. That input is the one ``asked`` for, else the token ids. A size that may be
    anything is 0 if ``fill`` is `EMPTY`. Raises RequestError and NameNotFoundError if a size is not known.
    """
    like = find_input(model, asked, "--like") if asked is not None else roles.ids
    may_be_whole = value.rank in (2, None) and fill != EMPTY
    if may_be_whole and like is not None and _has_same_dims(value, like, asked is not None):
        return find_like(model, roles, value, asked), None
    shape = [_choose_size(dim, axis, like, fill) for axis, dim in enumerate(value.dims or ())]
    known = tuple(size for size in shape if size is not None)
    if value.dims is None or len(known) < len(shape):
        if may_be_whole:
            return find_like(model, roles, value, asked), None
        advice = "name an input [batch, seq] that has them with --like"
        if is_cache(value) and fill != EMPTY:
            advice = "leave out --fill and --value: a cache is empty then, as it is before the first text"
        raise RequestError(f"the sizes of {value} are not known", advice)
    if (fill == EMPTY and "0" not in known) or (fill == POSITIONS and known[-1:] != (SEQUENCE,)):
        needed = "one of its sizes has to be free" if fill == EMPTY else "its last size has to be the sequence's"
        raise RequestError(f"{value} cannot be filled with {fill}: {needed}", "give one number for all of it with --value N")
    return like if {BATCH, SEQUENCE}.intersection(known) else None, known


def _has_same_dims(value: Value, like: Value, is_asked: bool) -> bool:
    dims, others = value.dims or (None,), like.dims or (None,)
    return dims == others or None in (*dims, *others) or (is_asked and all(isinstance(dim, int) for dim in dims))


def _choose_size(dim: Dim, axis: int, like: Value | None, fill: str) -> str | None:
    """Return a size, or None if it is not known. The first dim of a cache is the batch under any name."""
    if isinstance(dim, int):
        return str(dim)
    if dim is not None and like is not None and like.dims is not None and len(like.dims) == 2 and dim in like.dims:
        return (BATCH, SEQUENCE)[like.dims.index(dim)]
    if fill != EMPTY or (axis == 0 and like is None):
        return None
    return BATCH if axis == 0 else "0"


def list_empty_dims(values: Sequence[Value], shapes: Iterable[Shape | None], inputs: Iterable[Value]) -> tuple[str, ...]:
    """Return the symbolic dims of ``values`` that are 0 in their ``shapes``, and that no other one of the ``inputs`` has."""
    others = {dim for value in inputs if value not in values for dim in value.dims or ()}
    pairs = [(value.dims or (), shape) for value, shape in zip(values, shapes, strict=True) if shape]
    sizes = (pair for dims, shape in pairs for pair in zip(dims, shape, strict=True))
    return tuple(dict.fromkeys(dim for dim, size in sizes if isinstance(dim, str) and size == "0" and dim not in others))


def drop_terms(dim: str, empty: Sequence[str]) -> int | str:
    """Return a symbolic dim without the terms of the sum ``dim`` that are ``empty``: 0 if none is left."""
    terms = [term.strip() for term in dim.split("+")]
    left = [term for term in terms if term not in empty]
    if len(left) == len(terms):
        return dim
    return int(left[0]) if len(left) == 1 and INTEGER.fullmatch(left[0]) else " + ".join(left) or 0


def read_number(value: Value, text: str) -> np.ndarray:
    """Return the number ``text`` in the type of an input. Raises RequestError if it has no such number."""
    kind = to_numpy_dtype(value.dtype)
    said = text.strip().lower()
    said = WORDS.get(said, said)
    is_float = value.dtype in FLOATS
    if (FLOAT if is_float else INTEGER).fullmatch(said):
        with contextlib.suppress(OverflowError), np.errstate(over="ignore"):
            array = np.array(float(said) if is_float else int(said)).astype(kind)
            if np.isfinite(array) if is_float else int(array) == int(said):
                return array
    raise RequestError(f"{text!r} is not a number that {value} can have", "give another with --value")


def describe_values(values: Sequence[Value], fill: str, like: str | None, number: str | None) -> str:
    """Return a note on what replaces ``values``."""
    named = values[0].name if len(values) == 1 else f"{values[0].name} and {len(values) - 1} more"
    verb = "is" if len(values) == 1 else "are"
    if fill in (EMPTY, GIVEN):
        return f"{named} {verb} {number if fill == GIVEN else fill}"
    return f"{named} {verb} {fill}" + (f" in the shape of {like}" if like is not None else "")
