"""fix-dim: symbolic dims that have a number now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Value
from graphsurgery.references.fields import Declaring, Fields, Info
from graphsurgery.references.input_edits import no_value
from graphsurgery.references.reference import Before, Expected, Parameters, Reference, Values, number


def _read(parameters: Parameters) -> Parameters:
    """Read ``dim`` as the size of each dim."""
    sizes = {}
    for text in parameters["dim"]:
        name, _, size = text.partition("=")
        if not number(size):
            raise UnsupportedModelError(f"the recorded size {text!r} cannot be read", "make the output again")
        sizes[name] = number(size)
    return {**parameters, "dim": sizes}


def _infos(parameters: Parameters, _graph: onnx.GraphProto) -> Declaring:
    sizes = parameters["dim"]

    def fixed(_kind: str, info: Info) -> Info:
        if info.type.WhichOneof("value") == "tensor_type":
            for dim in info.type.tensor_type.shape.dim:
                if dim.WhichOneof("value") == "dim_param" and dim.dim_param in sizes:
                    dim.dim_value = sizes[dim.dim_param]
        return info

    return fixed


def _outputs(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    sizes = parameters["dim"]
    known = [value for value in before if value.dims is not None]
    shapes = {value.name: tuple(sizes.get(str(dim), dim) for dim in value.dims or ()) for value in known}
    return [replace(value, dims=shapes.get(value.name)) for value in before]


def _through(_parameters: Parameters, feed: Values, before: Before) -> dict[str, Expected]:
    return before(feed)


REFERENCE = Reference(
    reads=lambda _: [],
    makes=lambda _: [],
    value=no_value,
    outputs=_outputs,
    read=_read,
    fields=Fields(infos=_infos),
    through=_through,
    resizes=True,
)
