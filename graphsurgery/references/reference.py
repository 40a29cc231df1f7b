"""The reference of an edit: the values that its outputs must have, and how exactly, given the parameters that a file records.

Tolerances (float32 head against float64 reference): 1e-5 * max(1, max|x|) over a row, 1e-6 for unit vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import onnx

from graphsurgery.compare import tolerance
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.references.fields import Fields
from graphsurgery.references.recorded_weights import RecordedWeights

RELATIVE, UNIT = tolerance.RELATIVE, tolerance.UNIT
LITERAL = "a number"
"""In a promised dim, this means any literal size: the width of an output is compared with what a run gives."""
MOST_DIGITS = 10
"""More digits than any size or token id has. Python refuses to read numbers of thousands of digits."""
MOST_TOKENS = 1 << 20
"""Upper limit on rows times positions. A forged record that asks for more is not run."""

Array = np.ndarray
Values = dict[str, Array]
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Expected:
    """An expected value: the numbers and how far from them an output may be."""

    values: Array
    tolerance: Array
    """The allowed absolute difference of each number. It broadcasts against ``values``."""
    rounding: Array | None = None
    """The rounding errors of float32 in the values (broadcast), however small. Normalisation magnifies them. None: no error."""
    output: Array | None = None
    """The source's own output, which may be rounded, if no edit made the value and the source gives it as an output."""
    promised: Array | float | None = None
    """The tolerance of the edit by itself, if rounding in a chain widens ``tolerance``; None: ``tolerance``."""
    is_empty: bool = False
    """Whether the value is meant to have no numbers. Then its shape is compared."""


RunModel: TypeAlias = Callable[[Values], dict[str, Expected]]
"""From a feed to a model's values by name: its inputs, its outputs, and the values that references read."""


@dataclass(frozen=True)
class Substitute:
    """A value of the source that the reference computes itself, because the source's own node fails or computes another one."""

    value: str
    reads: tuple[str, ...]
    """The values that the source's node reads."""
    made: str
    """The value that the edit's nodes make, and that this node reads now."""
    compute: Callable[[Sequence[Array]], Array]
    """Computes the value from those that the node reads."""
    compute_own: Callable[[Sequence[Array]], Array]
    """Computes what the source's own node gives. Raises ValueError where that fails."""


@dataclass(frozen=True)
class Known:
    """The values that a reference starts from: the source's, those that earlier steps made, and the recorded weights."""

    expected: Mapping[str, Expected]
    weights: RecordedWeights = field(default_factory=RecordedWeights)

    def __getitem__(self, name: str) -> Array:
        """Return the value ``name``, floats in float64. Raise KeyError if there is none."""
        values = self.expected[name].values
        return values if values.dtype.kind in "biu" else np.asarray(values, dtype=np.float64)

    def __contains__(self, name: object) -> bool:
        return name in self.expected

    def get_rounding(self, name: str) -> Array:
        """Return the rounding errors of float32 in the value ``name``; 0 unless an earlier step gave others."""
        one = self.expected[name]
        return np.broadcast_to(np.array(0.0) if one.rounding is None else one.rounding, one.values.shape)

    def get_tolerance(self, name: str) -> Array:
        """Return the tolerance of the value ``name``; 0 for the source's own values."""
        return np.broadcast_to(self.expected[name].tolerance, self.expected[name].values.shape)


@dataclass(frozen=True)
class Reference:
    """The reference of an edit: the values that it must compute and the outputs that it must declare.

    Everything is a function of the parameters that the file records, as `read` gives them.
    """

    reads: Callable[[Parameters], list[str]]
    """The values of the graph that the edit reads."""
    makes: Callable[[Parameters], list[str]]
    """The values that the edit makes, in the order of ``value``."""
    value: Callable[[Parameters, Known], list[Expected]]
    """Computes these values."""
    outputs: Callable[[Parameters, Sequence[Value], Dim], list[Value]]
    """The graph's outputs after the edit, given those before it and the batch dim of the first value that it reads."""
    ignores_padding: Callable[[Parameters], bool] = lambda _: False
    """Whether the values at padded positions must make no difference."""
    multiplies: bool = True
    """Whether the edit multiplies its values with each other or with weights, so that the largest floats would overflow."""
    saturates: bool = False
    """Whether the edit saturates after multiplying, as sigmoids do: for large values only rounding would be compared."""
    mixes_positions: bool = False
    """Whether a position's value depends on other positions, so that values at padding reach the tokens."""
    looks_up: bool = False
    """Whether the edit looks ids up in a table, which has rows for the vocabulary only."""
    per_token: Callable[[Parameters], list[str]] = lambda _: []
    """The values that the edit reads with one number of 0 or more per token, 0 at padding: ``[batch, seq]``."""
    read: Callable[[Parameters], Parameters] = lambda parameters: parameters
    """Parses the texts among the recorded parameters, which have the types that `step_parameters` lists. Called once for each
    step. Raises UnsupportedModelError for parameters that have no reference."""
    fields: Fields | None = None
    """The edit's changes to the fields of the source, if any: inputs, names, dims."""
    values_after: Callable[[Parameters, Values, RunModel], dict[str, Expected]] | None = None
    """For an edit of the interface, instead of ``value``: computes the model's values for a feed after the edit. It may ask the
    model before the edit for its values for other feeds."""
    stand_ins: Callable[[Parameters], dict[str, str]] = lambda _: {}
    """The values that the edit's nodes make in place of inputs of the source, each with the input that it replaces."""
    misfit: Callable[[Parameters, Interface], str | None] = lambda _parameters, _before: None
    """Says how the record does not fit the interface before the edit; None if it fits."""
    misfit_in_graph: Callable[[Parameters, onnx.GraphProto], str | None] = lambda _parameters, _before: None
    """Says how the record does not fit the graph before the edit, without the nodes that edits added; None if it fits."""
    resizes: bool = False
    """Whether the edit declares other dims, or floats of another type, so that ONNX Runtime may round values otherwise."""
    longest: Callable[[Parameters], int | None] = lambda _: None
    """The longest sequence on which the source can be run for comparison, if there is a limit."""
    choose: Callable[[Parameters], Reference | None] = lambda _: None
    """Returns the reference that takes this one's place for these parameters, as `read` gives them; None if this one stays."""
    substitutes: Callable[[Parameters], Sequence[Substitute]] = lambda _: []
    """The values of the source that this reference computes itself. What the source computes from them stays the source's."""
    lifts: Callable[[Parameters], Collection[tuple[str, int]]] = lambda _: ()
    """The dims of the source's inputs, by name and axis, whose declared numbers do not bind the source in the proof."""
    by_run_alone: bool = False
    """Whether only a run can tell that the source's nodes work with the changed interface."""


def parse_number(text: str) -> int | None:
    """Return ``text`` as an integer of 0 or more; None if it is not such a number, or has too many digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else None


def require_known(kind: str, word: object, known: Container[object]) -> None:
    """Raise UnsupportedModelError if the references do not know the ``word`` that a file records as the edit's ``kind``."""
    if word not in known:
        raise UnsupportedModelError(f"there is no reference for the {kind} {word!r}", "a newer graphsurgery may have one")


def expect_exactly(values: Values) -> dict[str, Expected]:
    """Expect these very values, with no tolerance."""
    return {name: Expected(array, np.array(0.0)) for name, array in values.items()}


def compute_tolerance(*arrays: Array, share: float = RELATIVE) -> Array:
    """Return ``share`` * max(1, max|x|) over each row of ``arrays``, which share their first dim.

    The shape broadcasts against the first array.
    """
    largest = np.ones(len(arrays[0]))
    for array in arrays:
        finite = np.where(np.isfinite(array), np.abs(array), 0)
        largest = np.maximum(largest, finite.max(axis=tuple(range(1, finite.ndim)), initial=0))
    return share * largest.reshape(-1, *[1] * (arrays[0].ndim - 1))


def replace_target(parameters: Parameters, before: Sequence[Value], made: Value) -> list[Value]:
    """Return the outputs ``before`` with ``made`` in place of the target.

    If the target is kept, ``made`` has another name and comes after all of them.
    """
    target = parameters["target"]
    if any(value.name == made.name for value in before) and not (parameters.get("keep_target") and made.name == target):
        return [made if value.name == made.name else value for value in before]
    if parameters.get("keep_target"):
        return [*before, made]
    return [made if value.name == target else value for value in before]


def declare_new_output(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    """Return the outputs after an edit that makes ``output_name`` of its target: float32, and as wide as a run tells."""
    made = resize(find_value(before, parameters["target"]), parameters["output_name"], onnx.TensorProto.FLOAT)
    return replace_target(parameters, before, made)


def declare_wide_target(
    parameters: Parameters, before: Sequence[Value], _batch: Dim, dtype: int = onnx.TensorProto.FLOAT
) -> list[Value]:
    """Return the outputs after an edit that makes its target anew: of type ``dtype``, and as wide as a run tells."""
    target = parameters["target"]
    return replace_target(parameters, before, resize(find_value(before, target), target, dtype))


def declare_float_target(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    """Return the outputs after an edit that makes its target float32 and keeps its dims."""
    target = parameters["target"]
    return [replace(one, dtype=onnx.TensorProto.FLOAT) if one.name == target else one for one in before]


def declare_pooled_output(parameters: Parameters, before: Sequence[Value], batch: Dim) -> list[Value]:
    """Return the outputs after an edit that pools: ``[batch, width]`` float32, and the outputs that it keeps.

    An output to be kept that does not exist is listed as well; no file has it then, so the comparison fails.
    """
    kept = [value for value in before if value.name in parameters["keep_output"]]
    absent = [name for name in parameters["keep_output"] if find_value(before, name) is None]
    lost = [Value(name, onnx.TensorProto.UNDEFINED, None) for name in absent]
    made = Value(parameters["output_name"], onnx.TensorProto.FLOAT, (batch, LITERAL))
    names = [value.name for value in before if value in kept or value.name == made.name]
    kept.insert(names.index(made.name) if made.name in names else 0, made)  # in the place of the output that it replaces
    return [*kept, *lost]


def resize(value: Value | None, name: str, dtype: int, last: Dim = LITERAL) -> Value:
    """Return ``value`` under another name, with another element type and last dim."""
    if value is None or value.dims is None:
        return Value(name, dtype, None)
    return replace(value, name=name, dtype=dtype, dims=(*value.dims[:-1], last))


def find_value(values: Sequence[Value], name: str) -> Value | None:
    """Return the value of that name, if there is one."""
    return next((value for value in values if value.name == name), None)
