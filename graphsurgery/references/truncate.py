"""truncate: the first dims, normalised again unless asked otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Value
from graphsurgery.references.normalize import expect_unit_vectors
from graphsurgery.references.reference import (
    UNIT,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    find_value,
    parse_number,
    resize,
)


def _read(parameters: Parameters) -> Parameters:
    """Read ``dim`` as a list of numbers."""
    dims = [parse_number(part) for part in parameters["dim"].split(",")]
    if not all(dims) or len(set(dims)) < len(dims):
        what = f"the recorded dims {parameters['dim']!r} are not numbers that all differ"
        raise UnsupportedModelError(what, "make the output again")
    return {**parameters, "dim": dims}


def _name_outputs(parameters: Parameters) -> list[str]:
    dims = parameters["dim"]
    return [parameters["target"] if len(dims) == 1 else f"{parameters['target']}_{dim}" for dim in dims]


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, rounding = known[parameters["target"]], known.get_rounding(parameters["target"])
    tolerance = np.maximum(known.get_tolerance(parameters["target"]), compute_tolerance(x, share=UNIT))
    if parameters["keep_length"]:
        return [Expected(x[..., :dim], tolerance[..., :dim], rounding[..., :dim]) for dim in parameters["dim"]]
    return [expect_unit_vectors(x[..., :dim], rounding[..., :dim]) for dim in parameters["dim"]]


def _declare_outputs(parameters: Parameters, before: Sequence[Value], batch: Dim) -> list[Value]:
    target, dims = parameters["target"], parameters["dim"]
    whole = find_value(before, target)
    cut = [resize(whole, name, onnx.TensorProto.FLOAT, dim) for name, dim in zip(_name_outputs(parameters), dims, strict=True)]
    return [cut[0] if value.name == target else value for value in before] if len(dims) == 1 else [*before, *cut]


REFERENCE = Reference(
    reads=lambda p: [p["target"]],
    makes=_name_outputs,
    value=_compute,
    outputs=_declare_outputs,
    read=_read,
)
