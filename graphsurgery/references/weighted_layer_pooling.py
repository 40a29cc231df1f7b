"""add-weighted-layer-pooling: a weighted mean of hidden layers. Source: sentence-transformers' WeightedLayerPooling module."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphsurgery.errors import NothingToPoolError, WeightsDifferError
from graphsurgery.references.reference import (
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    declare_new_output,
)
from graphsurgery.references.rounding import EPSILON, expect_rounded, magnitude


def average_layers(layers: Sequence[Array], weights: Array) -> Array:
    """Return sum(w_i x_i) / sum w, adding one layer after the other."""
    total = np.zeros_like(layers[0])
    for layer, weight in zip(layers, weights, strict=True):
        total = total + weight * layer
    return total / float(np.sum(weights))


def _list_layers(parameters: Parameters) -> list[str]:
    """Return the hidden layers that are averaged: those from ``layer_start`` on."""
    return [str(name).strip() for name in parameters["layers"].split(",")][parameters["layer_start"] :]


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    layers = [known[name] for name in _list_layers(parameters)]
    weights = known.weights.find_all(parameters["digests"]).get("layer_weights")
    if any(layer.ndim != 3 or layer.shape != layers[0].shape for layer in layers):
        shapes = ", ".join(str(list(layer.shape)) for layer in layers)
        what = f"the hidden layers are {shapes}; all must be [batch, seq, hidden] and equally large"
        raise NothingToPoolError(what, "name other layers with --layers")
    if weights is None or weights.shape != (len(layers),):
        raise WeightsDifferError("the file records no layer_weights for its layers", "make the output again")
    y, shares = average_layers(layers, weights), np.abs(weights / np.sum(weights))
    own = EPSILON * np.tensordot(shares, magnitude(np.stack(layers)), axes=1)
    grown = np.tensordot(shares, np.stack([known.get_rounding(name) for name in _list_layers(parameters)]), axes=1)
    tolerance = compute_tolerance(y, *layers) * max(float(np.sum(shares)), 1.0)
    return [expect_rounded(y, tolerance, own, grown)]


REFERENCE = Reference(
    reads=lambda p: list(dict.fromkeys([*_list_layers(p), p["target"]])),
    makes=lambda p: [p["output_name"]],
    value=_compute,
    outputs=declare_new_output,
)
