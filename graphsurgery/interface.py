"""The interface of a model as a value: names, element types and dims of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import onnx

OPTIONAL_TYPES = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT)
"""The types of ids and masks."""
MOST_LISTED = 5
"""The most inputs, and the most outputs, that an interface shows as text."""
Dim = int | str | None
"""A literal size, a symbolic name, or unknown."""


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output. ``dtype`` is an onnx.TensorProto element type, 0 if undeclared; ``dims`` is None if the rank is
    unknown."""

    name: str
    dtype: int
    dims: tuple[Dim, ...] | None

    @property
    def rank(self) -> int | None:
        return None if self.dims is None else len(self.dims)

    @property
    def last_dim(self) -> Dim:
        """The last dim, None if it is unknown or there is none."""
        return self.dims[-1] if self.dims else None

    def __str__(self) -> str:
        dims = "?" if self.dims is None else ", ".join("?" if dim is None else str(dim) for dim in self.dims)
        return f"{self.name}: {type_name(self.dtype)}[{dims}]"


@dataclass(frozen=True, slots=True)
class Interface:
    """The inputs and outputs of a model. An initializer that is also listed as an input does not count as one of ``inputs``."""

    inputs: tuple[Value, ...]
    """The inputs that callers have to feed."""
    outputs: tuple[Value, ...]
    """The outputs, in the file's order."""
    optional: tuple[Value, ...] = field(default=(), compare=False)
    """The inputs that callers may leave out, because the file has a default for them."""

    def input(self, name: str) -> Value | None:
        return _find(self.inputs, name)

    def output(self, name: str) -> Value | None:
        return _find(self.outputs, name)

    def __str__(self) -> str:
        inputs = [*map(str, self.inputs), *(f"{value} (optional)" for value in self.optional)]
        return f"{_list_some(inputs)} -> {_list_some(self.outputs)}"

    def to_json(self) -> dict[str, object]:
        """Return ``{"inputs": [{"name", "dtype", "dims"}], "optional_inputs": [...], "outputs": [...]}``."""
        return {
            name: [_to_json(value) for value in values]
            for name, values in (("inputs", self.inputs), ("optional_inputs", self.optional), ("outputs", self.outputs))
        }


def read_interface(graph: onnx.GraphProto) -> Interface:
    """Return the interface that a graph declares."""
    held = {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}
    inputs = [read_value(info) for info in graph.input if info.name not in held]
    return Interface(tuple(inputs), tuple(read_value(info) for info in graph.output), _read_optional_inputs(graph))


def read_value(info: onnx.ValueInfoProto) -> Value:
    """Return a ValueInfoProto as a value. Sequences, maps and optionals count as undeclared."""
    if not info.type.HasField("tensor_type"):
        return Value(info.name, onnx.TensorProto.UNDEFINED, None)
    tensor = info.type.tensor_type
    dims = tuple(_read_dim(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
    return Value(info.name, tensor.elem_type, dims)


def type_name(dtype: int) -> str:
    """Return numpy's name of an ONNX element type: ``float32``, ``int64``, ``bfloat16``; ``undeclared`` for 0."""
    name = onnx.TensorProto.DataType.Name(dtype) if dtype in onnx.TensorProto.DataType.values() else f"type{dtype}"
    return {"UNDEFINED": "undeclared", "FLOAT": "float32", "DOUBLE": "float64"}.get(name, name.lower())


def _read_optional_inputs(graph: onnx.GraphProto) -> tuple[Value, ...]:
    """Return the inputs that callers may leave out: integers or booleans with a default of one number.

    Older files list every weight as an input with a default. Those do not count.
    """
    single = {one.name for one in graph.initializer if all(dim == 1 for dim in one.dims)}
    values = [read_value(info) for info in graph.input if info.name in single]
    return tuple(value for value in values if value.rank == 2 and value.dtype in OPTIONAL_TYPES)


def _list_some(values: Sequence[object]) -> str:
    """Return the first values as text, and how many more there are: decoders with caches have dozens."""
    more = len(values) - MOST_LISTED
    return ", ".join([*map(str, values[:MOST_LISTED]), *([f"and {more} more"] if more > 0 else [])])


def _find(values: Iterable[Value], name: str) -> Value | None:
    return next((value for value in values if value.name == name), None)


def _read_dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value
    return dim.dim_param or None


def _to_json(value: Value) -> dict[str, object]:
    dims = None if value.dims is None else list(value.dims)
    return {"name": value.name, "dtype": type_name(value.dtype), "dims": dims}
