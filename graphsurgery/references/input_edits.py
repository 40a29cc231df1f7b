"""Parts of the references of edits of inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Interface, Value, type_name
from graphsurgery.references.reference import Array, Expected, Known, Parameters

FILLS = ("zeros", "ones", "positions")
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip
"""Element types that an input can have here, as numpy and the records spell them."""


def compute_nothing(_parameters: Parameters, _known: Known) -> list[Expected]:
    """The reference of an edit that makes no value of its own."""
    return []


def keep_outputs(_parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    """The outputs of an edit that leaves them alone."""
    return list(before)


def make_fill(parameters: Parameters, like: Array) -> Array:
    """Make an input that is not given, in the shape of ``like [batch, seq]``: 0 or 1 everywhere, or each position's number."""
    rows, columns = like.shape
    row = {"zeros": [0] * columns, "ones": [1] * columns, "positions": list(range(columns))}[parameters["fill"]]
    return np.array([row] * rows).reshape(rows, columns).astype(parameters["dtype"])


def explain_type_misfit(interface: Interface, name: str, dtype: str) -> str | None:
    """Say why ``name`` is no input of that element type; None if it is one."""
    value = interface.input(name)
    if value is None:
        return f"there is no input {name!r}"
    return None if type_name(value.dtype) == dtype else f"{value} is no {dtype}"


def explain_fill_misfit(parameters: Parameters, before: Interface) -> str | None:
    """Say how an input, or the one that gives it its shape, is not there as recorded; None if both are."""
    if before.input(parameters["like"]) is None:
        return f"there is no input {parameters['like']!r}"
    return explain_type_misfit(before, parameters["input"], parameters["dtype"])


def read_fill(parameters: Parameters) -> Parameters:
    """Raise UnsupportedModelError for a fill that has no reference."""
    if parameters["fill"] not in FILLS:
        raise UnsupportedModelError(f"there is no reference for {parameters['fill']!r}", "a newer graphsurgery may have one")
    check_dtype(parameters["dtype"])
    return parameters


def check_dtype(name: str) -> None:
    """Raise UnsupportedModelError if ``name`` is no element type of an input."""
    if name not in DTYPES:
        raise UnsupportedModelError(f"the recorded element type {name!r} is not known", "make the output again")
