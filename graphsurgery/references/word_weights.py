"""add-word-weights: token embeddings times a weight of their word. Source: sentence-transformers' WordWeights module."""

from __future__ import annotations

import numpy as np

from graphsurgery.errors import NothingToPoolError, WeightsDifferError
from graphsurgery.references.dense import recorded
from graphsurgery.references.pooling import with_mask
from graphsurgery.references.reference import (
    RELATIVE,
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    made_of_target,
    relative_to,
)
from graphsurgery.references.rounding import EPSILON, allowed, magnitude


def row_weights(ids: Array, m: Array, table: Array) -> Array:
    """The weight of each position of a row: ``ids [seq]``, ``m [seq]`` bool, ``table [vocabulary]`` -> ``[seq]``."""
    return np.array([table[word] if token else 0.0 for word, token in zip(ids, m, strict=True)])


def weigh_row(x: Array, m: Array, w: Array) -> Array:
    """``x [seq, dim]``, ``m [seq]`` bool, ``w [seq]`` -> ``[seq, dim]``; padding is 0, whatever stands there."""
    return np.stack([x[t] * w[t] if m[t] else np.zeros(x.shape[1]) for t in range(len(x))])


def _value(parameters: Parameters, known: Known) -> list[Expected]:
    x, ids, tensors = known[parameters["target"]], known[parameters["ids"]], recorded(parameters, known.weights)
    m = parameters["mask"].of(known, x.shape[:2])
    if x.ndim != 3 or m.shape != x.shape[:2] or ids.shape != m.shape:
        what = f"{parameters['target']} is {list(x.shape)}, the mask {list(m.shape)}, the ids {list(ids.shape)}"
        raise NothingToPoolError(f"{what}: what is weighed is [batch, seq, hidden]", "name another value with --target")
    table = tensors.get("token_weights")
    if table is None or table.ndim != 1:
        raise WeightsDifferError("the file records no token_weights", "make the output again")
    if np.any((ids >= len(table)) | (ids < -len(table))):
        what = f"the file has word weights for {len(table)} words, and its encoder has more"
        raise WeightsDifferError(what, "make the output again")
    w = np.stack([row_weights(*row, table) for row in zip(ids, m, strict=True)])
    y = np.stack([weigh_row(*row) for row in zip(x, m, w, strict=True)])
    own, grown = EPSILON * magnitude(y), known.rounding(parameters["target"]) * np.abs(w)[:, :, None]
    weighed = Expected(y, allowed(relative_to(y), own, grown), own + grown, promised=relative_to(y))
    return [weighed, Expected(w, RELATIVE * np.maximum(np.abs(w), 1e-6))]


REFERENCE = Reference(
    reads=lambda p: [p["target"], p["ids"], *(name for name in p["mask"].reads if name != p["ids"])],
    makes=lambda p: [p["output_name"], p["token_weights"]],
    value=_value,
    outputs=made_of_target,
    ignores_padding=lambda p: not p["mask"].is_everywhere,
    looks_up=True,
    read=with_mask,
)  # fmt: skip
