"""input-type: inputs take integers of another type, which nodes cast back."""

from __future__ import annotations

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Interface
from graphsurgery.references.fields import ChangeInfo, Fields, Info
from graphsurgery.references.input_edits import check_dtype, compute_nothing, explain_type_misfit, keep_outputs
from graphsurgery.references.reference import Expected, Parameters, Reference, RunModel, Values, expect_exactly

NUMBERS = {"int32": onnx.TensorProto.INT32, "int64": onnx.TensorProto.INT64}


def _read(parameters: Parameters) -> Parameters:
    lists = [parameters[name] for name in ("input", "inside", "dtypes")]
    if parameters["to"] not in NUMBERS or len({len(one) for one in lists}) != 1:
        raise UnsupportedModelError("the recorded parameters of input-type do not fit together", "make the output again")
    for dtype in parameters["dtypes"]:
        check_dtype(dtype)
    return parameters


def _map_names(parameters: Parameters) -> dict[str, str]:
    return dict(zip(parameters["input"], parameters["inside"], strict=True))


def _change_infos(parameters: Parameters, _graph: onnx.GraphProto) -> ChangeInfo:
    def retype(kind: str, info: Info) -> Info:
        if kind == "input" and info.name in parameters["input"]:
            info.type.tensor_type.elem_type = NUMBERS[parameters["to"]]
        return info

    return retype


def _explain_misfit(parameters: Parameters, before: Interface) -> str | None:
    pairs = zip(parameters["input"], parameters["dtypes"], strict=True)
    return next(filter(None, (explain_type_misfit(before, name, dtype) for name, dtype in pairs)), None)


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    dtypes = dict(zip(parameters["input"], parameters["dtypes"], strict=True))
    cast = {name: feed[name].astype(np.dtype(dtype)) for name, dtype in dtypes.items()}
    inner = {new: cast[old] for old, new in _map_names(parameters).items()}
    return before(feed | cast) | expect_exactly(feed) | expect_exactly(inner)


REFERENCE = Reference(
    reads=lambda p: list(p["input"]),
    makes=lambda _: [],
    value=compute_nothing,
    outputs=keep_outputs,
    read=_read,
    fields=Fields(names=_map_names, infos=_change_infos),
    values_after=_compute_after,
    misfit=_explain_misfit,
    stand_ins=lambda p: {new: old for old, new in _map_names(p).items()},
)
