"""The meaning of every edit that changes what a model gives, by its verb."""

from __future__ import annotations

from graphsurgery.proof.meaning import Meaning
from graphsurgery.proof.meanings import activation, dense, layer_norm, normalize, pooling, precision, truncate

POOLING, NORMALIZE = "add-pooling", "add-normalize"
MEANINGS: dict[str, Meaning] = {
    POOLING: pooling.MEANING,
    NORMALIZE: normalize.MEANING,
    "add-dense": dense.MEANING,
    "add-layer-norm": layer_norm.MEANING,
    "add-activation": activation.MEANING,
    "truncate": truncate.MEANING,
    "output-precision": precision.MEANING,
}
