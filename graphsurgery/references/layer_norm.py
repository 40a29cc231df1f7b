"""add-layer-norm: (x - mean) / sqrt(var + 1e-5) * scale + shift. Source: torch.nn.LayerNorm."""

from __future__ import annotations

import numpy as np

from graphsurgery.errors import WeightsDifferError
from graphsurgery.references.reference import (
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    declare_wide_target,
)
from graphsurgery.references.rounding import EPSILON, estimate_mean_error, expect_rounded, magnitude, propagate_through_sum


def layer_norm(x: Array, scale: Array, shift: Array) -> Array:
    """Normalise over the last dim. The variance is the population's, not the sample's."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    return centred / np.sqrt(np.var(x, axis=-1, keepdims=True) + 1e-5) * scale + shift


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, tensors = known[parameters["target"]], known.weights.find_all(parameters["digests"])
    scale, shift = tensors.get("norm.weight", x), tensors.get("norm.bias", np.zeros(x.shape[-1]))
    if {scale.shape, shift.shape} != {x.shape[-1:]}:
        raise WeightsDifferError("the file records no norm.weight and norm.bias that fit its target", "make the output again")
    y, errors = layer_norm(x, scale, shift), known.get_rounding(parameters["target"])
    return [expect_rounded(y, compute_tolerance(y), *_propagate_errors(x, scale, shift, errors))]


def _propagate_errors(x: Array, scale: Array, shift: Array, errors: Array) -> tuple[Array, Array]:
    """Return the rounding errors of y in float32: those of its own arithmetic, and those that ``errors`` in x cause."""
    width, stretch = x.shape[-1], np.abs(scale) / np.sqrt(np.var(x, axis=-1, keepdims=True) + 1e-5)
    centred = magnitude(layer_norm(x, np.ones(width), np.zeros(width)))
    size = magnitude(x) + estimate_mean_error(width) * np.mean(magnitude(x), axis=-1, keepdims=True)
    own = EPSILON * (stretch * size + 2 * centred * np.abs(scale) + np.abs(shift))
    sums = propagate_through_sum(errors) + centred * propagate_through_sum(centred * errors)
    return own, stretch * (errors + sums / width)


REFERENCE = Reference(
    reads=lambda p: [p["target"]],
    makes=lambda p: [p["target"]],
    value=_compute,
    outputs=declare_wide_target,
)
