"""drop-input: inputs that are always the same are no longer taken."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.references.fields import ChangeInfo, Fields, Info
from graphsurgery.references.input_edits import FILLS, check_dtype, compute_nothing, explain_type_misfit, find_named, make_fill
from graphsurgery.references.reference import (
    MOST_TOKENS,
    Array,
    Expected,
    Parameters,
    Reference,
    RunModel,
    Values,
    parse_number,
    require_known,
)

EMPTY, GIVEN, BATCH, SEQUENCE = "empty", "value", "batch", "sequence"
TRUTHS = {"true": "1", "false": "0"}
WHOLE, DECIMAL = re.compile(r"[+-]?[0-9]{1,20}"), re.compile(r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)(e[+-]?[0-9]{1,3})?")
Shape = tuple[int | str, ...]
"""Numbers, and `BATCH` or `SEQUENCE` for the sizes of another input."""


def _read(parameters: Parameters) -> Parameters:
    """Read ``inputs`` as names, ``dims`` as a `Shape` for each of them or None (the shape of ``like``), and ``value``."""
    require_known("fill", parameters["fill"], (*FILLS, EMPTY, GIVEN))
    check_dtype(parameters["dtype"])
    names = [parameters["input"]] if parameters["inputs"] is None else parameters["inputs"]
    given, like = parameters["dims"], parameters["like"]
    shapes = [None] * len(names) if given is None else [_read_shape(text) for text in given]
    needs_like = any(shape is None or not {BATCH, SEQUENCE}.isdisjoint(shape) for shape in shapes)
    number = _read_number(parameters["value"], np.dtype(parameters["dtype"])) if parameters["value"] is not None else None
    if (
        not names
        or len(names) != len(shapes)
        or (like is None) == needs_like
        or (number is None) == (parameters["fill"] == GIVEN)
    ):
        raise UnsupportedModelError("the recorded parameters of drop-input do not fit together", "make the output again")
    return {**parameters, "inputs": names, "dims": shapes, "value": number, "empty": parameters["empty"] or ()}


def _read_shape(text: str) -> Shape:
    sizes = [size if size in (BATCH, SEQUENCE) else parse_number(size) for size in text.split(",")] if text else []
    known = tuple(size for size in sizes if size is not None)
    if len(known) < len(sizes) or math.prod(size for size in known if isinstance(size, int)) > MOST_TOKENS:
        raise UnsupportedModelError(f"the recorded sizes {text[:60]!r} cannot be read", "make the output again")
    return known


def _read_number(text: str, dtype: np.dtype[np.generic]) -> Array:
    word = text.strip().lower()
    word = TRUTHS.get(word, word)
    if dtype.kind == "f" and DECIMAL.fullmatch(word):
        with np.errstate(all="ignore"):
            array = np.asarray(float(word)).astype(dtype)
        if np.isfinite(array):
            return array
    elif dtype.kind in "biu" and WHOLE.fullmatch(word) and int(word) in range(*_find_range(dtype)):
        return np.asarray(int(word), dtype)
    raise UnsupportedModelError(f"the recorded number {text[:60]!r} cannot be read", "make the output again")


def _find_range(dtype: np.dtype[np.generic]) -> tuple[int, int]:
    """Return the smallest number of a type of integers, and its largest number plus one."""
    return (0, 2) if dtype.kind == "b" else (int(np.iinfo(dtype.name).min), int(np.iinfo(dtype.name).max) + 1)


def _make_fills(parameters: Parameters, feed: Values) -> Values:
    """Return the values that stand in for the inputs, by name."""
    like = parameters["like"]
    sizes = {} if like is None else dict(zip((BATCH, SEQUENCE), feed[like].shape, strict=True))
    made = {}
    for name, shape in zip(parameters["inputs"], parameters["dims"], strict=True):
        places = (BATCH, SEQUENCE) if shape is None else shape
        numbers = tuple(size if isinstance(size, int) else sizes[size] for size in places)
        if parameters["fill"] in FILLS:
            made[name] = make_fill(parameters, numbers)
        else:
            made[name] = np.full(numbers, 0 if parameters["value"] is None else parameters["value"], parameters["dtype"])
    return made


def _change_infos(parameters: Parameters, _graph: onnx.GraphProto) -> ChangeInfo:
    empty = parameters["empty"]

    def drop(kind: str, info: Info) -> Info | None:
        if kind == "input" and info.name in parameters["inputs"]:
            return None
        if empty and info.type.WhichOneof("value") == "tensor_type":
            for dim in info.type.tensor_type.shape.dim:
                left = _subtract(dim.dim_param, empty) if dim.dim_param else None
                if isinstance(left, str):
                    dim.dim_param = left
                elif left is not None:
                    dim.dim_value = left
        return info

    return drop


def _declare_outputs(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    empty = parameters["empty"]

    def resize(value: Value) -> Value:
        return replace(value, dims=tuple(_subtract(dim, empty) if isinstance(dim, str) else dim for dim in value.dims or ()))

    return [value if value.dims is None else resize(value) for value in before]


def _subtract(dim: str, empty: Sequence[str]) -> int | str:
    """Return a symbolic dim, ``a + b``, if the dims ``empty`` are 0."""
    terms = dim.split("+")
    if not any(term.strip() in empty for term in terms):
        return dim
    rest = " + ".join(term.strip() for term in terms if term.strip() not in empty)
    return 0 if not rest else int(rest) if WHOLE.fullmatch(rest) else rest


def _explain_misfit(parameters: Parameters, before: Interface) -> str | None:
    """Say how the inputs differ from the record; None if they agree."""
    return next(_list_misfits(parameters, before), None)


def _list_misfits(parameters: Parameters, before: Interface) -> Iterator[str]:
    asked, names, like = parameters["input"], parameters["inputs"], parameters["like"]
    listed = [value.name for value in before.inputs]
    matching = find_named(listed, asked)
    if names not in (matching, [asked]):
        yield f"{asked!r} stands for {', '.join(matching) or 'no input'}"
    if like is not None and (like not in listed or like in names):
        yield f"there is no other input {like!r}"
    vanished: dict[Dim, None] = {}
    for name, shape in zip(names, parameters["dims"], strict=True):
        value = before.input(name)
        misfit = explain_type_misfit(before, name, parameters["dtype"])
        if misfit is not None or value is None:
            yield str(misfit)
        elif shape is not None:
            yield from _list_wrong_sizes(value, shape, parameters["fill"] == EMPTY)
            sizes = zip(value.dims or (), shape, strict=False)
            vanished |= dict.fromkeys(dim for dim, size in sizes if isinstance(dim, str) and size == 0)
    kept = {dim for value in before.inputs if value.name not in names for dim in value.dims or ()}
    zero = [str(dim) for dim in vanished if dim not in kept]
    if zero != list(parameters["empty"]):
        yield f"the dims that become 0 are {', '.join(zero) or 'none'}"


def _list_wrong_sizes(value: Value, shape: Shape, may_be_empty: bool) -> Iterator[str]:
    """Yield, in words, how a shape cannot be that of an input. A dim that may have any size can only be 0."""
    pairs = list(zip(value.dims or (), shape, strict=False))
    if value.rank != len(shape) or any(dim != size for dim, size in pairs if isinstance(dim, int)):
        yield f"{value} does not have the recorded sizes"
    sizes = [size for dim, size in pairs if not isinstance(dim, int) and isinstance(size, int)]
    if any(sizes) or (sizes and not may_be_empty):
        yield f"{value} may have other sizes than the recorded ones"


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    made = _make_fills(parameters, feed)
    expected = {name: Expected(array, np.array(0.0), is_empty=not array.size) for name, array in made.items()}
    return before(feed | made) | expected


REFERENCE = Reference(
    reads=lambda p: [] if p["like"] is None else [p["like"]],
    makes=lambda _: [],
    value=compute_nothing,
    outputs=_declare_outputs,
    read=_read,
    fields=Fields(infos=_change_infos),
    values_after=_compute_after,
    misfit=_explain_misfit,
    stand_ins=lambda p: {name: name for name in p["inputs"]},
)
