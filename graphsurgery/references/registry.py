"""The meaning of every edit that changes what a model gives, by its verb."""

from __future__ import annotations

from graphsurgery.references import (
    activation,
    cnn,
    dense,
    drop_input,
    dynamic_dim,
    fix_dim,
    input_type,
    layer_norm,
    layer_pooling,
    lstm,
    mask_tokens,
    normalize,
    optional_input,
    pooling,
    precision,
    rename,
    splade,
    truncate,
    word_weights,
)
from graphsurgery.references.reference import Meaning

POOLING, NORMALIZE, OPTIONAL = "add-pooling", "add-normalize", "optional-input"
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
    "drop-input": drop_input.MEANING,
    OPTIONAL: optional_input.MEANING,
    "input-type": input_type.MEANING,
    "rename": rename.MEANING,
    "fix-dim": fix_dim.MEANING,
    "dynamic-dim": dynamic_dim.MEANING,
}
