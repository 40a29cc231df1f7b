"""fix-dim: symbolic dims that have a number now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Value
from graphsurgery.references.fields import Declaring, Fields, Info
from graphsurgery.references.inputs import no_value
from graphsurgery.references.numbers import number
from graphsurgery.references.reference import Before, Expected, Meaning, Parameters, Values


def _sizes(parameters: Parameters) -> dict[str, int]:
    return {name: int(size) for name, _, size in (text.partition("=") for text in parameters["dim"])}


def _check(parameters: Parameters) -> None:
    for text in parameters["dim"]:
        if not number(text.partition("=")[2]):
            raise UnsupportedModelError(f"the recorded size {text!r} cannot be read", "make the output again")


def _infos(parameters: Parameters, _graph: onnx.GraphProto) -> Declaring:
    sizes = _sizes(parameters)

    def fixed(_kind: str, info: Info) -> Info:
        if info.type.WhichOneof("value") == "tensor_type":
            for dim in info.type.tensor_type.shape.dim:
                if dim.WhichOneof("value") == "dim_param" and dim.dim_param in sizes:
                    dim.dim_value = sizes[dim.dim_param]
        return info

    return fixed


def _outputs(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    sizes = _sizes(parameters)
    known = [value for value in before if value.dims is not None]
    shapes = {value.name: tuple(sizes.get(str(dim), dim) for dim in value.dims or ()) for value in known}
    return [replace(value, dims=shapes.get(value.name)) for value in before]


def _through(_parameters: Parameters, feed: Values, before: Before) -> dict[str, Expected]:
    return before(feed)


MEANING = Meaning(
    reads=lambda _: [],
    makes=lambda _: [],
    value=no_value,
    outputs=_outputs,
    check=_check,
    fields=Fields(infos=_infos),
    through=_through,
    resizes=True,
)
