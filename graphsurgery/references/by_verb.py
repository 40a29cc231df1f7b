"""The reference of every edit that changes what a model gives, by its verb."""

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
from graphsurgery.references.reference import Reference

POOLING, NORMALIZE, OPTIONAL = "add-pooling", "add-normalize", "optional-input"
REFERENCES: dict[str, Reference] = {
    POOLING: pooling.REFERENCE,
    NORMALIZE: normalize.REFERENCE,
    "add-dense": dense.REFERENCE,
    "add-layer-norm": layer_norm.REFERENCE,
    "add-activation": activation.REFERENCE,
    "mask-tokens": mask_tokens.REFERENCE,
    "truncate": truncate.REFERENCE,
    "output-precision": precision.REFERENCE,
    "add-cnn": cnn.REFERENCE,
    "add-lstm": lstm.REFERENCE,
    "add-word-weights": word_weights.REFERENCE,
    "add-weighted-layer-pooling": layer_pooling.REFERENCE,
    "add-splade-pooling": splade.REFERENCE,
    "drop-input": drop_input.REFERENCE,
    OPTIONAL: optional_input.REFERENCE,
    "input-type": input_type.REFERENCE,
    "rename": rename.REFERENCE,
    "fix-dim": fix_dim.REFERENCE,
    "dynamic-dim": dynamic_dim.REFERENCE,
}
