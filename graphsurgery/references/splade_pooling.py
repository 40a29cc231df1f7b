"""add-splade-pooling: from scores ``[batch, seq, vocabulary]`` to one vector per text. Source: sentence-transformers'
SpladePooling module."""

from __future__ import annotations

import numpy as np

from graphsurgery.errors import NothingToPoolError, UnsupportedModelError
from graphsurgery.references.pooling import read_mask
from graphsurgery.references.reference import RELATIVE, Array, Expected, Known, Parameters, Reference, declare_pooled_output

STRATEGIES = ("max", "sum")
ROUNDING = 2e-7
"""The rounding of float32 in log(1 + x), which is 0 for x below half of that."""
ACTIVATIONS = {
    "relu": lambda x: np.log1p(np.maximum(x, 0)),
    "log1p_relu": lambda x: np.log1p(np.log1p(np.maximum(x, 0))),
}


def splade_row(x: Array, m: Array, strategy: str, activation: str) -> Array:
    """``x [seq, vocabulary]``, ``m [seq]`` -> ``[vocabulary]``: every token's activation, then their max or sum; zeros without
    tokens."""
    tokens = [ACTIVATIONS[activation](x[position]) for position in range(len(m)) if m[position]]
    if not tokens:
        return np.zeros(x.shape[1])
    return np.max(tokens, axis=0) if strategy == "max" else np.sum(tokens, axis=0)


def splade(x: Array, m: Array, strategy: str, activation: str) -> Array:
    """``[batch, vocabulary]``"""
    rows = [splade_row(*row, strategy, activation) for row in zip(x, m, strict=True)]
    return np.array(rows).reshape(len(x), x.shape[2])


def _read(parameters: Parameters) -> Parameters:
    for name, known in (("strategy", STRATEGIES), ("activation", ACTIVATIONS)):
        if parameters[name] not in known:
            what = f"there is no reference for the {name} {parameters[name]!r}"
            raise UnsupportedModelError(what, "a newer graphsurgery may have one")
    return read_mask(parameters)


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x = known[parameters["target"]]
    m = parameters["mask"].find_tokens(known, x.shape[:2])
    if x.ndim != 3 or m.shape != x.shape[:2]:
        what = f"{parameters['target']} is {list(x.shape)} where the mask is {list(m.shape)}"
        raise NothingToPoolError(f"{what}: what is pooled is [batch, seq, vocabulary]", "name other scores with --target")
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
