"""add-dense: y = activation(x Wt + b), plus a residual if asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphsurgery.errors import WeightsDifferError
from graphsurgery.interface import Dim, Value
from graphsurgery.references.activation import ACTIVATIONS, expect_activated, propagate_errors
from graphsurgery.references.reference import (
    LITERAL,
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    declare_new_output,
    find_value,
    require_known,
)
from graphsurgery.references.rounding import EPSILON, magnitude, propagate_through_linear


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """Return x Wt + b: ``x [..., in]``, ``weight [out, in]``, ``bias [out]``. Source: torch.nn.Linear."""
    return np.einsum("...i,oi->...o", x, weight) + (0 if bias is None else bias)


def prelu(x: Array, slope: Array) -> Array:
    """Return slope * x where x is negative, else x. Source: torch.nn.PReLU."""
    return np.where(x < 0, slope * x, x)


def _read(parameters: Parameters) -> Parameters:
    require_known("activation", parameters["activation"], (*ACTIVATIONS, "prelu"))
    return parameters


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, tensors = known[parameters["target"]], known.weights.find_all(parameters["digests"])
    activation, residual = parameters["activation"], parameters["residual"]
    if not _has_fitting_shapes(tensors, x.shape[-1], activation, residual):
        raise WeightsDifferError("the file records no weights of a dense layer that fit its target", "make the output again")
    errors, z = known.get_rounding(parameters["target"]), linear(x, tensors["linear.weight"], tensors.get("linear.bias"))
    y = ACTIVATIONS[activation](z) if activation in ACTIVATIONS else prelu(z, tensors["activation_function.weight"])
    own, grown = _propagate_errors(x, z, errors, tensors, activation)
    if not residual:
        return [expect_activated(activation, z, y, compute_tolerance(z, x), own, grown)]
    weight = tensors.get("residual.weight", np.eye(x.shape[-1]))
    bypass = linear(x, weight, None) if "residual.weight" in tensors else x
    own = own + EPSILON * linear(magnitude(x), np.abs(weight), None)
    grown = grown + propagate_through_linear(errors, weight)
    return [expect_activated(activation, z, y + bypass, compute_tolerance(z, x, bypass), own, grown)]


def _propagate_errors(x: Array, z: Array, errors: Array, tensors: dict[str, Array], activation: str) -> tuple[Array, Array]:
    """Return the rounding errors of the activation of z in float32: of its own sums, and those that ``errors`` in x cause."""
    weight, bias = tensors["linear.weight"], tensors.get("linear.bias", np.zeros(1))
    sums = EPSILON * linear(magnitude(x), np.abs(weight), np.abs(bias))
    grown = propagate_through_linear(errors, weight)
    if activation == "prelu":
        slope = max(1.0, float(np.abs(tensors["activation_function.weight"][0])))
        return slope * (sums + EPSILON), slope * grown
    own = propagate_errors(activation, z, sums) + (0 if activation == "identity" else EPSILON)
    return own, propagate_errors(activation, z, grown)


def _has_fitting_shapes(tensors: dict[str, Array], width: int, activation: str, residual: bool) -> bool:
    """Return whether the recorded weights are those of a layer that takes ``width`` dims, and of nothing else."""
    weight = tensors.get("linear.weight", np.zeros(0))
    if weight.ndim != 2 or weight.shape[1] != width or not len(weight) or (activation == "glu" and len(weight) % 2):
        return False
    made = len(weight) // (2 if activation == "glu" else 1)
    shapes = {"linear.weight": weight.shape, "linear.bias": weight.shape[:1]}
    shapes |= {"residual.weight": (made, width)} if residual else {}
    shapes |= {"activation_function.weight": (1,)} if activation == "prelu" else {}
    return (
        all(shapes.get(name) == tensor.shape for name, tensor in tensors.items())
        and ("residual.weight" in tensors or not residual or made == width)
        and ("activation_function.weight" in tensors or activation != "prelu")
    )


def _declare_outputs(parameters: Parameters, before: Sequence[Value], batch: Dim) -> list[Value]:
    """Return the outputs: those before, and the new one, in the place of its target if that is neither kept nor inside."""
    if find_value(before, parameters["target"]) is None and parameters["keep_target"]:
        return [*before, Value(parameters["output_name"], onnx.TensorProto.FLOAT, (batch, None, LITERAL))]
    return declare_new_output(parameters, before, batch)


REFERENCE = Reference(
    reads=lambda p: [p["target"]],
    makes=lambda p: [p["output_name"]],
    value=_compute,
    outputs=_declare_outputs,
    read=_read,
)
