"""The meaning of every edit that changes what a model gives, by its verb."""

from __future__ import annotations

from graphsurgery.proof.meaning import Meaning
from graphsurgery.proof.meanings import (
    activation,
    cnn,
    dense,
    layer_norm,
    layer_pooling,
    lstm,
    mask_tokens,
    normalize,
    pooling,
    precision,
    splade,
    truncate,
    word_weights,
)

POOLING, NORMALIZE = "add-pooling", "add-normalize"
MEANINGS: dict[str, Meaning] = {
    POOLING: pooling.MEANING,
    NORMALIZE: normalize.MEANING,
    "add-dense": dense.MEANING,
    "add-layer-norm": layer_norm.MEANING,
    "add-activation": activation.MEANING,
    "mask-tokens": mask_tokens.MEANING,
    "truncate": truncate.MEANING,
    "output-precision": precision.MEANING,
    "add-cnn": cnn.MEANING,
    "add-lstm": lstm.MEANING,
    "add-word-weights": word_weights.MEANING,
    "add-weighted-layer-pooling": layer_pooling.MEANING,
    "add-splade-pooling": splade.MEANING,
}
