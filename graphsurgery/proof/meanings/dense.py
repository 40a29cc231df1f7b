"""add-dense: y = activation(x Wt + b), with a residual where asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError, WeightsDifferError
from graphsurgery.interface import Dim, Value
from graphsurgery.proof.meaning import Array, Expected, Known, Meaning, Parameters, in_place, named, relative_to, resized
from graphsurgery.proof.meanings.activations import ACTIVATIONS, with_jumps
from graphsurgery.proof.weights import RecordedWeights


def recorded(parameters: Parameters, weights: RecordedWeights) -> dict[str, Array]:
    """The weights that an edit records as ``name=sha256``, by name. WeightsDifferError where the file has them not."""
    pairs = [str(digest).partition("=") for digest in parameters["digests"]]
    return {name: weights.find(sha256) for name, _, sha256 in pairs}


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """x Wt + b: ``x [..., in]``, ``weight [out, in]``, ``bias [out]``. Source: torch.nn.Linear."""
    return np.einsum("...i,oi->...o", x, weight) + (0 if bias is None else bias)


def _check(parameters: Parameters) -> None:
    if parameters["activation"] not in (*ACTIVATIONS, "prelu"):
        what = f"there is no reference for the activation {parameters['activation']!r}"
        raise UnsupportedModelError(what, "a newer graphsurgery may have one")


def _value(parameters: Parameters, known: Known) -> list[Expected]:
    x, tensors = known[parameters["target"]], recorded(parameters, known.weights)
    if "linear.weight" not in tensors or tensors["linear.weight"].shape[1:] != x.shape[-1:]:
        raise WeightsDifferError("the file records no linear.weight that fits its target", "make the output again")
    z = linear(x, tensors["linear.weight"], tensors.get("linear.bias"))
    if parameters["activation"] == "prelu":
        y = np.where(z < 0, tensors["activation_function.weight"] * z, z)
    else:
        y = ACTIVATIONS[parameters["activation"]](z)
    tolerance = with_jumps(parameters["activation"], z, relative_to(z, x))
    if parameters["residual"]:
        y = y + (linear(x, tensors["residual.weight"], None) if "residual.weight" in tensors else x)
    return [Expected(y, tolerance)]


def _outputs(parameters: Parameters, before: Sequence[Value], batch: Dim) -> list[Value]:
    made = resized(named(before, parameters["target"]), parameters["output_name"], onnx.TensorProto.FLOAT)
    return in_place(parameters, before, made)


MEANING = Meaning(
    {"target": str, "output_name": str, "activation": str, "residual": bool, "keep_target": bool, "digests": list},
    reads=lambda p: [p["target"]],
    makes=lambda p: [p["output_name"]],
    value=_value,
    outputs=_outputs,
    check=_check,
)
