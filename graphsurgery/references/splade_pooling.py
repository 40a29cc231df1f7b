"""add-splade-pooling: from scores ``[batch, seq, vocabulary]`` to one vector per text.

Source: sentence-transformers' SpladePooling module.
"""

from __future__ import annotations

import numpy as np

from graphsurgery.references.recorded_mask import find_tokens, read_mask
from graphsurgery.references.reference import (
    RELATIVE,
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    declare_pooled_output,
    require_known,
)

STRATEGIES = ("max", "sum")
ROUNDING = 2e-7
"""The rounding of float32 in log(1 + x). For x below half of it, float32 gives 0."""
ACTIVATIONS = {
    "relu": lambda x: np.log1p(np.maximum(x, 0)),
    "log1p_relu": lambda x: np.log1p(np.log1p(np.maximum(x, 0))),
}


def splade_row(x: Array, m: Array, strategy: str, activation: str) -> Array:
    """Pool one row: ``x [seq, vocabulary]``, ``m [seq]`` -> ``[vocabulary]``.

    Every token is activated, then the tokens' max or sum is taken; zeros without tokens.
    """
    tokens = [ACTIVATIONS[activation](x[position]) for position in range(len(m)) if m[position]]
    if not tokens:
        return np.zeros(x.shape[1])
    return np.max(tokens, axis=0) if strategy == "max" else np.sum(tokens, axis=0)


def splade(x: Array, m: Array, strategy: str, activation: str) -> Array:
    """Pool every row: ``[batch, vocabulary]``."""
    rows = [splade_row(*row, strategy, activation) for row in zip(x, m, strict=True)]
    return np.array(rows).reshape(len(x), x.shape[2])


def _read(parameters: Parameters) -> Parameters:
    for name, known in (("strategy", STRATEGIES), ("activation", ACTIVATIONS)):
        require_known(name, parameters[name], known)
    return read_mask(parameters)


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, m = find_tokens(parameters, known, dims="vocabulary")
    largest, y = (splade(x, m, strategy, parameters["activation"]) for strategy in ("max", parameters["strategy"]))
    terms = np.maximum(m.sum(axis=1), 1) if parameters["strategy"] == "sum" else np.ones(len(x))
    tolerance = RELATIVE * terms[:, None] * np.max(largest, axis=1, initial=1, keepdims=True)
    errors = np.where(m[:, :, None], known.get_rounding(parameters["target"]) + ROUNDING, 0)
    over_tokens = np.max(errors, axis=1, initial=0) if parameters["strategy"] == "max" else np.sum(errors, axis=1)
    return [Expected(y, tolerance, over_tokens)]


REFERENCE = Reference(
    reads=lambda p: [p["target"], *p["mask"].reads],
    makes=lambda p: [p["output_name"]],
    value=_compute,
    outputs=declare_pooled_output,
    ignores_padding=lambda p: not p["mask"].is_everywhere,
    multiplies=False,
    read=_read,
)
