"""keep-outputs: some of the outputs, in a given order."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from graphsurgery.interface import Dim, Value
from graphsurgery.references.fields import Fields
from graphsurgery.references.input_edits import compute_nothing
from graphsurgery.references.reference import Parameters, Reference, find_value


def _declare_outputs(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    """Return the named outputs. One that does not exist is listed as well; no file has it then, so the comparison fails."""
    absent = onnx.TensorProto.UNDEFINED
    return [find_value(before, name) or Value(name, absent, None) for name in parameters["name"]]


REFERENCE = Reference(
    reads=lambda _: [],
    makes=lambda _: [],
    value=compute_nothing,
    outputs=_declare_outputs,
    fields=Fields(outputs=lambda p: list(p["name"])),
)
