"""fix-dim: symbolic dims become numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Value
from graphsurgery.references.fields import ChangeInfo, Fields, Info
from graphsurgery.references.input_edits import compute_as_before, compute_nothing
from graphsurgery.references.reference import Parameters, Reference, parse_number


def _read(parameters: Parameters) -> Parameters:
    """Read ``dim`` as the sizes of dims by name."""
    sizes = {}
    for text in parameters["dim"]:
        name, _, size = text.partition("=")
        if not parse_number(size):
            raise UnsupportedModelError(f"the recorded size {text!r} cannot be read", "make the output again")
        sizes[name] = parse_number(size)
    return {**parameters, "dim": sizes}


def _change_infos(parameters: Parameters, _graph: onnx.GraphProto) -> ChangeInfo:
    sizes = parameters["dim"]

    def fix(_kind: str, info: Info) -> Info:
        if info.type.WhichOneof("value") == "tensor_type":
            for dim in info.type.tensor_type.shape.dim:
                if dim.WhichOneof("value") == "dim_param" and dim.dim_param in sizes:
                    dim.dim_value = sizes[dim.dim_param]
        return info

    return fix


def _declare_outputs(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    sizes = parameters["dim"]
    known = [value for value in before if value.dims is not None]
    shapes = {value.name: tuple(sizes.get(str(dim), dim) for dim in value.dims or ()) for value in known}
    return [replace(value, dims=shapes.get(value.name)) for value in before]


REFERENCE = Reference(
    reads=lambda _: [],
    makes=lambda _: [],
    value=compute_nothing,
    outputs=_declare_outputs,
    read=_read,
    fields=Fields(infos=_change_infos),
    values_after=compute_as_before,
    resizes=True,
)
