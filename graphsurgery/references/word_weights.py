"""add-word-weights: token embeddings times a weight of their word. Source: sentence-transformers' WordWeights module."""

from __future__ import annotations

import numpy as np

from graphsurgery.errors import NothingToPoolError, WeightsDifferError
from graphsurgery.references.recorded_mask import find_tokens, read_mask
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
from graphsurgery.references.rounding import EPSILON, expect_rounded, magnitude


def look_up_weights(ids: Array, m: Array, table: Array) -> Array:
    """Return the weight of each position of a row: ``ids [seq]``, ``m [seq]`` bool, ``table [vocabulary]`` -> ``[seq]``."""
    return np.array([table[word] if token else 0.0 for word, token in zip(ids, m, strict=True)])


def weigh_row(x: Array, m: Array, w: Array) -> Array:
    """Weigh one row: ``x [seq, dim]``, ``m [seq]`` bool, ``w [seq]`` -> ``[seq, dim]``; padding becomes 0."""
    return np.stack([x[t] * w[t] if m[t] else np.zeros(x.shape[1]) for t in range(len(x))])


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, m = find_tokens(parameters, known)
    ids, table = known[parameters["ids"]], known.weights.find_all(parameters["digests"]).get("token_weights")
    if ids.shape != m.shape:
        what = f"{parameters['target']} is {list(x.shape)} and {parameters['ids']} is {list(ids.shape)}; needed is [batch, seq]"
        raise NothingToPoolError(what, "name other token ids with --ids")
    if table is None or table.ndim != 1:
        raise WeightsDifferError("the file records no token_weights", "make the output again")
    if np.any((ids >= len(table)) | (ids < -len(table))):
        what = f"the file has weights for {len(table)} words, but its encoder knows more words"
        raise WeightsDifferError(what, "make the output again")
    w = np.stack([look_up_weights(*row, table) for row in zip(ids, m, strict=True)])
    y = np.stack([weigh_row(*row) for row in zip(x, m, w, strict=True)])
    grown = known.get_rounding(parameters["target"]) * np.abs(w)[:, :, None]
    weighed = expect_rounded(y, compute_tolerance(y), EPSILON * magnitude(y), grown)
    return [weighed, Expected(w, RELATIVE * np.maximum(np.abs(w), 1e-6))]


REFERENCE = Reference(
    reads=lambda p: [p["target"], p["ids"], *(name for name in p["mask"].reads if name != p["ids"])],
    makes=lambda p: [p["output_name"], p["token_weights"]],
    value=_compute,
    outputs=declare_new_output,
    ignores_padding=lambda p: not p["mask"].is_everywhere,
    looks_up=True,
    read=read_mask,
)
