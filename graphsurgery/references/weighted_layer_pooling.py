"""add-weighted-layer-pooling: a weighted mean of hidden layers. Source: sentence-transformers' WeightedLayerPooling module."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphsurgery.errors import NothingToPoolError, WeightsDifferError
from graphsurgery.references.dense import recorded
from graphsurgery.references.reference import Array, Expected, Known, Parameters, Reference, made_of_target, relative_to
from graphsurgery.references.rounding import EPSILON, allowed, magnitude


def weighted_mean(layers: Sequence[Array], weights: Array) -> Array:
    """sum(w_i x_i) / sum w, one layer after the other."""
    total = np.zeros_like(layers[0])
    for layer, weight in zip(layers, weights, strict=True):
        total = total + weight * layer
    return total / float(np.sum(weights))


def _layers(parameters: Parameters) -> list[str]:
    """The hidden layers that count: those from ``layer_start`` on."""
    return [str(name).strip() for name in parameters["layers"].split(",")][parameters["layer_start"] :]


def _value(parameters: Parameters, known: Known) -> list[Expected]:
    layers = [known[name] for name in _layers(parameters)]
    weights = recorded(parameters, known.weights).get("layer_weights")
    if any(layer.ndim != 3 or layer.shape != layers[0].shape for layer in layers):
        shapes = ", ".join(str(list(layer.shape)) for layer in layers)
        what = f"the hidden layers are {shapes}: all have to be [batch, seq, hidden]"
        raise NothingToPoolError(what, "name others with --layers")
    if weights is None or weights.shape != (len(layers),):
        raise WeightsDifferError("the file records no layer_weights for its layers", "make the output again")
    y, shares = weighted_mean(layers, weights), np.abs(weights / np.sum(weights))
    own = EPSILON * np.tensordot(shares, magnitude(np.stack(layers)), axes=1)
    grown = np.tensordot(shares, np.stack([known.rounding(name) for name in _layers(parameters)]), axes=1)
    tolerance = relative_to(y, *layers) * max(float(np.sum(shares)), 1.0)
    return [Expected(y, allowed(tolerance, own, grown), own + grown, promised=tolerance)]


REFERENCE = Reference(
    reads=lambda p: list(dict.fromkeys([*_layers(p), p["target"]])),
    makes=lambda p: [p["output_name"]],
    value=_value,
    outputs=made_of_target,
)
