"""add-layer-norm: (x - mean) / sqrt(var + 1e-5) * scale + shift. Source: torch.nn.LayerNorm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphsurgery.errors import WeightsDifferError
from graphsurgery.interface import Dim, Value
from graphsurgery.references.dense import recorded
from graphsurgery.references.reference import (
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    find_value,
    resize,
)
from graphsurgery.references.rounding import EPSILON, estimate_mean_error, magnitude, propagate_through_sum, widen_tolerance


def layer_norm(x: Array, scale: Array, shift: Array) -> Array:
    """Over the last dim, the variance being that of the whole and not of a sample."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    return centred / np.sqrt(np.var(x, axis=-1, keepdims=True) + 1e-5) * scale + shift


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, tensors = known[parameters["target"]], recorded(parameters, known.weights)
    if any(tensors.get(name, x).shape != x.shape[-1:] for name in ("norm.weight", "norm.bias")):
        raise WeightsDifferError("the file records no norm.weight and norm.bias that fit its target", "make the output again")
    scale, shift = tensors["norm.weight"], tensors["norm.bias"]
    y, own, grown = layer_norm(x, scale, shift), *_propagate_errors(x, scale, shift, known.get_rounding(parameters["target"]))
    return [Expected(y, widen_tolerance(compute_tolerance(y), own, grown), own + grown, promised=compute_tolerance(y))]


def _propagate_errors(x: Array, scale: Array, shift: Array, errors: Array) -> tuple[Array, Array]:
    """Return the rounding errors of y in float32: those of its own arithmetic, and those that ``errors`` in x cause."""
    width, stretch = x.shape[-1], np.abs(scale) / np.sqrt(np.var(x, axis=-1, keepdims=True) + 1e-5)
    centred = magnitude(layer_norm(x, np.ones(width), np.zeros(width)))
    size = magnitude(x) + estimate_mean_error(width) * np.mean(magnitude(x), axis=-1, keepdims=True)
    own = EPSILON * (stretch * size + 2 * centred * np.abs(scale) + np.abs(shift))
    return own, stretch * (errors + (propagate_through_sum(errors) + centred * propagate_through_sum(centred * errors)) / width)


def _declare_outputs(parameters: Parameters, before: Sequence[Value], batch: Dim) -> list[Value]:
    made = resize(find_value(before, parameters["target"]), parameters["target"], onnx.TensorProto.FLOAT)
    return [made if value.name == made.name else value for value in before]


REFERENCE = Reference(
    lambda p: [p["target"]], lambda p: [p["target"]], _compute, _declare_outputs,
)  # fmt: skip
