"""mask-tokens: x at tokens and 0 at padding; also 0 at the first token if asked for."""

from __future__ import annotations

import numpy as np

from graphsurgery.references.recorded_mask import read_mask
from graphsurgery.references.reference import (
    UNIT,
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    declare_float_target,
)


def mask_row(x: Array, m: Array, skip_first: bool) -> Array:
    """Mask one row: ``x [seq, dim]``, ``m [seq]`` -> ``[seq, dim]``."""
    tokens = [position for position in range(len(m)) if m[position]]
    kept = tokens[1:] if skip_first else tokens
    return np.stack([x[position] if position in kept else np.zeros(x.shape[1]) for position in range(len(m))])


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x = known[parameters["target"]]
    m = parameters["mask"].find_tokens(known, x.shape[:2])
    y = np.stack([mask_row(row, mask, parameters["skip_first"]) for row, mask in zip(x, m, strict=True)])
    tolerance = np.maximum(known.get_tolerance(parameters["target"]), compute_tolerance(y, share=UNIT))
    return [Expected(y, tolerance, known.get_rounding(parameters["target"]))]


REFERENCE = Reference(
    reads=lambda p: [p["target"], *p["mask"].reads],
    makes=lambda p: [p["target"]],
    value=_compute,
    outputs=declare_float_target,
    ignores_padding=lambda p: not p["mask"].is_everywhere,
    multiplies=False,
    read=read_mask,
)
