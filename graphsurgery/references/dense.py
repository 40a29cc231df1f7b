"""add-dense: y = activation(x Wt + b), with a residual where asked for."""

from __future__ import annotations

import numpy as np

from graphsurgery.errors import UnsupportedModelError, WeightsDifferError
from graphsurgery.references.activation import ACTIVATIONS, propagate_errors, widen_at_jumps
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import (
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    declare_new_output,
)
from graphsurgery.references.rounding import EPSILON, magnitude, propagate_through_linear, widen_tolerance


def recorded(parameters: Parameters, weights: RecordedWeights) -> dict[str, Array]:
    """Return the weights that an edit records as ``name=sha256``, by name. WeightsDifferError if the file lacks one."""
    pairs = [str(digest).partition("=") for digest in parameters["digests"]]
    return {name: weights.find(sha256) for name, _, sha256 in pairs}


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """x Wt + b: ``x [..., in]``, ``weight [out, in]``, ``bias [out]``. Source: torch.nn.Linear."""
    return np.einsum("...i,oi->...o", x, weight) + (0 if bias is None else bias)


def prelu(x: Array, slope: Array) -> Array:
    """slope * x where x is negative, else x. Source: torch.nn.PReLU."""
    return np.where(x < 0, slope * x, x)


def _read(parameters: Parameters) -> Parameters:
    if parameters["activation"] not in (*ACTIVATIONS, "prelu"):
        what = f"there is no reference for the activation {parameters['activation']!r}"
        raise UnsupportedModelError(what, "a newer graphsurgery may have one")
    return parameters


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, tensors = known[parameters["target"]], recorded(parameters, known.weights)
    activation, residual = parameters["activation"], parameters["residual"]
    if not _has_fitting_shapes(tensors, x.shape[-1], activation, residual):
        raise WeightsDifferError("the file records no weights of a dense layer that fit its target", "make the output again")
    z = linear(x, tensors["linear.weight"], tensors.get("linear.bias"))
    y = ACTIVATIONS[activation](z) if activation in ACTIVATIONS else prelu(z, tensors["activation_function.weight"])
    bypass = linear(x, tensors["residual.weight"], None) if "residual.weight" in tensors else x
    own, grown = _propagate_errors(x, z, known.get_rounding(parameters["target"]), tensors, activation)
    if residual:
        own = own + EPSILON * linear(magnitude(x), np.abs(tensors.get("residual.weight", np.eye(x.shape[-1]))), None)
        grown = grown + propagate_through_linear(
            known.get_rounding(parameters["target"]), tensors.get("residual.weight", np.eye(x.shape[-1]))
        )
    promised = compute_tolerance(z, x, *([bypass] if residual else []))
    tolerance, promised, rounding = (
        widen_at_jumps(activation, z, one) for one in (widen_tolerance(promised, own, grown), promised, own + grown)
    )
    return [Expected(y + bypass if residual else y, tolerance, rounding, promised=promised)]


def _propagate_errors(x: Array, z: Array, errors: Array, tensors: dict[str, Array], activation: str) -> tuple[Array, Array]:
    """Return the rounding errors of the activation of z in float32: of its own sums, and those that ``errors`` in x cause."""
    weight, bias = tensors["linear.weight"], tensors.get("linear.bias", np.zeros(1))
    sums, grown = EPSILON * linear(magnitude(x), np.abs(weight), np.abs(bias)), propagate_through_linear(errors, weight)
    if activation == "prelu":
        slope = max(1.0, float(np.abs(tensors["activation_function.weight"][0])))
        return slope * (sums + EPSILON), slope * grown
    return propagate_errors(activation, z, sums) + (0 if activation == "identity" else EPSILON), propagate_errors(
        activation, z, grown
    )


def _has_fitting_shapes(tensors: dict[str, Array], width: int, activation: str, residual: bool) -> bool:
    """Whether the recorded weights are those of a layer that takes ``width`` dims, and of nothing else."""
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


REFERENCE = Reference(
    reads=lambda p: [p["target"]],
    makes=lambda p: [p["output_name"]],
    value=_compute,
    outputs=declare_new_output,
    read=_read,
)
