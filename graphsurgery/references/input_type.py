"""input-type: integers of another type, cast inside."""

from __future__ import annotations

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Interface
from graphsurgery.references.fields import Declaring, Fields, Info
from graphsurgery.references.input_edits import check_dtype, no_value, of_type, same_outputs
from graphsurgery.references.reference import Before, Expected, Parameters, Reference, Values, exact

NUMBERS = {"int32": onnx.TensorProto.INT32, "int64": onnx.TensorProto.INT64}


def _read(parameters: Parameters) -> Parameters:
    lists = [parameters[name] for name in ("input", "inside", "dtypes")]
    if parameters["to"] not in NUMBERS or len({len(one) for one in lists}) != 1:
        raise UnsupportedModelError("what the file records of input-type does not fit together", "make the output again")
    for dtype in parameters["dtypes"]:
        check_dtype(dtype)
    return parameters


def _names(parameters: Parameters) -> dict[str, str]:
    return dict(zip(parameters["input"], parameters["inside"], strict=True))


def _infos(parameters: Parameters, _graph: onnx.GraphProto) -> Declaring:
    def typed(kind: str, info: Info) -> Info:
        if kind == "input" and info.name in parameters["input"]:
            info.type.tensor_type.elem_type = NUMBERS[parameters["to"]]
        return info

    return typed


def _misfit(parameters: Parameters, before: Interface) -> str | None:
    pairs = zip(parameters["input"], parameters["dtypes"], strict=True)
    return next((why for name, dtype in pairs if (why := of_type(before, name, dtype)) is not None), None)


def _through(parameters: Parameters, feed: Values, before: Before) -> dict[str, Expected]:
    dtypes = dict(zip(parameters["input"], parameters["dtypes"], strict=True))
    cast = {name: feed[name].astype(np.dtype(dtype)) for name, dtype in dtypes.items()}
    inner = {new: cast[old] for old, new in _names(parameters).items()}
    return before(feed | cast) | exact(feed) | exact(inner)


REFERENCE = Reference(
    reads=lambda p: list(p["input"]),
    makes=lambda _: [],
    value=no_value,
    outputs=same_outputs,
    read=_read,
    fields=Fields(names=_names, infos=_infos),
    through=_through,
    misfit=_misfit,
    inside=lambda p: {new: old for old, new in _names(p).items()},
)
