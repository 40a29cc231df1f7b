"""The reference of an edit: the values that its outputs must have, and how exactly, by the parameters that a file records.

Tolerances (float32 head against float64 reference): 1e-5 * max(1, max|x|) over a row, 1e-6 for unit vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import onnx

from graphsurgery.compare import tolerance
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.references.fields import Fields
from graphsurgery.references.recorded_weights import RecordedWeights

RELATIVE, UNIT = tolerance.RELATIVE, tolerance.UNIT
LITERAL = "a number"
"""Any literal size in a promised dim: the width of an output is compared with what a run gives."""
MOST_DIGITS = 10
"""More than any size or token id has; Python refuses to read thousands of them."""
MOST_TOKENS = 1 << 20
"""Rows times positions at most: what a forged record says beyond that is not run."""

Array = np.ndarray
Values = dict[str, Array]
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Expected:
    """What a value must be: ``values``, each within ``tolerance`` (which broadcasts against them)."""

    values: Array
    tolerance: Array
    rounding: Array | None = None
    """What float32 leaves open in each of the values (broadcast), however small they are: brought to length one, that grows.
    None: nothing."""
    output: Array | None = None
    """Of a value that no edit made and that the source gives as an output: that output, which may be rounded."""
    promised: Array | float | None = None
    """The tolerance that the edit has by itself, where float32 may leave more open in a chain; None: ``tolerance``."""


Before: TypeAlias = Callable[[Values], dict[str, Expected]]
"""What a model gives for a feed: its inputs, what it gives, and what references read of it, by name."""


@dataclass(frozen=True)
class Known:
    """What a reference starts from: the source's values, what the steps before it made, and the weights that were recorded."""

    expected: Mapping[str, Expected]
    weights: RecordedWeights = field(default_factory=RecordedWeights)

    def __getitem__(self, name: str) -> Array:
        """The value ``name`` in float64 where it is one of floats; KeyError when there is none."""
        values = self.expected[name].values
        return values if values.dtype.kind in "biu" else np.asarray(values, dtype=np.float64)

    def __contains__(self, name: object) -> bool:
        return name in self.expected

    def rounding(self, name: str) -> Array:
        """What float32 leaves open in each value of ``name``; 0 unless a step before said otherwise."""
        one = self.expected[name]
        return np.broadcast_to(np.array(0.0) if one.rounding is None else one.rounding, one.values.shape)

    def tolerance(self, name: str) -> Array:
        """How exactly ``name`` is known; 0 for the source's own values."""
        return np.broadcast_to(self.expected[name].tolerance, self.expected[name].values.shape)


@dataclass(frozen=True)
class Reference:
    """What an edit must compute.

    Everything is a function of the parameters that the file records, as `read` gives them.
    """

    reads: Callable[[Parameters], list[str]]
    """Values of the graph that it starts from."""
    makes: Callable[[Parameters], list[str]]
    """Values that it makes, in the order of ``value``."""
    value: Callable[[Parameters, Known], list[Expected]]
    """The reference."""
    outputs: Callable[[Parameters, Sequence[Value], Dim], list[Value]]
    """The graph's outputs after it, from those before it and the batch dim of what it reads."""
    ignores_padding: Callable[[Parameters], bool] = lambda _: False
    """Whether what stands at padded positions must make no difference."""
    multiplies: bool = True
    """Whether it multiplies its values with each other or with weights, so that the largest floats would overflow."""
    saturates: bool = False
    """Whether it bends what it multiplied, as sigmoids do, so that of large values only their rounding would be compared."""
    mixes_positions: bool = False
    """Whether a position's value comes from other positions as well: what stands at padding then reaches the tokens."""
    looks_up: bool = False
    """Whether it looks ids up in a table, which has rows for the vocabulary alone."""
    per_token: Callable[[Parameters], list[str]] = lambda _: []
    """Those of the values it reads that are ``[batch, seq]``, one number of 0 or more per token, 0 at padding."""
    read: Callable[[Parameters], Parameters] = lambda parameters: parameters
    """Read the texts among the recorded parameters, which have the types that `record_types` lists. Called once for each step.
    Raises UnsupportedModelError for parameters that have no reference."""
    fields: Fields | None = None
    """What it does to the fields of the source, where it does not leave them alone: inputs, names, dims."""
    through: Callable[[Parameters, Values, Before], dict[str, Expected]] | None = None
    """Of an edit of the interface, in place of ``value``: what the model gives for a feed after it, from what the model before
    it gives for feeds of its own."""
    inside: Callable[[Parameters], dict[str, str]] = lambda _: {}
    """Values that its nodes make for the nodes of the source, and the inputs of the source whose place they take."""
    misfit: Callable[[Parameters, Interface], str | None] = lambda _parameters, _before: None
    """How what the file records of it does not fit the interface before it, in words; None where it does."""
    resizes: bool = False
    """Whether it declares other dims, so that ONNX Runtime may compute the same in another order."""
    longest: Callable[[Parameters], int | None] = lambda _: None
    """The longest sequence on which the source can tell what it means, where that is limited."""
    by_run_alone: bool = False
    """Whether only a run can tell that the source's nodes take what it does to the interface."""


def number(text: str) -> int | None:
    """Return the number from 0 on that ``text`` is; None if it is none, or has too many digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else None


def exact(values: Values) -> dict[str, Expected]:
    """Values that are known as they are."""
    return {name: Expected(array, np.array(0.0)) for name, array in values.items()}


def relative_to(*arrays: Array) -> Array:
    """1e-5 * max(1, max|x|) over each row of ``arrays``, which share their first dim; shaped to broadcast against the first."""
    largest = np.ones(len(arrays[0]))
    for array in arrays:
        finite = np.where(np.isfinite(array), np.abs(array), 0)
        largest = np.maximum(largest, finite.max(axis=tuple(range(1, finite.ndim)), initial=0))
    return RELATIVE * largest.reshape(-1, *[1] * (arrays[0].ndim - 1))


def in_place(parameters: Parameters, before: Sequence[Value], made: Value) -> list[Value]:
    """``before`` with ``made`` where the target was; behind them where the target stays, which then has another name."""
    target = parameters["target"]
    if any(value.name == made.name for value in before) and not (parameters.get("keep_target") and made.name == target):
        return [made if value.name == made.name else value for value in before]
    if parameters.get("keep_target"):
        return [*before, made]
    return [made if value.name == target else value for value in before]


def made_of_target(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    """The outputs after an edit that makes ``output_name``, float32 and as wide as a run tells, of its target."""
    made = resized(named(before, parameters["target"]), parameters["output_name"], onnx.TensorProto.FLOAT)
    return in_place(parameters, before, made)


def float_target(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    """The outputs after an edit whose target is float32 then, and of the dims that it had."""
    target = parameters["target"]
    return [replace(one, dtype=onnx.TensorProto.FLOAT) if one.name == target else one for one in before]


def pooled(parameters: Parameters, before: Sequence[Value], batch: Dim) -> list[Value]:
    """The outputs after an edit that pools: what it makes, ``[batch, width]`` float32, and those that it keeps: also one that
    there is not, which no file has then."""
    kept = [value for value in before if value.name in parameters["keep_output"]]
    lost = [Value(name, onnx.TensorProto.UNDEFINED, None) for name in parameters["keep_output"] if named(before, name) is None]
    return [Value(parameters["output_name"], onnx.TensorProto.FLOAT, (batch, LITERAL)), *kept, *lost]


def resized(value: Value | None, name: str, dtype: int, last: Dim = LITERAL) -> Value:
    """``value`` under another name with another element type and last dim."""
    if value is None or value.dims is None:
        return Value(name, dtype, None)
    return replace(value, name=name, dtype=dtype, dims=(*value.dims[:-1], last))


def named(values: Sequence[Value], name: str) -> Value | None:
    """The value of that name."""
    return next((value for value in values if value.name == name), None)
