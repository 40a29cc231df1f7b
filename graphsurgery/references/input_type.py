"""input-type: inputs take numbers of another type, which nodes cast back.

Where the numbers are floats, ONNX Runtime may leave out the rounding to float16, because on the CPU it computes the nodes that
follow in float32. So the values may be off by `NOISE` times as much as they change when each number is rounded the other way.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from graphsurgery.compare.tolerance import NOISE
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Interface
from graphsurgery.references.fields import ChangeInfo, Fields, Info
from graphsurgery.references.input_edits import check_dtype, compute_nothing, explain_type_misfit, keep_outputs
from graphsurgery.references.reference import Array, Expected, Parameters, Reference, RunModel, Values, expect_exactly

NUMBERS = {"int32": onnx.TensorProto.INT32, "int64": onnx.TensorProto.INT64, "float32": onnx.TensorProto.FLOAT}
FLOAT32 = "float32"


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


def _round_otherwise(given: Array, rounded: Array) -> Array:
    """Return ``given`` rounded to the other neighbour in the type of ``rounded``, where it is not exact."""
    up, down = (np.nextafter(rounded, rounded.dtype.type(end)) for end in (np.inf, -np.inf))
    return np.where(given > rounded, up, np.where(given < rounded, down, rounded))


def _allow_unrounded(values: dict[str, Expected], other: dict[str, Expected]) -> dict[str, Expected]:
    """Widen the tolerance of floats by the largest difference in their row, for `NOISE` times."""
    allowed = {}
    for name, one in values.items():
        if one.values.dtype.kind != "f" or not one.values.ndim:
            continue
        difference = np.abs(one.values.astype(np.float64) - other[name].values.astype(np.float64))
        finite = np.where(np.isfinite(difference), difference, 0)
        noise = NOISE * finite.max(axis=tuple(range(1, finite.ndim)), initial=0, keepdims=True)
        allowed[name] = replace(one, tolerance=one.tolerance + noise)
    return values | allowed


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    dtypes = dict(zip(parameters["input"], parameters["dtypes"], strict=True))
    cast = {name: feed[name].astype(np.dtype(dtype)) for name, dtype in dtypes.items()}
    inner = {new: cast[old] for old, new in _map_names(parameters).items()}
    values = before(feed | cast)
    if parameters["to"] == FLOAT32:
        values = _allow_unrounded(values, before(feed | {name: _round_otherwise(feed[name], cast[name]) for name in cast}))
    return values | expect_exactly(feed) | expect_exactly(inner)


def _choose(parameters: Parameters) -> Reference | None:
    """Return the reference for floats, which ONNX Runtime's graph optimisations may leave unrounded."""
    return replace(REFERENCE, resizes=True) if parameters["to"] == FLOAT32 else None


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
    choose=_choose,
)
