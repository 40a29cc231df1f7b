"""add-normalize: vectors of length one."""

from __future__ import annotations

import numpy as np

from graphsurgery.references.reference import UNIT, Array, Expected, Known, Parameters, Reference, declare_float_target
from graphsurgery.references.rounding import EPSILON, expect_rounded, propagate_through_sum

OWN = 4 * EPSILON
"""The rounding of a float32 norm of many dims and of the division by it, as a share of a unit vector's values."""


def normalize(x: Array) -> Array:
    """Return x / max(norm2(x), 1e-12) over the last dim, in float64. Source: torch.nn.functional.normalize."""
    x = np.asarray(x, dtype=np.float64)
    return x / np.maximum(np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True)), 1e-12)


def expect_unit_vectors(x: Array, rounding: Array) -> Expected:
    """Expect x normalised, to within 1e-6, or to what ``rounding`` in x becomes when the vectors are scaled to length one."""
    norm, y = np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True)), normalize(x)
    errors = np.divide(rounding, norm, out=np.zeros(x.shape), where=(rounding > 0) & (norm > 0))
    return expect_rounded(y, UNIT, OWN * np.abs(y), errors + np.abs(y) * propagate_through_sum(np.abs(y) * errors))


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    return [expect_unit_vectors(known[parameters["target"]], known.get_rounding(parameters["target"]))]


REFERENCE = Reference(
    reads=lambda p: [p["target"]],
    makes=lambda p: [p["target"]],
    value=_compute,
    outputs=declare_float_target,
)
