"""mask-tokens: x at tokens, 0 elsewhere, and at the first token where asked for."""

from __future__ import annotations

import numpy as np

from graphsurgery.references.pooling import with_mask
from graphsurgery.references.reference import (
    RELATIVE,
    UNIT,
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    float_target,
    relative_to,
)


def mask_row(x: Array, m: Array, skip_first: bool) -> Array:
    """One row: ``x [seq, dim]``, ``m [seq]``."""
    tokens = [position for position in range(len(m)) if m[position]]
    kept = tokens[1:] if skip_first else tokens
    return np.stack([x[position] if position in kept else np.zeros(x.shape[1]) for position in range(len(m))])


def _value(parameters: Parameters, known: Known) -> list[Expected]:
    x = known[parameters["target"]]
    m = parameters["mask"].of(known, x.shape[:2])
    y = np.stack([mask_row(row, mask, parameters["skip_first"]) for row, mask in zip(x, m, strict=True)])
    tolerance = np.maximum(known.tolerance(parameters["target"]), relative_to(y) * UNIT / RELATIVE)
    return [Expected(y, tolerance, known.rounding(parameters["target"]))]


REFERENCE = Reference(
    reads=lambda p: [p["target"], *p["mask"].reads],
    makes=lambda p: [p["target"]],
    value=_value,
    outputs=float_target,
    ignores_padding=lambda p: not p["mask"].is_everywhere,
    multiplies=False,
    read=with_mask,
)
