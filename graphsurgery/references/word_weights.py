"""add-word-weights: token embeddings times a weight of their word. Source: sentence-transformers' WordWeights module."""

from __future__ import annotations

import numpy as np

from graphsurgery.errors import NothingToPoolError, WeightsDifferError
from graphsurgery.references.dense import recorded
from graphsurgery.references.pooling import read_mask
from graphsurgery.references.reference import (
    RELATIVE,
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    declare_new_output,
)
from graphsurgery.references.rounding import EPSILON, magnitude, widen_tolerance


def look_up_weights(ids: Array, m: Array, table: Array) -> Array:
    """The weight of each position of a row: ``ids [seq]``, ``m [seq]`` bool, ``table [vocabulary]`` -> ``[seq]``."""
    return np.array([table[word] if token else 0.0 for word, token in zip(ids, m, strict=True)])


def weigh_row(x: Array, m: Array, w: Array) -> Array:
    """``x [seq, dim]``, ``m [seq]`` bool, ``w [seq]`` -> ``[seq, dim]``; padding is 0, whatever stands there."""
    return np.stack([x[t] * w[t] if m[t] else np.zeros(x.shape[1]) for t in range(len(x))])


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, ids, tensors = known[parameters["target"]], known[parameters["ids"]], recorded(parameters, known.weights)
    m = parameters["mask"].find_tokens(known, x.shape[:2])
    if x.ndim != 3 or m.shape != x.shape[:2] or ids.shape != m.shape:
        what = f"{parameters['target']} is {list(x.shape)}, the mask {list(m.shape)}, the ids {list(ids.shape)}"
        raise NothingToPoolError(f"{what}: what is weighed is [batch, seq, hidden]", "name another value with --target")
    table = tensors.get("token_weights")
    if table is None or table.ndim != 1:
        raise WeightsDifferError("the file records no token_weights", "make the output again")
    if np.any((ids >= len(table)) | (ids < -len(table))):
        what = f"the file has word weights for {len(table)} words, and its encoder has more"
        raise WeightsDifferError(what, "make the output again")
    w = np.stack([look_up_weights(*row, table) for row in zip(ids, m, strict=True)])
    y = np.stack([weigh_row(*row) for row in zip(x, m, w, strict=True)])
    own, grown = EPSILON * magnitude(y), known.get_rounding(parameters["target"]) * np.abs(w)[:, :, None]
    weighed = Expected(y, widen_tolerance(compute_tolerance(y), own, grown), own + grown, promised=compute_tolerance(y))
    return [weighed, Expected(w, RELATIVE * np.maximum(np.abs(w), 1e-6))]


REFERENCE = Reference(
    reads=lambda p: [p["target"], p["ids"], *(name for name in p["mask"].reads if name != p["ids"])],
    makes=lambda p: [p["output_name"], p["token_weights"]],
    value=_compute,
    outputs=declare_new_output,
    ignores_padding=lambda p: not p["mask"].is_everywhere,
    looks_up=True,
    read=read_mask,
)  # fmt: skip
