"""add-activation: y = activation(x)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Value
from graphsurgery.references.activations import ACTIVATIONS, bent, with_jumps
from graphsurgery.references.reference import Expected, Known, Meaning, Parameters, in_place, named, relative_to, resized
from graphsurgery.references.rounding import EPSILON, allowed, magnitude


def _check(parameters: Parameters) -> None:
    if parameters["activation"] not in ACTIVATIONS:
        what = f"there is no reference for the activation {parameters['activation']!r}"
        raise UnsupportedModelError(what, "a newer graphsurgery may have one")


def _value(parameters: Parameters, known: Known) -> list[Expected]:
    x, activation = known[parameters["target"]], parameters["activation"]
    y = ACTIVATIONS[activation](x)
    own, grown = EPSILON * np.maximum(1, magnitude(y)), bent(activation, x, known.rounding(parameters["target"]))
    tolerance, promised, rounding = (
        with_jumps(activation, x, one) for one in (allowed(relative_to(y), own, grown), relative_to(y), own + grown)
    )
    return [Expected(y, tolerance, rounding, promised=promised)]


def _outputs(parameters: Parameters, before: Sequence[Value], batch: Dim) -> list[Value]:
    declared = named(before, parameters["target"])
    last = declared.dims[-1] if declared is not None and declared.dims else None
    return in_place(parameters, before, resized(declared, parameters["output_name"], onnx.TensorProto.FLOAT, last))


MEANING = Meaning(
    reads=lambda p: [p["target"]],
    makes=lambda p: [p["output_name"]],
    value=_value,
    outputs=_outputs,
    check=_check,
)
