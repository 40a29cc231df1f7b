"""Functions that the references of edits of inputs share."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Interface, Value, type_name
from graphsurgery.references.reference import Array, Expected, Known, Parameters, RunModel, Values, require_known

FILLS = ("zeros", "ones", "positions")
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip
"""The element types that an input can have, as numpy and the records spell them."""


def compute_nothing(_parameters: Parameters, _known: Known) -> list[Expected]:
    """Return no value: the edit makes none of its own."""
    return []


def compute_as_before(_parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    """Return the model's values before the edit, which changes no value for a feed that both take."""
    return before(feed)


def find_named(names: Sequence[str], asked: str) -> list[str]:
    """Return the names that ``asked`` stands for: itself, else those that match it as a pattern."""
    return [asked] if asked in names else [name for name in names if fnmatchcase(name, asked)]


def keep_outputs(_parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    """Return the outputs as they were."""
    return list(before)


def make_fill(parameters: Parameters, shape: Sequence[int]) -> Array:
    """Return the values of an input in a ``shape``: 0 or 1 everywhere, or each position's number along the last dim."""
    if parameters["fill"] == "positions":
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(parameters["dtype"])
    return np.full(shape, {"zeros": 0, "ones": 1}[parameters["fill"]], parameters["dtype"])


def explain_type_misfit(interface: Interface, name: str, dtype: str) -> str | None:
    """Say why ``name`` is not an input of that element type; None if it is one."""
    value = interface.input(name)
    if value is None:
        return f"there is no input {name!r}"
    return None if type_name(value.dtype) == dtype else f"{value} does not have the type {dtype}"


def explain_fill_misfit(parameters: Parameters, before: Interface) -> str | None:
    """Say how an input, or the input that gives it its shape, differs from the record; None if both agree."""
    if before.input(parameters["like"]) is None:
        return f"there is no input {parameters['like']!r}"
    return explain_type_misfit(before, parameters["input"], parameters["dtype"])


def read_fill(parameters: Parameters) -> Parameters:
    """Raise UnsupportedModelError for a fill that has no reference."""
    require_known("fill", parameters["fill"], FILLS)
    check_dtype(parameters["dtype"])
    return parameters


def check_dtype(name: str) -> None:
    """Raise UnsupportedModelError if an input cannot have the element type ``name``."""
    if name not in DTYPES:
        raise UnsupportedModelError(f"the recorded element type {name!r} is not known", "make the output again")
